"""``VolumeManager``: the guarded volumes of a node, from payload to a directory that containers can be given.

A volume's first version is written straight into the store, where nobody can see it yet, and a read-only clone of its directory
is attached at the kubelet's path. Every later version is an order to the writer, because watchers in containers learn of it
only when it is made through the mount. Whether there is anything to do is found out by comparing with the store.

One operation per volume at a time; volumes do not wait for each other. What the manager knows it reads from the store and the
mount table, so after a restart :meth:`VolumeManager.adopt` is all it takes.

Not here: which files a volume shows (``payload``), volumes that are not guarded (``emptydir``, ``hostpath``), the parts of a
volume that a subPath selects (``subpath``). Called by the pods' workers.

The agent serves the filesystem the clones belong to, so nothing here looks *into* a clone: a process that waits for itself
can neither answer nor be killed.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import stat
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import trio

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.api.core import Pod, Volume
from kubelet_secrets.errors import ContainerConfigError, SetUpError
from kubelet_secrets.volume import atomicwriter
from kubelet_secrets.volume.atomicwriter import FileLike, WriteResult
from kubelet_secrets.volume.emptydir import set_up_empty_dir, spreads_mounts
from kubelet_secrets.volume.fsgroup import apply_fs_group
from kubelet_secrets.volume.hostpath import check_host_path
from kubelet_secrets.volume.layout import EMPTY_DIR_PLUGIN, PodsLayout, make_directories, mark_ready
from kubelet_secrets.volume.modes import PLAIN_ROOT_MODE, TMPFS_ROOT_MODE
from kubelet_secrets.volume.nested import nested_mountpoints
from kubelet_secrets.volume.payload import has_payload, plugin_directory
from kubelet_secrets.volume.quota import VolumeRef, payload_usage
from kubelet_secrets.volume.store import Store, VolumeVersion, nested_mountpoint_error
from kubelet_secrets.volume.subpath import bind_sub_path, find, find_missing, make_missing, make_target

logger = logging.getLogger(__name__)

_FEW_FILES, _FEW_BYTES = 4, 1 << 16  # compared in some hundred microseconds


class Writer(Protocol):
    """Changes volumes through the mount; ``fusefs.writerclient.WriterClient``."""

    async def update(
        self, pod_uid: str, volume: str, payload: Mapping[str, FileLike], *, fs_group: int | None
    ) -> WriteResult: ...

    async def make_nested_directory(self, pod_uid: str, volume: str, path: str, *, mode: int = ...) -> None: ...

    async def attach(self, pod_uid: str, volume: str, target: Path, *, path: str = "") -> None: ...


class Remover(Protocol):
    """Removes volumes no container uses any more; the store itself, or ``fusefs.tree.Tree``, which forgets them as well."""

    def remove_volume(self, pod_uid: str, volume: str) -> None: ...

    def purge_pod(self, pod_uid: str) -> None: ...


class Withdrawal(Protocol):
    """Ends the readability of volumes that go, also for descriptors that outlive their pod. ``fusefs.revoker.Revoker``."""

    async def withdraw(self, pod_uid: str, volume: str) -> None: ...

    def forget_pod(self, pod_uid: str) -> None: ...


class VolumeManager:
    """Guarded volumes of one node.

    Args:
        store: where versions lie.
        layout: where clones are attached.
        writer: usable before the first call.
        remover: defaults to the store; the agent gives the filesystem's tree.
        withdrawal: None where there is no kernel that holds pages.
    """

    def __init__(
        self,
        store: Store,
        layout: PodsLayout,
        writer: Writer,
        *,
        remover: Remover | None = None,
        withdrawal: Withdrawal | None = None,
    ) -> None:
        self._store = store
        self._layout = layout
        self._writer = writer
        self._remover: Remover = remover if remover is not None else store
        self._withdrawal = withdrawal
        self._locks: defaultdict[VolumeRef, trio.Lock] = defaultdict(trio.Lock)
        self._attached: set[VolumeRef] = set()
        # An order was given and its outcome not heard: the store may change at any moment, so comparing with it says nothing.
        self._unsettled: set[VolumeRef] = set()

    async def adopt(self) -> list[VolumeRef]:
        """Find what an earlier agent left: volumes in the store or on the host. Call it once, before anything else.

        Returns:
            Every volume there is something of, sorted. Those of unknown pods are for :meth:`tear_down_pod`.
        """
        self._attached, on_host = await trio.to_thread.run_sync(self._look_at_host)
        return sorted({*self._store.volumes(), *on_host})

    async def set_up(
        self, pod: Pod, volume: Volume, payload: Mapping[str, FileLike], *, fs_group: int | None
    ) -> VolumeVersion:
        """Make *volume* show *payload*: set it up, write a new version, or find that all is well.

        Args:
            payload: from ``make_volume_payload``.
            fs_group: the pod's.

        Returns:
            The version that is current, and since when.

        Raises:
            StoreFull: nothing was written; the last version, if any, stays up.
            SetUpError: likewise.

        Cancellation: the volume shows what it showed or *payload*, whole. An order to the writer under way is carried out; the
        next call gives a new one without comparing first.
        """
        ref, plugin = VolumeRef(pod.metadata.uid, volume.name), plugin_directory(volume)
        pod_name = f"{pod.metadata.namespace}/{pod.metadata.name}"
        async with self._locks[ref]:
            nested = nested_mountpoints(pod, volume.name)
            is_new = self._store.current(*_key(ref)) is None
            if is_new:
                if self._store.has_volume(*_key(ref)):  # never finished, so never attached, so never seen
                    self._remover.remove_volume(*_key(ref))
                await trio.to_thread.run_sync(self._begin, ref, pod_name, volume, payload, fs_group, nested)
            else:
                await self._write_next(ref, pod_name, payload, fs_group)
                for path in self._store.missing_directories(*_key(ref), nested):
                    try:
                        await self._writer.make_nested_directory(*_key(ref), path)
                    except OSError as error:
                        raise nested_mountpoint_error(path, error) from error
            if ref not in self._attached:
                if not is_new:
                    await trio.to_thread.run_sync(self._prepare_host, ref, plugin)
                await self._attach(ref, plugin)
            version = self._store.current(*_key(ref))
            if version is None:
                raise SetUpError("the volume was removed while it was being set up")
            return version

    async def set_up_plain(self, pod: Pod, volume: Volume, *, fs_group: int | None, memory_bytes: int) -> None:
        """Set up an emptyDir, or look at a hostPath: volumes that hold no API object and have no versions.

        Args:
            memory_bytes: how large an emptyDir of medium Memory may grow; see ``emptydir.memory_size_bytes``.

        Raises:
            SetUpError: with upstream's text; also for a type this node cannot set up.

        Cancellation: the host is left as if this had finished, or the next call finishes it.
        """
        if volume.host_path is not None:
            await trio.to_thread.run_sync(check_host_path, volume.host_path)
        elif volume.empty_dir is not None:
            uid, source = pod.metadata.uid, volume.empty_dir
            async with self._locks[VolumeRef(uid, volume.name)]:
                await trio.to_thread.run_sync(
                    lambda: set_up_empty_dir(
                        self._layout,
                        uid,
                        volume.name,
                        source,
                        fs_group=fs_group,
                        memory_bytes=memory_bytes,
                        spreads_mounts=spreads_mounts(pod, volume.name),
                    )
                )
        else:
            raise SetUpError(f'no volume plugin matched for volume "{volume.name}"')

    async def prepare_sub_path(
        self, pod_uid: str, volume: Volume, *, container: str, index: int, mount_name: str, sub_path: str
    ) -> Path:
        """Bind the part of a volume that a mount selects, in place of what an earlier instance of the container had.

        Args:
            volume: set up.
            container, index: whose mount, and its position in the container's list.
            sub_path: relative, without ``..``, expanded. What is missing becomes a directory.

        Returns:
            The host path to mount.

        Raises:
            ContainerConfigError: with upstream's text, which does not say why; the cause of the exception does.

        Cancellation: the target shows the earlier part, nothing, or the new one; call again.
        """
        ref = VolumeRef(pod_uid, volume.name)
        target = self._layout.sub_path(pod_uid, volume.name, container, index)
        what = f'for volumeMount "{mount_name}" of container "{container}"'
        async with self._locks[ref]:  # no new version retires what was found before it is bound
            try:
                await self._make_missing(pod_uid, volume, sub_path)
            except (OSError, SetUpError) as error:
                raise ContainerConfigError(f"failed to create subPath directory {what}") from error
            try:
                if has_payload(volume):
                    with self._store.open_volume(pod_uid, volume.name) as fd:
                        found = find(fd, sub_path)
                    await trio.to_thread.run_sync(_clear_target, target, found.is_directory)
                    await self._writer.attach(pod_uid, volume.name, target, path=found.path)
                else:
                    root = self.host_path(pod_uid, volume)
                    await trio.to_thread.run_sync(bind_sub_path, root, sub_path, target)
            except (OSError, SetUpError) as error:
                raise ContainerConfigError(f"failed to prepare subPath {what}") from error
        return target

    async def tear_down(self, pod_uid: str, volume: str) -> None:
        """Take a volume of any type off the host: subPath mounts, clone or tmpfs, directories, versions.

        Its containers must be gone. Whoever else still has a file of it open reads no more. A volume that is not there is fine.

        Raises:
            OSError: something could not be unmounted. Nothing below it was touched; call again.

        Cancellation: done or not done; call again.
        """
        ref = VolumeRef(pod_uid, volume)
        async with self._locks[ref]:
            if self._withdrawal is not None and self._store.has_volume(pod_uid, volume):
                await self._withdrawal.withdraw(pod_uid, volume)  # first: what is below may have to be tried again
            await trio.to_thread.run_sync(self._clear_host, ref)
            self._attached.discard(ref)
            self._unsettled.discard(ref)
            self._remover.remove_volume(pod_uid, volume)
        if not self._locks[ref].locked():  # a waiter that was let in holds it already
            del self._locks[ref]
        logger.debug("volume %s of pod %s is torn down", volume, pod_uid)

    async def tear_down_pod(self, pod_uid: str) -> None:
        """Tear down every volume of a pod, and remove what is left of its directories for them.

        Raises, Cancellation: as :meth:`tear_down`.
        """
        on_host = await trio.to_thread.run_sync(self._find_on_host, pod_uid)
        for ref in sorted({*self._store.volumes(pod_uid), *on_host}):
            await self.tear_down(pod_uid, ref.volume)
        self._remover.purge_pod(pod_uid)
        if self._withdrawal is not None:
            self._withdrawal.forget_pod(pod_uid)
        await trio.to_thread.run_sync(self._remove_pod_directories, pod_uid)

    def host_path(self, pod_uid: str, volume: Volume) -> Path:
        """What a container's mount of the whole volume is bound from.

        Raises:
            ValueError: a type without a directory on the host.
        """
        if volume.host_path is not None:
            return Path(volume.host_path.path)
        return self._layout.volume_dir(pod_uid, plugin_directory(volume), volume.name)

    def versions(self, pod_uid: str) -> dict[str, VolumeVersion]:
        """Volume → current version, of a pod's guarded volumes."""
        found = {ref.volume: self._store.current(*_key(ref)) for ref in self._store.volumes(pod_uid)}
        return {volume: version for volume, version in found.items() if version is not None}

    # --- inside -----------------------------------------------------------------------------------------------------

    def _begin(
        self,
        ref: VolumeRef,
        pod_name: str,
        volume: Volume,
        payload: Mapping[str, FileLike],
        fs_group: int | None,
        nested: list[str],
    ) -> None:
        """In a worker thread: everything up to the order to attach."""
        with self._store.reserve(*_key(ref), payload, pod=pod_name):
            self._write_first(ref, volume, payload, fs_group, nested)
        self._prepare_host(ref, plugin_directory(volume))

    def _write_first(
        self, ref: VolumeRef, volume: Volume, payload: Mapping[str, FileLike], fs_group: int | None, nested: list[str]
    ) -> None:
        """In a worker thread: make and fill the volume in the store, or leave nothing of it."""
        mode = PLAIN_ROOT_MODE if volume.config_map is not None else TMPFS_ROOT_MODE
        self._store.create_volume(*_key(ref), mode=mode, fs_group=fs_group)
        try:
            self._store.make_directories(*_key(ref), nested)
            with self._store.open_volume(*_key(ref)) as fd, self._store.translate_errors(payload_usage(payload)):

                def set_perms(_: str) -> None:
                    if fs_group is not None:
                        apply_fs_group(fd, fs_group, read_only=True)

                atomicwriter.write(fd, payload, set_perms=set_perms)
        except BaseException:
            # Straight from the store: the filesystem was never asked about it, so nothing else knows it.
            self._store.remove_volume(*_key(ref))
            raise

    def _prepare_host(self, ref: VolumeRef, plugin: str) -> None:
        """In a worker thread. The ready file comes before the mount, as upstream: its wrapped emptyDir writes it."""
        _make_mountpoint(self._layout.volume_dir(ref.pod_uid, plugin, ref.volume))
        mark_ready(self._layout.ready_dir(ref.pod_uid, plugin, ref.volume))

    async def _write_next(
        self, ref: VolumeRef, pod_name: str, payload: Mapping[str, FileLike], fs_group: int | None
    ) -> None:
        if ref not in self._unsettled and not await self._needs_write(ref, payload):
            return
        with contextlib.ExitStack() as room:
            await trio.to_thread.run_sync(room.enter_context, self._store.reserve(*_key(ref), payload, pod=pod_name))
            self._unsettled.add(ref)
            with self._store.translate_errors(payload_usage(payload)):
                result = await self._writer.update(*_key(ref), payload, fs_group=fs_group)
        self._unsettled.discard(ref)
        if result.changed:
            logger.debug("volume %s of pod %s is now at %s", ref.volume, ref.pod_uid, result.version)

    async def _needs_write(self, ref: VolumeRef, payload: Mapping[str, FileLike]) -> bool:
        """A small payload is compared here: a thread costs more, and after a restart of the agent every volume is."""
        if len(payload) <= _FEW_FILES and sum(len(file.data) for file in payload.values()) <= _FEW_BYTES:
            return self._store.needs_write(*_key(ref), payload)
        return await trio.to_thread.run_sync(lambda: self._store.needs_write(*_key(ref), payload))

    async def _attach(self, ref: VolumeRef, plugin: str) -> None:
        try:
            await self._writer.attach(*_key(ref), self._layout.volume_dir(ref.pod_uid, plugin, ref.volume))
        except OSError as error:
            raise SetUpError(f"attach volume: {error.strerror}") from error
        self._attached.add(ref)

    async def _make_missing(self, pod_uid: str, volume: Volume, sub_path: str) -> None:
        if not has_payload(volume):
            await trio.to_thread.run_sync(make_missing, self.host_path(pod_uid, volume), sub_path)
            return
        with self._store.open_volume(pod_uid, volume.name) as fd:
            missing = find_missing(fd, sub_path)
            mode = stat.S_IMODE(os.fstat(fd).st_mode)
        if missing is not None:
            await self._writer.make_nested_directory(pod_uid, volume.name, missing, mode=mode)

    def _look_at_host(self) -> tuple[set[VolumeRef], set[VolumeRef]]:
        """In a worker thread: volumes with a clone attached, and volumes with a directory."""
        attached, on_host = set(), set()
        for entry in mounts.mounts_below(self._layout.pods_dir):
            found = self._layout.volume_of(entry.target)
            if found is not None:
                attached.add(VolumeRef(*found))
        for pod_dir in _subdirectories(self._layout.pods_dir):
            on_host |= self._find_on_host(pod_dir.name)
        return attached, on_host

    def _find_on_host(self, pod_uid: str) -> set[VolumeRef]:
        """In a worker thread: volumes of a pod that have a directory."""
        plugin_dirs = _subdirectories(self._layout.volumes_dir(pod_uid))
        return {VolumeRef(pod_uid, name) for plugin_dir in plugin_dirs for name in os.listdir(plugin_dir)}

    def _clear_host(self, ref: VolumeRef) -> None:
        """In a worker thread: unmount and remove what the host has of a volume."""
        sub_paths = self._layout.sub_paths_dir(ref.pod_uid, ref.volume)
        if sub_paths.exists():  # the mount table is long on a node with many volumes
            mounts.umount_all_below(sub_paths)
            shutil.rmtree(sub_paths, ignore_errors=True)
        for plugin_dir in _subdirectories(self._layout.volumes_dir(ref.pod_uid)):
            if ref.volume not in os.listdir(plugin_dir):
                continue
            shutil.rmtree(self._layout.ready_dir(ref.pod_uid, plugin_dir.name, ref.volume), ignore_errors=True)
            target = plugin_dir / ref.volume
            if plugin_dir.name == EMPTY_DIR_PLUGIN:
                mounts.umount_all_below(target)  # raises if it cannot: then nothing is removed through a mount
                shutil.rmtree(target)
            else:
                mounts.umount_at(target)
                target.rmdir()

    def _remove_pod_directories(self, pod_uid: str) -> None:
        pod_dir = self._layout.pod_dir(pod_uid)
        for name in ("volume-subpaths", "plugins", "volumes"):
            for directory, _, _ in os.walk(pod_dir / name, topdown=False):
                try:
                    os.rmdir(directory)
                except OSError as error:
                    logger.warning("directory %s stays: %s", directory, error.strerror)
        try:
            pod_dir.rmdir()
        except OSError:
            pass  # other parts of the node keep things here too; the last one removes it


def _make_mountpoint(target: Path) -> None:
    make_directories(target.parent)
    try:
        os.mkdir(target, 0o750)
    except FileExistsError:
        pass  # not looked at: a cancelled order may have attached the clone there already


def _clear_target(target: Path, is_directory: bool) -> None:
    mounts.umount_all_below(target)
    make_target(target, is_directory=is_directory)


def _subdirectories(path: Path) -> list[Path]:
    """The type comes with the name: nothing is looked at that may be mounted there."""
    try:
        return sorted(Path(entry) for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False))
    except FileNotFoundError:
        return []


def _key(ref: VolumeRef) -> tuple[str, str]:
    return ref.pod_uid, ref.volume
