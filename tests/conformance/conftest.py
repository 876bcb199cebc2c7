"""The cluster that the translated e2e tests run against: an API server, and this machine as a node of it."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kubelet_secrets.client.version import NEWEST
from kubelet_secrets.testing.controlplane import find_assets, program_version, run_control_plane
from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.testing.kubelet import Kubelet, find_kubelet
from tests.cli.command import run_cli
from tests.conformance.framework import AGNHOST, BUSYBOX, PAUSE, Cluster
from tests.conformance.joined import JoinedNode
from tests.e2e.reference import ReferenceNode
from tests.e2e.stacks import Command, Pair, scrub


@pytest.fixture(scope="session")
def e2e_layouts(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, str]:
    """Stand-ins, as OCI layouts, under the names of the images that the e2e tests pull."""
    directory = tmp_path_factory.mktemp("agnhost")
    source = Path(__file__).with_name("agnhost.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-static", source, "-o", directory / "agnhost"], check=True, timeout=60)
    program = (directory / "agnhost").read_bytes()
    programs = {"/agnhost": program, "/agnhost-2": program}
    return {
        AGNHOST: build_busybox_image(directory / "a", programs=programs, entrypoint=["/agnhost"], cmd=["pause"]),
        PAUSE: build_busybox_image(directory / "p", programs=programs, entrypoint=["/agnhost", "pause"], cmd=[]),
        BUSYBOX: build_busybox_image(directory / "b", programs={"/bin/sh": program}),
    }


@pytest.fixture(scope="session")
def e2e_images(e2e_layouts: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with them."""
    store = tmp_path_factory.mktemp("e2e-images")
    for name, layout in e2e_layouts.items():
        done = run_cli("image", "import", layout, name, "--image-dir", store)
        assert done.returncode == 0, done.stderr
    return store


@contextmanager
def cluster(images: Path, layouts: Mapping[str, str]) -> Iterator[Cluster]:
    """An API server, with this machine as a node of it for the length of the block. The agent is the ordinary one.

    ``KUBECONFIG`` names a cluster, ``KUBEBUILDER_ASSETS`` the programs of a control plane; without either it is the embedded
    API server with its authorizers, controllers and scheduler. There, with ``KUBELET_ASSETS``, a real kubelet takes the
    agent's place, to see what the tests say of it.
    """
    patience_s = float(os.environ.get("KS_CONFORMANCE_PATIENCE_S", "3"))
    # Not tmp_path: its names are long, and a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as name, ExitStack() as stack:
        directory = Path(name)
        node: JoinedNode | Pair
        if kubeconfig := os.environ.get("KUBECONFIG"):
            node = JoinedNode(directory, images, kubeconfig=Path(kubeconfig).absolute())
            found = Cluster(node.kubeconfig, node.node_name, is_shared=True, patience_s=patience_s)
        elif assets := find_assets():
            plane_dir = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="ks-plane-")))
            plane = stack.enter_context(run_control_plane(assets, plane_dir))
            node = JoinedNode(directory, images, kubeconfig=plane.kubeconfig, is_shared=False)
            found = Cluster(
                node.kubeconfig,
                node.node_name,
                has_scheduler=plane.has_scheduler,
                has_controllers=assets.controller_manager is not None,
                patience_s=patience_s,
            )
        else:
            reference = find_kubelet()
            node = (
                Pair(directory, images)
                if reference is None
                else ReferenceNode(directory, images, assets=reference, layouts=layouts)
            )
            version = program_version(reference.program("kubelet")) if reference is not None else NEWEST
            kubeconfig = directory / "admin.kubeconfig"
            found = Cluster(kubeconfig, node.node_name, patience_s=patience_s, node_version=version)
        stack.callback(scrub, directory, node.node_name)  # nothing to do, unless stopping fails
        stack.callback(kill_all, node)
        node.start()
        yield found
        node.stop()


def kill_all(node: JoinedNode | Pair) -> None:
    kubelet: Kubelet | None = getattr(node, "kubelet", None)
    if kubelet is not None:
        kubelet.stop()
    for name in ("agent", "server"):
        command: Command | None = getattr(node, name, None)
        if command is not None and command.process.poll() is None:
            command.stop()


@pytest.fixture(scope="session")
def conformance_cluster(e2e_images: Path, e2e_layouts: Mapping[str, str]) -> Iterator[Cluster]:
    with cluster(e2e_images, e2e_layouts) as opened:
        yield opened
