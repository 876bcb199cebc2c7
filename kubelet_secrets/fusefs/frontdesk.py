"""Opening, reading and closing: the requests that containers make all day, answered without pyfuse3.

An open is two requests, OPEN and RELEASE, and the second says nothing. What pyfuse3 spends on a request - a Python object
for each part of it, a coroutine, two walks through libfuse - is several times the cost of the answer itself, which is a
lookup in a dict, the guard's word and 32 bytes. So these few are taken apart and put together here.

Rules of the house (design decision 3): every open of a file and every opendir reaches the guard, also of a file whose pages
are all cached; a handle is the node's number, so a restarted agent understands handles given out before.

Not here: every other request (``operations``), and the descriptor that requests come from (``session``, the caller).
Synchronous: touches memory, the store, and through the guard ``/proc``; waits for nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from kubelet_secrets.fusefs.node import Node, UnknownNode
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.wire import (
    Header,
    Opcode,
    OpenFlag,
    Request,
    make_data,
    make_error,
    make_open,
    parse_open,
    parse_read,
)


class CallerContext(NamedTuple):
    """Who asks, as the kernel tells it."""

    tid: int  # thread id in the keeper's pid namespace; 0 for a caller outside it
    uid: int
    gid: int


class Guard(Protocol):
    """Who may open what. Implemented by the access part."""

    def may_open(
        self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: Literal["open", "opendir"]
    ) -> bool:
        """Decide and record. Must not wait, and must not touch this filesystem.

        Args:
            pod_uid, volume: empty for the directories above a volume, which are no container's business.
            path: within the volume, ``""`` for its root. A file's own path, through no link:
                ``..2006_01_02_15_04_05.123/tls.key``. A file that was unlinked keeps the path it had.
        """


class FrontDesk:
    """Answers what it can, as bytes.

    Args:
        tree: the node table.
        guard: asked on every open and opendir by anybody but the writer.
        is_writer: whether a thread id is the writer's.
    """

    def __init__(self, tree: Tree, guard: Guard, is_writer: Callable[[int], bool]) -> None:
        self._tree = tree
        self._guard = guard
        self._is_writer = is_writer
        self._desks: dict[int, Callable[[Header, Request], bytes]] = {
            Opcode.OPEN.value: self._open,
            Opcode.OPENDIR.value: self._open_directory,
            Opcode.READ.value: self._read,
            Opcode.RELEASE.value: self._release,
            Opcode.RELEASEDIR.value: self._release,
        }

    def answer(self, header: Header, request: Request) -> bytes | None:
        """Answer one request.

        Args:
            header: of *request*, taken apart.

        Returns:
            The answer for the kernel; None: this request is for somebody else.
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

    def _open(self, header: Header, request: Request) -> bytes:
        node = self._tree.node(header.node)
        flags = parse_open(request)
        if not self._is_writer(header.tid):
            if flags & os.O_ACCMODE != os.O_RDONLY:
                return make_error(header.unique, errno.EROFS)
            if not self._is_allowed(node, header, "open"):
                return make_error(header.unique, errno.EACCES)
        if flags & os.O_TRUNC:
            os.close(self._tree.open(node, os.O_WRONLY | os.O_TRUNC))
        return make_open(header.unique, header.node, OpenFlag.KEEP_CACHE)

    def _open_directory(self, header: Header, request: Request) -> bytes:
        node = self._tree.node(header.node)
        if not self._is_writer(header.tid) and not self._is_allowed(node, header, "opendir"):
            return make_error(header.unique, errno.EACCES)
        return make_open(header.unique, header.node, OpenFlag(0))

    def _read(self, header: Header, request: Request) -> bytes:
        # Whoever holds a handle was let in when it was opened; a read itself does not say who asks.
        fh, offset, size = parse_read(request)
        file_fd = self._tree.open(self._tree.node(fh), os.O_RDONLY)
        try:
            return make_data(header.unique, os.pread(file_fd, size, offset))
        finally:
            os.close(file_fd)

    def _release(self, header: Header, request: Request) -> bytes:
        return make_error(header.unique, 0)  # a handle is a number: there is nothing to give back

    def _is_allowed(self, node: Node, header: Header, kind: Literal["open", "opendir"]) -> bool:
        who = self._tree.identity(node)
        ctx = CallerContext(header.tid, header.uid, header.gid)
        return self._guard.may_open(who.pod_uid, who.volume, who.path, ctx, kind)
