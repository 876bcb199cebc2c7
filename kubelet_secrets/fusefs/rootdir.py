"""The node's directory: who uses it, what an earlier run has left in it and mounted on it, and how that is taken away.

``keeper.json`` in it says what the next one needs for that; nothing secret. Not here: what is mounted while a node runs
(``nodemounts``, which calls this, and so does the caretaker of a keeper that was killed). Synchronous.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import shutil
import time
from pathlib import Path

import msgspec

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.errors import HostError

logger = logging.getLogger(__name__)

_STATE = "keeper.json"
_NOTE = "found"  # what a caretaker has to say to the next start
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_CLEAN_UP_TIMEOUT_S = 90.0


class _State(msgspec.Struct, frozen=True, kw_only=True):
    """keeper.json."""

    boot_id: str
    mounts: int  # on the directory, before ours
    keeper: tuple[int, str] | None = None  # pid and start time; None: nobody cleans up after it but the next


class RootDirectory:
    """One node's directory.

    Args:
        path: absolute; exists when any method is called.
        keep: what survives, also below *path*.

    Attributes:
        lock_fd: held from :meth:`lock` on; the caller closes it.
        mounts_before: how many mounts were on *path* before ours: only what is above is ours to take away.
    """

    def __init__(self, path: Path, *, keep: Path) -> None:
        self.path = path
        self._keep = keep
        self.lock_fd = -1
        self.mounts_before = 0

    def lock(self, kept_fd: int = -1) -> int:
        """Lock the directory for this process; waits while the caretaker of a keeper that died is at work in it.

        Args:
            kept_fd: the lock as a keeper before held it, if it left it. A supervisor that keeps it as well still holds it:
                another open file would be locked out by ourselves.

        Raises:
            HostError: somebody else uses the directory.
        """
        if kept_fd >= 0 and not os.path.samestat(os.fstat(kept_fd), os.stat(self.path)):
            os.close(kept_fd)
            kept_fd = -1
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
        lock_fd = os.open(self.path, flags) if kept_fd < 0 else kept_fd
        deadline_s = time.monotonic() + _CLEAN_UP_TIMEOUT_S
        has_told = False
        while True:
            try:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if not self._is_being_cleaned() or time.monotonic() > deadline_s:
                    os.close(lock_fd)
                    raise HostError(
                        f"another kubelet-secrets agent uses {self.path}: stop it, or give this one another --root-dir"
                    ) from None
            if not has_told:
                logger.warning("waiting until what a killed run left on %s is taken away", self.path)
                has_told = True
            time.sleep(0.02)
        self.lock_fd = lock_fd
        return lock_fd

    def record(self, *, has_caretaker: bool, mounts_before: int | None = None) -> None:
        """Note who uses the directory, for whoever comes when we were killed.

        Args:
            has_caretaker: whether the lock of a keeper that died is held by who cleans up after it.
            mounts_before: None to count them now.
        """
        self.mounts_before = self._count_mounts() if mounts_before is None else mounts_before
        state = _State(
            boot_id=_BOOT_ID.read_text().strip(),
            mounts=self.mounts_before,
            keeper=(os.getpid(), _start_time(os.getpid())) if has_caretaker else None,
        )
        unfinished = self.path / f"{_STATE}.new"
        unfinished.write_bytes(msgspec.json.encode(state))
        unfinished.rename(self.path / _STATE)

    def has_own_mount(self) -> bool:
        """Whether there is one mount on the directory more than before us."""
        return self._count_mounts() == self.mounts_before + 1

    def remove_stale_mounts(self) -> int:
        """Take away what a killed run has mounted; returns how many mounts that were."""
        state = self._read_state()
        if state is None or state.boot_id != _BOOT_ID.read_text().strip():
            return 0
        taken = 0
        while self._count_mounts() > state.mounts:
            taken += len(mounts.mounts_below(self.path)) - state.mounts
            with contextlib.suppress(OSError):
                mounts.umount_lazy(self.path / "fuse", force=True)
            mounts.umount_lazy(self.path)
        if taken:
            logger.warning("took away %d mounts that an earlier run had left on %s", taken, self.path)
        return taken

    def remove_files(self) -> None:
        """Remove what keeper and agent made in the root directory, when nothing of ours is mounted there any more.

        A run cannot take over the pods of an earlier one (runtime state and secrets were in memory), so their directories
        go too. Something mounted below by somebody else is left alone with everything around it.
        """
        for name in ("fuse", "run", "pods", _STATE):
            path = self.path / name
            if path == self._keep or path in self._keep.parents or mounts.mounts_below(path):
                logger.warning("%s is left as it is", path)
            elif path.is_dir():
                shutil.rmtree(path, onerror=_log_failure)
            else:
                path.unlink(missing_ok=True)

    def remove(self) -> None:
        """Take away the directory we made ourselves, unless images are kept in it."""
        try:
            self.path.rmdir()
        except OSError:
            pass  # not empty: not ours alone

    def leave_note(self, text: str) -> None:
        """For the next start to say, :meth:`tell_note`."""
        (self.path / _NOTE).write_text(text)

    def tell_note(self) -> None:
        """Log what the caretaker of a killed run had to say, once."""
        with contextlib.suppress(FileNotFoundError):
            logger.warning("%s", (self.path / _NOTE).read_text())
            (self.path / _NOTE).unlink()

    def _read_state(self) -> _State | None:
        try:
            return msgspec.json.decode((self.path / _STATE).read_bytes(), type=_State)
        except (FileNotFoundError, msgspec.MsgspecError):
            return None

    def _is_being_cleaned(self) -> bool:
        """Whether the keeper that noted itself has died, and its caretaker has not finished."""
        state = self._read_state()
        if state is None:
            return True  # the last that goes; or a keeper that has just begun, which notes itself at once
        if state.boot_id != _BOOT_ID.read_text().strip() or state.keeper is None:
            return False
        pid, start_time = state.keeper
        return _start_time(pid) != start_time

    def _count_mounts(self) -> int:
        return sum(1 for entry in mounts.read_mount_table() if entry.target == str(self.path))


def _start_time(pid: int) -> str:
    """When the process was started, in ticks since boot: with its pid, its name. Empty when it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] in "ZX" else fields[19]


def _log_failure(_: object, path: str, error: object) -> None:
    logger.warning("cannot remove %s: %s", path, error[1] if isinstance(error, tuple) else error)
