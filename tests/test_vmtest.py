"""The parts of scripts/vm-test that decide something, without a guest."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

from scripts.vmtest.checks import verdict_of_pytest, verdict_of_verify
from scripts.vmtest.initramfs import load_order, make_initramfs
from scripts.vmtest.logs import section, tail
from scripts.vmtest.results import Results
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


# --- what is told of a check ------------------------------------------------------------------------------------------

PYTEST = """\
tests/fusefs/test_wire.py::test_one PASSED                               [ 50%]
tests/fusefs/test_wire.py::test_two[a] FAILED                            [100%]
=========================== short test summary info ============================
SKIPPED [1] tests/fusefs/test_wire.py:3: no such kernel
FAILED tests/fusefs/test_wire.py::test_two[a] - AssertionError: FAILED tests
ERROR tests/fusefs/test_wire.py::test_three - OSError
============= 1 failed, 1 passed, 1 skipped, 1 error in 12.07s (0:00:12) =============
"""


def test_failing_tests_are_named() -> None:
    outcome = verdict_of_pytest(1, PYTEST)
    assert (outcome.held, outcome.detail) == (False, "1 failed, 1 passed, 1 skipped, 1 error: test_two[a], test_three")
    assert verdict_of_pytest(0, "== 5 passed in 0.10s ==\n").detail == "5 passed"
    assert verdict_of_pytest(-9, "").detail == "exit status -9"


VERIFY = """\
What was done
✓ a rotation reaches the container

This kernel
FEATURE                 HERE   SO
tmpfs noswap            no     ramfs instead, which cannot be swapped either
FUSE resend             no     the agent keeps the request at hand
FUSE id-mapped mounts   no     not needed: pods have no user namespaces of their own here
pidfd of a thread       yes    a repeated open is recognised without asking again

This machine
swap   no     none

"""


def test_fallbacks_that_verify_tells_of() -> None:
    outcome = verdict_of_verify(0, VERIFY)
    assert outcome.held
    assert outcome.detail == "every promise holds; instead of tmpfs noswap, FUSE resend the fallbacks"
    assert verdict_of_verify(0, "").detail == "every promise holds; no fallback"


def test_promises_that_verify_found_broken() -> None:
    outcome = verdict_of_verify(1, VERIFY + "✗ swap: not read\n✗ a value is in /x\n2 of the promises do not hold\n")
    assert (outcome.held, outcome.detail) == (False, "swap: not read; a value is in /x")
    assert verdict_of_verify(1, "kubelet-secrets: needs root\n").detail == "exit status 1"


def test_log_of_one_check() -> None:
    log = "\n=== facts\n\n=== demo\nfirst\n\n=== fusefs\none\n=== no heading\ntwo\n"
    assert section(log, "demo") == "first"
    assert section(log, "facts") == ""
    assert tail(section(log, "fusefs"), 2) == "      === no heading\n      two"
    assert section(log, "guest") == ""


def test_outcomes_are_kept_for_just_this_kernel_and_checkout(tmp_path: Path) -> None:
    results = Results(tmp_path / "results")
    assert results.held("6.1", "code") == {}
    results.add("6.1", "code", {"check": "demo", "held": False, "detail": "exit status 1"})
    results.add("6.1", "code", {"check": "canary", "held": True, "detail": "x"})
    assert results.held("6.1", "code").keys() == {"canary"}
    results.add("6.1", "code", {"check": "demo", "held": True, "detail": "20 steps"})
    results.add("6.1", "code", {"check": "canary", "held": False, "detail": "x"})
    with (tmp_path / "results").open("a") as file:
        file.write('\n{"kernel": "6.1", "co')  # the machine went down
    results.add("6.1", "code", {"check": "facts", "held": True, "detail": "x"})
    assert results.held("6.1", "code").keys() == {"demo", "facts"}
    assert results.held("6.1", "code")["demo"] == {"check": "demo", "held": True, "detail": "20 steps"}
    assert results.held("6.1", "later code") == results.held("6.12", "code") == {}
