"""Who is calling: from the thread id in a FUSE request to process, cgroups and mount namespace, read from ``/proc``.

The kernel names the calling *thread*, in the pid namespace of whoever made the mount. That thread sits blocked in its system
call until it is answered, so while its request is being judged the id cannot come to mean another one. Between requests it can:
an answer is kept only behind a pidfd, which is polled before the answer is used again, never behind a bare number.

Not here: what follows from it (``policy``). Called by ``guard`` on the event loop: a few reads of ``/proc``, none of which
waits.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import struct
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

from kubelet_secrets.access.procfs import (
    TABLE_BYTES,
    CallerUnknown,
    CallerVanished,
    is_uniform,
    mount_namespace,
    parse_cgroups,
    parse_ids,
    parse_tgid,
    read_exe,
    read_table,
    unknown,
)

PIDFD_THREAD = os.O_EXCL
"""Flag of pidfd_open(2) since Linux 6.9: a descriptor of one thread. EINVAL before that."""

_PIDFD_INFO = struct.Struct("=QQ48x")  # mask, cgroup id; all of the first version, 64 bytes
_PIDFD_INFO_CGROUPID = 1 << 2
_PIDFD_GET_INFO = 3 << 30 | _PIDFD_INFO.size << 16 | 0xFF << 8 | 11
"""Since Linux 6.13; before that ENOTTY or EINVAL. Source: include/uapi/linux/pidfd.h."""

_UNSAID = 0xFFFF_FFFF
"""FUSE_INVALID_UIDGID, fs/fuse/fuse_i.h."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Caller:
    """A thread, as far as a verdict needs it."""

    tid: int
    pid: int  # thread group
    uid: int  # of the request: the file system user
    gid: int
    exe: str  # path of the program in its own root; escaped where it would not print; "" when it has none
    cgroup_paths: tuple[str, ...]  # distinct, in the order of /proc/<tid>/cgroup: "/kubelet-secrets/…/pod…/<id>"
    mnt_ns: int  # inode number of the mount namespace


class Sighting(NamedTuple):
    """A remembered thread, seen again. Equal sightings mean the same thread in the same mount namespace and cgroups."""

    thread: object  # stands for the thread, also against a later one with its number
    mnt_ns: str  # name of its mount namespace, as it is now
    cgroups: bytes | int  # what /proc/<tid>/cgroup says now, or the number of its one cgroup


class CallerIdentifier:
    """Identifies threads, remembering the most recent ones behind pidfds.

    Remembered is the process alone. Program, mount namespace and cgroups are read each time: execve(2), setns(2) and a write to
    ``cgroup.procs`` keep the thread.

    Args:
        remembered: how many threads, each of which costs two descriptors.
    """

    def __init__(self, *, remembered: int = 128) -> None:
        self._capacity = remembered
        self._known: OrderedDict[int, _Known] = OrderedDict()
        self._thread_flag = PIDFD_THREAD

    def identify(self, tid: int, *, uid: int, gid: int) -> Caller:
        """Examine a thread that is blocked in a request.

        Args:
            tid: as the request says; positive.
            uid, gid: as the request says. A mount that allows idmapped mounts (FUSE_ALLOW_IDMAP) says -1 for both in every
                request that makes no file; they are then read from ``/proc``, as host ids.

        Raises:
            CallerVanished: it has gone.
            CallerUnknown: it may not be examined.
        """
        known = self._known.get(tid)
        if known is not None and not known.is_alive():
            self._forget(tid)
            known = None
        if known is None:
            known = self._examine(tid)
        else:
            self._known.move_to_end(tid)
        if uid == _UNSAID:
            uid, gid = parse_ids(read_table(tid, "status"))
        try:
            cgroup_paths = known.look_up_cgroups()
        except OSError as error:
            raise unknown(tid, error) from None
        return Caller(
            tid=tid,
            pid=known.pid,
            uid=uid,
            gid=gid,
            exe=read_exe(tid),
            cgroup_paths=cgroup_paths,
            mnt_ns=mount_namespace(tid),
        )

    def cgroups_of(self, tid: int) -> tuple[str, ...]:
        """The cgroups that a thread is in now; none when there is no such thread."""
        try:
            return parse_cgroups(read_table(tid, "cgroup"))
        except CallerUnknown:
            return ()

    def locate(self, tid: int) -> Caller:
        """Like :meth:`identify`, at a fraction of the cost, and without what no verdict depends on: program and user.

        The cgroups of a thread that is in a single one are taken for what they were when it was read, while that has the
        same number.
        """
        known = self._known.get(tid)
        if known is None or not known.is_alive() or (paths := known.recall_cgroups()) is None:
            return self.identify(tid, uid=0, gid=0)
        self._known.move_to_end(tid)
        return Caller(tid=tid, pid=known.pid, uid=0, gid=0, exe="", cgroup_paths=paths, mnt_ns=mount_namespace(tid))

    def recognise(self, tid: int) -> Sighting | None:
        """Look again, briefly, at a thread that is blocked in a request: is it alive, in which mount namespace and cgroups.

        Returns:
            None for a thread that is not remembered, has ended or may not be looked at: ``identify`` tells.
        """
        known = self._known.get(tid)
        if known is None or not known.is_alive():
            return None
        self._known.move_to_end(tid)
        try:
            return Sighting(known, os.readlink(known.mnt_ns_path), known.sight_cgroups())
        except OSError:
            return None

    def close(self) -> None:
        """Close the descriptors of all remembered threads."""
        for tid in list(self._known):
            self._forget(tid)

    def _examine(self, tid: int) -> _Known:
        pidfd = self._open_pidfd(tid)
        try:
            # After pidfd_open: what is read now belongs to the thread the descriptor stands for, or that one is dead.
            known = _Known(tid, parse_tgid(read_table(tid, "status")), pidfd)
        except BaseException:
            if pidfd is not None:
                os.close(pidfd)
            raise
        if pidfd is None or not known.keep_open():
            known.close()
            return known
        if not known.is_alive():
            known.close()
            raise CallerVanished(f"thread {tid} has ended")
        self._known[tid] = known
        if len(self._known) > self._capacity:
            self._forget(next(iter(self._known)))
        return known

    def _open_pidfd(self, tid: int) -> int | None:
        """A descriptor to remember the thread by; None when this kernel has none for it, or descriptors are short."""
        try:
            return os.pidfd_open(tid, self._thread_flag)
        except OSError as error:
            if error.errno == errno.EINVAL and self._thread_flag:
                # Before 6.9: process leaders only; other threads are examined anew each time.
                self._thread_flag = 0
                return self._open_pidfd(tid)
            if error.errno in (errno.EINVAL, errno.ENOENT, errno.EMFILE, errno.ENFILE, errno.ENOSYS):
                return None
            raise unknown(tid, error) from None

    def _forget(self, tid: int) -> None:
        self._known.pop(tid).close()


class _Known:
    """What is remembered of a thread. Without a pidfd it is used once and not remembered."""

    __slots__ = ("_cgroup_fd", "_number", "_paths", "_pidfd", "_poll", "_tid", "is_uniform", "mnt_ns_path", "pid")

    def __init__(self, tid: int, pid: int, pidfd: int | None) -> None:
        self.pid = pid
        self.mnt_ns_path = f"/proc/{tid}/ns/mnt"
        self.is_uniform = False  # as read last
        self._paths: tuple[str, ...] = ()  # likewise
        self._number: int | None = None  # of the one cgroup that they were read in; None: not known for certain
        self._tid = tid
        self._pidfd = pidfd
        self._cgroup_fd: int | None = None
        self._poll = select.poll()
        if pidfd is not None:
            self._poll.register(pidfd, select.POLLIN)

    def keep_open(self) -> bool:
        """Keep ``/proc/<tid>/cgroup`` open, which halves the cost of reading it again; False when that cannot be."""
        try:
            self._cgroup_fd = os.open(f"/proc/{self._tid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        return True

    def is_alive(self) -> bool:
        return not self._poll.poll(0)  # a pidfd becomes readable when its thread ends

    def read_cgroups(self) -> bytes:
        """What ``/proc/<tid>/cgroup`` says now. OSError: ESRCH when the thread is gone."""
        if self._cgroup_fd is not None:
            return os.pread(self._cgroup_fd, TABLE_BYTES, 0)
        fd = os.open(f"/proc/{self._tid}/cgroup", os.O_RDONLY | os.O_CLOEXEC)
        try:
            return os.read(fd, TABLE_BYTES)
        finally:
            os.close(fd)

    def look_up_cgroups(self) -> tuple[str, ...]:
        """Read the table and remember it. OSError as :meth:`read_cgroups`."""
        before = self._ask_number()
        text = self.read_cgroups().decode("utf-8", "surrogateescape")
        self.is_uniform, self._paths = is_uniform(text), parse_cgroups(text)
        # The same number before and after: the table was read there and nowhere else.
        self._number = before if self.is_uniform and self._ask_number() == before else None
        return self._paths

    def recall_cgroups(self) -> tuple[str, ...] | None:
        """The paths as read last, while the thread is in the one cgroup that it was in then; None: they must be read."""
        return self._paths if self._number is not None and self._ask_number() == self._number else None

    def sight_cgroups(self) -> bytes | int:
        """What tells whether the thread was moved. OSError as :meth:`read_cgroups`.

        Of one that is in a single cgroup the kernel gives the number of that, never used twice, at a tenth of the cost of
        the table. A move in another hierarchy alone is then seen when the table is next read: it is in the container still.
        """
        number = self._ask_number() if self.is_uniform else None
        return self.read_cgroups() if number is None else number

    def _ask_number(self) -> int | None:
        """The number of the thread's cgroup in the unified hierarchy; None where the kernel does not tell."""
        if self._pidfd is None:
            return None
        info = bytearray(_PIDFD_INFO.size)
        _PIDFD_INFO.pack_into(info, 0, _PIDFD_INFO_CGROUPID, 0)
        try:
            fcntl.ioctl(self._pidfd, _PIDFD_GET_INFO, info)
        except OSError:
            return None  # before Linux 6.13; or the thread has ended, which the table will say
        mask, number = _PIDFD_INFO.unpack_from(info)
        return int(number) if mask & _PIDFD_INFO_CGROUPID else None

    def close(self) -> None:
        for fd in (self._pidfd, self._cgroup_fd):
            if fd is not None:
                os.close(fd)
        self._pidfd = self._cgroup_fd = None
