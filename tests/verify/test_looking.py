"""Mounts, processes and the machine, asked of the kernel they are about."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets import linux
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from kubelet_secrets.verify import corecheck, filesystems, machine, paging, processes
from kubelet_secrets.verify.filesystems import Filesystem, graded
from kubelet_secrets.verify.grades import CgroupSwap, CoreFacts, Grade, grade_process
from kubelet_secrets.verify.report import Report

CORE = CoreFacts(pattern="core")


# --- mounts -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def mounted(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Path]:
    """A tmpfs with the options of the test's parameter."""
    try:
        linux.mount("none", tmp_path, "tmpfs", 0, request.param)
    except OSError as error:
        pytest.skip(f"cannot mount a tmpfs with {request.param}: {error}")
    yield tmp_path
    linux.unmount(tmp_path)


@pytest.mark.parametrize(
    ("mounted", "grade"),
    [("size=64k", Grade.WEAK), ("size=64k,noswap", Grade.SECURE)],
    indirect=["mounted"],
    ids=["tmpfs", "tmpfs-noswap"],
)
def test_tmpfs(mounted: Path, grade: Grade) -> None:
    report = graded("files", str(mounted / "below"), filesystems.filesystem_of(mounted / "below"))
    assert report.grade is grade
    broken = Report(node="n", kernel="6", canaries=(), mounts=(report,)).broken_promises()
    assert len(broken) == (grade is not Grade.SECURE)


def test_disk_is_insecure() -> None:
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        kind = filesystems.filesystem_of(directory)
        if kind.fstype in ("tmpfs", "ramfs"):
            pytest.skip("/var/tmp is no disk here")
        assert graded("files", directory, kind).grade is Grade.INSECURE


def test_overlay_is_what_its_upper_layer_lies_on(tmp_path: Path) -> None:
    linux.mount("none", tmp_path, "tmpfs", 0, "size=1m")
    try:
        for name in ("lower", "upper", "work", "merged"):
            (tmp_path / name).mkdir()
        options = f"lowerdir={tmp_path}/lower,upperdir={tmp_path}/upper,workdir={tmp_path}/work"
        linux.mount("none", tmp_path / "merged", "overlay", 0, options)
        assert filesystems.filesystem_of(tmp_path / "merged" / "etc").fstype == "tmpfs"
        linux.unmount(tmp_path / "merged")
    finally:
        linux.unmount(tmp_path, linux.MNT_DETACH)


@pytest.mark.parametrize("fstype", ["ramfs", "tmpfs"])
def test_detached_store_is_recognised(fstype: str, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = mounts.make_mount(fstype, {}, attributes=mounts.MountAttr(0), source="test")
    environ = {"KS_STORE_FD": str(descriptor), "KS_STORE_KIND": "tmpfs-noswap"}
    try:
        code = "import sys; print(flush=True); sys.stdin.read()"
        with subprocess.Popen(
            [sys.executable, "-c", code],
            env=environ,
            pass_fds=[descriptor],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as holder:
            assert holder.stdout is not None
            holder.stdout.readline()
            kind = filesystems.store_filesystem(holder.pid)
            holder.kill()
    finally:
        os.close(descriptor)
    assert kind.fstype == fstype
    if any(feature.available for feature in machine.probe_features() if feature.name == "clone of a detached mount"):
        assert "noswap" not in kind.options, (
            "what the process says of itself does not count where the kernel can be asked"
        )
    with pytest.raises(ProcessLookupError):
        filesystems.store_filesystem(holder.pid)


def test_guarded_filesystem_is_as_good_as_its_store(tmp_path: Path) -> None:
    descriptor = os.open(
        "/dev/fuse", os.O_RDWR | os.O_CLOEXEC
    )  # nobody answers there: the mount table is all that is read
    mounts.mount_fuse(descriptor, tmp_path)
    try:
        for store, grade in (
            (Filesystem("ramfs", frozenset()), Grade.SECURE),
            (Filesystem("tmpfs", frozenset()), Grade.WEAK),
            (Filesystem("ext4", frozenset()), Grade.INSECURE),
        ):
            assert filesystems.container_mount("files", os.getpid(), str(tmp_path), store).grade is grade
    finally:
        mounts.umount_lazy(tmp_path, force=True)
        os.close(descriptor)


# --- processes --------------------------------------------------------------------------------------------------------

PROGRAM = """
import os, resource, sys
from kubelet_secrets.fusefs.hardening import harden_process
resource.setrlimit(resource.RLIMIT_CORE, (4096, 4096))
if sys.argv[1] == "hardened":
    harden_process()
elif sys.argv[1] == "unlocked":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
    os.setgid(1000); os.setuid(1000)
    harden_process()
kept = bytearray(os.urandom(1 << 20))
print(flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize(
    ("how", "grade"), [("hardened", Grade.SECURE), ("unlocked", Grade.WEAK), ("bare", Grade.INSECURE)]
)
def test_real_processes(how: str, grade: Grade) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        try:
            assert process.stdout is not None
            process.stdout.readline()
            facts = processes.read_facts(process.pid)
        finally:
            process.kill()
    assert facts.resident_bytes > 1 << 20
    assert grade_process(facts, CORE).grade is grade, facts
    if how == "unlocked":
        assert facts.unlocked_bytes > 1 << 20
    with pytest.raises(ProcessLookupError):
        processes.read_facts(process.pid)


@pytest.mark.parametrize("mounted", ["size=64k"], indirect=True)
def test_cgroup_that_is_not_swapped(mounted: Path) -> None:
    cgroups = CgroupTree(f"test-{os.urandom(4).hex()}", probe_cgroups())
    with subprocess.Popen(["sleep", "60"]) as process:
        try:
            before = processes.read_facts(process.pid).cgroup_swap
            cgroups.adopt_monitor(process.pid)
            after = processes.read_facts(process.pid).cgroup_swap
            ramfs = Filesystem("ramfs", frozenset())
            tmpfs = filesystems.container_mount("scratch", process.pid, str(mounted), ramfs)
        finally:
            process.kill()
            process.wait()
            cgroups.sweep()
    assert (before, after) == (CgroupSwap.ALLOWED, CgroupSwap.FORBIDDEN if cgroups.layout.is_v2 else CgroupSwap.AVOIDED)
    assert tmpfs.grade is (Grade.SECURE if cgroups.layout.is_v2 else Grade.WEAK)


def test_what_is_not_locked_can_be_swapped_out_on_demand() -> None:
    """A process that is locked stays; one that is not goes, where this machine has swap."""
    for how, goes in (("hardened", False), ("unlocked", machine.swaps() != [])):
        with subprocess.Popen(
            [sys.executable, "-c", PROGRAM, how], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            try:
                assert process.stdout is not None
                process.stdout.readline()
                paging.page_out(process.pid)
                facts = processes.read_facts(process.pid)
            finally:
                process.kill()
        assert (facts.swapped_bytes > 0) is goes, how
        if goes:
            assert grade_process(facts, CORE).grade is Grade.INSECURE
    with pytest.raises(ProcessLookupError):
        paging.page_out(process.pid)


def test_core_of_an_unprotected_process(tmp_path: Path) -> None:
    """With the limit at nothing there is none; with the limit as high as it goes, what the machine does is told."""
    code = """
import sys, resource
from pathlib import Path
from kubelet_secrets.verify import corecheck
if sys.argv[2] == "allowed":
    corecheck.allow_cores()
else:
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
print(corecheck.abort_unprotected(b"decoy", Path(sys.argv[1])).dumped)
"""
    pattern = processes.core_facts().pattern
    for how in ("forbidden", "allowed"):
        done = subprocess.run([sys.executable, "-c", code, tmp_path, how], capture_output=True, text=True, check=True)
        written = list(tmp_path.iterdir())
        if how == "forbidden":
            assert written == []
        elif done.stdout == "True\n" and not pattern.startswith(("/", "|")):
            assert len(written) == 1
            assert b"decoy" in written[0].read_bytes()


def test_core_roots(tmp_path: Path) -> None:
    (tmp_path / "core.1").touch()
    (tmp_path / "directory").mkdir()
    roots = corecheck.core_roots("/cores/%e.%p", {tmp_path, tmp_path / "none"})
    assert Path("/cores") in roots
    assert tmp_path / "core.1" in roots
    assert tmp_path / "directory" not in roots


# --- the machine ------------------------------------------------------------------------------------------------------


def test_swaps() -> None:
    table = (
        "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n"
        "/dev/zram0                              partition\t1048572\t\t0\t\t100\n"
        "/swap\\040file                          file\t\t2097148\t\t512\t\t-2\n"
    )
    first, second = machine.read_swaps(table)
    assert (first.path, first.kind, first.is_memory) == (Path("/dev/zram0"), "partition", True)
    assert (second.path, second.size_bytes, second.is_memory) == (Path("/swap file"), 2097148 * 1024, False)
    assert machine.read_swaps(table.splitlines()[0]) == []


def test_features_are_those_of_this_kernel() -> None:
    features = {feature.name: feature for feature in machine.probe_features()}
    assert features["tmpfs noswap"].available is mounts.is_noswap_supported()
    assert {"FUSE resend", "FUSE passthrough", "pidfd of a thread", "memfd_secret", "cgroups"} <= set(features)
    major, minor = map(int, os.uname().release.split(".")[:2])
    if (major, minor) >= (6, 9):
        assert features["FUSE resend"].available
    assert all(feature.effect for feature in features.values())


def test_machine_facts_name_what_decides() -> None:
    assert [fact.name for fact in machine.machine_facts()] == ["swap", "core dumps", "hibernation", "crash kernel"]
