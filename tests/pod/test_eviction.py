"""What pods may write to the node, and how it is measured. Source: pkg/kubelet/eviction, localStorageEviction."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.pod import eviction
from kubelet_secrets.pod.eviction import Limits, Places, Usage, exceeded, limits_of, measure, used_bytes, wait_exceeded


def pod(*sources: dict[str, Any], annotations: dict[str, str] | None = None, **spec: Any) -> Pod:
    volumes = [{"name": f"v{index}", **source} for index, source in enumerate(sources)]
    metadata = {"name": "p", "annotations": annotations or {}}
    return convert({"metadata": metadata, "spec": {"containers": [], "volumes": volumes, **spec}}, Pod)


LIMITED = {"emptyDir": {"sizeLimit": "0.5Mi"}}


@pytest.mark.parametrize(
    ("made", "limits"),
    [
        pytest.param(pod(LIMITED, {"emptyDir": {}}, {"hostPath": {"path": "/x"}}), {"v0": 524288}, id="limited"),
        pytest.param(pod({"emptyDir": {"sizeLimit": "0"}}), {}, id="zero-is-no-limit"),
        pytest.param(pod({"emptyDir": {"sizeLimit": "1Mi", "medium": "Memory"}}), {}, id="memory-limits-itself"),
        pytest.param(pod(LIMITED, annotations={"kubernetes.io/config.source": "file"}), {}, id="static"),
        pytest.param(pod(LIMITED, priority=2_000_000_000), {}, id="critical"),
        pytest.param(pod(LIMITED, priority=1_999_999_999), {"v0": 524288}, id="nearly-critical"),
    ],
)
def test_volumes_that_are_measured(made: Pod, limits: dict[str, int]) -> None:
    assert limits_of(made).volumes == limits


def storage(name: str, limit: str = "", **fields: Any) -> dict[str, Any]:
    limits = {"ephemeral-storage": limit} if limit else {}
    return {"name": name, "image": "i", "resources": {"limits": limits}, **fields}


@pytest.mark.parametrize(
    ("spec", "whole", "containers"),
    [
        pytest.param({"containers": [storage("a"), storage("b")]}, None, {}, id="none"),
        pytest.param({"containers": [storage("a", "1Mi"), storage("b")]}, 1 << 20, {"a": 1 << 20}, id="of-one"),
        pytest.param(
            {"containers": [storage("a", "1Mi")], "initContainers": [storage("i", "3Mi")]},
            3 << 20,
            {"a": 1 << 20},
            id="of-an-init-container",
        ),
        pytest.param(
            {"containers": [storage("a", "1Mi")], "initContainers": [storage("s", "3Mi", restartPolicy="Always")]},
            4 << 20,
            {"a": 1 << 20},
            id="with-a-sidecar",
        ),
    ],
)
def test_limits_of_containers(spec: dict[str, Any], whole: int | None, containers: dict[str, int]) -> None:
    assert limits_of(pod(**spec)) == Limits(pod=whole, containers=containers)


@pytest.mark.parametrize(
    ("volumes", "containers", "expected"),
    [
        ({"v0": 1 << 19}, {"a": 1 << 20}, ""),
        ({"v0": (1 << 19) + 1}, {}, 'Usage of EmptyDir volume "v0" exceeds the limit "512Ki". '),
        (
            {"v0": 1 << 19, "v1": 2 << 20},
            {"a": 1 << 20},
            "Pod ephemeral local storage usage exceeds the total limit of containers 3Mi. ",
        ),
        ({}, {"a": (1 << 20) + 1}, 'Container a exceeded its local ephemeral storage limit "1Mi". '),
        ({}, {"b": 3 << 20}, 'Container b exceeded its local ephemeral storage limit "2Mi". '),
    ],
)
def test_messages(volumes: dict[str, int], containers: dict[str, int], expected: str) -> None:
    made = pod(LIMITED, {"emptyDir": {}}, containers=[storage("a", "1Mi"), storage("b", "2Mi")])
    assert exceeded(made, limits_of(made), Usage(volumes=volumes, containers=containers)) == expected


@pytest.fixture
def scratch(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """What a container may make of a volume: a fifo, links out of it, a tree deeper than any path is long."""
    monkeypatch.setattr(eviction, "CHECK_S", 0.01)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        os.mkfifo(path / "fifo")
        (path / "out").symlink_to("/usr")
        fd = os.open(path, os.O_RDONLY)
        for _ in range(45):
            os.mkdir("x" * 100, dir_fd=fd)
            deeper = os.open("x" * 100, os.O_RDONLY, dir_fd=fd)
            os.close(fd)
            fd = deeper
        os.close(fd)
        yield path


def fill(path: Path, size_bytes: int) -> None:
    with path.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, size_bytes)


async def test_what_is_in_use_is_counted_once_and_not_beyond_the_volume(scratch: Path) -> None:
    with trio.fail_after(60):
        before = (await used_bytes([scratch]))[scratch]
        fill(scratch / "once", 1 << 20)
        os.link(scratch / "once", scratch / "twice")
        found = await used_bytes([scratch / "gone", scratch])
        assert list(found) == [scratch]
        assert 0 <= found[scratch] - before - (1 << 20) < 64 << 10
        assert await used_bytes([]) == {}


async def test_volume_that_holds_too_much_is_named(scratch: Path) -> None:
    fill(scratch / "file", 1 << 20)
    found = iter([None, None, scratch, scratch])  # set up after the second look; the first volume is never
    with trio.fail_after(60):
        made = pod({"emptyDir": {"sizeLimit": "1Gi"}}, LIMITED)
        places = Places(volume=lambda name: next(found), container=lambda name: [])
        assert '"v1"' in await wait_exceeded(made, places)


async def test_layer_and_log_of_a_container_count_together(scratch: Path) -> None:
    for name in ("layer", "log"):
        (scratch / name).mkdir()
        fill(scratch / name / "file", 600 << 10)
    made = pod({"emptyDir": {}}, containers=[storage("a", "1Mi"), storage("b", "1Mi")])
    written = {"a": [scratch / "layer"], "b": [scratch / "log", scratch / "gone"]}
    with trio.fail_after(60):
        places = Places(volume=lambda name: None, container=lambda name: written[name])
        limits = limits_of(made)
        assert exceeded(made, limits, await measure(made, limits, places)) == ""
        written["a"].append(scratch / "log")
        message = await wait_exceeded(made, places)
    assert message == 'Container a exceeded its local ephemeral storage limit "1Mi". '
