"""``PodVolumes``: the volumes of one pod, each kept by a task of its own.

A task sets its volume up, and again whenever something that the volume shows has changed; failures are reported as FailedMount
and tried again after the mount back-off, or at once when a referenced object changes. News comes in through :meth:`refresh` and
:meth:`update`; news goes out through the callback (a volume became ready, got a new version, failed). No pod sync is involved:
from an object's change to the writer it is one task switch, one payload, one call.

Made and run by ``pod/worker.py``. What a volume shows is ``volume.payload``'s, how it is written ``volume.manager``'s business.
Source: pkg/kubelet/volumemanager; pkg/volume/util/operationexecutor; semantics §2.2, §7.4, §8.1.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Hashable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path

import trio

from kubelet_secrets.api.core import ConfigMap, EmptyDirVolumeSource, Pod, Secret, Volume
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.api.origin import Origin
from kubelet_secrets.api.quantity import value
from kubelet_secrets.api.references import all_containers, volume_config_map_names, volume_secret_names
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.errors import MissingObject, SetUpError
from kubelet_secrets.pod.backoff import mount_delay_s
from kubelet_secrets.pod.objects import ObjectGetter, fetch_objects
from kubelet_secrets.pod.syncing import AT_ONCE, SyncPolicy, SyncTimer
from kubelet_secrets.pod.tokens import TokenManager, token_projections
from kubelet_secrets.pod.turns import Turns
from kubelet_secrets.pod.wake import Wake
from kubelet_secrets.volume.emptydir import memory_size_bytes
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.ownership import fs_group_of
from kubelet_secrets.volume.payload import Payload, TrustBundleSource, has_payload, make_volume_payload
from kubelet_secrets.volume.store import VolumeVersion

RESYNC_S = 60.0  # syncFrequency; up to half more at random. Only tokens need it: all else tells when it changes.

MAX_EARLIER = 8

Report = Callable[[str], None]
"""Called with the message of a FailedMount event."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FileInfo:
    """One file of a payload, without its content."""

    path: str  # relative to the volume's root
    mode: int  # as asked for, before fsGroup
    size_bytes: int
    origin: Origin
    replaced: tuple[Origin, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeEdition:
    """What one version of a volume showed."""

    version: VolumeVersion
    files: tuple[FileInfo, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class VolumeState:
    """How one volume stands. Replaced as a whole at each change."""

    name: str
    is_ready: bool = False  # mounted at least once; a failing refresh does not take that back
    version: VolumeVersion | None = None  # None: not yet, or a volume without versions
    files: tuple[FileInfo, ...] = ()
    earlier: tuple[VolumeEdition, ...] = ()  # the last few, oldest first: a subPath may still hold one
    problem: str = ""  # why the last attempt failed; empty when it did not
    missing: tuple[str, ...] = ()  # "secret/db", when that is what is waited for
    failures: int = 0  # in a row


@dataclass(slots=True)
class _Kept:
    volume: Volume
    secret_names: tuple[str, ...]  # of the Secrets behind it; a pod's volumes never change
    config_map_names: tuple[str, ...]
    state: VolumeState
    shown: Payload | None = None  # what the last successful attempt wrote; shares its data with the caches
    wake: Wake = field(default_factory=Wake)


class PodVolumes:
    """Volumes of one pod.

    Args:
        pod: as first seen; :meth:`update` replaces it.
        trust_bundles: None where that projection is switched off.
        policy: whether changes act at once.
        turns: told when a volume is set up for the first time; None: nobody starts containers meanwhile.
        on_sync: called at each periodic sync; must not wait.
        report: told each failure.
        changed: called after each change of :attr:`states`; must not wait.
    """

    def __init__(
        self,
        pod: Pod,
        *,
        backend: VolumeManager,
        secrets: ObjectGetter[Secret],
        config_maps: ObjectGetter[ConfigMap],
        tokens: TokenManager | None,
        node: Callable[[], NodeInfo],
        trust_bundles: TrustBundleSource | None = None,
        policy: SyncPolicy = AT_ONCE,
        turns: Turns | None = None,
        on_sync: Callable[[], None] = lambda: None,
        report: Report,
        changed: Callable[[], None],
    ) -> None:
        self._pod = pod
        self._trust_bundles = trust_bundles
        self._policy = policy
        self._turns = turns if turns is not None else Turns()
        self._on_sync = on_sync
        self._timer: SyncTimer | None = None  # while run() runs, with a periodic policy
        self._hastened = Wake()
        self._backend = backend
        self._secrets = secrets
        self._config_maps = config_maps
        self._tokens = tokens
        self._node = node
        self._report = report
        self._changed = changed
        used = used_volume_names(pod)
        self._kept = {
            each.name: _Kept(
                each,
                volume_secret_names(pod, each.name),
                volume_config_map_names(each),
                VolumeState(name=each.name),
            )
            for each in pod.spec.volumes
            if each.name in used
        }

    @property
    def are_ready(self) -> bool:
        """Whether containers may be started."""
        return all(each.state.is_ready for each in self._kept.values())

    @property
    def states(self) -> Mapping[str, VolumeState]:
        """By volume name; volumes that no container mounts are not set up and not listed."""
        return {name: each.state for name, each in self._kept.items()}

    def host_path(self, name: str) -> Path | None:
        """Where on the host the volume *name* is found; None while it is not ready, or not a volume of this pod."""
        kept = self._kept.get(name)
        if kept is None or not kept.state.is_ready:
            return None
        return self._backend.host_path(self._pod.metadata.uid, kept.volume)

    def volume(self, name: str) -> Volume | None:
        kept = self._kept.get(name)
        return kept.volume if kept is not None else None

    def refresh(self, *, secret: str = "", config_map: str = "") -> None:
        """An object changed: set up again, at once, the volumes that show it. (With emulated delays: nothing.)"""
        if not self._policy.is_immediate:
            return
        for kept in self._kept.values():
            if (secret and secret in kept.secret_names) or (config_map and config_map in kept.config_map_names):
                kept.wake.ring()

    def refresh_trust_bundles(self) -> None:
        """A ClusterTrustBundle changed: set up again the volumes that show any."""
        for kept in self._kept.values():
            sources = kept.volume.projected.sources if kept.volume.projected is not None else ()
            if self._policy.is_immediate and any(each.cluster_trust_bundle is not None for each in sources):
                kept.wake.ring()

    def update(self, pod: Pod) -> None:
        """The pod changed in the API: labels and annotations may be shown by any volume."""
        old, new = self._pod, pod
        is_changed = (old.metadata.labels, old.metadata.annotations) != (new.metadata.labels, new.metadata.annotations)
        self._pod = pod
        # A change of the status alone is no reason for a sync. Source: pkg/kubelet/config, podsDifferSemantically.
        if self._timer is not None and (is_changed or old.spec != new.spec):
            self._timer.hasten(trio.current_time())
            self._hastened.ring()
        if is_changed and self._policy.is_immediate:
            for kept in self._kept.values():
                if kept.volume.downward_api is not None or kept.volume.projected is not None:
                    kept.wake.ring()

    def note_containers(self, state: Hashable) -> None:
        """The pod's containers are now like *state*: a reason for a sync, where there are syncs."""
        if self._timer is not None:
            due = self._timer.due
            self._timer.note_containers(state, trio.current_time())
            if self._timer.due != due:
                self._hastened.ring()

    async def run(self) -> None:
        """Set the volumes up and keep them up to date until cancelled. They are not torn down at the end.

        Cancellation: an attempt under way is given up; the volume has its last version or the new one, never half.
        """
        async with trio.open_nursery() as nursery:
            for kept in self._kept.values():
                nursery.start_soon(self._keep, kept)
            if self._policy.is_periodic:
                await self._sync_periodically()

    async def _sync_periodically(self) -> None:
        """Make every volume of API objects anew at each sync of the pod."""
        self._timer = timer = SyncTimer(trio.current_time())
        while True:
            self._hastened.clear()
            await self._hastened.wait(timeout_s=timer.due - trio.current_time())
            timer.synced(trio.current_time())
            if self._policy.emulates_delays:
                await trio.sleep(timer.loop_delay_s())
            for kept in self._kept.values():
                # One that has never been made, or has failed since, is left to its back-off.
                if has_payload(kept.volume) and kept.state.is_ready and not kept.state.problem:
                    kept.wake.ring()
            self._on_sync()

    async def tear_down(self) -> None:
        """Take all volumes away. :meth:`run` must have ended, the containers be gone.

        Raises:
            OSError: something could not be unmounted; call again.
        """
        await self._backend.tear_down_pod(self._pod.metadata.uid)
        if self._tokens is not None:
            self._tokens.forget(PodUID(self._pod.metadata.uid))
        for kept in self._kept.values():
            kept.state, kept.shown = VolumeState(name=kept.volume.name), None
        self._changed()

    async def _keep(self, kept: _Kept) -> None:
        while True:
            kept.wake.clear()  # before the sources are read: what changes from here on asks for another round
            try:
                is_first = not kept.state.is_ready and not kept.state.failures
                with self._turns.setting_up_volume() if is_first else nullcontext():
                    state = await self._set_up(kept)
            except (SetUpError, OSError) as caught:
                error = caught if isinstance(caught, SetUpError) else SetUpError(caught.strerror or str(caught))
                failures = kept.state.failures + 1
                self._publish(kept, _failed(self._known(kept), error, failures))
                self._report(failed_mount(kept.volume, error))
                await kept.wake.wait(timeout_s=mount_delay_s(failures))
                continue
            self._publish(kept, state)
            needs_resync = bool(token_projections(kept.volume)) and not self._policy.is_periodic
            await kept.wake.wait(timeout_s=RESYNC_S * random.uniform(1.0, 1.5) if needs_resync else None)

    def _known(self, kept: _Kept) -> VolumeState:
        """The state so far; for an agent that has taken over with the version that it found there."""
        if kept.state.version is None:
            version = self._backend.versions(self._pod.metadata.uid).get(kept.volume.name)
            return replace(kept.state, version=version)
        return kept.state

    def _publish(self, kept: _Kept, state: VolumeState) -> None:
        state = replace(state, earlier=_earlier(kept.state, state.version))
        if state != kept.state:
            kept.state = state
            self._changed()

    async def _set_up(self, kept: _Kept) -> VolumeState:
        volume = kept.volume
        if has_payload(volume):
            payload = await self._make_payload(kept)
            if payload == kept.shown and not kept.state.problem:
                return kept.state  # woken by the arrival of what this volume had been waiting for
            kept.shown = None
            version = await self._backend.set_up(self._pod, volume, payload, fs_group=fs_group_of(self._pod))
            kept.shown = payload
            return VolumeState(name=volume.name, is_ready=True, version=version, files=_describe(payload))
        if volume.empty_dir is None and volume.host_path is None:
            raise UnsupportedVolume(volume.name)
        memory_bytes = self._memory_bytes(volume.empty_dir) if volume.empty_dir is not None else 0
        await self._backend.set_up_plain(self._pod, volume, fs_group=fs_group_of(self._pod), memory_bytes=memory_bytes)
        return VolumeState(name=volume.name, is_ready=True)

    def _memory_bytes(self, source: EmptyDirVolumeSource) -> int:
        return memory_size_bytes(
            source,
            pod_limit_bytes=pod_memory_limit_bytes(self._pod),
            allocatable_bytes=value(self._node().allocatable.get("memory", 0)),
        )

    async def _make_payload(self, kept: _Kept) -> Payload:
        pod, volume = self._pod, kept.volume
        objects = await fetch_objects(
            self._secrets,
            self._config_maps,
            pod.metadata.namespace,
            secret_names=kept.secret_names,
            config_map_names=kept.config_map_names,
        )
        tokens = await self._tokens.snapshot(pod, volume) if self._tokens is not None else None
        return make_volume_payload(
            volume, pod, objects, node=self._node(), tokens=tokens, trust_bundles=self._trust_bundles
        )


class UnsupportedVolume(SetUpError):
    """A volume of a type that this node does not have. Source: the populator's error for an unknown plugin."""

    def __init__(self, name: str) -> None:
        super().__init__(f'failed to get Plugin from volumeSpec for volume "{name}" err=no volume plugin matched')
        self.name = name


def used_volume_names(pod: Pod) -> frozenset[str]:
    """Names of the volumes that a container of *pod* mounts; the kubelet sets up no others."""
    return frozenset(mount.name for container in all_containers(pod) for mount in container.volume_mounts)


def pod_memory_limit_bytes(pod: Pod) -> int:
    """How much memory the containers of *pod* may have together; 0 when that is not limited.

    Source: pkg/api/v1/resource, PodLimits: the larger of the sum of the regular containers and of any init container.
    """
    if pod.spec.resources is not None and "memory" in pod.spec.resources.limits:
        return value(pod.spec.resources.limits["memory"])
    regular = [value(each.resources.limits.get("memory", 0)) for each in pod.spec.containers]
    init = [value(each.resources.limits.get("memory", 0)) for each in pod.spec.init_containers]
    if not all(regular):
        return 0
    return max([sum(regular), *init])


def failed_mount(volume: Volume, error: SetUpError | str) -> str:
    """The message of the FailedMount event, for *error* or its text."""
    if isinstance(error, UnsupportedVolume):
        name = volume.name
        return (
            f"Unable to attach or mount volumes: unmounted volumes=[{name}], unattached volumes=[], "
            f"failed to process volumes=[{name}]: {error}"
        )
    return f'MountVolume.SetUp failed for volume "{volume.name}" : {error}'


def _failed(before: VolumeState, error: SetUpError, failures: int) -> VolumeState:
    causes = getattr(error, "causes", (error,))
    return VolumeState(
        name=before.name,
        is_ready=before.is_ready,
        version=before.version,
        files=before.files,
        problem=str(error),
        missing=tuple(f"{each.kind}/{each.name}" for each in causes if isinstance(each, MissingObject)),
        failures=failures,
    )


def _earlier(before: VolumeState, version: VolumeVersion | None) -> tuple[VolumeEdition, ...]:
    if before.version is None or before.version == version:
        return before.earlier
    edition = VolumeEdition(version=before.version, files=before.files)
    return (*before.earlier, edition)[-MAX_EARLIER:]


def _describe(payload: Payload) -> tuple[FileInfo, ...]:
    return tuple(
        FileInfo(path=path, mode=each.mode, size_bytes=len(each.data), origin=each.origin, replaced=each.replaced)
        for path, each in payload.items()
    )
