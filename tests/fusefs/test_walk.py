"""Reading directories by descriptor, on a real store."""

from __future__ import annotations

import os

import pytest

from kubelet_secrets.fusefs.walk import Directory, scan, walk_bottom_up
from tests.fusefs.test_tree import write_directly


@pytest.fixture
def filled(store: int) -> int:
    for path in ("a/b/c/deep", "a/b/file", "a/x/\udcff", "a/top"):
        write_directly(store, path)
    os.symlink("b", "a/to-b", dir_fd=store)
    os.symlink("/", "a/out", dir_fd=store)
    os.mkdir("a/empty", dir_fd=store)
    return store


def inode(store: int, path: str) -> int:
    return os.stat(path, dir_fd=store, follow_symlinks=False).st_ino


def test_children_come_before_their_parent_and_each_once(filled: int) -> None:
    paths = [directory.path for directory in walk_bottom_up(filled, b"a")]
    assert sorted(paths) == [b"a", b"a/b", b"a/b/c", b"a/empty", b"a/x"]
    for path in paths:
        assert all(paths.index(path) > paths.index(other) for other in paths if other.startswith(path + b"/"))


def test_links_are_entries_and_are_not_followed(filled: int) -> None:
    *_, top = walk_bottom_up(filled, b"a")
    assert (top.path, top.inode) == (b"a", inode(filled, "a"))
    assert sorted(top.files) == [(name.encode(), inode(filled, f"a/{name}")) for name in ("out", "to-b", "top")]


def test_name_that_is_not_utf8_stays_what_it_is(filled: int) -> None:
    assert list(walk_bottom_up(filled, b"a/x")) == [
        Directory(b"a/x", inode(filled, "a/x"), [(b"\xff", inode(filled, "a/x/\udcff"))])
    ]


def test_missing_directory_is_nothing(filled: int) -> None:
    assert list(walk_bottom_up(filled, b"a/nope")) == []


def test_directory_that_vanishes_meanwhile_is_passed_over(filled: int) -> None:
    for name in ("1", "2"):
        os.makedirs(f"/proc/self/fd/{filled}/two/{name}")
    walk = walk_bottom_up(filled, b"two")
    first = next(walk).path
    (other,) = {b"two/1", b"two/2"} - {first}
    os.rmdir(other, dir_fd=filled)
    assert [directory.path for directory in walk] == [b"two"]


@pytest.mark.parametrize("path", [b"a/to-b", b"a/out", b"a/top"])
def test_only_a_directory_itself_is_opened(filled: int, path: bytes) -> None:
    """A link in the store must not lead the walk out of it."""
    with pytest.raises(NotADirectoryError):
        with scan(filled, path):
            pytest.fail("it was opened")
    with pytest.raises(NotADirectoryError):
        list(walk_bottom_up(filled, path))


def test_no_descriptor_stays_open(filled: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    list(walk_bottom_up(filled, b"a"))
    with pytest.raises(ZeroDivisionError):
        with scan(filled, b"a"):
            raise ZeroDivisionError
    assert len(os.listdir("/proc/self/fd")) == before
