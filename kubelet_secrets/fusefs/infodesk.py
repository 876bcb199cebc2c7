"""What nodes are called and look like: LOOKUP, GETATTR, READLINK and the kernel's FORGETs, answered without pyfuse3.

More than half of all requests. The decisions are those of ``operations``, shared with pyfuse3's handlers; only taking requests
apart and putting answers together is done here, for a third of the time (see ``frontdesk``, which judges them first).

Synchronous, memory and the store only. Called by ``session``.
"""

from __future__ import annotations

import errno
from collections.abc import Callable

from kubelet_secrets.fusefs.node import UnknownNode
from kubelet_secrets.fusefs.operations import FOREVER_S, Operations, timeouts_s
from kubelet_secrets.fusefs.wire import (
    Header,
    Opcode,
    Request,
    make_attributes,
    make_data,
    make_entry,
    make_error,
    make_missing,
    parse_batch_forget,
    parse_forget,
    parse_name,
)


class InfoDesk:
    """Answers what it can, as bytes."""

    def __init__(self, operations: Operations) -> None:
        self._operations = operations
        self._desks: dict[int, Callable[[Header, Request], bytes]] = {
            Opcode.LOOKUP.value: self._look_up,
            Opcode.GETATTR.value: self._get_attributes,
            Opcode.READLINK.value: self._read_link,
            Opcode.FORGET.value: self._forget,
            Opcode.BATCH_FORGET.value: self._forget_many,
        }

    def answer(self, header: Header, request: Request) -> bytes | None:
        """Answer one well-formed request.

        Returns:
            The answer for the kernel, empty for what has none; None: this request is for somebody else.
        """
        desk = self._desks.get(header.opcode)
        if desk is None:
            return None
        try:
            return desk(header, request)
        except OSError as error:
            return make_error(header.unique, error.errno or errno.EIO)
        except UnknownNode:
            return make_error(header.unique, errno.ESTALE)

    def _look_up(self, header: Header, request: Request) -> bytes:
        name = parse_name(request, header.length)
        found = self._operations.look_up(header.node, name, tid=header.tid)
        if found is None:
            return make_missing(header.unique, FOREVER_S)
        node, result, depth = found
        return make_entry(header.unique, node.number, result, *timeouts_s(depth))

    def _get_attributes(self, header: Header, request: Request) -> bytes:
        node, result, depth = self._operations.look_at(header.node)
        return make_attributes(header.unique, node.number, result, timeouts_s(depth)[1])

    def _read_link(self, header: Header, request: Request) -> bytes:
        return make_data(header.unique, self._operations.link_target(header.node))

    def _forget(self, header: Header, request: Request) -> bytes:
        self._operations.give_back(((header.node, parse_forget(request)),))
        return b""

    def _forget_many(self, header: Header, request: Request) -> bytes:
        self._operations.give_back(parse_batch_forget(request))
        return b""
