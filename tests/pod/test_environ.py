"""What a container was started with and what it would get now. Source: semantics §6.1, §6.5."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from kubelet_secrets.api.core import ConfigMap, Secret
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.errors import MissingObject, SetUpError
from kubelet_secrets.pod.environ import MAX_ENV_FILE_BYTES, ContainerEnvs, EnvState, read_confined
from kubelet_secrets.sensitive import SensitiveBytes

from .builders import T0, after, pod_from

TIER = [{"name": "TIER", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['tier']"}}}]
POD = pod_from(
    {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"tier": "one"}},
        "spec": {
            "enableServiceLinks": False,
            "containers": [
                {
                    "name": "app",
                    "envFrom": [{"secretRef": {"name": "db"}}],
                    "env": TIER,
                }
            ],
        },
    }
)
APP = POD.spec.containers[0]


@dataclass
class Objects:
    """Secrets by name, as the cache has them."""

    secrets: dict[str, dict[str, bytes]] = field(default_factory=dict)

    async def get(self, namespace: str, name: str) -> Secret:
        await trio.lowlevel.checkpoint()
        if name not in self.secrets:
            raise MissingObject("secret", name)
        data = {key: SensitiveBytes(value) for key, value in self.secrets[name].items()}
        return Secret(metadata=ObjectMeta(name=name, namespace=namespace, resource_version="1"), data=data)


class NoObjects:
    async def get(self, namespace: str, name: str) -> ConfigMap:
        raise SetUpError("not asked for")


@dataclass
class Lab:
    objects: Objects
    envs: ContainerEnvs
    now: datetime = T0
    told: int = 0

    @property
    def state(self) -> EnvState:
        return self.envs.states["app"]

    async def change(self, seconds: float, **data: bytes) -> None:
        """The Secret becomes *data* at a time."""
        self.now = after(seconds)
        self.objects.secrets["db"] = data
        await self.settle()

    async def settle(self) -> None:
        self.envs.refresh()
        await trio.testing.wait_all_tasks_blocked()


@asynccontextmanager
async def running(**data: bytes) -> AsyncIterator[Lab]:
    objects = Objects({"db": data})

    def tell() -> None:
        lab.told += 1

    envs = ContainerEnvs(
        POD,
        secrets=objects,
        config_maps=NoObjects(),
        services=lambda: (),
        node=NodeInfo,
        host_ips=(),
        host_path=lambda name: None,
        clock=lambda: lab.now,
        changed=tell,
    )
    lab = Lab(objects, envs)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(envs.run)
        yield lab
        nursery.cancel_scope.cancel()


async def test_what_keeps_a_container_from_its_start_is_told_until_it_is_there() -> None:
    async with running() as lab:
        del lab.objects.secrets["db"]
        with pytest.raises(MissingObject):
            await lab.envs.make(APP, pod_ips=())
        assert (lab.state.problem, lab.state.current) == ('secret "db" not found', None)
        assert lab.told == 1
        lab.objects.secrets["db"] = {"a": b"1"}
        await lab.envs.make(APP, pod_ips=())
        assert (lab.state.problem, lab.state.current is None) == ("", False)


async def test_versions_count_what_differs_and_say_since_when() -> None:
    async with running(a=b"1", b=b"1", c=b"1") as lab:
        first = await lab.envs.make(APP, pod_ips=())
        lab.envs.mark_started("app", first)
        assert (first.number, lab.state.stale) == (1, ())
        await lab.change(5, a=b"2", b=b"1")
        await lab.change(9, a=b"2", b=b"1", d=b"1")
        await lab.change(9, a=b"2", b=b"1", d=b"1")
        assert lab.state.started is first
        assert lab.state.current is not None
        assert lab.state.current.number == 3
        assert lab.state.stale == ("a", "c", "d")
        assert dict(lab.state.current.changed) == {
            "a": after(5),
            "b": after(0),
            "c": after(5),
            "d": after(9),
            "TIER": after(0),
        }
        await lab.change(20, a=b"1", b=b"1", c=b"1")
        assert lab.state.stale == ()


async def test_secret_that_vanishes_is_told_and_takes_nothing_back() -> None:
    async with running(a=b"1") as lab:
        lab.envs.mark_started("app", await lab.envs.make(APP, pod_ips=()))
        lab.objects.secrets.clear()
        await lab.settle()
        assert lab.state.problem == 'secret "db" not found'
        assert lab.state.current is lab.state.started
        await lab.change(3, a=b"1")
        assert (lab.state.problem, lab.state.stale) == ("", ())


async def test_container_that_has_not_got_one_is_not_looked_at() -> None:
    """What its init containers have yet to write is not missing."""
    async with running(a=b"1") as lab:
        await lab.settle()
        assert (lab.state, lab.told) == (EnvState(container="app"), 0)


async def test_label_that_changes_is_a_reason_to_look_again() -> None:
    async with running() as lab:
        lab.envs.mark_started("app", await lab.envs.make(APP, pod_ips=()))
        labelled = pod_from(
            {
                "metadata": {"name": "web", "namespace": "shop", "uid": "u", "labels": {"tier": "two"}},
                "spec": {"enableServiceLinks": False, "containers": [{"name": "app", "env": TIER}]},
            }
        )
        lab.envs.update(labelled)
        await trio.testing.wait_all_tasks_blocked()
        assert lab.state.stale == ("TIER",)


@pytest.mark.parametrize(
    ("value", "inherited", "stale"),
    [
        pytest.param(b"new", b"new", (), id="the-same"),
        pytest.param(b"new", b"old", ("a",), id="another"),
        pytest.param(b"\xff!", "\ufffd!".encode(), (), id="not-utf-8-as-it-was-passed"),
        pytest.param(b"\xfe\xff", "\ufffd".encode(), ("a",), id="not-utf-8-and-another"),
    ],
)
async def test_container_of_an_earlier_agent_is_compared_with_what_it_was_started_with(
    value: bytes, inherited: bytes, stale: tuple[str, ...]
) -> None:
    async with running(a=value) as lab:
        lab.envs.adopt("app", b"PATH=/bin\0a=" + inherited + b"\0TIER=one\0", pod_ips=())
        await trio.testing.wait_all_tasks_blocked()
        assert lab.state.started is not None
        assert set(lab.state.started.environment) == {"a", "TIER"}
        assert lab.state.stale == stale


# --- env files -------------------------------------------------------------------------------------------------------


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    root = tmp_path / "volume"
    (root / "dir").mkdir(parents=True)
    (root / "env").write_bytes(b"A='in'")
    (tmp_path / "env").write_bytes(b"A='out'")
    for name, target in {
        "link": "env",
        "dir/up": "../env",
        "absolute": "/env",
        "out": "../env",
        "dir/far-out": "../../../../env",
        "loop": "loop",
        "dangling": "nope",
        "to-dir": "dir",
    }.items():
        (root / name).symlink_to(target)
    os.mkfifo(root / "fifo")
    return root


@pytest.mark.parametrize("path", ["env", "./env", "link", "dir/up", "to-dir/up", "absolute", "out", "dir/far-out"])
def test_links_are_followed_as_if_the_volume_were_the_root(volume: Path, path: str) -> None:
    """Source: filepath-securejoin: what leads out of the root ends at the root."""
    content = read_confined(volume, path)
    assert content is not None
    assert content.reveal() == b"A='in'"


@pytest.mark.parametrize("path", ["nope", "dir", "loop", "dangling", "fifo", "env/x"])
def test_what_is_no_readable_file_is_nothing(volume: Path, path: str) -> None:
    assert read_confined(volume, path) is None


def test_file_larger_than_any_env_file_is_nothing(volume: Path) -> None:
    os.truncate(volume / "env", MAX_ENV_FILE_BYTES)
    assert read_confined(volume, "env") is not None
    os.truncate(volume / "env", MAX_ENV_FILE_BYTES + 1)
    assert read_confined(volume, "env") is None


def test_volume_that_is_gone_is_nothing(volume: Path) -> None:
    assert read_confined(volume / "nowhere", "env") is None
