"""Mounts against the kernel. Each test works under a directory of its own and leaves no mount."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.errors import HostError
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.mounts import NoswapFallback, StoreKind
from tests.kernels import HAS_NOSWAP

pytestmark = pytest.mark.fuse


@pytest.fixture
def base(tmp_path: Path) -> Iterator[Path]:
    """A private mount to play below."""
    mounts.make_private_bind(tmp_path)
    yield tmp_path
    mounts.umount_all_below(tmp_path)
    assert mounts.mounts_below(tmp_path) == []


def test_store_is_detached_unswappable_and_private() -> None:
    store_fd, kind = mounts.make_store(size_bytes=1 << 20)
    try:
        assert kind is (StoreKind.NOSWAP_TMPFS if HAS_NOSWAP else StoreKind.RAMFS)
        assert os.fstat(store_fd).st_mode & 0o777 == 0o700
        device = os.fstat(store_fd).st_dev
        text = Path("/proc/self/mountinfo").read_text()
        assert f" {os.major(device)}:{os.minor(device)} " not in text
        os.mkdir("a", dir_fd=store_fd)
        assert os.listdir(f"/proc/self/fd/{store_fd}") == ["a"]
        assert os.get_inheritable(store_fd) is False
        if HAS_NOSWAP:
            assert os.fstatvfs(store_fd).f_blocks * os.fstatvfs(store_fd).f_bsize == 1 << 20
    finally:
        os.close(store_fd)


def test_kernel_without_noswap_falls_back_to_ramfs_by_name() -> None:
    store_fd, kind = mounts.make_store(size_bytes=1 << 20, noswap=False)
    try:
        assert kind is StoreKind.RAMFS
        assert os.fstat(store_fd).st_mode & 0o777 == 0o700
    finally:
        os.close(store_fd)


def test_refusal_instead_of_swappable_store(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "is_swap_active", lambda: True)
    with pytest.raises(HostError, match="swapoff"):
        mounts.make_store(noswap=False, fallback=NoswapFallback.REFUSE_SWAP)


def test_plain_tmpfs_is_taken_and_named_where_there_is_no_swap(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mounts, "is_swap_active", lambda: False)
    store_fd, kind = mounts.make_store(noswap=False, fallback=NoswapFallback.REFUSE_SWAP)
    os.close(store_fd)
    assert kind is StoreKind.TMPFS


def test_error_names_the_refused_option() -> None:
    with pytest.raises(OSError, match="no-such-option") as caught:
        mounts.make_mount("tmpfs", {"no-such-option": None}, attributes=mounts.MountAttr(0), source="x")
    assert caught.value.errno == errno.EINVAL


def test_attached_tmpfs_is_listed_and_goes_away(base: Path) -> None:
    run = base / "run"
    run.mkdir()
    assert mounts.attach_tmpfs(run, size_bytes=1 << 20) is (StoreKind.NOSWAP_TMPFS if HAS_NOSWAP else StoreKind.RAMFS)
    (entry,) = [m for m in mounts.mounts_below(base) if m.target == str(run)]
    assert entry.fstype == ("tmpfs" if HAS_NOSWAP else "ramfs")
    assert {"nosuid", "nodev"} <= entry.options
    (run / "file").write_text("x")
    mounts.umount_lazy(run)
    assert list(run.iterdir()) == []


def test_clone_is_read_only_and_shows_changes_of_its_source(base: Path) -> None:
    source, target = base / "source", base / "target"
    source.mkdir()
    target.mkdir()
    mounts.attach_tmpfs(source, size_bytes=1 << 20)
    (source / "volume").mkdir()
    mounts.clone_read_only(source, "volume", target)
    (source / "volume" / "key").write_text("1")
    assert (target / "key").read_text() == "1"
    with pytest.raises(OSError) as caught:
        (target / "other").write_text("")
    assert caught.value.errno == errno.EROFS
    (entry,) = [m for m in mounts.read_mount_table() if m.target == str(target)]
    assert {"ro", "nosuid", "nodev"} <= entry.options
    assert "noexec" not in entry.options
    assert entry.root == "/volume"
    mounts.umount_lazy(target)


def test_clone_from_a_descriptor_of_one_file(base: Path) -> None:
    source, target = base / "source", base / "target"
    source.mkdir()
    target.touch()
    mounts.attach_tmpfs(source, size_bytes=1 << 20)
    (source / "key").write_text("1")
    source_fd = os.open(source, os.O_PATH)
    try:
        mounts.clone_read_only(source_fd, "key", target, executable=False)
    finally:
        os.close(source_fd)
    assert target.read_text() == "1"
    assert "noexec" in mounts.mounts_below(target)[0].options


def test_failed_clone_leaves_no_mount(base: Path) -> None:
    (base / "source").mkdir()
    (base / "target").mkdir()
    before = len(mounts.mounts_below(base))
    with pytest.raises(FileNotFoundError):
        mounts.clone_read_only(base / "source", "missing", base / "target")
    with pytest.raises(FileNotFoundError):
        mounts.clone_read_only(base, "source", base / "no-target")
    assert len(mounts.mounts_below(base)) == before


def test_mounts_below_a_private_bind_do_not_spread(base: Path) -> None:
    fields = [line.split(" ") for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    (line,) = [f for f in fields if f[4] == str(base)]
    assert not [f for f in line[6:] if f.startswith("shared:")]


def test_everything_below_is_taken_away_last_first(tmp_path: Path) -> None:
    mounts.make_private_bind(tmp_path)
    inner = tmp_path / "a b"  # a space: mountinfo escapes it
    inner.mkdir()
    mounts.attach_tmpfs(inner, size_bytes=1 << 20)
    (inner / "deep").mkdir()
    mounts.attach_tmpfs(inner / "deep", size_bytes=1 << 20)
    sibling = tmp_path.with_name(tmp_path.name + "-sibling")
    sibling.mkdir()
    mounts.make_private_bind(sibling)
    try:
        assert [m.target for m in mounts.mounts_below(tmp_path)] == [str(inner / "deep"), str(inner), str(tmp_path)]
        assert mounts.umount_all_below(tmp_path) == 3
        assert mounts.mounts_below(tmp_path) == []
        assert len(mounts.mounts_below(sibling)) == 1
    finally:
        mounts.umount_all_below(sibling)


def test_mount_table_is_parsed_with_escapes_and_optional_fields() -> None:
    text = (
        "36 35 98:0 /mnt1 /mnt2 rw,noatime master:1 shared:2 - ext3 /dev/root rw,errors=continue\n"
        "37 35 0:30 / /a\\040b\\134c ro - fuse.tmpfs kubelet-secrets rw\n"
    )
    first, second = mounts.parse_mount_table(text)
    assert (first.target, first.root, first.fstype, first.source) == ("/mnt2", "/mnt1", "ext3", "/dev/root")
    assert first.options == {"rw", "noatime"}
    assert (second.target, second.fstype, second.source) == ("/a b\\c", "fuse.tmpfs", "kubelet-secrets")


def test_fuse_mount_offers_init_and_aborts_when_forced(base: Path) -> None:
    target = base / "fuse"
    target.mkdir()
    fuse_fd = os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)
    try:
        mounts.mount_fuse(fuse_fd, target)
        request = os.read(fuse_fd, 1 << 17)
        assert struct.unpack_from("<II", request) == (len(request), 26)
        mounts.umount_lazy(target, force=True)
        with pytest.raises(OSError) as caught:
            os.read(fuse_fd, 1 << 17)
        assert caught.value.errno in (errno.ENODEV, errno.ECONNABORTED)
    finally:
        os.close(fuse_fd)
