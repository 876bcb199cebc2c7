"""Source: kubernetes pkg/volume/util/subpath/subpath_linux_test.go, TestSafeOpen and TestSafeMakeDir; semantics §5.2."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.fusefs import mounts
from kubelet_secrets.volume.subpath import Found, bind_sub_path, find, find_missing, make_missing, make_target

from .files import mode_of


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    """A volume with something of everything, and a secret place beside it."""
    root = tmp_path / "volume"
    (root / "dir/sub").mkdir(parents=True)
    (root / "dir/file").write_text("inside")
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("outside")
    for name, target in {
        "to-dir": "dir",
        "to-file": "dir/file",
        "dir/up": "../dir/file",
        "to-link": "to-dir/sub",
        "loop": "loop",
        "dangling": "nowhere/x",
        "escape": "../outside",
        "escape-deep": "dir/../../outside",
        "absolute": str(tmp_path / "outside"),
        "absolute-inside": str(root / "dir"),
    }.items():
        (root / name).symlink_to(target)
    root.chmod(0o2770)
    return root


@pytest.fixture
def fd(volume: Path) -> Iterator[int]:
    opened = os.open(volume, os.O_PATH | os.O_DIRECTORY)
    before = len(os.listdir("/proc/self/fd"))
    yield opened
    assert len(os.listdir("/proc/self/fd")) == before
    os.close(opened)


@pytest.mark.parametrize(
    ("sub_path", "expected"),
    [
        ("", Found("", True)),
        (".", Found("", True)),
        ("dir", Found("dir", True)),
        ("./dir//sub/", Found("dir/sub", True)),
        ("dir/file", Found("dir/file", False)),
        ("to-dir", Found("dir", True)),
        ("to-dir/file", Found("dir/file", False)),
        ("to-file", Found("dir/file", False)),
        ("dir/up", Found("dir/file", False)),
        ("to-link", Found("dir/sub", True)),
    ],
)
def test_find_resolves_within_the_volume(fd: int, sub_path: str, expected: Found) -> None:
    assert find(fd, sub_path) == expected


@pytest.mark.parametrize(
    ("sub_path", "error"),
    [
        ("..", PermissionError),
        ("dir/../..", PermissionError),
        ("escape", PermissionError),
        ("escape/file", PermissionError),
        ("escape-deep/file", PermissionError),
        ("absolute/file", PermissionError),
        ("absolute-inside", PermissionError),
        ("dir/file/x", NotADirectoryError),
        ("to-file/x", NotADirectoryError),
        ("loop", OSError),
        ("a\0b", OSError),
        ("x" * 300, OSError),
        ("missing", FileNotFoundError),
        ("dangling", FileNotFoundError),
    ],
)
def test_find_refuses(fd: int, sub_path: str, error: type[OSError]) -> None:
    with pytest.raises(error):
        find(fd, sub_path)


def test_a_socket_may_be_the_last_element(volume: Path, fd: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"/proc/self/fd/{fd}/sock")
        assert find(fd, "sock") == Found("sock", False)


@pytest.mark.parametrize(
    ("sub_path", "missing"),
    [
        ("a/b", "a/b"),
        ("to-dir/a/b", "dir/a/b"),
        ("dir", None),
        ("escape/a", None),
        ("loop", None),
        ("a\0b", None),
        ("x" * 300, None),
    ],
)
def test_find_missing(fd: int, sub_path: str, missing: str | None) -> None:
    assert find_missing(fd, sub_path) == missing


def test_missing_directories_get_the_mode_of_the_root_with_its_group_bit(volume: Path, fd: int) -> None:
    old_umask = os.umask(0o077)
    try:
        make_missing(volume, "to-dir/new/deeper")
    finally:
        os.umask(old_umask)
    assert (mode_of(volume / "dir/new"), mode_of(volume / "dir/new/deeper")) == (0o2770, 0o2770)
    assert mode_of(volume / "dir") != 0o2770


@pytest.mark.parametrize("sub_path", ["dangling", "dangling/deeper"])
def test_link_that_leads_to_nothing_is_in_the_way(volume: Path, fd: int, sub_path: str) -> None:
    """Upstream's mkdirat finds the link's own name taken."""
    with pytest.raises(FileExistsError):
        make_missing(volume, sub_path)
    with pytest.raises(FileExistsError):
        find_missing(fd, sub_path)
    assert not (volume / "nowhere").exists()


def test_nothing_is_made_outside(volume: Path, tmp_path: Path) -> None:
    (volume / "trap").symlink_to("../outside/new")
    make_missing(volume, "trap")
    (volume / "neighbour").symlink_to(f"{volume}-too/new")
    make_missing(volume, "neighbour")
    make_missing(volume, "absolute/new")
    assert sorted(os.listdir(tmp_path / "outside")) == ["file"]


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    target = tmp_path / "pod/volume-subpaths/v/c/0"
    yield target
    mounts.umount_all_below(tmp_path)


def test_absolute_link_into_the_volume_is_followed_where_the_volume_has_a_path(volume: Path, target: Path) -> None:
    """As in a directory of the host that names its current release so."""
    bind_sub_path(volume, "absolute-inside/file", target)
    assert target.read_text() == "inside"
    (volume.parent / "alias").symlink_to(volume)
    bind_sub_path(volume.parent / "alias", "absolute-inside/sub", target)
    assert target.is_dir()
    make_missing(volume, "absolute-inside/made")
    assert (volume / "dir/made").is_dir()


def mounted_at(path: Path) -> int:
    return sum(1 for entry in mounts.read_mount_table() if entry.target == str(path))


def test_a_file_is_bound_and_kept_when_replaced_until_bound_again(volume: Path, target: Path) -> None:
    bind_sub_path(volume, "to-file", target)
    assert target.read_text() == "inside"
    (volume / "dir/new").write_text("new")
    (volume / "dir/new").rename(volume / "dir/file")
    assert target.read_text() == "inside"
    bind_sub_path(volume, "to-file", target)
    assert target.read_text() == "new"
    bind_sub_path(volume, "to-file", target)
    assert mounted_at(target) == 1


def test_a_directory_replaces_a_file(volume: Path, target: Path) -> None:
    bind_sub_path(volume, "dir/file", target)
    bind_sub_path(volume, "dir", target)
    assert sorted(os.listdir(target)) == ["file", "sub", "up"]
    assert mounted_at(target) == 1


def test_what_leads_out_is_not_bound(volume: Path, target: Path) -> None:
    with pytest.raises(PermissionError):
        bind_sub_path(volume, "escape/file", target)
    assert not target.exists()


def test_targets_have_the_kubelets_modes(target: Path) -> None:
    make_target(target, is_directory=True)
    assert mode_of(target) == 0o750
    make_target(target, is_directory=False)
    assert stat.S_ISREG(target.lstat().st_mode)
    assert mode_of(target) == 0o640
    make_target(target, is_directory=False)
