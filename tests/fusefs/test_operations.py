"""The handlers called directly, with a store behind them and no kernel in front; ``test_mounted`` has the kernel."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pyfuse3
import pytest

from kubelet_secrets.fusefs.departed import STALE_FOR_S, DepartedVersions
from kubelet_secrets.fusefs.operations import FOREVER_S, Operations
from kubelet_secrets.fusefs.tree import Tree
from tests.fusefs.test_tree import TS, UID, find, write_directly

WRITER = 4242
READER = 17


@dataclass
class Context:
    """What pyfuse3 hands to a handler."""

    pid: int
    uid: int = 0
    gid: int = 0
    umask: int = 0


@dataclass
class Fields:
    """Which attributes a setattr means."""

    update_mode: bool = False
    update_uid: bool = False
    update_gid: bool = False
    update_size: bool = False
    update_atime: bool = False
    update_mtime: bool = False
    update_ctime: bool = False


@dataclass
class Filesystem:
    tree: Tree
    operations: Operations

    def number(self, path: str) -> int:
        return find(self.tree, path).number if path else 1


def make_filesystem(store: int, *, resumed: bool = False) -> Filesystem:
    tree = Tree(store, resumed=resumed)
    return Filesystem(tree, Operations(tree, lambda tid: tid == WRITER, resumed=resumed))


@pytest.fixture
def fs(store: int) -> Filesystem:
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    os.symlink(TS, f"{UID}/v/..data", dir_fd=store)
    return make_filesystem(store)


async def failure(call: Awaitable[object]) -> str:
    """Name of the errno that a handler answers with."""
    with pytest.raises(pyfuse3.FUSEError) as caught:
        await call
    return errno.errorcode[caught.value.errno]


async def test_what_may_change_outside_is_not_cached_and_the_rest_for_ever(fs: Filesystem) -> None:
    async def timeouts(parent: str, name: str) -> tuple[float, float]:
        entry = await fs.operations.lookup(fs.number(parent), name.encode(), Context(READER))
        return entry.entry_timeout, entry.attr_timeout

    assert await timeouts("", UID) == (0, 0)
    assert await timeouts(UID, "v") == (0, FOREVER_S)
    assert await timeouts(f"{UID}/v", TS) == (FOREVER_S, FOREVER_S)
    assert await timeouts(f"{UID}/v", "..data") == (FOREVER_S, FOREVER_S)
    assert await timeouts(f"{UID}/v/{TS}", "key") == (FOREVER_S, FOREVER_S)


async def test_only_below_a_version_is_absence_remembered(fs: Filesystem) -> None:
    for parent in ("", UID, f"{UID}/v"):
        assert await failure(fs.operations.lookup(fs.number(parent), b"missing", Context(READER))) == "ENOENT"
    entry = await fs.operations.lookup(fs.number(f"{UID}/v/{TS}"), b"missing", Context(READER))
    assert (entry.st_ino, entry.entry_timeout) == (0, FOREVER_S)
    assert await failure(fs.operations.lookup(1, b".grave", Context(READER))) == "ENOENT"


async def test_attributes_are_the_stores(fs: Filesystem, store: int) -> None:
    entry = await fs.operations.getattr(fs.number(f"{UID}/v/{TS}/key"), Context(READER))
    real = os.stat(f"{UID}/v/{TS}/key", dir_fd=store)
    assert (entry.st_mode, entry.st_size, entry.st_mtime_ns) == (real.st_mode, 3, real.st_mtime_ns)
    assert entry.st_ino == real.st_ino + 1000


CHANGES: dict[str, Callable[[Operations, int, Context], Awaitable[Any]]] = {
    "mkdir": lambda ops, volume, ctx: ops.mkdir(volume, b"d", stat.S_IFDIR | 0o750, ctx),
    "create": lambda ops, volume, ctx: ops.create(volume, b"f", stat.S_IFREG | 0o640, os.O_WRONLY, ctx),
    "symlink": lambda ops, volume, ctx: ops.symlink(volume, b"l", b"target", ctx),
    "unlink": lambda ops, volume, ctx: ops.unlink(volume, b"..data", ctx),
    "rmdir": lambda ops, volume, ctx: ops.rmdir(volume, b"empty", ctx),
    "rename": lambda ops, volume, ctx: ops.rename(volume, b"..data", volume, b"moved", 0, ctx),
    "setattr": lambda ops, volume, ctx: ops.setattr(volume, mode_of(0o700), Fields(update_mode=True), None, ctx),
    "mknod": lambda ops, volume, ctx: ops.mknod(volume, b"p", stat.S_IFIFO, 0, ctx),
    "link": lambda ops, volume, ctx: ops.link(volume, volume, b"x", ctx),
}


def mode_of(mode: int) -> pyfuse3.EntryAttributes:
    entry = pyfuse3.EntryAttributes()
    entry.st_mode = mode
    return entry


@pytest.mark.parametrize("name", CHANGES)
async def test_changes_are_the_writers_alone(fs: Filesystem, store: int, name: str) -> None:
    os.mkdir(f"{UID}/v/empty", dir_fd=store)
    volume = fs.number(f"{UID}/v")
    assert await failure(CHANGES[name](fs.operations, volume, Context(READER))) == "EROFS"
    if name in ("mknod", "link"):
        assert await failure(CHANGES[name](fs.operations, volume, Context(WRITER))) == "EPERM"
    else:
        await CHANGES[name](fs.operations, volume, Context(WRITER))


@pytest.mark.parametrize("name", ["mkdir", "create", "symlink", "unlink", "rename", "setattr"])
async def test_nothing_changes_through_the_mount_but_volumes(fs: Filesystem, store: int, name: str) -> None:
    """What is above them is the agent's, made in the store directly; what is buried is nobody's any more."""
    os.mkdir(f"{UID}/v/{TS}/sub", dir_fd=store)
    version = fs.number(f"{UID}/v/{TS}")
    buried = (await fs.operations.lookup(version, b"sub", Context(WRITER))).st_ino
    await fs.operations.rmdir(version, b"sub", Context(WRITER))
    for place in (1, fs.number(UID), buried):
        assert await failure(CHANGES[name](fs.operations, place, Context(WRITER))) == "EPERM"
    assert await failure(fs.operations.rename(version, b"key", 1, b"key", 0, Context(WRITER))) == "EPERM"
    assert await failure(fs.operations.rmdir(1, UID.encode(), Context(WRITER))) == "EPERM"
    root = f"/proc/self/fd/{store}"
    assert (sorted(os.listdir(root)), os.listdir(f"{root}/{UID}")) == ([".grave", UID], ["v"])


@pytest.mark.parametrize("name", ["mkdir", "create", "symlink", "unlink", "rmdir", "rename"])
async def test_change_made_twice_succeeds_only_as_the_first_after_a_restart(
    fs: Filesystem, store: int, name: str
) -> None:
    os.mkdir(f"{UID}/v/empty", dir_fd=store)
    volume = fs.number(f"{UID}/v")
    first = await CHANGES[name](fs.operations, volume, Context(WRITER))
    # The same agent: no excuse.
    missing = name in ("unlink", "rmdir", "rename")
    assert await failure(CHANGES[name](fs.operations, volume, Context(WRITER))) == ("ENOENT" if missing else "EEXIST")
    # The next agent, asked once more.
    later = make_filesystem(store, resumed=True)
    again = await CHANGES[name](later.operations, volume, Context(WRITER))
    if first is not None:
        entries = [answer[1] if isinstance(answer, tuple) else answer for answer in (first, again)]
        assert entries[0].st_ino == entries[1].st_ino
    assert await failure(CHANGES[name](later.operations, volume, Context(WRITER))) == (
        "ENOENT" if missing else "EEXIST"
    )


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda ops, v, c: ops.mkdir(v, b"..data", 0o755, c), id="a-link-is-no-directory"),
        pytest.param(lambda ops, v, c: ops.create(v, b"..data", 0o644, 0, c), id="a-link-is-no-file"),
        pytest.param(lambda ops, v, c: ops.symlink(v, b"..data", b"elsewhere", c), id="another-target"),
    ],
)
async def test_something_else_under_the_name_is_no_excuse_after_a_restart(
    fs: Filesystem, store: int, change: Callable[[Operations, int, Context], Awaitable[object]]
) -> None:
    later = make_filesystem(store, resumed=True)
    assert await failure(change(later.operations, fs.number(f"{UID}/v"), Context(WRITER))) == "EEXIST"


async def test_file_is_written_and_cut(fs: Filesystem, store: int) -> None:
    def content() -> bytes:
        fd = os.open(f"{UID}/v/{TS}/new", os.O_RDONLY, dir_fd=store)
        try:
            return os.read(fd, 100)
        finally:
            os.close(fd)

    ctx = Context(WRITER)
    info, entry = await fs.operations.create(fs.number(f"{UID}/v/{TS}"), b"new", stat.S_IFREG | 0o600, os.O_RDWR, ctx)
    assert entry.st_mode == stat.S_IFREG | 0o600
    assert await fs.operations.write(info.fh, 0, b"hello") == 5
    assert await fs.operations.write(info.fh, 5, b" world") == 6
    assert content() == b"hello world"
    shorter = pyfuse3.EntryAttributes()
    shorter.st_size = 5
    assert (await fs.operations.setattr(info.fh, shorter, Fields(update_size=True), info.fh, ctx)).st_size == 5
    assert content() == b"hello"


async def test_owner_mode_and_times_are_set(fs: Filesystem) -> None:
    wanted = pyfuse3.EntryAttributes()
    wanted.st_mode, wanted.st_uid, wanted.st_gid, wanted.st_mtime_ns = 0o2755, 5, 6, 1_000_000_007
    fields = Fields(update_mode=True, update_uid=True, update_gid=True, update_mtime=True)
    entry = await fs.operations.setattr(fs.number(f"{UID}/v"), wanted, fields, None, Context(WRITER))
    assert stat.S_IMODE(entry.st_mode) == 0o2755
    assert (entry.st_uid, entry.st_gid, entry.st_mtime_ns) == (5, 6, 1_000_000_007)


@pytest.mark.parametrize("flags", [pyfuse3.RENAME_EXCHANGE, pyfuse3.RENAME_NOREPLACE])
async def test_renames_with_conditions_are_einval(fs: Filesystem, flags: int) -> None:
    volume = fs.number(f"{UID}/v")
    assert await failure(fs.operations.rename(volume, b"..data", volume, b"x", flags, Context(WRITER))) == "EINVAL"


async def test_node_that_left_the_store_is_estale(fs: Filesystem) -> None:
    number = fs.number(f"{UID}/v/{TS}/key")
    fs.tree.remove_volume(UID, "v")
    ctx = Context(READER)
    assert await failure(fs.operations.getattr(number, ctx)) == "ESTALE"
    assert await failure(fs.operations.lookup(number, b"x", ctx)) == "ESTALE"


async def test_errors_of_the_store_keep_their_errno(fs: Filesystem) -> None:
    file = fs.number(f"{UID}/v/{TS}/key")
    assert await failure(fs.operations.lookup(file, b"x", Context(READER))) == "ENOTDIR"
    assert await failure(fs.operations.readlink(file, Context(READER))) == "EINVAL"
    volume = fs.number(f"{UID}/v")
    assert await failure(fs.operations.rmdir(volume, TS.encode(), Context(WRITER))) == "ENOTEMPTY"
    assert await failure(fs.operations.symlink(volume, b"x" * 300, b"t", Context(WRITER))) == "ENAMETOOLONG"


async def test_close_is_never_waited_for(fs: Filesystem) -> None:
    number = fs.number(f"{UID}/v/{TS}/key")
    assert await failure(fs.operations.flush(number)) == "ENOSYS"
    await fs.operations.fsync(number, False)


async def test_lookups_are_counted_and_forgotten(fs: Filesystem) -> None:
    parent = fs.number(f"{UID}/v/{TS}")
    for _ in range(3):
        entry = await fs.operations.lookup(parent, b"key", Context(READER))
    node = fs.tree.node(entry.st_ino)
    assert node.lookups == 3
    await fs.operations.forget([(entry.st_ino, 3), (99999999, 1)])
    assert node.lookups == 0
    assert fs.tree.node(entry.st_ino) is node, "what is in the store stays known"


async def test_statfs_is_the_stores(fs: Filesystem, store: int) -> None:
    data = await fs.operations.statfs(Context(READER))
    assert data.f_blocks == os.fstatvfs(store).f_blocks
    assert data.f_namemax == 255


async def test_a_file_of_a_version_that_is_going_is_stale_and_then_absent(store: int) -> None:
    """Between the reading of the link and this lookup a rotation came: the path leads to the new version by now."""
    fs = make_filesystem(store)
    write_directly(store, f"{UID}/v/{TS}/key", b"one")
    version = fs.number(f"{UID}/v/{TS}")
    nothing = await fs.operations.lookup(version, b"never", Context(READER))
    assert nothing.st_ino == 0
    await fs.operations.unlink(version, b"key", Context(WRITER))
    for name in (b"key", b"other"):
        assert await failure(fs.operations.lookup(version, name, Context(READER))) == "ESTALE"
        assert (await fs.operations.lookup(version, name, Context(READER))).st_ino == 0
        assert (await fs.operations.lookup(version, name, Context(WRITER))).st_ino == 0


async def test_a_version_that_has_just_gone_is_stale_and_then_absent(store: int) -> None:
    """ESTALE sends the kernel on the same walk once more, through the link as it is now."""
    now = 100.0
    fs = make_filesystem(store)
    fs.operations._departed = DepartedVersions(clock=lambda: now)
    os.mkdir(UID, dir_fd=store)
    os.mkdir(f"{UID}/v", dir_fd=store)
    os.mkdir(f"{UID}/v/..old", dir_fd=store)
    volume = fs.number(f"{UID}/v")
    await fs.operations.rmdir(volume, b"..old", Context(WRITER))
    assert await failure(fs.operations.lookup(volume, b"..old", Context(READER))) == "ESTALE"
    assert await failure(fs.operations.lookup(volume, b"..old", Context(WRITER))) == "ENOENT"
    assert (
        await failure(fs.operations.lookup(volume, b"..old", Context(READER))) == "ENOENT"
    )  # it did not come by the link
    assert await failure(fs.operations.lookup(volume, b"..never", Context(READER))) == "ENOENT"
    now += STALE_FOR_S
    assert await failure(fs.operations.lookup(volume, b"..old", Context(READER))) == "ENOENT"
