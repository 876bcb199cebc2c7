"""Everything that is mounted for one node, from an empty root directory to nothing left behind: the keeper's hands.

::

    <root>          bind-mounted on itself, private: one lazy unmount of it takes all the rest along
      keeper.json   what a killed run leaves for the next one to clean up by; nothing secret
      fuse/         the attached FUSE mount
      run/          tmpfs that cannot be swapped: whatever is secret and needs a path
        scratch/    another one: what containers write. Full, it leaves the agent's own files alone
        logs/       another one: what containers print
      pods/         made and filled by the agent

Synchronous; called by ``keeper`` only. Holds the descriptors that must outlive the agent.
"""

from __future__ import annotations

import contextlib
import logging
import os
import select
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.errors import HostError
from kubelet_secrets.fusefs.init import READ_BUFFER_BYTES, InitRequest, make_init_answer, parse_init
from kubelet_secrets.fusefs.kept import NAMES, KeptState, NotAdoptable
from kubelet_secrets.fusefs.mounts import NoswapFallback, StoreKind
from kubelet_secrets.fusefs.rootdir import RootDirectory

logger = logging.getLogger(__name__)


def check_host() -> None:
    """Say in one line what this machine lacks for mounting.

    Raises:
        HostError: not root, or no /dev/fuse.
    """
    if os.geteuid() != 0:
        raise HostError("mounting secrets for containers needs root: try again with sudo")
    if not os.access("/dev/fuse", os.R_OK | os.W_OK):
        raise HostError("/dev/fuse is missing: run modprobe fuse, or give this machine or container the device")


@dataclass(slots=True, kw_only=True)
class FuseMount:
    """One life of the FUSE superblock; replaced when it cannot be carried over a crash of the agent."""

    fuse_fd: int
    init: InitRequest

    def is_alive(self) -> bool:
        """Whether the kernel still sends requests here: neither aborted nor unmounted everywhere."""
        poll = select.poll()
        poll.register(self.fuse_fd, 0)
        return not any(event & (select.POLLERR | select.POLLHUP) for _, event in poll.poll(0))


class NodeMounts:
    """The node's directory, locked and mounted.

    Attributes:
        root_dir, fuse_dir, run_dir: absolute paths.
        store_fd: the detached store.
        store_kind: what the store and run/ lie on.
        fuse: the FUSE mount as it is now.
        is_adopted: whether all of it was made by a keeper before this one.

    Args:
        kept: what that keeper left, ``kept.NAMES``; ours from now on. What cannot be carried on with is cleaned up, and said.
        has_caretaker: somebody will call :meth:`clean_up_after` when we are killed, and hold the lock until then.

    Use as a context manager: leaving it unmounts and removes everything but *keep*, unless :meth:`leave` was called.
    """

    def __init__(
        self,
        root_dir: Path,
        *,
        keep: Path,
        store_size_bytes: int,
        store_files: int,
        run_size_bytes: int,
        scratch_size_bytes: int,
        logs_size_bytes: int,
        fallback: NoswapFallback = NoswapFallback.RAMFS,
        kept: Mapping[str, int] | None = None,
        has_caretaker: bool = False,
    ) -> None:
        self.root_dir = root_dir
        self.fuse_dir = root_dir / "fuse"
        self.run_dir = root_dir / "run"
        self.store_fd = -1
        self.store_kind = StoreKind.NOSWAP_TMPFS
        self.fuse = FuseMount(fuse_fd=-1, init=InitRequest(raw=b"", unique=0, minor=0, max_readahead_bytes=0, flags=0))
        self._root = RootDirectory(root_dir, keep=keep)
        self._has_caretaker = has_caretaker
        self._store_size_bytes = store_size_bytes
        self._store_files = store_files
        self._run_sizes_bytes = {".": run_size_bytes, "scratch": scratch_size_bytes, "logs": logs_size_bytes}
        self._fallback = fallback
        self._undo = contextlib.ExitStack()
        self.is_adopted = False
        self._kept = dict(kept or {})
        self._state_fd = -1
        self._made_root = False

    def __enter__(self) -> NodeMounts:
        with contextlib.ExitStack() as undo:
            self._set_up(undo)
            self._undo = undo.pop_all()
        return self

    @property
    def lock_fd(self) -> int:
        """The directory's lock; for the caretaker, which must not lose it."""
        return self._root.lock_fd

    def __exit__(self, *_: object) -> None:
        self._undo.close()

    def leave(self) -> None:
        """Have everything stay as it is at the end: for the keeper after this one, which is given :meth:`keep_for_next`."""
        self._undo.pop_all()

    def keep_for_next(self) -> dict[str, int]:
        """The descriptors that a successor needs, by name; they stay ours. Ask again after :meth:`renew_fuse`."""
        if self._state_fd >= 0:
            os.close(self._state_fd)
        state = KeptState(
            root_dir=str(self.root_dir),
            made_root=self._made_root,
            mounts_before=self._root.mounts_before,
            fuse_device=self._find_fuse_device(),
            fuse_init=self.fuse.init.raw.hex(),
            store_kind=self.store_kind.value,
        )
        self._state_fd = state.to_memfd()
        descriptors = (self._root.lock_fd, self.store_fd, self.fuse.fuse_fd, self._state_fd)
        return dict(zip(NAMES, descriptors, strict=True))

    def _set_up(self, undo: contextlib.ExitStack) -> None:
        """Steps, each undone by *undo* in reverse order.

        1. Lock the root directory.
        2. Take away what a killed run left.
        3. Bind the root directory on itself, privately; everything below hangs on that one mount.
        4. The run tmpfs and the store.
        5. The FUSE mount, its INIT answered.
        """
        check_host()
        if self._kept and self._adopt(undo):
            return
        # (1) Nothing secret lies in the directory itself, but names of pods do.
        if not self.root_dir.exists():
            self._made_root = True
            undo.callback(self._root.remove)
        try:
            self.root_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.root_dir.chmod(0o700)
        except OSError as error:
            raise HostError(f"cannot use {self.root_dir} as the node's directory: {error.strerror}") from None
        undo.callback(os.close, self._root.lock(self._kept.pop("lock", -1)))
        # (2)
        self._root.tell_note()
        self._root.remove_stale_mounts()
        self._root.remove_files()
        # (3)
        self._root.record(has_caretaker=self._has_caretaker)
        undo.callback(self._root.remove_files)
        mounts.make_private_bind(self.root_dir)
        undo.callback(mounts.umount_lazy, self.root_dir)
        # (4)
        noswap = mounts.is_noswap_supported()
        for name, size_bytes in self._run_sizes_bytes.items():
            directory = self.run_dir / name
            directory.mkdir(mode=0o700)
            mounts.attach_tmpfs(directory, size_bytes=size_bytes, fallback=self._fallback, noswap=noswap)
        self.store_fd, self.store_kind = mounts.make_store(
            size_bytes=self._store_size_bytes, inodes=self._store_files, fallback=self._fallback, noswap=noswap
        )
        undo.callback(os.close, self.store_fd)
        # (5)
        self.fuse_dir.mkdir(mode=0o700)
        self._mount_fuse()
        undo.callback(self._end_fuse)

    def _adopt(self, undo: contextlib.ExitStack) -> bool:
        """Carry on from the keeper before, with its descriptors; False when that is not possible, and nothing was done.

        Raises:
            HostError: it served another directory, which must be cleaned up first.
        """
        try:
            if set(NAMES) - set(self._kept):
                raise NotAdoptable(f"of {', '.join(NAMES)} it left only {', '.join(self._kept)}")
            state = KeptState.from_memfd(self._kept["state"])
            if state.root != self.root_dir:
                raise HostError(
                    f"the keeper before served {state.root_dir}: stop it there, then start with {self.root_dir}"
                )
            init = parse_init(bytes.fromhex(state.fuse_init))
            self.fuse = FuseMount(fuse_fd=self._kept["fuse"], init=init)
            self.store_fd, self.store_kind = self._kept["store"], StoreKind(state.store_kind)
            self._root.mounts_before, self._made_root = state.mounts_before, state.made_root
            if not self.fuse.is_alive():
                raise NotAdoptable("its filesystem was ended")
            if not self._root.has_own_mount() or self._find_fuse_device() != state.fuse_device:
                raise NotAdoptable("its mounts are gone")
        except (NotAdoptable, ValueError) as error:
            logger.warning("cannot carry on from the keeper before, cleaning up after it: %s", error)
            for name in set(self._kept) - {"lock"}:
                os.close(self._kept.pop(name))
            return False
        # The same as what _set_up leaves, in the same order.
        if state.made_root:
            undo.callback(self._root.remove)
        undo.callback(os.close, self._root.lock(self._kept.pop("lock", -1)))
        self._root.record(has_caretaker=self._has_caretaker, mounts_before=state.mounts_before)
        undo.callback(self._root.remove_files)
        undo.callback(mounts.umount_lazy, self.root_dir)
        undo.callback(os.close, self.store_fd)
        undo.callback(self._end_fuse)
        self._state_fd = self._kept["state"]
        self.is_adopted = True
        return True

    def _find_fuse_device(self) -> str:
        """The device of what is mounted as the filesystem, by the mount table: stat would ask the agent."""
        found = [each.device for each in mounts.read_mount_table() if each.target == str(self.fuse_dir)]
        return found[-1] if found else ""

    @staticmethod
    def clean_up(root_dir: Path, *, keep: Path) -> None:
        """Take away what a keeper has left that was killed. Does nothing while another one uses the directory."""
        if not root_dir.is_dir():
            return
        root = RootDirectory(root_dir, keep=keep)
        try:
            lock_fd = root.lock()
        except HostError:
            return
        root.remove_stale_mounts()
        root.remove_files()
        os.close(lock_fd)

    def clean_up_after(self) -> None:
        """What the caretaker does in our place when we were killed. The directory stays, with a note for the next start."""
        self._root.remove_stale_mounts()
        self._root.remove_files()
        self._root.leave_note("the keeper before was killed: its containers were stopped, its mounts taken away")

    def renew_fuse(self) -> None:
        """End the FUSE connection and mount a new one over the same store.

        For after an abort from outside: callers that wait get ENOTCONN, clones that containers hold are dead.
        """
        self._end_fuse()
        for entry in mounts.mounts_below(self.root_dir):
            if entry.fstype == "fuse" and entry.source == mounts.FUSE_SOURCE:
                mounts.umount_lazy(Path(entry.target))
        self._mount_fuse()

    def abort_fuse(self) -> None:
        """End the connection so that nothing can hang on it any more; the mount goes with the rest."""
        with contextlib.suppress(OSError):
            mounts.umount_lazy(self.fuse_dir, force=True)

    def _mount_fuse(self) -> None:
        fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
        try:
            try:
                mounts.mount_fuse(fuse_fd, self.fuse_dir)
                init = parse_init(os.read(fuse_fd, READ_BUFFER_BYTES))
            except ValueError as exc:
                raise HostError(f"this kernel's FUSE cannot be used: {exc}") from None
            except OSError as exc:
                raise HostError(
                    f"cannot mount a FUSE filesystem with /dev/fuse: {exc.strerror}: is it the real device, and may this "
                    "machine or container mount?"
                ) from None
            os.write(fuse_fd, make_init_answer(init))
        except BaseException:
            os.close(fuse_fd)
            raise
        self.fuse = FuseMount(fuse_fd=fuse_fd, init=init)

    def _end_fuse(self) -> None:
        self.abort_fuse()
        os.close(self.fuse.fuse_fd)
