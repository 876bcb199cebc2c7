"""The part of a volume that a ``subPath`` selects: found without leaving the volume, and bound where the runtime takes it from.

A container may write to some volumes while the pod's next container is being prepared, so a path is walked one element at a
time over descriptors. A link is read from the very descriptor that was found to be one and resolved inside the volume; one that
leads out is an error. What was found is what is bound, by descriptor.

Synchronous. ``manager`` walks a guarded volume in the store with :func:`find` and has the writer attach what it leads to; all
other volumes are walked and bound here. Either way the container keeps what was found: a subPath does not follow updates.

Source: pkg/volume/util/subpath/subpath_linux.go; semantics §5.1 steps 5 and 6, §5.2. Differs: upstream first resolves links by
path, then opens the result refusing links. Here both are one walk, since a path of the host that a container has chosen could
lead the agent into its own mount. So an absolute link has to name the volume as the host does, and one that leads out of the
volume is always told as what could not be prepared, whether there is something at its end or not.
"""

from __future__ import annotations

import errno
import os
import stat
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.volume.layout import make_directories

_MAX_LINKS = 40  # as the kernel
_PATH_ONLY = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Found:
    """Where a subPath leads."""

    path: str  # in the volume, through no link; "" is the volume itself
    is_directory: bool


class MissingPart(FileNotFoundError):
    """The walk came to an end.

    Attributes:
        path: where it wanted to go, through no link as far as anything exists.
        is_behind_link: it is a link that leads to nothing.
    """

    def __init__(self, path: str, *, is_behind_link: bool) -> None:
        super().__init__(errno.ENOENT, os.strerror(errno.ENOENT), path)
        self.path = path
        self.is_behind_link = is_behind_link


def find(root_fd: int, sub_path: str) -> Found:
    """Follow *sub_path* below a volume's root.

    Args:
        root_fd: the volume's directory; O_PATH is enough.
        sub_path: relative.

    Raises:
        MissingPart: an element does not exist.
        PermissionError: a link or ``..`` leads out of the volume.
        OSError: ENOTDIR, ELOOP, ENAMETOOLONG; EINVAL for a NUL byte.
    """
    with _walk(root_fd, sub_path) as (fd, path):
        return Found(path, stat.S_ISDIR(os.fstat(fd).st_mode))


def find_missing(root_fd: int, sub_path: str) -> str | None:
    """Where a directory has to be made for *sub_path* to lead to something: its path through no link. None: nowhere.

    What cannot be followed for another reason is left for :func:`find` to report.

    Raises:
        FileExistsError: a link that leads to nothing is in the way.
    """
    try:
        find(root_fd, sub_path)
    except MissingPart as missing:
        if missing.is_behind_link:
            raise _link_in_the_way() from None
        return missing.path
    except OSError:
        pass
    return None


def make_missing(root: Path, sub_path: str) -> None:
    """Make the directories that *sub_path* lacks in a volume on the host, with the mode of the volume's root.

    With its set-group-ID bit too: what a container writes there belongs to the fsGroup, like everything else in the volume.
    What cannot be followed is left for :func:`bind_sub_path` to report.

    Raises:
        OSError: a link that leads to nothing is in the way, or the host refuses.
    """
    with _open_root(root) as (root_fd, real_root):
        mode = stat.S_IMODE(os.fstat(root_fd).st_mode)
        try:
            with _walk(root_fd, sub_path, real_root=real_root):
                return
        except MissingPart as missing:
            if missing.is_behind_link:
                raise _link_in_the_way() from None
        except OSError:
            return
        with _walk(root_fd, sub_path, real_root=real_root, make_mode=mode):
            pass


def bind_sub_path(root: Path, sub_path: str, target: Path) -> None:
    """Bind what *sub_path* selects of a volume on the host at *target*, made for it; the same thing bound there stays.

    Raises:
        OSError: as :func:`find`, or the host refuses.
    """
    with _open_root(root) as (root_fd, real_root), _walk(root_fd, sub_path, real_root=real_root) as (fd, _):
        found = os.fstat(fd)
        if any(entry.target == str(target) for entry in mounts.mounts_below(target)):
            if os.path.samestat(found, os.stat(target)):
                return
            mounts.umount_all_below(target)
        make_target(target, is_directory=stat.S_ISDIR(found.st_mode))
        mounts.bind(fd, target)


@contextmanager
def _open_root(root: Path) -> Iterator[tuple[int, str]]:
    """A descriptor of the root and its path through no link. The root itself may be a link, as in upstream."""
    real_root = os.path.realpath(root, strict=True)
    fd = os.open(real_root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield fd, real_root
    finally:
        os.close(fd)


def make_target(target: Path, *, is_directory: bool) -> None:
    """Make the mountpoint, a directory or an empty file; nothing is mounted on it."""
    make_directories(target.parent)
    try:
        if stat.S_ISDIR(os.lstat(target).st_mode) == is_directory:
            return
        if is_directory:
            target.unlink()
        else:
            target.rmdir()
    except FileNotFoundError:
        pass
    if is_directory:
        target.mkdir(mode=0o750)
    else:
        target.touch(mode=0o640)


@contextmanager
def _walk(
    root_fd: int, sub_path: str, *, real_root: str | None = None, make_mode: int | None = None
) -> Iterator[tuple[int, str]]:
    """An O_PATH descriptor of what *sub_path* leads to, and its path through no link.

    Args:
        real_root: path of the root on the host through no link; None where it has none.
        make_mode: make directories that are missing, with this mode.
    """
    if "\0" in sub_path:  # of a variable's value; Go's os package answers so
        raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
    opened = [os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC, dir_fd=root_fd)]
    names: list[str] = []
    waiting = deque(_elements(sub_path))
    from_links = 0  # how many of those that wait, the next ones, a link told
    links = 0
    try:
        while waiting:
            name = waiting.popleft()
            is_behind_link, from_links = from_links > 0, max(from_links - 1, 0)
            if name == "..":
                if not names:
                    raise PermissionError(errno.EACCES, "leads out of the volume")
                names.pop()
                os.close(opened.pop())
                continue
            fd = _open_element(opened[-1], name, None if is_behind_link else make_mode)
            if fd is None:
                if ".." in waiting:
                    raise PermissionError(errno.EACCES, "steps back from what does not exist")
                if make_mode is not None:
                    raise _link_in_the_way()
                raise MissingPart("/".join([*names, name, *waiting]), is_behind_link=is_behind_link)
            opened.append(fd)
            mode = os.fstat(fd).st_mode
            if stat.S_ISLNK(mode):
                links += 1
                target = os.readlink("", dir_fd=fd)
                os.close(opened.pop())
                if links > _MAX_LINKS:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))
                elements = _elements(target)
                if target.startswith("/"):
                    elements = _below(elements, real_root)
                    names.clear()
                    while len(opened) > 1:
                        os.close(opened.pop())
                waiting.extendleft(reversed(elements))
                from_links += len(elements)
                continue
            if waiting and not stat.S_ISDIR(mode):
                raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
            names.append(name)
        yield opened[-1], "/".join(names)
    finally:
        for fd in opened:
            os.close(fd)


def _below(elements: list[str], real_root: str | None) -> list[str]:
    """The part of an absolute path that lies in the volume."""
    root = _elements(real_root) if real_root is not None else None
    if root is None or elements[: len(root)] != root:
        raise PermissionError(errno.EACCES, "an absolute link leads out of the volume")
    return elements[len(root) :]


def _link_in_the_way() -> FileExistsError:
    return FileExistsError(errno.EEXIST, "a link that leads to nothing")


def _open_element(parent_fd: int, name: str, make_mode: int | None) -> int | None:
    try:
        return os.open(name, _PATH_ONLY, dir_fd=parent_fd)
    except FileNotFoundError:
        if make_mode is None:
            return None
    try:
        os.mkdir(name, 0o700, dir_fd=parent_fd)
    except FileExistsError:
        return os.open(name, _PATH_ONLY, dir_fd=parent_fd)  # somebody in the container was faster: take what it made
    # Through a descriptor that is certainly a directory: a link put in its place must not be followed.
    fd = os.open(name, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=parent_fd)
    os.fchmod(fd, make_mode)
    return fd


def _elements(path: str) -> list[str]:
    return [element for element in path.split("/") if element not in ("", ".")]
