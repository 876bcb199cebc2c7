"""A node's worth of runtime on a tmpfs of its own, and the check that nothing stays behind."""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.linux import MNT_DETACH, MS_NODEV, MS_NOSUID, mount, unmount
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.hostfacts import probe_cgroups, probe_host
from kubelet_secrets.runtime.images import Image, ImageStore
from kubelet_secrets.runtime.oci import ContainerHandle, OciRuntime, new_container_id
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.settings import ContainerSettings
from kubelet_secrets.runtime.tools import Tools, find_tools
from kubelet_secrets.testing.images import build_busybox_image

BUSYBOX = "busybox:test"
PATH = "/bin:/usr/bin:/sbin:/usr/sbin"


@pytest.fixture
def run_dir(tmp_path: Path) -> Iterator[Path]:
    """The attached run tmpfs; whatever a test leaves mounted below it fails the test."""
    directory = tmp_path / "run"
    directory.mkdir(mode=0o700)
    mount("tmpfs", directory, "tmpfs", MS_NOSUID | MS_NODEV, "mode=0700,size=256m")
    try:
        yield directory
        below = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text().splitlines()]
        assert [point for point in below if point.startswith(f"{directory}/")] == []
    finally:
        unmount(directory, MNT_DETACH)


@pytest.fixture(scope="session")
def tools() -> Tools:
    return find_tools(os.environ.get("KS_TEST_RUNTIME", "runc"))


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory: pytest.TempPathFactory, tools: Tools) -> Path:
    """An image store with busybox in it, made once; tests only read it."""
    directory = tmp_path_factory.mktemp("images")
    auth = tmp_path_factory.mktemp("auth")

    async def fill() -> None:
        store = ImageStore(
            directory, tools=tools, registry=Registry(tools, auth_dir=auth, scratch_dir=directory / "tmp")
        )
        await store.import_image(build_busybox_image(directory / "layout"), BUSYBOX)

    trio.run(fill)
    return directory


@dataclass
class Node:
    """What a test needs to run containers."""

    run_dir: Path
    tools: Tools
    cgroups: CgroupTree
    runtime: OciRuntime
    images: ImageStore
    pod_uid: str = field(default_factory=lambda: secrets.token_hex(8))

    @property
    def busybox(self) -> Image:
        image = self.images.resolve(BUSYBOX)
        assert image is not None
        return image

    def settings(self, *args: str, **changes: Any) -> ContainerSettings:
        container_id = new_container_id()
        settings = ContainerSettings(
            container_id=container_id,
            pod_uid=self.pod_uid,
            pod_namespace="default",
            pod_name="p",
            container_name="c",
            args=args,
            env={"PATH": PATH},
            cgroup_path=self.cgroups.container_path(self.pod_uid, container_id),
        )
        return replace(settings, **changes)

    def log_path(self, settings: ContainerSettings) -> Path:
        return self.run_dir / "logs" / f"{settings.container_id}.log"

    async def create(self, settings: ContainerSettings) -> ContainerHandle:
        return await self.runtime.create(settings, self.busybox, log_path=self.log_path(settings))

    async def run(self, *args: str, **changes: Any) -> tuple[ContainerHandle, ContainerSettings]:
        settings = self.settings(*args, **changes)
        await self.create(settings)
        return await self.runtime.start(settings.container_id), settings

    async def output(self, *args: str, **changes: Any) -> tuple[int, str]:
        """Run to the end: exit code, and the text of both streams."""
        handle, settings = await self.run(*args, **changes)
        with trio.fail_after(60):
            status = await self.runtime.wait_exit(handle.id)
        lines = self.log_path(settings).read_text().splitlines()
        return status.code, "\n".join(line.split(" ", 3)[3] for line in lines)


@pytest.fixture
def node(run_dir: Path, image_dir: Path, tools: Tools) -> Iterator[Node]:
    cgroups = CgroupTree(f"test-{secrets.token_hex(4)}", probe_cgroups())
    auth = run_dir / "auth"
    auth.mkdir()
    node = Node(
        run_dir=run_dir,
        tools=tools,
        cgroups=cgroups,
        runtime=OciRuntime(run_dir, tools=tools, host=probe_host(cgroups.layout), cgroups=cgroups),
        images=ImageStore(
            image_dir, tools=tools, registry=Registry(tools, auth_dir=auth, scratch_dir=image_dir / "tmp")
        ),
    )
    yield node

    own = [hierarchy / cgroups.instance_path.lstrip("/") for hierarchy in cgroups.layout.hierarchies]

    async def clean_up() -> None:
        with trio.fail_after(60):
            for handle in node.runtime.list():
                await node.runtime.delete(handle.id)
            # The monitor of a command ends a moment after the command has.
            while any(path.exists() for path in own):
                cgroups.remove(cgroups.instance_path)  # sandboxes do that themselves; most tests have none
                cgroups.remove_idle()
                await trio.sleep(0.02)

    trio.run(clean_up)
    assert os.listdir(run_dir / "containers") == []
