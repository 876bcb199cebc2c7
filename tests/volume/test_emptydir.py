"""Source: kubernetes pkg/volume/emptydir and pkg/volume/hostpath; semantics §2.7."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.api.core import Container, EmptyDirVolumeSource, HostPathVolumeSource, Pod, PodSpec, VolumeMount
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.volume.emptydir import memory_size_bytes, set_up_empty_dir, spreads_mounts
from kubelet_secrets.volume.hostpath import check_host_path
from kubelet_secrets.volume.layout import PodsLayout

from .files import mode_of

POD = "0b2b2a4e-6f0b-4b7e-9d4f-2f6f4c1f3a11"


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[PodsLayout]:
    yield PodsLayout(tmp_path / "pods")
    mounts.umount_all_below(tmp_path)


@pytest.mark.parametrize(
    ("size_limit", "pod_limit", "expected"),
    [
        (None, 0, 1000),
        ("500", 0, 500),
        ("2k", 0, 1000),
        (None, 300, 300),
        ("200", 300, 200),
        ("0", 0, 1000),
        ("-1", 0, 1000),
    ],
)
def test_memory_size_is_the_least_limit(size_limit: str | None, pod_limit: int, expected: int) -> None:
    source = EmptyDirVolumeSource(medium="Memory", size_limit=size_limit)
    assert memory_size_bytes(source, pod_limit_bytes=pod_limit, allocatable_bytes=1000) == expected


@pytest.mark.parametrize(("fs_group", "mode", "gid"), [(None, 0o777, 0), (2000, 0o2777, 2000)])
def test_default_medium_is_a_plain_directory(layout: PodsLayout, fs_group: int | None, mode: int, gid: int) -> None:
    old_umask = os.umask(0o077)
    try:
        path = set_up_empty_dir(layout, POD, "v", EmptyDirVolumeSource(), fs_group=fs_group, memory_bytes=0)
    finally:
        os.umask(old_umask)
    assert path == layout.pods_dir / POD / "volumes/kubernetes.io~empty-dir/v"
    assert (mode_of(path), path.stat().st_gid) == (mode, gid)
    assert (layout.pods_dir / POD / "plugins/kubernetes.io~empty-dir/v/ready").exists()


@pytest.mark.parametrize("medium", ["", "Memory"])
def test_volume_that_spreads_mounts_is_a_shared_mount(layout: PodsLayout, medium: str) -> None:
    """Once: what is there when it is set up again stays."""
    source = EmptyDirVolumeSource(medium=medium)
    for _ in range(2):
        path = set_up_empty_dir(layout, POD, "v", source, fs_group=None, memory_bytes=1 << 20, spreads_mounts=True)
        path.joinpath("file").touch()
    lines = [line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines()]
    (optional,) = [fields[6 : fields.index("-")] for fields in lines if fields[4] == str(path)]
    assert [each.partition(":")[0] for each in optional] == ["shared"]
    assert path.joinpath("file").exists()


@pytest.mark.parametrize("propagation", [None, "None", "HostToContainer", "Bidirectional"])
def test_who_spreads_mounts(propagation: str | None) -> None:
    mount = VolumeMount(name="v", mount_path="/v", mount_propagation=propagation)
    pod = Pod(spec=PodSpec(init_containers=(Container(name="c", volume_mounts=(mount,)),)))
    assert spreads_mounts(pod, "v") == (propagation in ("HostToContainer", "Bidirectional"))
    assert not spreads_mounts(pod, "w")


@pytest.mark.parametrize(("fs_group", "mode"), [(None, 0o1777), (2000, 0o3777)])
def test_memory_medium_is_a_tmpfs_of_its_size(layout: PodsLayout, fs_group: int | None, mode: int) -> None:
    source = EmptyDirVolumeSource(medium="Memory")
    path = set_up_empty_dir(layout, POD, "v", source, fs_group=fs_group, memory_bytes=1 << 20)
    entry = next(entry for entry in mounts.read_mount_table() if entry.target == str(path))
    assert entry.fstype == "tmpfs"
    assert mode_of(path) == mode
    found = os.statvfs(path)
    assert found.f_blocks * found.f_frsize == 1 << 20


@pytest.mark.parametrize("medium", ["", "Memory"])
def test_set_up_again_keeps_what_containers_wrote(layout: PodsLayout, medium: str) -> None:
    source = EmptyDirVolumeSource(medium=medium)
    path = set_up_empty_dir(layout, POD, "v", source, fs_group=None, memory_bytes=1 << 20)
    (path / "file").write_text("kept")
    path.chmod(0o700)
    set_up_empty_dir(layout, POD, "v", source, fs_group=None, memory_bytes=1 << 20)
    assert (path / "file").read_text() == "kept"
    assert mode_of(path) == 0o700
    assert sum(1 for entry in mounts.read_mount_table() if entry.target == str(path)) == (medium == "Memory")


def test_a_tmpfs_that_is_gone_is_mounted_again(layout: PodsLayout) -> None:
    """As after a reboot: the ready file is there, the mount is not."""
    source = EmptyDirVolumeSource(medium="Memory")
    path = set_up_empty_dir(layout, POD, "v", source, fs_group=None, memory_bytes=1 << 20)
    mounts.umount_lazy(path)
    set_up_empty_dir(layout, POD, "v", source, fs_group=None, memory_bytes=1 << 20)
    assert any(entry.target == str(path) for entry in mounts.read_mount_table())


def test_unknown_medium(layout: PodsLayout) -> None:
    with pytest.raises(SetUpError, match=r'^unknown storage medium "HugePages"$'):
        set_up_empty_dir(layout, POD, "v", EmptyDirVolumeSource(medium="HugePages"), fs_group=None, memory_bytes=0)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "dir").mkdir()
    (tmp_path / "file").touch()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        yield tmp_path


@pytest.mark.parametrize(
    ("name", "type_", "message"),
    [
        ("dir", "", None),
        ("missing", "", None),
        ("dir", "Directory", None),
        ("file", "Directory", "is not a directory"),
        ("missing", "Directory", "is not a directory"),
        ("dir", "DirectoryOrCreate", None),
        ("file", "DirectoryOrCreate", "is not a directory"),
        ("new/dir", "DirectoryOrCreate", None),
        ("file", "File", None),
        ("dir", "File", "is not a file"),
        ("missing", "File", "is not a file"),
        ("newfile", "FileOrCreate", None),
        ("dir", "FileOrCreate", "is not a file"),
        ("sock", "Socket", None),
        ("file", "Socket", "is not a socket file"),
        ("file", "CharDevice", "is not a character device"),
        ("file", "BlockDevice", "is not a block device"),
    ],
)
def test_host_path_type(host: Path, name: str, type_: str, message: str | None) -> None:
    source = HostPathVolumeSource(path=str(host / name), type=type_)
    if message is None:
        check_host_path(source)
        if type_.endswith("OrCreate"):
            assert (host / name).is_dir() == type_.startswith("Directory")
    else:
        with pytest.raises(SetUpError, match=f"^hostPath type check failed: {host}/{name} {message}$"):
            check_host_path(source)


def test_host_path_that_is_a_device() -> None:
    check_host_path(HostPathVolumeSource(path="/dev/null", type="CharDevice"))


def test_host_path_rules() -> None:
    with pytest.raises(SetUpError, match=r"^Whatever is an invalid volume type$"):
        check_host_path(HostPathVolumeSource(path="/", type="Whatever"))
    with pytest.raises(SetUpError, match=r"^invalid HostPath `/a/../b`: must not contain '..'$"):
        check_host_path(HostPathVolumeSource(path="/a/../b"))
    with pytest.raises(SetUpError, match=r"^hostPath type check failed: /a\0b: Invalid argument$"):
        check_host_path(HostPathVolumeSource(path="/a\0b", type="DirectoryOrCreate"))
