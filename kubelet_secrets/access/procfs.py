"""What ``/proc`` says of a thread, read and taken apart.

Not here: remembering threads (``identity``, the main caller), and what follows from it (``policy``). A few reads, none of which
waits.
"""

from __future__ import annotations

import errno
import os

TABLE_BYTES = 1 << 16


class CallerUnknown(Exception):
    """The thread cannot be examined: refuse it."""


class CallerVanished(CallerUnknown):
    """There is no such thread (any more)."""


def parse_cgroups(text: str) -> tuple[str, ...]:
    """The distinct paths in ``/proc/<tid>/cgroup``: one line per v1 hierarchy, and ``0::`` for v2.

    Source: cgroups(7): ``hierarchy-ID:controller-list:cgroup-path``. The path may hold colons; a removed cgroup's path
    ends in `` (deleted)``, which makes it a path of nobody.
    """
    paths: dict[str, None] = {}
    for line in text.splitlines():
        _, first, rest = line.partition(":")
        _, second, path = rest.partition(":")
        if first and second and path.startswith("/"):
            paths[path] = None
    return tuple(paths)


def is_uniform(text: str) -> bool:
    """Whether a thread is in one cgroup only, in the unified hierarchy and in all others in which it is not at the root."""
    paths = set(parse_cgroups(text)) - {"/"}
    return len(paths) == 1 and f"0::{paths.pop()}" in text.splitlines()


def parse_tgid(status: str) -> int:
    """The process of a thread, out of ``/proc/<tid>/status``.

    Raises:
        CallerUnknown: no such line.
    """
    # After the first line (Name:, newlines escaped by the kernel), so that a program's name cannot pass for it.
    for line in status.splitlines()[1:]:
        if line.startswith("Tgid:"):
            return int(line[5:])
    raise CallerUnknown("no Tgid in status")


def parse_ids(status: str) -> tuple[int, int]:
    """The filesystem uid and gid of a thread, out of ``/proc/<tid>/status``: the last of the four numbers of each line.

    Raises:
        CallerUnknown: no such lines.
    """
    found = {line[:4]: int(line.split()[4]) for line in status.splitlines()[1:] if line.startswith(("Uid:", "Gid:"))}
    try:
        return found["Uid:"], found["Gid:"]
    except KeyError:
        raise CallerUnknown("no Uid or Gid in status") from None


def printable(text: str) -> str:
    """*text* with what a terminal would act upon, or could not show, escaped. Names come from strangers."""
    return text if text.isprintable() else text.encode("unicode_escape").decode("ascii")


def parse_namespace(link: str) -> int:
    """The inode number in what a link of ``/proc/<tid>/ns`` says: ``mnt:[4026531841]``.

    Raises:
        CallerUnknown: it says something else.
    """
    try:
        return int(link.removeprefix("mnt:[").removesuffix("]"))
    except ValueError:
        raise CallerUnknown("not a mount namespace's name") from None


def mount_namespace(tid: int) -> int:
    """Inode number of a thread's mount namespace.

    Raises:
        CallerVanished: no such thread.
        CallerUnknown: its namespace may not be looked at, which happens even to root.
    """
    try:
        # The link's text and not a stat of what it leads to, which takes twice as long.
        return parse_namespace(os.readlink(f"/proc/{tid}/ns/mnt"))
    except OSError as error:
        raise unknown(tid, error) from None


def read_table(tid: int, name: str) -> str:
    """One of a thread's files in ``/proc``: ``status``, ``cgroup``. Raises: CallerUnknown, CallerVanished."""
    try:
        fd = os.open(f"/proc/{tid}/{name}", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, TABLE_BYTES).decode("utf-8", "surrogateescape")
        finally:
            os.close(fd)
    except OSError as error:
        raise unknown(tid, error) from None


def read_exe(tid: int) -> str:
    """Path of a thread's program in its own root, printable; empty when it has none, or it is not ours to see."""
    try:
        return printable(os.readlink(f"/proc/{tid}/exe"))
    except OSError:
        return ""  # a kernel thread, or not ours to see: the verdict does not depend on it


def unknown(tid: int, error: OSError) -> CallerUnknown:
    """What a failure to look at a thread means."""
    if error.errno in (errno.ENOENT, errno.ESRCH):
        return CallerVanished(f"thread {tid} has ended")
    return CallerUnknown(f"thread {tid} cannot be examined: {error.strerror}")
