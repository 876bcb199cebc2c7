"""One real stack for all comparisons: that of the end-to-end tests, or with a kubelet in the agent's place."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.testing.kubelet import find_kubelet
from tests.e2e.conftest import cluster, image_dir, make_stack, running_nodes
from tests.e2e.reference import ReferenceNode
from tests.e2e.stacks import IMAGE, Node
from tests.faithful.reference import possible

__all__ = ["cluster", "image_dir", "make_stack", "possible", "stack"]


@pytest.fixture(scope="session")
def stack(image_dir: Path) -> Iterator[Node]:
    """The agent; with ``KUBELET_ASSETS`` a real kubelet, which explain is to foretell as well."""
    assets = find_kubelet()
    if assets is None:
        with running_nodes(image_dir) as make:
            yield make()
        return
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as name:
        layouts = {IMAGE: build_busybox_image(Path(name, "busybox"))}
        node = ReferenceNode(Path(name), image_dir, assets=assets, layouts=layouts)
        try:
            node.start()
            yield node
        finally:
            node.stop()
