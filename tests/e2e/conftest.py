"""Real stacks: one that the tests of the main job share, and more where a test needs to break it."""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from kubelet_secrets.testing.images import build_busybox_image
from tests.e2e.stacks import IMAGE, Cluster, Node, Pair, Stack, open_cluster, run_cli, scrub


@pytest.fixture(scope="session")
def image_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image store with busybox in it; imported once, by the command a user has for it."""
    directory = tmp_path_factory.mktemp("image-store")
    source = build_busybox_image(tmp_path_factory.mktemp("busybox"))
    done = run_cli("image", "import", source, IMAGE, "--image-dir", directory)
    assert done.returncode == 0, done.stderr
    return directory


@contextmanager
def running_nodes(image_dir: Path) -> Iterator[Callable[..., Node]]:
    """Start nodes that end with the block. Each checks that it leaves nothing behind, and fails if it does."""
    with ExitStack() as stop:

        def make(*options: str, kind: type[Stack] | type[Pair] = Stack) -> Node:
            # Not tmp_path: its names are long, and a unix socket's path may have 107 bytes.
            directory = stop.enter_context(tempfile.TemporaryDirectory(prefix="ks-e2e-"))
            node = kind(Path(directory), image_dir, options)
            stop.callback(scrub, node.directory, node.node_name)  # nothing to do, unless stopping fails
            node.start()
            stop.callback(node.stop)
            return node

        yield make


@pytest.fixture(scope="module")
def make_stack(image_dir: Path) -> Iterator[Callable[..., Node]]:
    """For modules that break what they run: nodes that end with the module."""
    with running_nodes(image_dir) as make:
        yield make


@pytest.fixture(scope="session")
def stack(image_dir: Path) -> Iterator[Node]:
    """One node for all modules that leave it as it is. Their pods have names of their own, and stay to the end.

    How many that are depends on which modules one worker gets: more than a node's usual 110, if it gets most.
    """
    with running_nodes(image_dir) as make:
        yield make("--max-pods", "500")


@pytest.fixture(scope="session")
def attack_dir(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory with the program ``attack``, for containers to mount and for the host."""
    # Not tmp_path: a unix socket's path may have 107 bytes.
    with tempfile.TemporaryDirectory(prefix="ks-attack-") as directory:
        source = Path(__file__).with_name("attack.c")
        command = ["gcc", "-O2", "-Wall", "-static", "-pthread", str(source), "-o", f"{directory}/attack"]
        subprocess.run(command, check=True, timeout=60)
        Path(directory).chmod(0o755)
        yield Path(directory)


@pytest.fixture
async def cluster(stack: Node) -> AsyncIterator[Cluster]:
    async with open_cluster(stack) as opened:
        yield opened
