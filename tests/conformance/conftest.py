"""The cluster that the translated e2e tests run against: an API server, and this machine as a node of it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubelet_secrets.testing.images import build_busybox_image
from tests.cli.command import run_cli
from tests.conformance.framework import AGNHOST, BUSYBOX, PAUSE, Cluster
from tests.e2e.stacks import Pair, scrub


@pytest.fixture(scope="session")
def e2e_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with stand-ins under the names of the images that the e2e tests pull."""
    store, directory = tmp_path_factory.mktemp("e2e-images"), tmp_path_factory.mktemp("agnhost")
    source = Path(__file__).with_name("agnhost.c")
    subprocess.run(["gcc", "-O2", "-Wall", "-static", source, "-o", directory / "agnhost"], check=True, timeout=60)
    program = (directory / "agnhost").read_bytes()
    programs = {"/agnhost": program, "/agnhost-2": program}
    layouts = {
        AGNHOST: build_busybox_image(directory / "a", programs=programs, entrypoint=["/agnhost"], cmd=["pause"]),
        PAUSE: build_busybox_image(directory / "p", programs=programs, entrypoint=["/agnhost", "pause"], cmd=[]),
        BUSYBOX: build_busybox_image(directory / "b", programs={"/bin/sh": program}),
    }
    for name, layout in layouts.items():
        done = run_cli("image", "import", layout, name, "--image-dir", store)
        assert done.returncode == 0, done.stderr
    return store


@contextmanager
def cluster(images: Path) -> Iterator[Cluster]:
    """The embedded API server with its authorizers, its controllers and its scheduler; the agent has a node's credentials."""
    # Not tmp_path: its names are long, and a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        pair = Pair(Path(directory), images)
        try:
            pair.start()
            yield Cluster(kubeconfig=pair.kubeconfig, node_name=pair.node_name)
            pair.stop()
        finally:
            for name in ("agent", "server"):
                command = getattr(pair, name, None)
                if command is not None and command.process.poll() is None:
                    command.stop()
            scrub(pair.directory, pair.node_name)


@pytest.fixture(scope="session")
def conformance_cluster(e2e_images: Path) -> Iterator[Cluster]:
    with cluster(e2e_images) as opened:
        yield opened
