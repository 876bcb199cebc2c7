"""What the kernel asks, answered from the node table and the store: the FUSE protocol's handlers, thin.

All but opening, reading and closing, which have their own way (``frontdesk``).

Every handler touches memory and the memory filesystem only, and none of them waits; so a request is answered, or refused,
before the next one is read. Which node is meant is the tree's decision.

Rules of the house (design decision 2):

- A file of a version never changes, so entries, attributes, links and pages may be kept by the kernel for ever. Names of pods
  and volumes may not: they come and go directly in the store. A missing name is remembered by the kernel only below a
  version directory, whose names are final.
- Only the writer's process may change anything, in a volume and nowhere else; everybody else gets EROFS, as on a read-only
  tmpfs.

Called by pyfuse3 (through ``fusefs.library``) and directly by tests.
"""

from __future__ import annotations

import bisect
import errno
import os
import stat
from collections.abc import Callable, Sequence
from types import TracebackType

import pyfuse3

from kubelet_secrets.fusefs.departed import EVERY_NAME, DepartedVersions
from kubelet_secrets.fusefs.node import POD_DEPTH, VOLUME_DEPTH, Node, UnknownNode
from kubelet_secrets.fusefs.tree import Tree

FOREVER_S = 10 * 365 * 86400
_LISTED_NAMES = 100_000  # kept at a time, of all directories together


class _ErrnoBorder:
    """The one place where failures become errno. Anything else is a bug and ends the main loop, as it should."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if isinstance(exc, OSError):
            raise pyfuse3.FUSEError(exc.errno or errno.EIO) from None
        if isinstance(exc, UnknownNode):
            raise pyfuse3.FUSEError(errno.ESTALE) from None


_AS_ERRNO = _ErrnoBorder()


def timeouts_s(depth: int) -> tuple[int, int]:
    """How long the kernel may keep the name, and the attributes, of a node at this depth."""
    return (0 if depth <= VOLUME_DEPTH else FOREVER_S), (0 if depth <= POD_DEPTH else FOREVER_S)


class Operations(pyfuse3.Operations):
    """The handlers.

    Args:
        tree: the node table.
        is_writer: whether a thread id is the writer's.
        resumed: an earlier agent served this mount; its last change may be delivered once more (see ``_begin_change``).
    """

    supports_dot_lookup = False
    enable_writeback_cache = False

    def __init__(self, tree: Tree, is_writer: Callable[[int], bool], *, resumed: bool) -> None:
        super().__init__()
        self._tree = tree
        self._is_writer = is_writer
        self._may_be_redone = resumed
        self._departed = DepartedVersions()
        # Directory → its time of change, and names: for listings read in several parts, and again and again.
        self._listings: dict[int, tuple[int, list[tuple[int, bytes]]]] = {}

    def index_step(self) -> bool:
        """Index one more directory after a restart; False when none is left. For ``fusefs.session``."""
        return self._tree.index_step()

    def pod_of(self, number: int) -> bytes:
        """The pod that a node belongs to. For ``fusefs.session``."""
        return self._tree.pod_of(number)

    def buried(self) -> list[int]:
        """Numbers of nodes that wait for the kernel to forget them. For ``fusefs.session``."""
        return self._tree.buried()

    def exhume(self, number: int) -> None:
        """The kernel does not know this node. For ``fusefs.session``."""
        self._tree.exhume(number)

    # --- looking ----------------------------------------------------------------------------------------------------

    async def lookup(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with _AS_ERRNO:
            found = self.look_up(parent_inode, name, tid=ctx.pid)
            if found is None:
                nothing = pyfuse3.EntryAttributes()
                nothing.st_ino = 0
                nothing.entry_timeout = FOREVER_S
                return nothing
            return self._attributes(found[0], found[1])

    async def forget(self, inode_list: Sequence[tuple[int, int]]) -> None:
        self.give_back(inode_list)

    async def getattr(self, inode: int, ctx: pyfuse3.RequestContext) -> pyfuse3.EntryAttributes:
        with _AS_ERRNO:
            node, result, _ = self.look_at(inode)
            return self._attributes(node, result)

    async def readlink(self, inode: int, ctx: pyfuse3.RequestContext) -> bytes:
        with _AS_ERRNO:
            return self.link_target(inode)

    # The same for ``infodesk``, without pyfuse3's objects. Raises: OSError with the errno to answer, UnknownNode for ESTALE.

    def look_up(self, parent_number: int, name: bytes, *, tid: int) -> tuple[Node, os.stat_result, int] | None:
        """Node, attributes and depth of a name, of which the kernel holds one reference more; None: there is no such name, and
        the kernel may remember that."""
        parent = self._tree.node(parent_number)
        try:
            node, result = self._tree.lookup(parent, name)
        except FileNotFoundError:
            if not self._is_writer(tid) and self._departed.sends_back(tid, parent_number, name):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE)) from None
            if self._tree.depth(parent) <= VOLUME_DEPTH:
                raise
            return None
        self._tree.remember(node)
        return node, result, self._tree.depth(node)

    def look_at(self, number: int) -> tuple[Node, os.stat_result, int]:
        """Node, attributes and depth of a number."""
        node = self._tree.node(number)
        return node, self._tree.stat(node), self._tree.depth(node)

    def link_target(self, number: int) -> bytes:
        """Where a link leads."""
        return self._tree.read_link(self._tree.node(number))

    def give_back(self, references: Sequence[tuple[int, int]]) -> None:
        """The kernel forgets (number, how many references)."""
        for number, count in references:
            self._tree.forget(number, count)

    async def readdir(self, fh: int, start_id: int, token: pyfuse3.ReaddirToken) -> None:
        """Positions: 0 start, 1 after ``.``, 2 after ``..``, then the number of the entry last given."""
        with _AS_ERRNO:
            directory = self._tree.node(fh)
            if start_id < 1 and not self._reply_dot(token, b".", directory, 1):
                return
            if start_id < 2 and not self._reply_dot(token, b"..", directory.parent or directory, 2):
                return
            names = self._listing(directory, restart=start_id <= 2)
            for _, name in names[bisect.bisect_right(names, (start_id, b"\xff")) :]:
                try:
                    node, result = self._tree.lookup(directory, name)
                except FileNotFoundError:
                    continue  # removed since the listing began
                if not pyfuse3.readdir_reply(token, name, self._attributes(node, result), node.number):
                    return
                self._tree.remember(node)

    async def statfs(self, ctx: pyfuse3.RequestContext) -> pyfuse3.StatvfsData:
        with _AS_ERRNO:
            return _statvfs(self._tree.statvfs())

    async def flush(self, fh: int) -> None:
        # The kernel then stops sending FLUSH, so that close never waits for an agent that is down.
        raise pyfuse3.FUSEError(errno.ENOSYS)

    async def fsync(self, fh: int, datasync: bool) -> None:
        pass

    # --- changing, by the writer only -------------------------------------------------------------------------------

    async def mkdir(
        self, parent_inode: int, name: bytes, mode: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with _AS_ERRNO:
            parent, is_redo = self._begin_change(parent_inode, ctx)
            try:
                node, result = self._tree.make_directory(parent, name, stat.S_IMODE(mode))
            except FileExistsError:
                node, result = self._tree.lookup(parent, name)
                if not is_redo or not stat.S_ISDIR(result.st_mode):
                    raise
            self._tree.remember(node)
            return self._attributes(node, result)

    async def create(
        self, parent_inode: int, name: bytes, mode: int, flags: int, ctx: pyfuse3.RequestContext
    ) -> tuple[pyfuse3.FileInfo, pyfuse3.EntryAttributes]:
        with _AS_ERRNO:
            parent, is_redo = self._begin_change(parent_inode, ctx)
            try:
                node, result = self._tree.make_file(parent, name, stat.S_IMODE(mode))
            except FileExistsError:
                node, result = self._tree.lookup(parent, name)
                if not is_redo or not stat.S_ISREG(result.st_mode):
                    raise
            self._tree.remember(node)
            return pyfuse3.FileInfo(fh=node.number, keep_cache=True), self._attributes(node, result)

    async def write(self, fh: int, off: int, buf: bytes) -> int:
        # No context here: whoever holds a handle for writing was the writer when it opened it.
        with _AS_ERRNO:
            file_fd = self._tree.open(self._tree.node(fh), os.O_WRONLY)
            try:
                return os.pwrite(file_fd, buf, off)
            finally:
                os.close(file_fd)

    async def symlink(
        self, parent_inode: int, name: bytes, target: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        with _AS_ERRNO:
            parent, is_redo = self._begin_change(parent_inode, ctx)
            try:
                node, result = self._tree.make_link(parent, name, target)
            except FileExistsError:
                node, result = self._tree.lookup(parent, name)
                if not is_redo or not stat.S_ISLNK(result.st_mode) or self._tree.read_link(node) != target:
                    raise
            self._tree.remember(node)
            return self._attributes(node, result)

    async def setattr(
        self,
        inode: int,
        attr: pyfuse3.EntryAttributes,
        fields: pyfuse3.SetattrFields,
        fh: int | None,
        ctx: pyfuse3.RequestContext,
    ) -> pyfuse3.EntryAttributes:
        with _AS_ERRNO:
            node, _ = self._begin_change(inode, ctx)
            if fields.update_size:
                file_fd = self._tree.open(node, os.O_WRONLY)
                try:
                    os.ftruncate(file_fd, attr.st_size)
                finally:
                    os.close(file_fd)
            if fields.update_uid or fields.update_gid:
                self._tree.set_owner(
                    node, attr.st_uid if fields.update_uid else -1, attr.st_gid if fields.update_gid else -1
                )
            if fields.update_mode:  # after the owner: chown clears set-ID bits
                self._tree.set_mode(node, stat.S_IMODE(attr.st_mode))
            if fields.update_atime or fields.update_mtime:
                before = self._tree.stat(node)
                self._tree.set_times(
                    node,
                    attr.st_atime_ns if fields.update_atime else before.st_atime_ns,
                    attr.st_mtime_ns if fields.update_mtime else before.st_mtime_ns,
                )
            return self._attributes(node, self._tree.stat(node))

    async def unlink(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with _AS_ERRNO:
            parent, is_redo = self._begin_change(parent_inode, ctx)
            try:
                self._tree.unlink(parent, name)
            except FileNotFoundError:
                if not is_redo:
                    raise
            if self._tree.depth(parent) > VOLUME_DEPTH:
                self._departed.add(parent_inode, EVERY_NAME)

    async def rmdir(self, parent_inode: int, name: bytes, ctx: pyfuse3.RequestContext) -> None:
        with _AS_ERRNO:
            parent, is_redo = self._begin_change(parent_inode, ctx, takes_volume=True)
            try:
                self._tree.remove_directory(parent, name)
            except FileNotFoundError:
                if not is_redo:
                    raise
            if self._tree.depth(parent) == VOLUME_DEPTH:
                self._departed.add(parent_inode, name)

    async def rename(
        self,
        parent_inode_old: int,
        name_old: bytes,
        parent_inode_new: int,
        name_new: bytes,
        flags: int,
        ctx: pyfuse3.RequestContext,
    ) -> None:
        with _AS_ERRNO:
            old_parent, is_redo = self._begin_change(parent_inode_old, ctx)
            new_parent = self._changeable(parent_inode_new)
            self._listings.pop(parent_inode_new, None)
            if flags:
                raise pyfuse3.FUSEError(errno.EINVAL)  # RENAME_EXCHANGE, RENAME_NOREPLACE: AtomicWriter needs neither
            try:
                self._tree.rename(old_parent, name_old, new_parent, name_new)
            except FileNotFoundError:
                if not is_redo:
                    raise
                self._tree.lookup(new_parent, name_new)

    async def mknod(
        self, parent_inode: int, name: bytes, mode: int, rdev: int, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM if self._is_writer(ctx.pid) else errno.EROFS)

    async def link(
        self, inode: int, new_parent_inode: int, new_name: bytes, ctx: pyfuse3.RequestContext
    ) -> pyfuse3.EntryAttributes:
        raise pyfuse3.FUSEError(errno.EPERM if self._is_writer(ctx.pid) else errno.EROFS)

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin_change(
        self, number: int, ctx: pyfuse3.RequestContext, *, takes_volume: bool = False
    ) -> tuple[Node, bool]:
        """Admit the writer to a node of a volume; tell whether this change may have been made already.

        The writer is one thread, so at most one of its changes was under way when an agent died. The kernel delivers it to
        the next agent again, and it may find its work done. So the first change after a restart takes "already so" for
        success.
        """
        if not self._is_writer(ctx.pid):
            raise pyfuse3.FUSEError(errno.EROFS)
        is_redo, self._may_be_redone = self._may_be_redone, False
        self._listings.pop(number, None)
        return self._changeable(number, takes_volume=takes_volume), is_redo

    def _changeable(self, number: int, *, takes_volume: bool = False) -> Node:
        """A node that changes through the mount: a volume, or what is in it. What is above is made in the store directly.

        Args:
            takes_volume: a volume is to go, out of its pod's directory.
        """
        node = self._tree.node(number)
        if self._tree.depth(node) < (POD_DEPTH if takes_volume else VOLUME_DEPTH) or self._tree.is_in_graveyard(node):
            raise pyfuse3.FUSEError(errno.EPERM)
        return node

    def _listing(self, directory: Node, *, restart: bool) -> list[tuple[int, bytes]]:
        """Names for a listing; one under way keeps those it began with.

        Read anew when the directory has changed since. All changes of what containers can list come through here, and take
        the names back; the time of change is for what does not. The oldest are forgotten when they become many.
        """
        changed_ns = self._tree.stat(directory).st_ctime_ns
        known = self._listings.get(directory.number)
        if known is not None and (not restart or known[0] == changed_ns):
            return known[1]
        names = self._tree.names(directory)
        self._listings.pop(directory.number, None)
        self._listings[directory.number] = changed_ns, names
        while sum(len(each) for _, each in self._listings.values()) > _LISTED_NAMES and len(self._listings) > 1:
            self._listings.pop(next(iter(self._listings)))
        return names

    def _reply_dot(self, token: pyfuse3.ReaddirToken, name: bytes, node: Node, position: int) -> bool:
        # The kernel counts no reference for these two.
        return pyfuse3.readdir_reply(token, name, self._attributes(node, self._tree.stat(node)), position)

    def _attributes(self, node: Node, result: os.stat_result) -> pyfuse3.EntryAttributes:
        entry_s, attributes_s = timeouts_s(self._tree.depth(node))
        entry = pyfuse3.EntryAttributes()
        entry.st_ino = node.number
        entry.generation = 0
        entry.entry_timeout = entry_s
        entry.attr_timeout = attributes_s
        entry.st_mode = result.st_mode
        entry.st_nlink = result.st_nlink
        entry.st_uid = result.st_uid
        entry.st_gid = result.st_gid
        entry.st_size = result.st_size
        entry.st_blksize = result.st_blksize
        entry.st_blocks = result.st_blocks
        entry.st_atime_ns = result.st_atime_ns
        entry.st_mtime_ns = result.st_mtime_ns
        entry.st_ctime_ns = result.st_ctime_ns
        return entry


def _statvfs(result: os.statvfs_result) -> pyfuse3.StatvfsData:
    data = pyfuse3.StatvfsData()
    data.f_bsize = result.f_bsize
    data.f_frsize = result.f_frsize
    data.f_blocks = result.f_blocks
    data.f_bfree = result.f_bfree
    data.f_bavail = result.f_bavail
    data.f_files = result.f_files
    data.f_ffree = result.f_ffree
    data.f_favail = result.f_favail
    data.f_namemax = 255
    return data
