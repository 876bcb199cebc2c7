"""The scanner against real files, devices and processes. It must find what is there, or its silence proves nothing."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets import linux
from kubelet_secrets.leakscan import CHUNK_BYTES, spellings
from kubelet_secrets.verify import filesystems
from kubelet_secrets.verify.canaries import DECOY, Canaries, Canary
from kubelet_secrets.verify.examination import Decoys, scan_device, scan_files, scan_named, scan_system_logs
from kubelet_secrets.verify.scanner import Scanner, TimeUp, command_output

MEGABYTE = 1 << 20


@pytest.fixture
def canaries() -> Canaries:
    return Canaries("Pr3A0i9y5xStDg2")


@pytest.fixture
def canary(canaries: Canaries) -> Canary:
    return canaries.make("volume file")


@pytest.fixture
def scanner(canaries: Canaries) -> Scanner:
    return Scanner(canaries, time_limit_s=60)


def test_file_in_each_form(tmp_path: Path, scanner: Scanner, canary: Canary) -> None:
    forms = list(spellings(canary.value).values())
    for number, form in enumerate(forms):
        (tmp_path / f"leaked-{number}").write_bytes(b"x" * number + form + b"y")
    (tmp_path / "innocent").write_bytes(b"aaaa")
    report = scan_named(scanner, "afterwards", tmp_path)
    assert {leak.where for leak in report.leaks} == {str(tmp_path / f"leaked-{n}") for n in range(len(forms))}
    assert {leak.canary for leak in report.leaks} == {"volume file"}
    assert (report.files, report.complete) == (len(forms) + 1, True)


def test_files_that_have_not_changed_are_left_out(tmp_path: Path, scanner: Scanner, canary: Canary) -> None:
    (tmp_path / "old").write_bytes(canary.value)
    report = scanner.files("files", [tmp_path], when="in use", changed_since=(tmp_path / "old").stat().st_ctime + 1)
    assert (report.files, report.leaks) == (0, ())


@pytest.mark.parametrize("offset", [0, 4096 - 7, 3 * CHUNK_BYTES - 9, 5 * MEGABYTE + 1])
def test_fake_swap_file(tmp_path: Path, scanner: Scanner, canary: Canary, offset: int) -> None:
    """Read past the page cache, over holes, to an end that is no multiple of a sector."""
    image = tmp_path / "swapfile"
    with image.open("wb") as file:
        file.write(b"SWAPSPACE2")
        file.seek(offset)
        file.write(urllib.parse.quote_from_bytes(canary.value, safe="").encode())
    report = scan_device(scanner, "swap", image)
    assert [(leak.where, leak.canary, leak.form) for leak in report.leaks] == [
        (str(image), "volume file", "URL-encoded")
    ]
    assert report.size_bytes <= image.stat().st_size


def test_loop_device(tmp_path: Path, scanner: Scanner, canary: Canary) -> None:
    image = tmp_path / "disk"
    with image.open("wb") as file:
        file.truncate(8 * MEGABYTE)
        file.seek(6 * MEGABYTE - 3)
        file.write(canary.value)
    attached = subprocess.run(["losetup", "--find", "--show", "--read-only", image], capture_output=True, text=True)
    if attached.returncode != 0:
        pytest.skip(f"no loop device here: {attached.stderr.strip()}")
    device = Path(attached.stdout.strip())
    try:
        report = scan_device(scanner, "a device", device)
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)
    assert [(leak.where, leak.form, leak.count) for leak in report.leaks] == [(str(device), "plain", 1)]
    assert report.size_bytes == 8 * MEGABYTE


def test_device_that_cannot_be_read_is_not_passed_over_in_silence(tmp_path: Path, scanner: Scanner) -> None:
    report = scan_device(scanner, "swap", tmp_path / "none")
    assert (report.complete, report.note) == (False, "cannot be read: No such file or directory")


def test_what_a_command_prints(scanner: Scanner, canary: Canary) -> None:
    printed = command_output(
        [sys.executable, "-c", "import sys; print(bytes.fromhex(sys.argv[1]))", canary.value.hex()]
    )
    report = scanner.stream("journal", printed, when="afterwards")
    assert [leak.canary for leak in report.leaks] == ["volume file"]


def test_command_that_fails_is_not_passed_over_in_silence(scanner: Scanner) -> None:
    printed = command_output([sys.executable, "-c", "import sys; print('some'); sys.exit(3)"])
    report = scanner.stream("journal", printed, when="afterwards")
    assert (report.complete, report.size_bytes) == (False, 5)
    assert "ended with status 3" in report.note
    assert not scanner.stream("journal", command_output(["/none"]), when="afterwards").complete


def test_system_logs_can_be_read(scanner: Scanner) -> None:
    reports = list(scan_system_logs(scanner, since=0))
    assert reports[-1].name == "kernel log"
    assert all(report.complete and not report.leaks for report in reports)


HOLDER = """
import json, sys
kept = sys.stdin.readline().strip()
encoded = kept.encode("utf-16-le")
del kept
print("holding", flush=True)
sys.stdin.read()
"""


def test_memory_of_a_process(scanner: Scanner, canary: Canary, canaries: Canaries) -> None:
    absent = canaries.make("another")
    with subprocess.Popen([sys.executable, "-c", HOLDER], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(canary.value + b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"holding\n"
            counted = scanner.memory(process.pid)
        finally:
            process.kill()
    assert counted["volume file"] >= 1
    assert counted[absent.name] == 0
    with pytest.raises(ProcessLookupError):
        scanner.memory(process.pid)


def test_time_that_is_up_shows(tmp_path: Path, canaries: Canaries) -> None:
    (tmp_path / "file").write_bytes(bytes(10))
    scanner = Scanner(canaries, time_limit_s=0)
    assert not scan_named(scanner, "afterwards", tmp_path).complete


def test_only_searching_takes_of_the_time(tmp_path: Path, canaries: Canaries, monkeypatch: pytest.MonkeyPatch) -> None:
    """A slow machine takes minutes to start a node; they are not taken from those for the search."""
    (tmp_path / "file").write_bytes(bytes(10))
    clock = [0.0]
    monkeypatch.setattr("kubelet_secrets.verify.scanner.time.monotonic", lambda: clock[0])

    def tick(size_bytes: int) -> None:
        clock[0] += 2.0  # a directory and a part of a file: four seconds for each search

    scanner = Scanner(canaries, time_limit_s=9, tick=tick)
    for complete in (True, True, False):
        clock[0] += 1000.0
        assert scan_named(scanner, "afterwards", tmp_path).complete is complete


def test_memory_that_was_not_counted_to_the_end(canaries: Canaries) -> None:
    with pytest.raises(TimeUp):
        Scanner(canaries, time_limit_s=0).memory(os.getpid())


def test_progress_is_told_and_may_end_the_scan(tmp_path: Path, canaries: Canaries) -> None:
    (tmp_path / "file").write_bytes(bytes(3 * CHUNK_BYTES))

    class Enough(Exception):
        pass

    told: list[int] = []

    def tick(size_bytes: int) -> None:
        told.append(size_bytes)
        if len(told) == 2:
            raise Enough

    with pytest.raises(Enough):
        scan_named(Scanner(canaries, time_limit_s=60, tick=tick), "afterwards", tmp_path)
    assert told == [0, CHUNK_BYTES], "a directory, and a part of a file"


def test_decoys_are_found_and_a_missing_one_is_noticed(tmp_path: Path, scanner: Scanner, canaries: Canaries) -> None:
    decoys = Decoys(canaries.make(DECOY), canaries.memory_decoy, tmp_path)
    facts = decoys.plant()
    assert [fact.name for fact in facts] == ["core of an unprotected process"]
    report = scan_named(scanner, "afterwards", tmp_path)
    controls = decoys.controls([report])
    assert all(control.found for control in controls), json.dumps([each.what for each in controls if not each.found])
    assert len(controls) >= len(spellings('é"/'.encode()))
    assert report.real_leaks == ()
    assert not any(control.found for control in decoys.controls([]))


def test_volume_in_memory_is_left_to_its_grade(tmp_path: Path, scanner: Scanner, canary: Canary) -> None:
    """Before Linux 6.4 it looks like any tmpfs. The same directory on a disk is a leak."""
    directory = tmp_path / "pods/u/volumes/kubernetes.io~empty-dir/m"
    directory.mkdir(parents=True)

    def found() -> list[str]:
        report = scan_files(
            scanner,
            "in use",
            since=0,
            roots=[tmp_path],
            crash_directories=set(),
            passed_by=filesystems.memory_volumes(tmp_path),
        )
        return [leak.where for leak in report.leaks]

    linux.mount("none", directory, "tmpfs", 0, "size=64k")
    try:
        (directory / "copy").write_bytes(canary.value)
        assert found() == []
    finally:
        linux.unmount(directory)
    (directory / "copy").write_bytes(canary.value)
    assert found() == [str(directory / "copy")]


def test_file_that_refuses_is_counted(tmp_path: Path, scanner: Scanner, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("damaged", "gone", "good"):
        (tmp_path / name).write_bytes(b"x")

    def read(path: Path) -> Iterator[bytes]:
        if path.name != "good":
            raise OSError(errno.EIO if path.name == "damaged" else errno.ENOENT, "no")
        yield b"x"

    monkeypatch.setattr("kubelet_secrets.verify.scanner.read_chunks", read)
    report = scan_named(scanner, "afterwards", tmp_path)
    assert (report.files, report.note, report.complete) == (1, "1 could not be read", True)
