from __future__ import annotations

import errno
import os
import secrets
import select
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kubelet_secrets.access.identity import CallerIdentifier
from kubelet_secrets.access.procfs import (
    CallerUnknown,
    CallerVanished,
    is_uniform,
    mount_namespace,
    parse_cgroups,
    parse_ids,
    parse_namespace,
    parse_tgid,
    printable,
)
from kubelet_secrets.runtime.hostfacts import probe_cgroups

CONTAINER = "/kubelet-secrets/n1/pod0b2b2a4e/c0ffee"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"0::{CONTAINER}\n", (CONTAINER,), id="v2"),
        pytest.param(f"12:pids:{CONTAINER}\n4:memory:{CONTAINER}\n1:name=systemd:{CONTAINER}\n", (CONTAINER,), id="v1"),
        pytest.param(f"4:memory:{CONTAINER}\n9:name=systemd:/\n0::/\n", (CONTAINER, "/"), id="hybrid"),
        pytest.param("3:cpu,cpuacct:/a\n", ("/a",), id="joint-controllers"),
        pytest.param("0::/a:b/c\n", ("/a:b/c",), id="colon-in-the-path"),
        pytest.param("0::/../outside\n", ("/../outside",), id="outside-our-cgroup-namespace"),
        pytest.param("0::/a (deleted)\n", ("/a (deleted)",), id="deleted"),
        pytest.param("", (), id="empty"),
        pytest.param("nonsense\n1:x\n2:y:relative\n", (), id="malformed"),
    ],
)
def test_parse_cgroups(text: str, expected: tuple[str, ...]) -> None:
    assert parse_cgroups(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        pytest.param(f"0::{CONTAINER}\n", True, id="v2"),
        pytest.param(f"4:memory:{CONTAINER}\n1:name=systemd:/\n0::{CONTAINER}\n", True, id="hybrid"),
        pytest.param(f"4:memory:{CONTAINER}\n0::/\n", False, id="v1-only"),
        pytest.param(f"4:memory:{CONTAINER}\n0::/user.slice\n", False, id="two"),
        pytest.param(f"4:memory:{CONTAINER}\n0::{CONTAINER}/inner\n", False, id="divided"),
        pytest.param("4:memory:/\n0::/\n", False, id="none"),
        pytest.param("", False, id="empty"),
    ],
)
def test_is_uniform(text: str, expected: bool) -> None:
    assert is_uniform(text) is expected


def test_tgid_is_not_taken_from_the_programs_name() -> None:
    assert parse_tgid("Name:\tTgid:\nUmask:\t0022\nTgid:\t42\nPid:\t43\n") == 42
    with pytest.raises(CallerUnknown):
        parse_tgid("Name:\tx\n")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("/bin/cat", "/bin/cat"), ("/é", "/é"), ("/\x1b[2J", "/\\x1b[2J"), ("/a\nb", "/a\\nb"), ("/\udcff", "/\\udcff")],
)
def test_printable(text: str, expected: str) -> None:
    assert printable(text) == expected


@pytest.fixture
def identifier() -> Iterator[CallerIdentifier]:
    before = len(os.listdir("/proc/self/fd"))
    identifier = CallerIdentifier(remembered=4)
    yield identifier
    identifier.close()
    assert len(os.listdir("/proc/self/fd")) == before


@contextmanager
def other_thread() -> Iterator[int]:
    """A thread of this process; ended, and gone from /proc, after the block."""
    started, finish = threading.Event(), threading.Event()
    tid = 0

    def wait() -> None:
        nonlocal tid
        tid = threading.get_native_id()
        started.set()
        finish.wait(30)

    thread = threading.Thread(target=wait)
    thread.start()
    started.wait(10)
    try:
        yield tid
    finally:
        pidfd = os.pidfd_open(tid, os.O_EXCL)
        finish.set()
        thread.join()
        select.select([pidfd], [], [], 10)
        os.close(pidfd)


@contextmanager
def child(*argv: str) -> Iterator[int]:
    """A program that has said a line, and waits for its input to end."""
    with subprocess.Popen(
        [*argv, "sh", "-c", "echo; read x"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process.pid


def test_a_thread_is_identified_by_its_process(identifier: CallerIdentifier) -> None:
    with other_thread() as tid:
        caller = identifier.identify(tid, uid=1000, gid=2000)
        assert (caller.tid, caller.pid, caller.uid, caller.gid) == (tid, os.getpid(), 1000, 2000)
        assert caller.exe == os.path.realpath("/proc/self/exe")
        assert caller.mnt_ns == os.stat("/proc/self/ns/mnt").st_ino
        with open("/proc/self/cgroup") as table:
            assert caller.cgroup_paths == parse_cgroups(table.read())


def test_a_thread_that_ended_is_not_remembered(identifier: CallerIdentifier) -> None:
    with other_thread() as tid:
        identifier.identify(tid, uid=0, gid=0)
        identifier.identify(tid, uid=0, gid=0)
    with pytest.raises(CallerVanished):
        identifier.identify(tid, uid=0, gid=0)


def test_only_so_many_are_remembered(identifier: CallerIdentifier) -> None:
    before = len(os.listdir("/proc/self/fd"))
    callers = []
    for _ in range(6):
        manager = other_thread()
        callers.append(manager)
        identifier.identify(manager.__enter__(), uid=0, gid=0)
    assert len(os.listdir("/proc/self/fd")) == before + 8  # two each, for four
    for manager in callers:
        manager.__exit__(None, None, None)


def test_kernel_without_thread_pidfds_examines_each_time(
    identifier: CallerIdentifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Source: fuse.md §8: on 6.1 pidfd_open takes no flag, and process leaders only."""
    real = os.pidfd_open

    def as_on_6_1(pid: int, flags: int = 0) -> int:
        if flags:
            raise OSError(errno.EINVAL, "no flags here")
        return real(pid)

    monkeypatch.setattr(os, "pidfd_open", as_on_6_1)
    with other_thread() as tid:
        assert identifier.identify(tid, uid=0, gid=0).pid == os.getpid()
        assert tid not in identifier._known
        monkeypatch.undo()
    with child() as pid:
        assert identifier.identify(pid, uid=0, gid=0).pid == pid
        assert pid in identifier._known


def test_a_program_and_a_namespace_that_change_are_seen(identifier: CallerIdentifier) -> None:
    """execve and unshare keep the thread: these two are read each time."""
    script = "echo; read x; exec unshare -m --propagation unchanged sh -c 'echo; read x'"
    with subprocess.Popen(["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdin is not None
        process.stdout.readline()
        before = identifier.identify(process.pid, uid=0, gid=0)
        seen_before = identifier.recognise(process.pid)
        assert seen_before == identifier.recognise(process.pid)
        process.stdin.write(b"\n")
        process.stdin.flush()
        process.stdout.readline()
        after = identifier.identify(process.pid, uid=0, gid=0)
        seen_after = identifier.recognise(process.pid)
    assert before.mnt_ns == mount_namespace(os.getpid())
    assert after.mnt_ns != before.mnt_ns
    assert seen_before is not None
    assert seen_after is not None
    assert seen_before.thread is seen_after.thread
    assert [parse_namespace(seen.mnt_ns) for seen in (seen_before, seen_after)] == [before.mnt_ns, after.mnt_ns]


@contextmanager
def cgroup_of_all_hierarchies(name: str) -> Iterator[list[Path]]:
    made = []
    try:
        for root in probe_cgroups().hierarchies:
            if root.name != "cpuset":  # of v1: takes no process before it is told which processors it has
                (root / name).mkdir()
                made.append(root / name)
        yield made
    finally:
        for directory in made:
            directory.rmdir()


def test_a_move_out_of_the_one_cgroup_is_seen(identifier: CallerIdentifier) -> None:
    """Where the number of that cgroup stands for the whole table."""
    names = [f"identity-{secrets.token_hex(4)}" for _ in range(2)]
    with cgroup_of_all_hierarchies(names[0]) as first, cgroup_of_all_hierarchies(names[1]) as second, child() as pid:
        seen = []
        for cgroups in (first, second):
            for cgroup in cgroups:
                (cgroup / "cgroup.procs").write_text(str(pid))
            if cgroups is first:
                identifier.identify(pid, uid=0, gid=0)
                assert identifier._known[pid].is_uniform
            seen.append(identifier.recognise(pid))
            for _ in range(2):  # at first from the table, then from memory
                located = identifier.locate(pid)
                assert located.cgroup_paths[0] == f"/{cgroups[0].name}"
                assert (located.pid, located.mnt_ns) == (pid, mount_namespace(pid))
    assert None not in seen
    assert seen[0] != seen[1]


def test_a_move_to_another_cgroup_is_seen(identifier: CallerIdentifier) -> None:
    """A write to cgroup.procs keeps the thread too, and can be made while it is blocked in the very request."""
    root = probe_cgroups().hierarchies[0]
    cgroup = root / f"identity-{secrets.token_hex(4)}"
    cgroup.mkdir()
    try:
        with child() as pid:
            before, seen_before = identifier.identify(pid, uid=0, gid=0), identifier.recognise(pid)
            (cgroup / "cgroup.procs").write_text(str(pid))
            after, seen_after = identifier.identify(pid, uid=0, gid=0), identifier.recognise(pid)
    finally:
        cgroup.rmdir()
    assert f"/{cgroup.name}" not in before.cgroup_paths
    assert f"/{cgroup.name}" in after.cgroup_paths
    assert seen_before is not None
    assert seen_after is not None
    assert seen_before.thread is seen_after.thread
    assert seen_before != seen_after


def test_locate_examines_whom_it_does_not_know(identifier: CallerIdentifier) -> None:
    with other_thread() as tid:
        assert identifier.locate(tid).pid == os.getpid()
    with pytest.raises(CallerVanished):
        identifier.locate(tid)


def test_only_who_was_examined_and_lives_is_recognised(identifier: CallerIdentifier) -> None:
    with other_thread() as tid:
        assert identifier.recognise(tid) is None
        identifier.identify(tid, uid=0, gid=0)
        assert identifier.recognise(tid) is not None
    assert identifier.recognise(tid) is None


def test_parse_namespace() -> None:
    assert parse_namespace("mnt:[4026531841]") == 4026531841
    assert mount_namespace(os.getpid()) == os.stat("/proc/self/ns/mnt").st_ino
    with pytest.raises(CallerUnknown):
        parse_namespace("pipe:[x]")


def test_nobody_is_no_thread(identifier: CallerIdentifier) -> None:
    with pytest.raises(CallerVanished):
        identifier.identify(2**22 + 1, uid=0, gid=0)
    with pytest.raises(CallerVanished):
        mount_namespace(2**22 + 1)


def test_ids_are_the_filesystem_ones() -> None:
    status = "Name:\tx\nTgid:\t7\nUid:\t0\t1000\t0\t1001\nGid:\t0\t2000\t0\t2001\n"
    assert parse_ids(status) == (1001, 2001)


def test_unsaid_ids_are_read_from_proc() -> None:
    identifier = CallerIdentifier()
    try:
        caller = identifier.identify(threading.get_native_id(), uid=0xFFFF_FFFF, gid=0xFFFF_FFFF)
    finally:
        identifier.close()
    assert (caller.uid, caller.gid) == (os.geteuid(), os.getegid())
