"""What pods have written to the node, for ``/stats/summary``: one ``du`` over all of them, at most once a minute.

The volumes of Secrets and their like are not walked: what they show is known (``VolumeState.files``). Source:
pkg/kubelet/server/stats (volume_stat_calculator.go); volumeStatsAggPeriod.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import trio

from kubelet_secrets.pod.eviction import Places, used_bytes
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.volume.emptydir import MEMORY

MAX_AGE_S = 60.0
_BLOCK_BYTES = 4096


@dataclass(frozen=True, slots=True)
class VolumeUse:
    used_bytes: int
    files: int | None = None  # None: nobody has counted


@dataclass(frozen=True, slots=True, kw_only=True)
class PodDiskUse:
    """Of one pod.

    Attributes:
        volumes: by name; those that hold no files of the pod's are left out.
        scratch: the names of those that count as its ephemeral storage.
        layers, logs: bytes, by container.
    """

    volumes: Mapping[str, VolumeUse]
    scratch: frozenset[str]
    layers: Mapping[str, int]
    logs: Mapping[str, int]

    @property
    def ephemeral_bytes(self) -> int:
        written = sum(self.volumes[name].used_bytes for name in self.scratch if name in self.volumes)
        return written + sum(self.layers.values()) + sum(self.logs.values())


@dataclass(slots=True, kw_only=True)
class DiskUse:
    """See the module's text.

    Args:
        places: where a pod writes, by uid; of a container the log is the first.
    """

    views: Callable[[], Sequence[PodView]]
    places: Callable[[str], Places | None]
    _last: Mapping[str, PodDiskUse] = field(default_factory=dict)
    _last_at_s: float = float("-inf")
    _looking: trio.Lock = field(default_factory=trio.Lock)

    async def look(self) -> Mapping[str, PodDiskUse]:
        """By pod uid, now or as it was within the last minute."""
        async with self._looking:
            if trio.current_time() >= self._last_at_s + MAX_AGE_S:
                self._last = await self._look()
                self._last_at_s = trio.current_time()
            return self._last

    async def _look(self) -> Mapping[str, PodDiskUse]:
        found: dict[str, tuple[PodView, dict[str, Path], dict[str, Sequence[Path]]]] = {}
        for view in self.views():
            places = self.places(view.pod.metadata.uid)
            if places is None:
                continue
            scratch = {
                each.name: places.volume(each.name) for each in view.pod.spec.volumes if each.empty_dir is not None
            }
            written = {each.name: places.container(each.name) for each in view.containers}
            present = {name: path for name, path in scratch.items() if path is not None}
            found[view.pod.metadata.uid] = (view, present, written)
        paths = [path for _, scratch, _ in found.values() for path in scratch.values()]
        paths += [path for _, _, written in found.values() for group in written.values() for path in group]
        used = await used_bytes(paths)
        return {uid: _sum(view, scratch, written, used) for uid, (view, scratch, written) in found.items()}


def _sum(
    view: PodView, scratch: Mapping[str, Path], written: Mapping[str, Sequence[Path]], used: Mapping[Path, int]
) -> PodDiskUse:
    in_memory = {each.name for each in view.pod.spec.volumes if each.empty_dir and each.empty_dir.medium == MEMORY}
    volumes = {name: VolumeUse(used[path]) for name, path in scratch.items() if path in used}
    for name, state in view.volumes.items():
        if state.files:
            blocks = sum(-(-each.size_bytes // _BLOCK_BYTES) for each in state.files)
            volumes[name] = VolumeUse(blocks * _BLOCK_BYTES, len(state.files))
    return PodDiskUse(
        volumes=volumes,
        scratch=frozenset(scratch) - in_memory,
        layers={name: sum(used.get(path, 0) for path in group[1:]) for name, group in written.items()},
        logs={name: sum(used.get(path, 0) for path in group[:1]) for name, group in written.items()},
    )
