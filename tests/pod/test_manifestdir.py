"""The directory of static pods, read as the kubelet reads it: at once when a file changes, and every 20 s. Semantics §13."""

from __future__ import annotations

import json
import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

from kubelet_secrets.pod.manifestdir import CHECK_S, ManifestDirectory
from kubelet_secrets.pod.parts import wall_clock
from kubelet_secrets.pod.staticpods import LARGEST_FILE_BYTES, StaticPod
from tests.pod.test_staticpods import manifest


class Told:
    def __init__(self) -> None:
        self.pods: Sequence[StaticPod] | None = None
        self._event = trio.Event()

    def __call__(self, pods: Sequence[StaticPod]) -> None:
        self.pods = pods
        self._event.set()
        self._event = trio.Event()

    @property
    def names(self) -> list[str]:
        return sorted(each.pod.metadata.name for each in self.pods or ())

    async def wait_names(self, *names: str) -> None:
        with trio.fail_after(60):
            while self.names != sorted(names):
                await self._event.wait()


def directory(path: Path, told: Told) -> ManifestDirectory:
    return ManifestDirectory(path, node_name="n1", sink=told, clock=wall_clock)


@asynccontextmanager
async def watched(path: Path) -> AsyncIterator[Told]:
    told = Told()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(directory(path, told).run)
        yield told
        nursery.cancel_scope.cancel()


def put(file: Path, name: str, command: str = "a") -> None:
    file.write_text(json.dumps(manifest(name, command)))


def test_what_is_read(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", "a")
    put(tmp_path / "no-suffix", "b")
    put(tmp_path / ".hidden", "c")
    (tmp_path / "deeper").mkdir()
    put(tmp_path / "deeper" / "d.yaml", "d")
    told = Told()
    directory(tmp_path, told).look()
    assert told.names == ["a-n1", "b-n1"]
    directory(tmp_path / "a.yaml", told).look()
    assert told.names == ["a-n1"]


def test_path_that_does_not_exist(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    told = Told()
    found = directory(tmp_path / "missing", told)
    found.look()
    found.look()
    assert told.pods == []
    assert caplog.messages == [f"unable to read config: path {tmp_path}/missing does not exist, ignoring"]


def test_broken_file_costs_nobody_anything(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "a.yaml", "a")
    put(tmp_path / "b.yaml", "b")
    told = Told()
    found = directory(tmp_path, told)
    found.look()
    before = {each.pod.metadata.name: each.uid for each in told.pods or ()}
    with caplog.at_level(logging.ERROR):
        (tmp_path / "a.yaml").write_text("kind: [")
        (tmp_path / "c.yaml").write_bytes(b" " * (LARGEST_FILE_BYTES + 1))
        found.look()
        found.look()
    assert {each.pod.metadata.name: each.uid for each in told.pods or ()} == before
    assert len(caplog.messages) == 2, "each is reported once"
    assert "a.yaml" in caplog.messages[0]
    assert caplog.messages[0].endswith("the pod stays as it was before")
    assert caplog.messages[1].endswith(f"c.yaml: larger than {LARGEST_FILE_BYTES} bytes")
    put(tmp_path / "a.yaml", "a", "new")
    (tmp_path / "b.yaml").unlink()
    found.look()
    assert told.names == ["a-n1"]
    assert [each.uid for each in told.pods or ()] != [before["a-n1"]]


async def test_changes_are_seen_at_once(tmp_path: Path) -> None:
    put(tmp_path / "a.yaml", "a")
    async with watched(tmp_path) as told:
        await told.wait_names("a-n1")
        put(tmp_path / ".new", "b")
        (tmp_path / ".new").rename(tmp_path / "b.yaml")
        await told.wait_names("a-n1", "b-n1")
        (tmp_path / "a.yaml").unlink()
        await told.wait_names("b-n1")


async def test_one_file_that_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "pod.yaml", "a")
    async with watched(tmp_path / "pod.yaml") as told:
        await told.wait_names("a-n1")
        put(tmp_path / "new", "b")
        (tmp_path / "new").rename(tmp_path / "pod.yaml")
        await told.wait_names("b-n1")


async def test_directory_that_appears_later(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    async with watched(tmp_path / "a" / "b") as told:
        await trio.testing.wait_all_tasks_blocked()
        assert told.pods == []
        (tmp_path / "a" / "b").mkdir(parents=True)
        put(tmp_path / "a" / "b" / "pod.yaml", "a")
        await trio.sleep(CHECK_S + 1)
        assert told.names == ["a-n1"]
