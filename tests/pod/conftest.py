from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
import trio

from kubelet_secrets.runtime.images import ImageStore
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.testing.images import build_busybox_image
from tests.pod.cluster import IMAGE, Cluster, Host, cluster, host


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with busybox in it, made once; tests only read it."""
    directory = tmp_path_factory.mktemp("images")
    auth = tmp_path_factory.mktemp("auth")

    async def fill() -> None:
        tools = find_tools()
        registry = Registry(tools, auth_dir=auth, scratch_dir=directory / "tmp")
        await ImageStore(directory, tools=tools, registry=registry).import_image(
            build_busybox_image(directory / "layout"), IMAGE
        )

    trio.run(fill)
    return directory


@pytest.fixture
def node_host(tmp_path: Path, image_dir: Path) -> Iterator[Host]:
    with host(tmp_path, image_dir) as made:
        yield made


@pytest.fixture
async def lab(node_host: Host) -> AsyncIterator[Cluster]:
    with trio.fail_after(120):
        async with cluster(node_host) as made:
            yield made
