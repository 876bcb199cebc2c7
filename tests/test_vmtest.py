"""The parts of scripts/vm-test that decide something, without a guest."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

from scripts.vmtest.initramfs import load_order, make_initramfs
from scripts.vmtest.search import judge

DEPENDENCIES = """\
kernel/drivers/block/virtio_blk.ko: kernel/drivers/virtio/virtio.ko kernel/drivers/virtio/virtio_ring.ko
kernel/drivers/virtio/virtio_ring.ko:
kernel/drivers/virtio/virtio.ko: kernel/drivers/virtio/virtio_ring.ko
kernel/fs/ext4/ext4.ko.xz: kernel/lib/crc16.ko.xz kernel/fs/jbd2/jbd2.ko.xz
kernel/fs/jbd2/jbd2.ko.xz:
kernel/lib/crc16.ko.xz:
"""


def names(archive: bytes) -> dict[str, bytes]:
    """The files of a newc archive. Source: buffer-format.rst of the kernel's documentation."""
    found, position = {}, 0
    while True:
        assert archive[position : position + 6] == b"070701"
        fields = [int(archive[at : at + 8], 16) for at in range(position + 6, position + 110, 8)]
        size, name_size = fields[6], fields[11]
        name = archive[position + 110 : position + 110 + name_size - 1].decode()
        start = position + -(-(110 + name_size) // 4) * 4
        if name == "TRAILER!!!":
            return found
        found[name] = archive[start : start + size]
        position = start + -(-size // 4) * 4


def test_modules_are_loaded_after_what_they_need() -> None:
    order = [Path(path).name.split(".")[0] for path in load_order(DEPENDENCIES, ("virtio_blk", "built_in", "ext4"))]
    assert order == ["virtio_ring", "virtio", "virtio_blk", "jbd2", "crc16", "ext4"]


def test_initramfs_holds_modules_as_the_kernel_takes_them(tmp_path: Path) -> None:
    for line in DEPENDENCIES.splitlines():
        path = tmp_path / line.partition(":")[0]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(lzma.compress(b"ELF!") if path.suffix == ".xz" else b"ELF!")
    (tmp_path / "modules.dep").write_text(DEPENDENCIES)
    busybox = tmp_path / "busybox"
    busybox.write_bytes(b"box")
    files = names(gzip.decompress(make_initramfs(tmp_path, busybox)))
    assert files["bin/busybox"] == b"box"
    assert {files[f"modules/{name}"] for name in ("virtio", "virtio_ring", "virtio_blk", "jbd2", "crc16", "ext4")} == {
        b"ELF!"
    }
    assert files["init"].startswith(b"#!/bin/busybox sh\n")


def report(**controls: str) -> dict[str, object]:
    return {"runtime": "runc", "values": {"volume": "value-of-the-volume-1234"}, "controls": controls}


def test_value_on_a_disk_is_a_leak_in_whatever_form(tmp_path: Path) -> None:
    disk = tmp_path / "swap.raw"
    disk.write_bytes(b"\0" * 5000 + b"value-of-the-volume-1234".hex().encode() + b"control-9876543210")
    verdict = judge([disk], report(swap="control-9876543210"))
    assert (verdict["held"], verdict["detail"]) == (False, "volume in swap.raw")


def test_search_that_misses_its_control_proves_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "swap.raw"
    disk.write_bytes(b"\0" * 5000)
    verdict = judge([disk], report(swap="control-9876543210"))
    assert verdict["held"] is False
    assert "control swap not found" in str(verdict["detail"])


def test_values_that_are_nowhere_are_said_to_be(tmp_path: Path) -> None:
    disk = tmp_path / "swap.raw"
    disk.write_bytes(b"control-9876543210" * 9)
    verdict = judge([disk], report(swap="control-9876543210"))
    assert (verdict["check"], verdict["held"]) == ("leaks-runc", True)
