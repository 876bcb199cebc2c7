"""Which emptyDirs are measured, and how. Source: pkg/kubelet/eviction, emptyDirLimitEviction; semantics §2.7."""

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
from kubelet_secrets.pod.eviction import eviction_message, size_limits, used_bytes, wait_exceeded


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
    assert size_limits(made) == limits


def test_message() -> None:
    assert eviction_message(pod(LIMITED), "v0") == 'Usage of EmptyDir volume "v0" exceeds the limit "512Ki". '


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
    with trio.fail_after(30):
        before = await used_bytes(scratch)
        fill(scratch / "once", 1 << 20)
        os.link(scratch / "once", scratch / "twice")
        assert 0 <= await used_bytes(scratch) - before - (1 << 20) < 64 << 10
        assert await used_bytes(scratch / "gone") == 0


async def test_volume_that_holds_too_much_is_named(scratch: Path) -> None:
    fill(scratch / "file", 1 << 20)
    places = iter([None, None, scratch, scratch])  # set up after the second look; the first volume is never
    with trio.fail_after(30):
        made = pod({"emptyDir": {"sizeLimit": "1Gi"}}, LIMITED)
        assert await wait_exceeded(made, lambda name: next(places)) == "v1"
