"""What is secure, weak, insecure; and what follows for the exit status."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kubelet_secrets.verify.canaries import DECOY
from kubelet_secrets.verify.course import NotAsExpected
from kubelet_secrets.verify.examination import check_roles
from kubelet_secrets.verify.grades import CgroupSwap, CoreFacts, Grade, ProcessFacts, grade_filesystem, grade_process
from kubelet_secrets.verify.report import AreaReport, Control, Leak, MountReport, ProcessReport, Report, Step


@pytest.mark.parametrize(
    ("fstype", "options", "grade"),
    [
        ("tmpfs", {"rw", "noswap", "size=4k"}, Grade.SECURE),
        ("ramfs", {"rw"}, Grade.SECURE),
        ("tmpfs", {"rw", "size=4k"}, Grade.WEAK),
        ("ext4", {"rw"}, Grade.INSECURE),
        ("btrfs", {"rw", "noswap"}, Grade.INSECURE),
        ("9p", set(), Grade.INSECURE),
        ("overlay", set(), Grade.INSECURE),
    ],
)
def test_filesystems(fstype: str, options: set[str], grade: Grade) -> None:
    assert grade_filesystem(fstype, options).grade is grade


FILE, PIPE, OFF = "core", "|/usr/lib/systemd/systemd-coredump %P", ""


@pytest.mark.parametrize(
    ("facts", "pattern", "grade"),
    [
        pytest.param({}, FILE, Grade.SECURE, id="locked-and-not-dumpable"),
        pytest.param({"unlocked_bytes": 4096}, FILE, Grade.WEAK, id="not-locked"),
        pytest.param(
            {"unlocked_bytes": 4096, "cgroup_swap": CgroupSwap.FORBIDDEN}, FILE, Grade.SECURE, id="cgroup-without-swap"
        ),
        pytest.param(
            {"unlocked_bytes": 4096, "cgroup_swap": CgroupSwap.AVOIDED}, FILE, Grade.WEAK, id="cgroup-with-little-swap"
        ),
        pytest.param({"swapped_bytes": 4096}, FILE, Grade.INSECURE, id="swapped-out"),
        pytest.param({"dumpable": True}, FILE, Grade.SECURE, id="dumpable-but-limited-to-nothing"),
        pytest.param({"dumpable": True, "core_limit": None}, FILE, Grade.INSECURE, id="dumpable"),
        pytest.param({"dumpable": False, "core_limit": None}, FILE, Grade.SECURE, id="not-dumpable-whatever-the-limit"),
        pytest.param({"dumpable": None, "core_limit": 4096}, FILE, Grade.INSECURE, id="kernel-does-not-say"),
        pytest.param({"dumpable": None}, FILE, Grade.SECURE, id="kernel-does-not-say-but-limited"),
        pytest.param({"dumpable": True, "core_limit": 4095}, FILE, Grade.SECURE, id="less-than-any-core"),
        pytest.param({"dumpable": True}, PIPE, Grade.WEAK, id="handed-to-a-program"),
        pytest.param({"dumpable": True, "core_limit": 1}, PIPE, Grade.SECURE, id="one-byte-starts-no-program"),
        pytest.param({"dumpable": True, "core_limit": None}, PIPE, Grade.INSECURE, id="handed-over-without-limit"),
        pytest.param({"dumpable": True, "core_limit": None}, OFF, Grade.SECURE, id="no-cores-on-this-machine"),
    ],
)
def test_processes(facts: dict[str, Any], pattern: str, grade: Grade) -> None:
    usual: dict[str, Any] = {
        "resident_bytes": 1 << 20,
        "unlocked_bytes": 0,
        "swapped_bytes": 0,
        "core_limit": 0,
        "dumpable": False,
    }
    assert grade_process(ProcessFacts(**{**usual, **facts}), CoreFacts(pattern=pattern)).grade is grade


def mount(grade: Grade, *, promised: bool = True) -> MountReport:
    return MountReport(holds="files", path="/p", filesystem="x", grade=grade, why="because", promised=promised)


def process(grade: Grade, *, promised: bool = True, counted: bool = True) -> ProcessReport:
    return ProcessReport(
        role="agent",
        pid=7,
        grade=grade,
        why="because",
        resident_bytes=1,
        copies_running=9,
        counted=counted,
        promised=promised,
    )


def area(*leaks: Leak, complete: bool = True) -> AreaReport:
    return AreaReport(name="swap", when="afterwards", files=1, size_bytes=1, took_s=0, leaks=leaks, complete=complete)


def leak(canary: str) -> Leak:
    return Leak(where="/dev/sda2", canary=canary, form="hex", count=3)


@pytest.mark.parametrize(
    ("found", "sentences"),
    [
        ({}, []),
        ({"mounts": (mount(Grade.SECURE),), "processes": (process(Grade.SECURE),)}, []),
        ({"mounts": (mount(Grade.WEAK),)}, ["files at /p: weak, because"]),
        ({"mounts": (mount(Grade.INSECURE),)}, ["files at /p: insecure, because"]),
        ({"mounts": (mount(Grade.INSECURE, promised=False),)}, []),
        ({"processes": (process(Grade.WEAK),)}, ["memory of the agent (pid 7): weak, because"]),
        ({"processes": (process(Grade.WEAK, promised=False),)}, []),
        (
            {"processes": (process(Grade.SECURE, counted=False),)},
            ["memory of the agent (pid 7): not read to the end, so its copies are not counted"],
        ),
        ({"steps": (Step(what="it runs", held=False, detail="not within 60 s"),)}, ["it runs: not within 60 s"]),
        ({"steps": (Step(what="it runs", held=True),)}, []),
        (
            {"areas": (area(leak("volume file")),)},
            ["the value of the volume file is in /dev/sda2: hex, 3 times (afterwards)"],
        ),
        ({"areas": (area(leak("")),)}, ["a part of a value is in /dev/sda2: hex, 3 times (afterwards)"]),
        ({"areas": (area(leak(DECOY)),)}, []),
        (
            {"areas": (area(complete=False),)},
            ["swap (afterwards): not read to the end, so nothing is proven of the rest"],
        ),
        ({"controls": (Control(what="a decoy", found=False),)}, ["a decoy was not found: the search proves nothing"]),
        ({"controls": (Control(what="a decoy", found=True),)}, []),
    ],
)
def test_promises(found: dict[str, Any], sentences: list[str]) -> None:
    assert Report(node="n", kernel="6", canaries=(), **found).broken_promises() == sentences


def test_process_that_nobody_looked_at() -> None:
    seen = [replace(process(Grade.SECURE), role=role) for role in ("keeper", "agent", "writer", "conmon")]
    check_roles(seen)
    with pytest.raises(NotAsExpected, match="the agent, the writer ended meanwhile"):
        check_roles([each for each in seen if each.role in ("keeper", "conmon")])
