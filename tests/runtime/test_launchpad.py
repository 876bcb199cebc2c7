"""Containers are started among few mounts, and are made of the right ones all the same."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from kubelet_secrets.linux import MNT_DETACH, MS_SHARED, mount, unmount
from kubelet_secrets.runtime.bundle import Bundle, read_pid
from kubelet_secrets.runtime.oci import OciRuntime
from kubelet_secrets.runtime.settings import Mount
from tests.runtime.conftest import Node

pytestmark = pytest.mark.runtime


@contextmanager
def tmpfs_at(path: Path, text: str) -> Iterator[Path]:
    """A tmpfs with a file that says *text*."""
    path.mkdir(parents=True)
    mount("tmpfs", path, "tmpfs", 0)
    try:
        (path / "file").write_text(text)
        yield path
    finally:
        unmount(path, MNT_DETACH)


def conmon_mounts(node: Node, container_id: str) -> list[str]:
    pid = read_pid(Bundle(node.run_dir / "containers" / container_id).conmon_pid_file)
    return [line.split()[4] for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]


async def read(node: Node, source: Path, *, file: str = "file", propagation: str = "None") -> str:
    mounts = (Mount(container_path="/v", host_path=source, propagation=propagation),)
    code, text = await node.output("cat", f"/v/{file}".rstrip("/"), mounts=mounts)
    assert code == 0, text
    return text


async def test_a_start_sees_the_mounts_of_its_own_container_only(node: Node, tmp_path: Path) -> None:
    pods = tmp_path / "pods"
    node.runtime = OciRuntime(
        node.run_dir, tools=node.tools, host=node.runtime._host, cgroups=node.cgroups, pods_dir=pods
    )
    with tmpfs_at(pods / "before", "before") as before:
        first, _ = await node.run("sleep", "600")
        with tmpfs_at(pods / "own", "own") as own:
            mounts = (Mount(container_path="/v", host_path=own),)
            second, _ = await node.run("sh", "-c", "cat /v/file; sleep 600", mounts=mounts)
            seen = conmon_mounts(node, second.id)
            assert str(own) in seen
            assert str(node.run_dir / "containers" / second.id / "rootfs") in seen
            assert str(node.run_dir / "containers" / first.id / "rootfs") not in seen
            assert str(before) not in seen
            assert str(own) not in conmon_mounts(node, first.id)
            with trio.fail_after(60):
                result = await node.runtime.exec(second.id, ["cat", "/v/file"])
            assert result.stdout == b"own"
            assert await read(node, before) == "before"
            for handle in (first, second):
                await node.runtime.delete(handle.id)


async def test_mounts_of_the_host_are_found_when_they_are_new(node: Node, tmp_path: Path) -> None:
    assert await node.output("true") == (0, "")
    with tmpfs_at(tmp_path / "late", "late") as late:
        assert await read(node, late) == "late"
        link = tmp_path / "link"
        link.symlink_to(late)
        assert await read(node, link) == "late"
        assert await read(node, tmp_path, file="late/file") == "late"
        assert await read(node, Path("/"), file=str(late / "file")) == "late"
        assert await read(node, late / "file", file="") == "late"


async def test_mounts_travel_both_ways_where_the_pod_wants_it(node: Node, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir()
    mount("tmpfs", shared, "tmpfs", 0)
    try:
        mount(None, shared, None, MS_SHARED)
        (shared / "inner").mkdir()
        mounts = (Mount(container_path="/v", host_path=shared, propagation="Bidirectional"),)
        code, text = await node.output(
            "sh",
            "-c",
            "mount -t tmpfs t /v/inner && echo text > /v/inner/file",
            mounts=mounts,
            privileged=True,
            capabilities_add=("ALL",),
        )
        assert code == 0, text
        assert (shared / "inner" / "file").read_text() == "text\n"
    finally:
        unmount(shared, MNT_DETACH)


async def test_a_start_goes_on_without_a_namespace(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it cannot be made, everything runs as it did before there was one."""

    def refuse(flags: int) -> None:
        raise OSError(1, os.strerror(1), "unshare")

    monkeypatch.setattr("kubelet_secrets.runtime.launchpad.unshare", refuse)
    handle, _ = await node.run("sleep", "600")
    assert str(node.run_dir / "containers" / handle.id / "rootfs") in conmon_mounts(node, handle.id)
    assert (await node.runtime.exec(handle.id, ["echo", "text"])).stdout == b"text\n"
