"""The node table: which file of the store the kernel means when it names a number.

The store is the truth, and this is only an index into it: number → parent and name. A name is looked up in the store itself,
so what the agent writes there directly (a volume's first version) is found without telling anybody, and what
was removed there directly is noticed when it is next asked for. Numbers are the store's inode numbers plus a
constant. They are never used twice, so a restarted agent understands every number the kernel still holds: the
graveyard is indexed at once, the rest in steps, when a number is asked for that has not been met yet.

What is unlinked while the kernel may still hold it moves to the ``graveyard`` until the kernel forgets it, so that open files
and subPath mounts read on.

Synchronous, single-threaded, touches nothing but the store. Called by ``fusefs.operations``, and by the agent for removals.
Nothing here is published or cached for callers: each call asks the store again.
"""

from __future__ import annotations

import contextlib
import errno
import os
import stat
from collections import deque
from collections.abc import Iterator

from kubelet_secrets.fusefs import graveyard, unanswered
from kubelet_secrets.fusefs.graveyard import GRAVE
from kubelet_secrets.fusefs.node import NUMBER_BASE, ROOT_NUMBER, VOLUME_DEPTH, Identity, Node, UnknownNode
from kubelet_secrets.fusefs.walk import Directory, scan, walk_bottom_up

_HIDDEN = frozenset({GRAVE, unanswered.NAME})
"""In the store's root, and not in the filesystem's."""


class Tree:
    """The node table over one store.

    Args:
        store_fd: directory descriptor of the store's root; O_PATH is enough. Stays the caller's.
        resumed: an earlier agent served this store, so the kernel may name nodes never met here.
    """

    def __init__(self, store_fd: int, *, resumed: bool) -> None:
        self._store = store_fd
        self.root = Node(ROOT_NUMBER, None, b".")
        self._nodes: dict[int, Node] = {ROOT_NUMBER: self.root}
        self._identities: dict[int, Identity] = {}  # as asked for since something last moved
        self._graveless: dict[int, tuple[str, str]] = {}  # unlinked in a full store: number → (pod uid, volume)
        self._grave = self._meet(self.root, GRAVE, graveyard.make_graveyard(store_fd))
        self._indexer: Iterator[None] | None = None
        if resumed:
            self._meet_graves()
            self._indexer = self._index()

    def __len__(self) -> int:
        return len(self._nodes)

    # --- asking -----------------------------------------------------------------------------------------------------

    def node(self, number: int) -> Node:
        """Find the node with this number.

        Raises:
            UnknownNode: it is not in the store. After a restart the first such question may walk the store's names.
        """
        node = self._nodes.get(number)
        while node is None and self.index_step():
            node = self._nodes.get(number)
        if node is None:
            raise UnknownNode(number)
        return node

    def lookup(self, parent: Node, name: bytes) -> tuple[Node, os.stat_result]:
        """Find *name* in the directory *parent*.

        Raises:
            OSError: ENOENT, ENOTDIR.
        """
        if parent is self.root and name in _HIDDEN:
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT))
        result = self._stat_path(self._join(parent, name))
        return self._meet(parent, name, result.st_ino), result

    def has(self, parent: Node, name: bytes) -> bool:
        """Whether there is a *name* in the directory *parent*, without meeting it."""
        try:
            self._stat_path(self._join(parent, name))
        except OSError:
            return False
        return True

    def stat(self, node: Node) -> os.stat_result:
        """lstat of a node's file.

        Raises:
            UnknownNode: the file was removed from the store directly.
        """
        try:
            return self._stat_path(self.path(node))
        except (FileNotFoundError, NotADirectoryError):
            self._nodes.pop(node.number, None)
            raise UnknownNode(node.number) from None

    def read_link(self, node: Node) -> bytes:
        """The target of a symlink."""
        return os.readlink(self.path(node), dir_fd=self._store)

    def open(self, node: Node, flags: int) -> int:
        """Open a node's file in the store; the caller closes the descriptor.

        Raises:
            UnknownNode: the file was removed from the store directly.
            OSError: ELOOP for a symlink.
        """
        try:
            return os.open(self.path(node), flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._store)
        except FileNotFoundError:
            raise UnknownNode(node.number) from None

    def names(self, node: Node) -> list[tuple[int, bytes]]:
        """Names in a directory as (number, name), by ascending number.

        Numbers never change and are never used twice, so they are positions that survive additions, removals and a restart.
        """
        with scan(self._store, self.path(node)) as entries:
            found = [(entry.inode() + NUMBER_BASE, os.fsencode(entry.name)) for entry in entries]
        if node is self.root:
            found = [each for each in found if each[1] not in _HIDDEN]
        found.sort()
        return found

    def path(self, node: Node) -> bytes:
        """Path of a node relative to the store's root."""
        parts = []
        while node.parent is not None:
            parts.append(node.name)
            node = node.parent
        parts.reverse()
        return b"/".join(parts) or b"."

    def depth(self, node: Node) -> int:
        """0 for the root, 1 for a pod's directory, 2 for a volume, 3 for what lies in it; a buried node counts as 3."""
        depth = 0
        while node.parent is not None:
            if node is self._grave:
                return VOLUME_DEPTH + 1
            depth += 1
            node = node.parent
        return depth

    def is_buried(self, node: Node) -> bool:
        """Whether the node was unlinked and waits for the kernel to forget it."""
        parent = node.parent
        while parent is not None:
            if parent is self._grave:
                return True
            parent = parent.parent
        return False

    def is_in_graveyard(self, node: Node) -> bool:
        """Whether the node is buried, or one of the graveyard's own directories."""
        return node is self._grave or self.is_buried(node)

    def identity(self, node: Node) -> Identity:
        """Whose file this is, for the guard. A buried node whose old path is lost has the path ``.grave``."""
        identity = self._identities.get(node.number)
        if identity is None:
            identity = self._identities[node.number] = self._find_identity(node)
        return identity

    def files_of(self, pod_uid: str, volume: str) -> list[int]:
        """Numbers of all files of a volume, of every version, also of those that wait to be forgotten; links are among them."""
        key = os.fsencode(pod_uid) + b"/" + os.fsencode(volume)
        return [
            inode + NUMBER_BASE
            for path in (key, GRAVE + b"/" + key)
            for directory in walk_bottom_up(self._store, path)
            for _, inode in directory.files
        ] + [number for number, whose in self._graveless.items() if whose == (pod_uid, volume)]

    def pod_of(self, number: int) -> bytes:
        """Uid of the pod that a node belongs to, also a buried one; empty for the root and for what has not been met."""
        node = self._nodes.get(number)
        while node is not None and node.parent is not None:
            if node.parent is self._grave or (node.parent is self.root and node is not self._grave):
                return node.name
            node = node.parent
        return b""

    def statvfs(self) -> os.statvfs_result:
        """Size and use of the store."""
        return os.fstatvfs(self._store)

    # --- the kernel's references ------------------------------------------------------------------------------------

    def remember(self, node: Node) -> None:
        """The kernel was told of this node once more."""
        node.lookups += 1

    def forget(self, number: int, count: int) -> None:
        """The kernel gives back *count* references; a buried node whose last one this was leaves the store.

        After a restart the references handed out before are unknown. The kernel gives all of a node's references back
        in one FORGET, when it drops the inode, so a count that reaches zero or less means the last one.
        """
        self._graveless.pop(number, None)
        node = self._nodes.get(number)
        if node is None:
            return
        node.lookups -= count
        if node.lookups <= 0 and self._is_grave(node):
            self._remove_buried(node)

    def buried(self) -> list[int]:
        """Numbers of all nodes that wait to be forgotten."""
        return [number for number, node in self._nodes.items() if self._is_grave(node)]

    def exhume(self, number: int) -> None:
        """The kernel does not know this node: remove it if it is buried.

        A FORGET has no answer, so one that an agent took with it to its death is not delivered again.
        """
        node = self._nodes.get(number)
        if node is not None and self._is_grave(node):
            self._remove_buried(node)

    # --- changing ---------------------------------------------------------------------------------------------------

    def make_directory(self, parent: Node, name: bytes, mode: int) -> tuple[Node, os.stat_result]:
        """mkdir; *mode* is final, the caller's umask was applied by the kernel."""
        path = self._join(parent, name)
        os.mkdir(path, mode, dir_fd=self._store)
        self._fix_mode(path, mode)
        return self.lookup(parent, name)

    def make_file(self, parent: Node, name: bytes, mode: int) -> tuple[Node, os.stat_result]:
        """Create an empty regular file, exclusively."""
        path = self._join(parent, name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        os.close(os.open(path, flags, mode, dir_fd=self._store))
        self._fix_mode(path, mode)
        return self.lookup(parent, name)

    def make_link(self, parent: Node, name: bytes, target: bytes) -> tuple[Node, os.stat_result]:
        """Create a symlink."""
        os.symlink(target, self._join(parent, name), dir_fd=self._store)
        return self.lookup(parent, name)

    def set_mode(self, node: Node, mode: int) -> None:
        """chmod. Linux has none for symlinks; the kernel never asks for it."""
        os.chmod(self.path(node), mode, dir_fd=self._store)

    def set_owner(self, node: Node, uid: int, gid: int) -> None:
        """lchown; -1 leaves a part alone."""
        os.chown(self.path(node), uid, gid, dir_fd=self._store, follow_symlinks=False)

    def set_times(self, node: Node, atime_ns: int, mtime_ns: int) -> None:
        """utimensat on the node itself."""
        os.utime(self.path(node), ns=(atime_ns, mtime_ns), dir_fd=self._store, follow_symlinks=False)

    def unlink(self, parent: Node, name: bytes) -> None:
        """Take a file or link out of sight; its data stays until the kernel forgets it."""
        node, result = self.lookup(parent, name)
        if stat.S_ISDIR(result.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        self._bury(node, result)

    def remove_directory(self, parent: Node, name: bytes) -> None:
        """rmdir; the directory itself stays until the kernel forgets it."""
        node, result = self.lookup(parent, name)
        if not stat.S_ISDIR(result.st_mode):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        with scan(self._store, self.path(node)) as entries:
            if next(entries, None) is not None:
                raise OSError(errno.ENOTEMPTY, os.strerror(errno.ENOTEMPTY))
        if self.depth(node) < VOLUME_DEPTH:
            # A pod's directory belongs to no volume and nobody can have it open: it needs no grave.
            os.rmdir(self.path(node), dir_fd=self._store)
            self._nodes.pop(node.number, None)
        else:
            self._bury(node, result)

    def rename(self, parent: Node, name: bytes, new_parent: Node, new_name: bytes) -> None:
        """Rename, replacing a file or link at the new name in one step.

        1. A replaced node is hard-linked into the graveyard first, so that the name never stops existing: a reader must
           find ``..data`` even if the agent dies between two system calls.
        2. The rename itself, one system call.
        3. The table follows.

        Raises:
            OSError: ENOENT; EISDIR when the new name is a directory (AtomicWriter never does that).
        """
        node, _ = self.lookup(parent, name)
        try:
            replaced, result = self.lookup(new_parent, new_name)
        except FileNotFoundError:
            replaced = None
        else:
            if stat.S_ISDIR(result.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        grave = None
        if replaced is node:
            return  # two names of one inode cannot be: nothing here makes hard links
        if replaced is not None:
            grave = self._make_grave(replaced, has_path=not stat.S_ISLNK(result.st_mode))  # (1)
            if grave is not None:
                with contextlib.suppress(FileExistsError):
                    os.link(
                        self.path(replaced),
                        self._join(grave, b"%d" % replaced.number),
                        src_dir_fd=self._store,
                        dst_dir_fd=self._store,
                        follow_symlinks=False,
                    )
        os.rename(  # (2)
            self.path(node), self._join(new_parent, new_name), src_dir_fd=self._store, dst_dir_fd=self._store
        )
        self._move(node, new_parent, new_name)  # (3)
        if replaced is not None:
            self._settle(replaced, grave)

    # --- removal by the agent, without the kernel -------------------------------------------------------------------

    def remove_volume(self, pod_uid: str, volume: str) -> None:
        """Remove a volume straight from the store, at once, with no grave: who still has a file of it open loses it.

        Safe while the kernel knows the names: pod and volume names are never cached by the kernel (operations), and numbers
        are never used twice. For a volume that containers can see use the writer's order, which spares open files.
        """
        self._remove_tree(os.fsencode(pod_uid) + b"/" + os.fsencode(volume))

    def purge_pod(self, pod_uid: str) -> None:
        """The pod is gone and so are its processes: remove its graves, its volumes and its directory."""
        self._remove_tree(GRAVE + b"/" + os.fsencode(pod_uid))
        self._remove_tree(os.fsencode(pod_uid))
        self._graveless = {number: whose for number, whose in self._graveless.items() if whose[0] != pod_uid}

    def index_step(self) -> bool:
        """Index one more directory after a restart; False when there is none left. Takes some ten microseconds."""
        if self._indexer is None:
            return False
        if next(self._indexer, self) is self:
            self._indexer = None
            return False
        return True

    # --- inside -----------------------------------------------------------------------------------------------------

    def _find_identity(self, node: Node) -> Identity:
        parts = self.path(node).split(b"/")
        if parts == [b"."]:
            return Identity("", "", "")
        if parts[0] == GRAVE:
            recorded = graveyard.recorded_path(self._store, b"/".join(parts[:4])) if len(parts) > 3 else GRAVE
            parts = [*parts[1:3], *recorded.split(b"/"), *parts[4:]]
        pod_uid, volume, path = (*parts, b"", b"")[0], (*parts, b"", b"")[1], b"/".join(parts[2:])
        return Identity(os.fsdecode(pod_uid), os.fsdecode(volume), os.fsdecode(path))

    def _move(self, node: Node, parent: Node, name: bytes) -> None:
        """The node lies elsewhere now, and so does what is below it."""
        node.parent, node.name = parent, name
        self._identities.clear()

    def _is_grave(self, node: Node) -> bool:
        """Buried itself: neither a directory of the graveyard nor something below a buried directory."""
        pod = node.parent.parent if node.parent is not None else None
        return pod is not None and pod.parent is self._grave

    def _stat_path(self, path: bytes) -> os.stat_result:
        return os.stat(path, dir_fd=self._store, follow_symlinks=False)

    def _join(self, parent: Node, name: bytes) -> bytes:
        return name if parent.parent is None else self.path(parent) + b"/" + name

    def _fix_mode(self, path: bytes, mode: int) -> None:
        """Undo this process's umask, but leave a set-group-ID bit inherited from the parent, as tmpfs would."""
        current = stat.S_IMODE(self._stat_path(path).st_mode)
        if current & 0o777 != mode & 0o777:
            os.chmod(path, mode | (current & stat.S_ISGID), dir_fd=self._store)

    def _meet(self, parent: Node, name: bytes, inode: int) -> Node:
        number = inode + NUMBER_BASE
        node = self._nodes.get(number)
        if node is None:
            node = self._nodes[number] = Node(number, parent, name)
        elif node.parent is not parent or node.name != name:
            self._move(node, parent, name)  # moved in the store directly
        return node

    def _meet_graves(self) -> None:
        for pod_uid, volume, graves in graveyard.find_graves(self._store):
            directory = self._meet_grave_directory(pod_uid, volume)
            for name, inode in graves:
                self._meet(directory, name, inode)

    def _index(self) -> Iterator[None]:
        """Meet everything that is not buried, breadth first, one directory per step.

        No stat: readdir knows inode and type.
        """
        queue = deque([self.root])
        while queue:
            directory = queue.popleft()
            try:
                with scan(self._store, self.path(directory)) as entries:
                    for entry in entries:
                        if directory is self.root and os.fsencode(entry.name) in _HIDDEN:
                            continue
                        number = entry.inode() + NUMBER_BASE
                        node = self._nodes.get(number)
                        if node is None:
                            node = self._nodes[number] = Node(number, directory, os.fsencode(entry.name))
                        elif self.is_buried(node):
                            # Linked into the graveyard by a rename that was cut off before its second step: still alive.
                            self._move(node, directory, os.fsencode(entry.name))
                        if entry.is_dir(follow_symlinks=False):
                            queue.append(node)
            except FileNotFoundError:
                pass  # removed since its parent was read
            yield

    def _meet_grave_directory(self, pod_uid: bytes, volume: bytes) -> Node:
        directory = self._grave
        for name in (pod_uid, volume):
            directory = self._meet(directory, name, self._stat_path(self._join(directory, name)).st_ino)
        return directory

    def _make_grave(self, node: Node, *, has_path: bool) -> Node | None:
        """The graveyard directory for a node; None when the store is too full for one."""
        identity = self.identity(node)
        pod_uid, volume = os.fsencode(identity.pod_uid), os.fsencode(identity.volume)
        old_path = os.fsencode(identity.path) if has_path else None
        if not graveyard.prepare(self._store, pod_uid, volume, node.number, old_path):
            return None
        return self._meet_grave_directory(pod_uid, volume)

    def _bury(self, node: Node, result: os.stat_result) -> None:
        path = self.path(node)
        is_directory = stat.S_ISDIR(result.st_mode)
        grave = self._make_grave(node, has_path=not stat.S_ISLNK(result.st_mode))
        if grave is not None and (is_directory or result.st_nlink == 1):
            new_path = self._join(grave, b"%d" % node.number)
            os.rename(path, new_path, src_dir_fd=self._store, dst_dir_fd=self._store)
        elif is_directory:
            os.rmdir(path, dir_fd=self._store)  # no room for a grave: a full store must be able to shrink
        else:
            # No room, or linked into its grave already by a rename that was cut off; renaming a name over another of
            # the same inode would do nothing at all.
            os.unlink(path, dir_fd=self._store)
        self._settle(node, grave)

    def _settle(self, node: Node, grave: Node | None) -> None:
        if grave is None:
            who = self.identity(node)
            self._graveless[node.number] = who.pod_uid, who.volume
            self._nodes.pop(node.number, None)
        else:
            self._move(node, grave, b"%d" % node.number)

    def _remove_buried(self, node: Node) -> None:
        if not graveyard.remove(self._store, self.path(node)):
            return
        self._nodes.pop(node.number, None)
        directory = node.parent
        while directory is not None and directory is not self._grave:
            try:
                os.rmdir(self.path(directory), dir_fd=self._store)
            except OSError:
                break  # others lie there
            self._nodes.pop(directory.number, None)
            directory = directory.parent

    def _remove_tree(self, path: bytes) -> None:
        for directory in walk_bottom_up(self._store, path):
            for name, _ in directory.files:
                os.unlink(directory.path + b"/" + name, dir_fd=self._store)
            os.rmdir(directory.path, dir_fd=self._store)
            self._drop(directory)

    def _drop(self, directory: Directory) -> None:
        self._identities.clear()
        for inode in (directory.inode, *(inode for _, inode in directory.files)):
            self._nodes.pop(inode + NUMBER_BASE, None)
