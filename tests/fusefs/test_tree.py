"""The node table over a real store, without a kernel in between."""

from __future__ import annotations

import errno
import os

import pytest

from kubelet_secrets.fusefs import graveyard
from kubelet_secrets.fusefs.node import Identity, Node, UnknownNode
from kubelet_secrets.fusefs.tree import Tree

UID = "0a1b2c3d-0000-4000-8000-000000000001"
TS = "..2026_01_02_15_04_05.1234"


def write_directly(store: int, path: str, content: bytes = b"") -> None:
    directory = os.path.dirname(path)
    for end in range(1, len(parts := directory.split("/")) + 1):
        try:
            os.mkdir("/".join(parts[:end]), 0o755, dir_fd=store)
        except FileExistsError:
            pass
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644, dir_fd=store)
    os.write(fd, content)
    os.close(fd)


def find(tree: Tree, path: str) -> Node:
    node = tree.root
    for name in path.split("/"):
        node, _ = tree.lookup(node, name.encode())
    return node


def read(tree: Tree, node: Node) -> bytes:
    fd = tree.open(node, os.O_RDONLY)
    try:
        return os.read(fd, 1 << 16)
    finally:
        os.close(fd)


@pytest.fixture
def tree(store: int) -> Tree:
    write_directly(store, f"{UID}/token/{TS}/sub/key", b"one")
    os.symlink(TS, f"{UID}/token/..data", dir_fd=store)
    return Tree(store, resumed=False)


def test_numbers_are_inodes_plus_a_constant(tree: Tree, store: int) -> None:
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    assert node.number == os.stat(f"{UID}/token/{TS}/sub/key", dir_fd=store).st_ino + 1000
    assert tree.node(node.number) is node
    assert tree.root.number == 1


def test_identity_by_level(tree: Tree) -> None:
    assert tree.identity(tree.root) == Identity("", "", "")
    assert tree.identity(find(tree, UID)) == Identity(UID, "", "")
    assert tree.identity(find(tree, f"{UID}/token")) == Identity(UID, "token", "")
    assert tree.identity(find(tree, f"{UID}/token/{TS}/sub/key")) == Identity(UID, "token", f"{TS}/sub/key")


def test_depth_by_level(tree: Tree) -> None:
    depths = [tree.depth(find(tree, path)) for path in (UID, f"{UID}/token", f"{UID}/token/{TS}")]
    assert [tree.depth(tree.root), *depths] == [0, 1, 2, 3]


def test_what_is_written_directly_is_found_without_telling(tree: Tree, store: int) -> None:
    with pytest.raises(FileNotFoundError):
        find(tree, f"{UID}/late")
    write_directly(store, f"{UID}/late/{TS}/key", b"x")
    assert read(tree, find(tree, f"{UID}/late/{TS}/key")) == b"x"


def test_what_is_removed_directly_is_unknown_from_then_on(tree: Tree, store: int) -> None:
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    os.unlink(f"{UID}/token/{TS}/sub/key", dir_fd=store)
    with pytest.raises(UnknownNode):
        tree.stat(node)
    with pytest.raises(UnknownNode):
        tree.node(node.number)


def test_what_is_moved_directly_is_followed(tree: Tree, store: int) -> None:
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    os.rename(f"{UID}/token/{TS}/sub/key", f"{UID}/token/{TS}/sub/new", src_dir_fd=store, dst_dir_fd=store)
    assert find(tree, f"{UID}/token/{TS}/sub/new") is node
    assert tree.identity(node).path == f"{TS}/sub/new"


def test_files_of_a_volume_are_those_of_all_versions(tree: Tree, store: int) -> None:
    """Also what is unlinked and still open somewhere; nothing of other volumes."""
    write_directly(store, f"{UID}/token/..2/key", b"two")
    write_directly(store, f"{UID}/other/{TS}/key", b"x")
    live, dead = find(tree, f"{UID}/token/..2/key"), find(tree, f"{UID}/token/{TS}/sub/key")
    tree.remember(dead)
    tree.unlink(find(tree, f"{UID}/token/{TS}/sub"), b"key")
    numbers = tree.files_of(UID, "token")
    assert {live.number, dead.number} <= set(numbers)
    assert find(tree, f"{UID}/other/{TS}/key").number not in numbers
    assert tree.files_of(UID, "absent") == []


def test_files_of_a_volume_are_also_those_without_a_grave(tree: Tree, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full store has no room for graves; the kernel may hold pages of such a file all the same."""
    key = find(tree, f"{UID}/token/{TS}/sub/key")
    monkeypatch.setattr(graveyard, "prepare", lambda *_: False)
    tree.unlink(find(tree, f"{UID}/token/{TS}/sub"), b"key")
    with pytest.raises(UnknownNode):
        tree.node(key.number)
    assert key.number in tree.files_of(UID, "token")
    tree.forget(key.number, 1)
    assert key.number not in tree.files_of(UID, "token")


def test_graveyard_has_no_name(tree: Tree) -> None:
    with pytest.raises(FileNotFoundError):
        tree.lookup(tree.root, b".grave")
    assert [name for _, name in tree.names(tree.root)] == [UID.encode()]


def test_names_come_by_number(tree: Tree) -> None:
    numbers = [number for number, _ in tree.names(find(tree, f"{UID}/token"))]
    assert numbers == sorted(numbers)
    assert len(numbers) == 2


def test_unlinked_file_reads_on_until_forgotten(tree: Tree, store: int) -> None:
    directory = find(tree, f"{UID}/token/{TS}/sub")
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    for _ in range(3):
        tree.remember(node)
    tree.unlink(directory, b"key")
    with pytest.raises(FileNotFoundError):
        tree.lookup(directory, b"key")
    assert read(tree, node) == b"one"
    assert tree.identity(node) == Identity(UID, "token", f"{TS}/sub/key")
    assert tree.is_buried(node)
    tree.forget(node.number, 2)
    assert read(tree, node) == b"one"
    tree.forget(node.number, 1)
    with pytest.raises(UnknownNode):
        tree.node(node.number)
    assert os.listdir(f"/proc/self/fd/{store}/.grave") == []


def test_restarted_tree_knows_graves_and_whose_they_are(tree: Tree, store: int) -> None:
    directory = find(tree, f"{UID}/token/{TS}/sub")
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    tree.unlink(directory, b"key")
    tree.remove_directory(find(tree, f"{UID}/token/{TS}"), b"sub")

    later = Tree(store, resumed=True)
    again = later.node(node.number)
    assert read(later, again) == b"one"
    assert later.identity(again) == Identity(UID, "token", f"{TS}/sub/key")
    assert later.identity(later.node(directory.number)) == Identity(UID, "token", f"{TS}/sub")
    later.forget(node.number, 7)  # all the references an earlier agent gave out
    with pytest.raises(UnknownNode):
        later.node(node.number)


def test_restarted_tree_finds_any_number_and_tells_unknown_ones(tree: Tree, store: int) -> None:
    numbers = [find(tree, path).number for path in (UID, f"{UID}/token", f"{UID}/token/{TS}/sub/key")]
    later = Tree(store, resumed=True)
    before = len(later)
    assert [later.node(number).number for number in numbers] == numbers
    assert later.path(later.node(numbers[2])) == f"{UID}/token/{TS}/sub/key".encode()
    assert len(later) > before
    with pytest.raises(UnknownNode):
        later.node(10**9)
    assert later.index_step() is False


def test_identity_follows_moves_above_and_in_the_store_itself(tree: Tree, store: int) -> None:
    version, key = find(tree, f"{UID}/token/{TS}"), find(tree, f"{UID}/token/{TS}/sub/key")
    assert tree.identity(key) == Identity(UID, "token", f"{TS}/sub/key")
    volume = find(tree, f"{UID}/token")
    tree.rename(volume, TS.encode(), volume, b"..other")
    assert tree.identity(key) == Identity(UID, "token", "..other/sub/key")
    os.rename(f"{UID}/token/..other", f"{UID}/token/{TS}", dst_dir_fd=store, src_dir_fd=store)
    assert tree.lookup(volume, TS.encode())[0] is version
    assert tree.identity(key) == Identity(UID, "token", f"{TS}/sub/key")
    tree.unlink(find(tree, f"{UID}/token/{TS}/sub"), b"key")
    assert tree.is_buried(key)
    assert tree.identity(key) == Identity(UID, "token", f"{TS}/sub/key")


def test_volume_root_removed_while_held_keeps_its_identity(tree: Tree, store: int) -> None:
    write_directly(store, f"{UID}/empty/x")
    os.unlink(f"{UID}/empty/x", dir_fd=store)
    node = find(tree, f"{UID}/empty")
    tree.remove_directory(find(tree, UID), b"empty")
    assert tree.identity(node) == Identity(UID, "empty", "")
    assert Tree(store, resumed=True).identity(node) == Identity(UID, "empty", "")


def test_directories_are_removed_only_when_empty_and_only_by_rmdir(tree: Tree) -> None:
    version = find(tree, f"{UID}/token/{TS}")
    with pytest.raises(OSError) as caught:
        tree.remove_directory(version, b"sub")
    assert caught.value.errno == errno.ENOTEMPTY
    with pytest.raises(IsADirectoryError):
        tree.unlink(version, b"sub")
    with pytest.raises(NotADirectoryError):
        tree.remove_directory(find(tree, f"{UID}/token"), b"..data")


def test_rename_over_a_link_buries_it_and_never_leaves_a_gap(tree: Tree, store: int) -> None:
    volume = find(tree, f"{UID}/token")
    old, _ = tree.lookup(volume, b"..data")
    new, _ = tree.make_link(volume, b"..data_tmp", b"..new")
    tree.rename(volume, b"..data_tmp", volume, b"..data")
    assert tree.lookup(volume, b"..data")[0] is new
    assert tree.read_link(new) == b"..new"
    assert tree.is_buried(old)
    assert tree.read_link(old) == TS.encode()
    tree.forget(old.number, 0)
    assert os.listdir(f"/proc/self/fd/{store}/.grave") == []


def test_rename_cut_off_before_its_switch_leaves_the_old_name_alive(tree: Tree, store: int) -> None:
    """The agent dies after linking the replaced node into the graveyard: the next one must not take it for dead."""
    inode = os.stat(f"{UID}/token/..data", dir_fd=store, follow_symlinks=False).st_ino
    os.makedirs(f"/proc/self/fd/{store}/.grave/{UID}/token")
    os.link(
        f"{UID}/token/..data",
        f".grave/{UID}/token/{inode + 1000}",
        src_dir_fd=store,
        dst_dir_fd=store,
        follow_symlinks=False,
    )
    later = Tree(store, resumed=True)
    while later.index_step():
        pass
    node = later.node(inode + 1000)
    assert not later.is_buried(node)
    volume = find(later, f"{UID}/token")
    later.make_link(volume, b"..data_tmp", b"..new")
    later.rename(volume, b"..data_tmp", volume, b"..data")
    assert later.is_buried(node)
    assert later.read_link(later.lookup(volume, b"..data")[0]) == b"..new"


def test_unlink_after_a_rename_that_was_cut_off(tree: Tree, store: int) -> None:
    """Both names are one inode: renaming one over the other would do nothing, and the name would stay."""
    node = find(tree, f"{UID}/token/..data")
    os.makedirs(f"/proc/self/fd/{store}/.grave/{UID}/token")
    os.link(
        f"{UID}/token/..data",
        f".grave/{UID}/token/{node.number}",
        src_dir_fd=store,
        dst_dir_fd=store,
        follow_symlinks=False,
    )
    later = Tree(store, resumed=True)
    volume = find(later, f"{UID}/token")
    later.unlink(volume, b"..data")
    with pytest.raises(FileNotFoundError):
        later.lookup(volume, b"..data")
    assert later.buried() == [node.number]
    later.exhume(node.number)
    assert os.listdir(f"/proc/self/fd/{store}/.grave") == []


def test_graves_are_listed_and_exhumed_one_by_one(tree: Tree, store: int) -> None:
    directory = find(tree, f"{UID}/token/{TS}/sub")
    file = find(tree, f"{UID}/token/{TS}/sub/key")
    assert tree.buried() == []
    tree.unlink(directory, b"key")
    tree.remove_directory(find(tree, f"{UID}/token/{TS}"), b"sub")
    os.symlink("x", f".grave/{UID}/token/4711.path", dir_fd=store)  # noted, and then the agent died

    later = Tree(store, resumed=True)
    assert sorted(later.buried()) == sorted([directory.number, file.number])
    assert "4711.path" not in os.listdir(f"/proc/self/fd/{store}/.grave/{UID}/token")
    for number in (later.node(find(later, f"{UID}/token").number).number, 1, 999_999):
        later.exhume(number)  # not buried: nothing happens
    later.exhume(file.number)
    assert later.buried() == [directory.number]
    later.exhume(directory.number)
    assert os.listdir(f"/proc/self/fd/{store}/.grave") == []
    assert find(later, f"{UID}/token")


def test_rename_over_a_directory_is_refused(tree: Tree) -> None:
    volume = find(tree, f"{UID}/token")
    with pytest.raises(IsADirectoryError):
        tree.rename(volume, b"..data", volume, TS.encode())


def test_renamed_directory_takes_its_children_along(tree: Tree) -> None:
    volume = find(tree, f"{UID}/token")
    key = find(tree, f"{UID}/token/{TS}/sub/key")
    tree.rename(volume, TS.encode(), volume, b"..other")
    assert tree.path(key) == f"{UID}/token/..other/sub/key".encode()
    assert read(tree, key) == b"one"


def test_modes_are_final_whatever_the_umask_of_the_process(tree: Tree) -> None:
    volume = find(tree, f"{UID}/token")
    before = os.umask(0o077)
    try:
        _, directory = tree.make_directory(volume, b"d", 0o775)
        _, file = tree.make_file(volume, b"f", 0o444)
    finally:
        os.umask(before)
    assert directory.st_mode & 0o7777 == 0o775
    assert file.st_mode & 0o7777 == 0o444


def test_set_group_id_is_inherited_as_on_tmpfs(tree: Tree, store: int) -> None:
    volume = find(tree, f"{UID}/token")
    os.chown(f"{UID}/token", 0, 2000, dir_fd=store)
    os.chmod(f"{UID}/token", 0o2775, dir_fd=store)
    _, directory = tree.make_directory(volume, b"d", 0o700)
    assert (directory.st_mode & 0o7777, directory.st_gid) == (0o2700, 2000)


def test_existing_names_are_not_overwritten(tree: Tree) -> None:
    volume = find(tree, f"{UID}/token")
    for make in (
        lambda: tree.make_file(volume, b"..data", 0o600),
        lambda: tree.make_directory(volume, b"..data", 0o700),
        lambda: tree.make_link(volume, b"..data", b"x"),
    ):
        with pytest.raises(FileExistsError):
            make()


def test_links_are_not_followed(tree: Tree) -> None:
    link = find(tree, f"{UID}/token/..data")
    with pytest.raises(OSError) as caught:
        tree.open(link, os.O_RDONLY)
    assert caught.value.errno == errno.ELOOP


def test_full_store_can_still_shrink() -> None:
    """No inode is left for a grave: the file goes at once."""
    from kubelet_secrets.fusefs import mounts

    store = mounts.make_mount("tmpfs", {"nr_inodes": "8"}, attributes=mounts.MountAttr(0), source="test")
    try:
        tree = Tree(store, resumed=False)
        write_directly(store, f"{UID}/v/key")
        while os.fstatvfs(store).f_ffree:
            write_directly(store, f"{UID}/v/{os.fstatvfs(store).f_ffree}")
        node = find(tree, f"{UID}/v/key")
        tree.unlink(find(tree, f"{UID}/v"), b"key")
        with pytest.raises(UnknownNode):
            tree.node(node.number)
    finally:
        os.close(store)


def test_removing_a_volume_directly_empties_store_and_table(tree: Tree, store: int) -> None:
    find(tree, f"{UID}/token/{TS}/sub/key")
    known = len(tree)
    tree.remove_volume(UID, "token")
    assert os.listdir(f"/proc/self/fd/{store}/{UID}") == []
    assert len(tree) == known - 4
    tree.remove_volume(UID, "token")  # gone already: fine


def test_purged_pod_leaves_neither_directory_nor_graves(tree: Tree, store: int) -> None:
    node = find(tree, f"{UID}/token/{TS}/sub/key")
    tree.unlink(find(tree, f"{UID}/token/{TS}/sub"), b"key")
    write_directly(store, "other-pod/v/key")
    tree.purge_pod(UID)
    assert sorted(os.listdir(f"/proc/self/fd/{store}")) == [".grave", "other-pod"]
    assert os.listdir(f"/proc/self/fd/{store}/.grave") == []
    with pytest.raises(UnknownNode):
        tree.node(node.number)
