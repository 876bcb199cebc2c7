"""When changes reach volumes: at once, or as late as with the kubelet. Source: semantics §7.4, §7.5."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, cast

import msgspec
import pytest
import trio
import trio.testing

from kubelet_secrets.api.core import ConfigMap, Container, Pod, Secret, SecretVolumeSource, Volume, VolumeMount
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.errors import MissingObject
from kubelet_secrets.pod.syncing import AT_ONCE, SyncPolicy, SyncTimer
from kubelet_secrets.pod.volumes import PodVolumes
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.payload import Payload
from kubelet_secrets.volume.store import VolumeVersion
from tests.pod.builders import after, make_pod

EMULATED = SyncPolicy(emulates_delays=True)
POLLED = SyncPolicy(polls=True)


# --- the timer -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("random", "period_s"), [(0.0, 60.0), (0.5, 75.0), (1.0, 90.0)])
def test_period_is_a_minute_and_up_to_half_more(random: float, period_s: float) -> None:
    timer = SyncTimer(1000.0, random=lambda: random)
    assert timer.due == 1000.0 + period_s
    timer.synced(2000.0)
    assert timer.due == 2000.0 + period_s


def test_reasons_for_an_earlier_sync() -> None:
    timer = SyncTimer(0.0, random=lambda: 0.0)
    timer.hasten(10.0)
    assert timer.due == 10.0
    timer.synced(10.0)
    timer.note_containers("one runs", 20.0)
    assert timer.due == 20.0
    timer.synced(20.0)
    timer.note_containers("one runs", 30.0)
    assert timer.due == 80.0


def test_loops_take_up_to_two_tenths_of_a_second() -> None:
    assert SyncTimer(0.0, random=lambda: 1.0).loop_delay_s() == pytest.approx(0.2)


# --- a pod's volumes -------------------------------------------------------------------------------------------------


@dataclass
class Objects:
    """What the caches have."""

    value: str | None = "1"

    async def get(self, namespace: str, name: str) -> Secret:
        await trio.lowlevel.checkpoint()
        if self.value is None:
            raise MissingObject("secret", name)
        data = {"k": SensitiveBytes(self.value.encode())}
        return Secret(metadata=ObjectMeta(name=name, namespace=namespace), data=data)


class NoConfigMaps:
    async def get(self, namespace: str, name: str) -> ConfigMap:
        raise MissingObject("configmap", name)


@dataclass
class Written:
    """Stands where a volume manager is, and notes when what is shown changes."""

    history: list[tuple[float, str]] = field(default_factory=list)
    changed: trio.Event = field(default_factory=trio.Event)

    async def set_up(self, pod: Pod, volume: Volume, payload: Payload, *, fs_group: int | None) -> VolumeVersion:
        await trio.lowlevel.checkpoint()
        shown = payload["k"].data.reveal().decode()
        if not self.history or self.history[-1][1] != shown:
            self.history.append((trio.current_time(), shown))
            self.changed.set()
            self.changed = trio.Event()
        return VolumeVersion(f"..{len(self.history)}", after(0))

    def versions(self, pod_uid: str) -> dict[str, VolumeVersion]:
        return {}


@dataclass
class Lab:
    objects: Objects
    written: Written
    volumes: PodVolumes
    syncs: list[float]

    async def change(self, value: str) -> float:
        """Change the Secret and tell of it; the time when that was."""
        self.objects.value = value
        self.volumes.refresh(secret="db")
        return trio.current_time()

    async def wait_written(self, value: str) -> float:
        """The time at which *value* was shown."""
        while not self.written.history or self.written.history[-1][1] != value:
            await self.written.changed.wait()
        return self.written.history[-1][0]


POD = make_pod(
    Container(name="app", image="i", volume_mounts=(VolumeMount(name="v", mount_path="/v"),)),
    volumes=(Volume(name="v", secret=SecretVolumeSource(secret_name="db", default_mode=0o644)),),
)


@asynccontextmanager
async def running_volumes(policy: SyncPolicy, value: str | None = "1") -> AsyncIterator[Lab]:
    objects, written, syncs = Objects(value), Written(), []
    volumes = PodVolumes(
        POD,
        backend=cast("VolumeManager", written),
        secrets=objects,
        config_maps=NoConfigMaps(),
        tokens=None,
        node=NodeInfo,
        policy=policy,
        on_sync=lambda: syncs.append(trio.current_time()),
        report=lambda message: None,
        changed=lambda: None,
    )
    with trio.fail_after(3600):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(volumes.run)
            lab = Lab(objects, written, volumes, syncs)
            if value is not None:
                await lab.wait_written(value)
            yield lab
            nursery.cancel_scope.cancel()


async def test_change_is_written_at_once(autojump_clock: trio.testing.MockClock) -> None:
    async with running_volumes(AT_ONCE) as lab:
        changed_at = await lab.change("2")
        assert await lab.wait_written("2") - changed_at < 0.1
        await trio.sleep(1000)
        assert lab.syncs == []


async def test_emulated_change_waits_for_the_next_sync(autojump_clock: trio.testing.MockClock) -> None:
    delays = []
    async with running_volumes(EMULATED) as lab:
        for value in range(2, 30):
            await trio.sleep(17)
            changed_at = await lab.change(str(value))
            delays.append(await lab.wait_written(str(value)) - changed_at)
        periods = [later - earlier for earlier, later in zip(lab.syncs, lab.syncs[1:], strict=False)]
    assert all(0 <= delay <= 90.2 for delay in delays)
    assert max(delays) > 30
    assert all(60 <= period <= 90.2 for period in periods)
    assert max(periods) - min(periods) > 5


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(
            lambda pod: {"metadata": msgspec.structs.replace(pod.metadata, annotations={"a": "b"})}, id="annotation"
        ),
        pytest.param(lambda pod: {"metadata": msgspec.structs.replace(pod.metadata, labels={"a": "b"})}, id="label"),
        pytest.param(lambda pod: {"spec": msgspec.structs.replace(pod.spec, active_deadline_seconds=9)}, id="spec"),
    ],
)
async def test_changed_pod_is_synced_at_once(
    autojump_clock: trio.testing.MockClock, change: Callable[[Pod], dict[str, Any]]
) -> None:
    async with running_volumes(EMULATED) as lab:
        changed_at = await lab.change("2")
        lab.volumes.update(msgspec.structs.replace(POD, **change(POD)))
        assert await lab.wait_written("2") - changed_at <= 0.3


async def test_status_of_the_pod_is_no_reason(autojump_clock: trio.testing.MockClock) -> None:
    async with running_volumes(EMULATED) as lab:
        changed_at = await lab.change("2")
        status = msgspec.structs.replace(POD.status, phase="Running")
        lab.volumes.update(msgspec.structs.replace(POD, status=status))
        assert await lab.wait_written("2") - changed_at > 10


async def test_container_that_starts_or_ends_is_a_reason(autojump_clock: trio.testing.MockClock) -> None:
    async with running_volumes(EMULATED) as lab:
        lab.volumes.note_containers(frozenset({"one"}))
        await trio.sleep(5)
        changed_at = await lab.change("2")
        lab.volumes.note_containers(frozenset({"one"}))
        await trio.sleep(5)
        lab.volumes.note_containers(frozenset({"two"}))
        assert 5 <= await lab.wait_written("2") - changed_at <= 5.3


async def test_missing_object_is_tried_after_the_back_off_only(autojump_clock: trio.testing.MockClock) -> None:
    """§8.1: 0.5, 1, 2, 4, … s; nobody rings when it appears."""
    async with running_volumes(EMULATED, None) as lab:
        await trio.sleep(10)
        changed_at = await lab.change("1")
        assert await lab.wait_written("1") - changed_at > 1


async def test_polled_objects_are_looked_at_when_the_pod_changes(autojump_clock: trio.testing.MockClock) -> None:
    async with running_volumes(POLLED) as lab:
        lab.objects.value = "2"
        changed_at = trio.current_time()
        metadata = msgspec.structs.replace(POD.metadata, annotations={"a": "b"})
        lab.volumes.update(msgspec.structs.replace(POD, metadata=metadata))
        assert await lab.wait_written("2") - changed_at < 0.1


async def test_polled_objects_are_looked_at_by_the_clock(autojump_clock: trio.testing.MockClock) -> None:
    async with running_volumes(POLLED) as lab:
        lab.objects.value = "2"  # nobody tells
        changed_at = trio.current_time()
        assert 0 < await lab.wait_written("2") - changed_at <= 90
        changed_at = await lab.change("3")  # told, for whatever reason: acts at once
        assert await lab.wait_written("3") - changed_at < 0.1
