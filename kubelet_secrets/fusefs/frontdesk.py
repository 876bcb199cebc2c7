"""Opening, reading and closing: the requests that containers make all day, answered without pyfuse3; and all that is judged.

An open is two requests, OPEN and RELEASE, and the second says nothing. What pyfuse3 spends on a request - a Python object
for each part of it, a coroutine, two walks through libfuse - is several times the cost of the answer itself, which is a
lookup in a dict, the guard's word and 32 bytes. So these few are taken apart and put together here.

Rules of the house (design decision 3): every open of a file and every opendir reaches the guard, also of a file whose pages
are all cached; a handle is the node's number, so a restarted agent understands handles given out before.

Looking up a name, reading a link and listing are judged here too, and then left to others. Lookups are judged as far as the
kernel asks: what a container has once looked up, it answers from its cache to everybody who can reach the mount.

Not here: every other request (``operations``), and the descriptor that requests come from (``session``, the caller).
Synchronous: touches memory, the store, and through the guard ``/proc``; waits for nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable
from typing import Literal, NamedTuple, Protocol

from kubelet_secrets.fusefs.node import VOLUME_DEPTH, Node, UnknownNode
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.wire import (
    Header,
    Opcode,
    OpenFlag,
    Request,
    is_by_handle,
    make_data,
    make_error,
    make_open,
    parse_name,
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

    def may_read(
        self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: Literal["read", "readdir"]
    ) -> bool:
        """Decide whether what was opened may still be read. Like :meth:`may_open` in all else."""

    def is_revoked(self, pod_uid: str, volume: str) -> bool:
        """Whether nobody may read the volume any more."""

    def may_look(self, pod_uid: str, volume: str, path: str, ctx: CallerContext) -> bool:
        """Decide whether the caller may know of a name. Like :meth:`may_open` in all else.

        Args:
            path: of the directory, when there is nothing of that name.
        """

    def group(self, tid: int) -> str:
        """Which callers share a turn when many ask for one pod's files: those of a container. Must not wait."""


class FrontDesk:
    """Answers what it can, as bytes.

    Args:
        tree: the node table.
        guard: asked on every open and opendir by anybody but the writer.
        is_writer: whether a thread id is the writer's.

    Attributes:
        is_writer: as given.
    """

    def __init__(self, tree: Tree, guard: Guard, is_writer: Callable[[int], bool]) -> None:
        self._tree = tree
        self._guard = guard
        self.is_writer = is_writer
        self._desks: dict[int, Callable[[Header, Request], bytes | None]] = {
            Opcode.LOOKUP.value: self._look_up,
            Opcode.READLINK.value: self._read_link,
            Opcode.GETATTR.value: self._get_attributes,
            Opcode.OPEN.value: self._open,
            Opcode.OPENDIR.value: self._open_directory,
            Opcode.READ.value: self._read,
            Opcode.READDIR.value: self._read_directory,
            Opcode.READDIRPLUS.value: self._read_directory,
            Opcode.WRITE.value: self._write,
            Opcode.RELEASE.value: self._release,
            Opcode.RELEASEDIR.value: self._release,
        }

    def whose(self, tid: int) -> str:
        """Who has a turn of its own when many ask, see ``Guard.group``."""
        return self._guard.group(tid)

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
            # A descriptor that outlived its volume has nothing to read from; a path that did is to be walked again.
            is_read = header.opcode in (Opcode.READ, Opcode.GETATTR)
            return make_error(header.unique, errno.EIO if is_read else errno.ESTALE)

    def _open(self, header: Header, request: Request) -> bytes:
        node = self._tree.node(header.node)
        flags = parse_open(request)
        if not self.is_writer(header.tid):
            if flags & (os.O_ACCMODE | os.O_TRUNC):  # O_RDONLY is 0, and cuts a file off as well
                return make_error(header.unique, errno.EROFS)
            if not self._is_allowed(node, header, "open"):
                return make_error(header.unique, errno.EACCES)
        if flags & os.O_TRUNC:
            os.close(self._tree.open(node, os.O_WRONLY | os.O_TRUNC))
        return make_open(header.unique, header.node, self._cache_flag(node, header))

    def _cache_flag(self, node: Node, header: Header) -> OpenFlag:
        """The writer compares the version there is with the next: of a revoked one it must bring no pages back."""
        if self.is_writer(header.tid):
            who = self._tree.identity(node)
            if self._guard.is_revoked(who.pod_uid, who.volume):
                return OpenFlag.DIRECT_IO
        return OpenFlag.KEEP_CACHE

    def _open_directory(self, header: Header, request: Request) -> bytes:
        node = self._tree.node(header.node)
        if not self.is_writer(header.tid) and not self._is_allowed(node, header, "opendir"):
            return make_error(header.unique, errno.EACCES)
        return make_open(header.unique, header.node, OpenFlag(0))

    def _read(self, header: Header, request: Request) -> bytes:
        # Whoever holds a handle was let in when it was opened. That stands until the volume is revoked.
        fh, offset, size = parse_read(request)
        node = self._tree.node(fh)
        if not self._may_read(node, header, "read"):
            return make_error(header.unique, errno.EACCES)
        file_fd = self._tree.open(node, os.O_RDONLY)
        try:
            return make_data(header.unique, os.pread(file_fd, size, offset))
        finally:
            os.close(file_fd)

    def _write(self, header: Header, request: Request) -> bytes | None:
        # Only the writer was ever let open a file to write. Who has taken its descriptor from it is not the writer.
        return None if self.is_writer(header.tid) else make_error(header.unique, errno.EROFS)

    def _get_attributes(self, header: Header, request: Request) -> None:
        if is_by_handle(request):
            self._tree.node(
                header.node
            )  # a read as well, as far as its errno goes; the attributes are for others to give

    def _read_directory(self, header: Header, request: Request) -> bytes | None:
        fh, _, _ = parse_read(request)
        if not self._may_read(self._tree.node(fh), header, "readdir"):
            return make_error(header.unique, errno.EACCES)
        return None

    def _look_up(self, header: Header, request: Request) -> bytes | None:
        parent = self._tree.node(header.node)
        if self._tree.depth(parent) < VOLUME_DEPTH:
            return None  # names of pods and volumes: whoever mounts or unmounts walks them
        return self._judge_look(header, parent, parse_name(request, header.length))

    def _read_link(self, header: Header, request: Request) -> bytes | None:
        return self._judge_look(header, self._tree.node(header.node), b"")

    def _judge_look(self, header: Header, node: Node, name: bytes) -> bytes | None:
        if self.is_writer(header.tid):
            return None
        who = self._tree.identity(node)
        shown = name if self._tree.has(node, name) else b""
        path = "/".join(part for part in (who.path, os.fsdecode(shown)) if part)
        if self._guard.may_look(who.pod_uid, who.volume, path, _context(header)):
            return None
        return make_error(header.unique, errno.EACCES)

    def _may_read(self, node: Node, header: Header, kind: Literal["read", "readdir"]) -> bool:
        if self.is_writer(header.tid):
            return True
        who = self._tree.identity(node)
        return self._guard.may_read(who.pod_uid, who.volume, who.path, _context(header), kind)

    def _release(self, header: Header, request: Request) -> bytes:
        return make_error(header.unique, 0)  # a handle is a number: there is nothing to give back

    def _is_allowed(self, node: Node, header: Header, kind: Literal["open", "opendir"]) -> bool:
        who = self._tree.identity(node)
        return self._guard.may_open(who.pod_uid, who.volume, who.path, _context(header), kind)


def _context(header: Header) -> CallerContext:
    return CallerContext(header.tid, header.uid, header.gid)
