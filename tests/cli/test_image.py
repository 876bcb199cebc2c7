"""``kubelet-secrets image``: import, list, remove; on a store of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from kubelet_secrets.testing.images import build_busybox_image
from tests.cli.command import run_cli, the_line


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> str:
    return build_busybox_image(tmp_path_factory.mktemp("layout"))


def test_import_list_and_remove(tmp_path: Path, source: str) -> None:
    store = ("--image-dir", tmp_path / "store")
    done = run_cli("image", "list", *store)
    assert (done.returncode, done.stdout) == (0, "IMAGE   ID   SIZE\n")

    done = run_cli("image", "import", source, "localhost/busybox:1", *store)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("localhost/busybox:1 imported (")

    # A second name for the same content.
    done = run_cli("image", "import", source, "busybox", *store)
    assert done.returncode == 0, done.stderr
    assert run_cli("image", "list", "-o", "name", *store).stdout.split() == [
        "docker.io/library/busybox:latest",
        "localhost/busybox:1",
    ]

    lines = run_cli("image", "list", *store).stdout.splitlines()
    assert lines[0].split() == ["IMAGE", "ID", "SIZE"]
    assert len({line.split()[1] for line in lines[1:]}) == 1
    (plain,) = json.loads(run_cli("image", "list", "-o", "json", *store).stdout)
    assert plain["id"].startswith("sha256:")
    assert plain["sizeBytes"] > 100_000
    assert yaml.safe_load(run_cli("image", "list", "-o", "yaml", *store).stdout) == [plain]

    done = run_cli("image", "rm", "localhost/busybox:1", "busybox", *store)
    assert (done.returncode, done.stdout) == (0, "localhost/busybox:1 removed\nbusybox removed\n")
    assert run_cli("image", "list", "-o", "json", *store).stdout == "[]\n"
    assert list((tmp_path / "store" / "images").iterdir()) == []
    assert list((tmp_path / "store" / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(("rm", "none:1"), 'kubelet-secrets: image "none:1" not found', id="remove-unknown"),
        pytest.param(
            ("import", "oci:/nonexistent", "x:1"), 'kubelet-secrets: failed to import image "x:1": ', id="no-source"
        ),
        pytest.param(("import", "http://x/y", "x:1"), 'kubelet-secrets: cannot import "http://x/y": ', id="transport"),
        pytest.param(("import", "oci:/x", "UPPER::"), 'kubelet-secrets: Failed to apply default image tag', id="name"),
    ],
)  # fmt: skip
def test_mistakes_are_one_line(tmp_path: Path, arguments: tuple[str, ...], line: str) -> None:
    done = run_cli("image", *arguments, "--image-dir", tmp_path / "store")
    assert done.returncode == 1
    assert the_line(done).startswith(line), done.stderr


def test_broken_archive_is_one_line(tmp_path: Path) -> None:
    archive = tmp_path / "broken.tar"
    archive.write_bytes(b"not a tar")
    done = run_cli("image", "import", f"oci-archive:{archive}", "x:1", "--image-dir", tmp_path / "store")
    assert done.returncode == 1
    assert the_line(done).startswith('kubelet-secrets: failed to import image "x:1": ')


def test_needs_root(tmp_path: Path) -> None:
    done = run_cli("image", "list", "--image-dir", tmp_path, prefix=["setpriv", "--reuid", "65534", "--clear-groups"])
    assert done.returncode == 1
    assert the_line(done) == f"kubelet-secrets: the image store {tmp_path} is root's: try again with sudo"


def test_directory_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    store = tmp_path / "file" / "store"
    done = run_cli("image", "list", "--image-dir", store)
    assert done.returncode == 1
    assert the_line(done) == f"kubelet-secrets: cannot use {store} as the image store: Not a directory"
