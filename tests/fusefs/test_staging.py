"""A version is made out of sight, and appears with its files."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.fusefs import staging
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.volume import atomicwriter
from tests.volume.files import file

VERSION = b"..2026_01_02_15_04_05.1"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[int]:
    fd = os.open(tmp_path, os.O_PATH | os.O_DIRECTORY)
    (tmp_path / "pod" / "volume").mkdir(parents=True)
    yield fd
    os.close(fd)


@pytest.fixture
def staging_fd(store: int) -> Iterator[int]:
    fd = staging.open_staging(store)
    yield fd
    os.close(fd)


def stage(staging_fd: int, name: bytes = VERSION) -> None:
    os.mkdir(name, 0o700, dir_fd=staging_fd)
    os.close(os.open(name + b"/key", os.O_CREAT | os.O_WRONLY, 0o440, dir_fd=staging_fd))


def test_a_staged_version_is_moved_to_its_place(store: int, staging_fd: int, tmp_path: Path) -> None:
    stage(staging_fd)
    staging.make_directory(store, b"pod/volume/" + VERSION, 0o711)
    made = tmp_path / "pod" / "volume" / os.fsdecode(VERSION)
    assert os.listdir(made) == ["key"]
    assert stat.S_IMODE(made.stat().st_mode) == 0o711
    assert os.listdir(tmp_path / ".staging") == []


def test_anything_else_is_a_plain_mkdir(store: int, staging_fd: int, tmp_path: Path) -> None:
    stage(staging_fd, b"sub")
    for name in ("sub", "..other"):
        staging.make_directory(store, b"pod/volume/" + name.encode(), 0o755)
        assert os.listdir(tmp_path / "pod" / "volume" / name) == []
    assert os.listdir(tmp_path / ".staging") == ["sub"]


def test_what_is_there_is_not_replaced(store: int, staging_fd: int, tmp_path: Path) -> None:
    """Also an empty directory, which a rename would take the place of: mkdir says that it exists."""
    stage(staging_fd)
    (tmp_path / "pod" / "volume" / os.fsdecode(VERSION)).mkdir()
    with pytest.raises(FileExistsError):
        staging.make_directory(store, b"pod/volume/" + VERSION, 0o755)
    assert os.listdir(tmp_path / ".staging") == [os.fsdecode(VERSION)]


def test_a_new_writer_removes_what_a_killed_one_staged(store: int, staging_fd: int, tmp_path: Path) -> None:
    stage(staging_fd)
    os.close(staging.open_staging(store))
    assert os.listdir(tmp_path / ".staging") == []


def test_the_staging_directory_is_not_shown(store: int, staging_fd: int) -> None:
    tree = Tree(store, resumed=False)
    assert [name for _, name in tree.names(tree.root)] == [b"pod"]
    with pytest.raises(FileNotFoundError):
        tree.lookup(tree.root, staging.NAME)


def test_a_mount_that_knows_nothing_of_staging_is_written_through(store: int, staging_fd: int, tmp_path: Path) -> None:
    """An agent of an earlier program goes on serving for a moment while a new writer is there already."""
    volume = tmp_path / "pod" / "volume"
    volume_fd = os.open(volume, os.O_PATH | os.O_DIRECTORY)
    try:
        for text in (b"one", b"two"):
            files = {"dir/key": file(text)}
            behind = atomicwriter.Behind(volume_fd, staging_fd)
            assert atomicwriter.write(volume_fd, files, behind=behind).changed
            assert (volume / "dir" / "key").read_bytes() == text
    finally:
        os.close(volume_fd)
    assert sorted(os.listdir(volume)) == sorted(["..data", os.readlink(volume / "..data"), "dir"])
    assert os.listdir(tmp_path / ".staging") == []
