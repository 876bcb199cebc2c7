"""The AtomicWriter: puts a payload into a volume directory so that a reader sees the old files or the new ones, never a mix.

Synchronous system calls below one directory descriptor, and nothing else: no paths of the host, no event loop, no idea
whether the directory lies on the store or on the FUSE mount. Two processes call it: the agent, for a volume's first version,
straight into the store (``volume/manager.py``, in a worker thread); and the writer, for every later version, through the mount
(``fusefs/writer.py``), so that inotify watchers in containers see what they would see on a real node. The writer process
holds nothing but this, hence the few imports.

Layout it keeps (relative to the directory)::

    ..2026_01_02_15_04_05.4130968751/<payload paths>      one version, immutable once ``..data`` points to it
    ..data -> ..2026_01_02_15_04_05.4130968751            the switch
    <first element of a payload path> -> ..data/<it>      what users open

Not safe for two callers on one directory at a time; ``volume/manager.py`` serialises per volume.

Source: kubernetes pkg/volume/util/atomic_writer.go.
"""

from __future__ import annotations

import errno
import os
import stat
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.modes import DIRECTORY_MODE
from kubelet_secrets.volume.paths import clean_path

DATA_DIR = "..data"
NEW_DATA_DIR = "..data_tmp"
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class FileLike(Protocol):
    """What the writer needs of a ``volume.payload.FileProjection``."""

    @property
    def data(self) -> SensitiveBytes: ...
    @property
    def mode(self) -> int: ...  # permission bits, 0–0o777
    @property
    def fs_user(self) -> int | None: ...  # owner of the file and its link; None leaves the writer's own


@dataclass(frozen=True, slots=True)
class WriteResult:
    """Outcome of :func:`write`."""

    version: str  # name of the version directory that ``..data`` points to now
    changed: bool  # False: the content was there already


SetPerms = Callable[[str], None]
"""Called with the name of the finished, not yet published version directory; an error keeps the old version."""


def write(dir_fd: int, payload: Mapping[str, FileLike], *, set_perms: SetPerms | None = None) -> WriteResult:
    """Make the directory show exactly *payload*.

    The steps, as upstream numbers them:

    (1) validate and clean every path; (2) read ``..data``; (3) list what the new payload lacks; (4) compare contents, and
    if all are equal go to (10); (5) make the version directory; (6) write the files; (7) call *set_perms*; (8) link the
    version as ``..data_tmp``; (9) rename that over ``..data``: the switch; (10) make missing user-visible links;
    (11) remove stale ones; (12) remove the old version.

    Args:
        dir_fd: the volume's directory; O_PATH is enough. Stays the caller's.
        payload: relative path → file; empty is legal and shows nothing.
        set_perms: ownership of the volume, see ``volume/fsgroup.py``.

    Returns:
        The version now current, and whether it is a new one.

    Raises:
        InvalidPath: nothing was touched.
        OSError: the old version stands, with every link it had, unless the error came from (10)–(12), after the switch.

    Cancellation: cannot be cancelled. Killed at any instant, it leaves the old version or the new one; what was half made is
    removed by the next call that writes.

    Differs: upstream leaves a half-written version directory and a stale ``..data_tmp`` behind, fails, and lets the plugin tear
    the whole volume down so that the next attempt succeeds. Here the last version stays up and the leftovers go: after an error
    at once, after a kill before the next attempt's (5). A file replaced by a directory of the same name (or the reverse)
    counts as a difference instead of failing the comparison.
    """
    # (1)
    files = _cleaned(payload)
    # (2)
    old = current_version(dir_fd)
    # (3)
    removed = paths_to_remove(dir_fd, old, files) if old else set()
    stale_links = {path for path in removed if "/" not in path}
    # (4)
    changed = old is None or bool(removed) or _differs(dir_fd, old, files)
    version = old
    if changed or version is None:
        stale_links |= _remove_leftovers(dir_fd, old, {path.split("/", 1)[0] for path in files})
        version = _write_version(dir_fd, files, set_perms)
    # (10)
    _create_links(dir_fd, files)
    # (11)
    error = _remove_links(dir_fd, stale_links)
    # (12)
    if changed and old is not None:
        remove_tree(dir_fd, old)
    if error is not None:
        raise error
    return WriteResult(version, changed)


def needs_write(dir_fd: int, payload: Mapping[str, FileLike]) -> bool:
    """Would :func:`write` make a new version? Steps (1)–(4) alone, and (10)'s check for missing links; changes nothing.

    Modes and owners are not compared, as upstream: a changed ``defaultMode`` alone shows with the next change of content.
    """
    files = _cleaned(payload)
    old = current_version(dir_fd)
    if old is None or paths_to_remove(dir_fd, old, files) or _differs(dir_fd, old, files):
        return True
    return any(_readlink(dir_fd, name) is None for name in {path.split("/", 1)[0] for path in files})


def current_version(dir_fd: int) -> str | None:
    """Name of the version directory ``..data`` points to; None before the first write.

    Raises:
        OSError: ``..data`` exists and is not a link.
    """
    return _readlink(dir_fd, DATA_DIR)


def paths_to_remove(dir_fd: int, old: str, keep: Collection[str]) -> set[str]:
    """Paths, files and directories alike, that version *old* has and the new payload lacks.

    Args:
        dir_fd: the volume's directory.
        old: name of a version directory; a missing one gives the empty set.
        keep: clean paths of the new payload; they and all their parents stay.
    """
    try:
        existing = set(_walk(dir_fd, old))
    except FileNotFoundError:
        return set()
    for path in keep:
        existing.discard(path)
        while "/" in path:
            path = path.rsplit("/", 1)[0]
            existing.discard(path)
    return existing


def remove_tree(dir_fd: int, name: str) -> None:
    """``rm -rf`` of one entry, by descriptors, following no link; a missing entry is fine."""
    try:
        os.unlink(name, dir_fd=dir_fd)
        return
    except FileNotFoundError:
        return
    except (IsADirectoryError, PermissionError):
        pass  # unlink of a directory: EISDIR on Linux, EPERM on POSIX
    fd = os.open(name, _DIRECTORY, dir_fd=dir_fd)
    try:
        for child in sorted(os.listdir(fd)):
            remove_tree(fd, child)
    finally:
        os.close(fd)
    os.rmdir(name, dir_fd=dir_fd)


def _cleaned(payload: Mapping[str, FileLike]) -> dict[str, FileLike]:
    return {clean_path(path): file for path, file in payload.items()}


def _readlink(dir_fd: int, name: str) -> str | None:
    try:
        return os.readlink(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return None


def _walk(dir_fd: int, top: str, prefix: str = "") -> Iterator[str]:
    """Every path below *top*, relative to it."""
    fd = os.open(top, _DIRECTORY, dir_fd=dir_fd)
    try:
        with os.scandir(fd) as entries:
            found = [(entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries]
        for name, is_dir in found:
            yield prefix + name
            if is_dir:
                yield from _walk(fd, name, f"{prefix}{name}/")
    finally:
        os.close(fd)


def _differs(dir_fd: int, old: str, files: Mapping[str, FileLike]) -> bool:
    return any(not _has_content(dir_fd, f"{old}/{path}", file.data) for path, file in files.items())


def _has_content(dir_fd: int, path: str, data: SensitiveBytes) -> bool:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=dir_fd)
    except (FileNotFoundError, NotADirectoryError):
        return False
    try:
        found = os.fstat(fd)
        if not stat.S_ISREG(found.st_mode) or found.st_size != len(data):
            return False
        return SensitiveBytes(_read_all(fd)) == data
    finally:
        os.close(fd)


def _read_all(fd: int) -> bytes:
    chunks = []
    while chunk := os.read(fd, 1 << 20):
        chunks.append(chunk)
    return b"".join(chunks)


def _remove_leftovers(dir_fd: int, current: str | None, wanted_links: Collection[str]) -> set[str]:
    """Clear what a killed writer left; returns links that dangle because it died between the switch and (11)."""
    fd = os.open(".", _DIRECTORY, dir_fd=dir_fd)
    try:
        names = sorted(os.listdir(fd))
    finally:
        os.close(fd)
    # A name such as `..bar` is never a user's: validate_path reserves the prefix for first elements.
    leftovers = [name for name in names if name.startswith("..") and name not in {DATA_DIR, current}]
    for name in leftovers:
        remove_tree(dir_fd, name)
    if not leftovers:
        return set()
    return {name for name in names if name not in wanted_links and _dangles(dir_fd, name)}


def _dangles(dir_fd: int, name: str) -> bool:
    try:
        if os.readlink(name, dir_fd=dir_fd) != f"{DATA_DIR}/{name}":
            return False
        os.stat(name, dir_fd=dir_fd)
    except FileNotFoundError:
        return True
    except OSError:
        return False  # not a link: a nested mountpoint, a directory made for a subPath
    return False


def _write_version(dir_fd: int, files: Mapping[str, FileLike], set_perms: SetPerms | None) -> str:
    # (5)
    version = _make_version_dir(dir_fd)
    try:
        # (6)
        for path, file in files.items():
            _write_file(dir_fd, f"{version}/{path}", file)
        # (7)
        if set_perms is not None:
            set_perms(version)
        # (8)
        os.symlink(version, NEW_DATA_DIR, dir_fd=dir_fd)
        # (9)
        os.rename(NEW_DATA_DIR, DATA_DIR, src_dir_fd=dir_fd, dst_dir_fd=dir_fd)
    except BaseException:
        try:
            if current_version(dir_fd) != version:  # an interrupt may arrive after the switch
                remove_tree(dir_fd, NEW_DATA_DIR)
                remove_tree(dir_fd, version)
        except OSError:
            pass  # the first error is the one to report; the next write clears what is left
        raise
    return version


def _make_version_dir(dir_fd: int) -> str:
    while True:
        # Go's MkdirTemp: a random number in decimal. os.urandom, because a name that repeats after a fork would collide.
        name = f"..{time.strftime('%Y_%m_%d_%H_%M_%S', time.gmtime())}.{int.from_bytes(os.urandom(4), 'big')}"
        try:
            os.mkdir(name, 0o700, dir_fd=dir_fd)
        except FileExistsError:
            continue
        os.chmod(name, DIRECTORY_MODE, dir_fd=dir_fd)
        return name


def _write_file(dir_fd: int, path: str, file: FileLike) -> None:
    _make_parents(dir_fd, path)
    # Mode 0 until the content is complete; O_EXCL: two cleaned paths never name one file.
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o000, dir_fd=dir_fd)
    try:
        written = 0
        while written < len(file.data):
            written += os.write(fd, file.data.reveal()[written:])
    finally:
        os.close(fd)
    os.chmod(path, file.mode, dir_fd=dir_fd)
    if file.fs_user is not None:
        os.chown(path, file.fs_user, -1, dir_fd=dir_fd, follow_symlinks=False)


def _make_parents(dir_fd: int, path: str) -> None:
    """``mkdir -p`` of the directories above *path* within its version; 0755 whatever this process's umask."""
    elements = path.split("/")[:-1]
    for end in range(2, len(elements) + 1):  # elements[0] is the version directory
        parent = "/".join(elements[:end])
        try:
            os.mkdir(parent, DIRECTORY_MODE, dir_fd=dir_fd)
        except FileExistsError:
            continue
        os.chmod(parent, DIRECTORY_MODE, dir_fd=dir_fd)


def _create_links(dir_fd: int, files: Mapping[str, FileLike]) -> None:
    for path, file in files.items():
        name = path.split("/", 1)[0]
        try:
            if _readlink(dir_fd, name) is not None:
                continue
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            continue  # something that is not a link stands there: left alone
        os.symlink(f"{DATA_DIR}/{name}", name, dir_fd=dir_fd)
        if file.fs_user is not None:
            os.chown(name, file.fs_user, -1, dir_fd=dir_fd, follow_symlinks=False)


def _remove_links(dir_fd: int, names: Collection[str]) -> OSError | None:
    """Remove every one; returns the last error."""
    last = None
    for name in sorted(names):
        try:
            os.unlink(name, dir_fd=dir_fd)
        except (FileNotFoundError, IsADirectoryError):
            pass  # gone already; or a nested mountpoint of that name, which step (10) left alone as well
        except OSError as error:
            last = error
    return last
