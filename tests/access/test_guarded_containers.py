"""The guard as containers and the host's root meet it: a real mount, real containers, a real trail."""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import msgspec
import pytest
from inotify_simple import INotify, flags

from kubelet_secrets.access.policy import Reason
from kubelet_secrets.access.record import AuditRecord
from kubelet_secrets.runtime.hostfacts import probe_cgroups
from tests.fusefs.running_node import RunningNode
from tests.fusefs.test_mounted import mapped
from tests.kernels import needs_idmapped_fuse

from .containers import Container, container

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

AGENT = Path(__file__).with_name("guarding_agent.py")
POD = "0b2b2a4e-6f0b-4b7e-9d4f-2f6f4c1f3a11"


class GuardedNode:
    """A node with containers of one pod."""

    def __init__(self, node: RunningNode, scratch: Path, cleanup: ExitStack) -> None:
        self.node = node
        self.scratch = scratch
        self._cleanup = cleanup

    @property
    def pods_dir(self) -> Path:
        return self.node.root / "pods"

    def volume(self, name: str) -> Path:
        return self.pods_dir / POD / "volumes/kubernetes.io~secret" / name

    def start(
        self, name: str, binds: dict[str, Path], mounts: list[tuple[str, str]], *, first_uid: int = 0
    ) -> Container:
        started = self._cleanup.enter_context(container(self.scratch, POD, binds, first_uid=first_uid))
        self.node.call(
            "register", pod=POD, container=name, container_id=started.id, cgroup_path=started.cgroup_path, mounts=mounts
        )
        self.node.call("learn", container_id=started.id, pid=started.pid)
        started.start()
        return started

    def last_verdict(self) -> dict[str, Any]:
        return self.node.call("audit")[-1]


@pytest.fixture
def guarded(tmp_path: Path) -> Iterator[GuardedNode]:
    node = RunningNode(tmp_path / "node")
    node.command = [sys.executable, str(AGENT)]
    with ExitStack() as cleanup:
        # Not tmp_path: a container in a user namespace is nobody there.
        scratch = Path(cleanup.enter_context(tempfile.TemporaryDirectory(prefix="ks-guarded-")))
        scratch.chmod(0o755)
        cleanup.callback(node.clean_up)
        node.start()
        yield GuardedNode(node, scratch, cleanup)


def host(*argv: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, capture_output=True, text=True, timeout=120)


def test_who_may_open_and_what_the_trail_says(guarded: GuardedNode) -> None:
    """One node for all: starting it and its containers is what takes the time."""
    node = guarded.node
    version = node.call("set_up", pod=POD, volume="db", contents={"password": "canary-1", "user": "u"})
    app = guarded.start("app", {"/etc/db": guarded.volume("db")}, [("db", "")])
    sidecar = guarded.start("sidecar", {"/node": guarded.pods_dir}, [])
    sub_path = node.call("sub_path", pod=POD, volume="db", sub_path="user")
    part = guarded.start("part", {"/user": Path(sub_path), "/node": guarded.pods_dir}, [("db", "user")])
    on_node = f"/node/{POD}/volumes/kubernetes.io~secret/db"

    read = app.run("cat", "/etc/db/password")
    assert (read.stdout, read.returncode) == ("canary-1", 0), read.stderr
    verdict = guarded.last_verdict()
    assert verdict["verdict"] == "allowed"
    assert verdict["reason"] == Reason.MOUNTED
    assert (verdict["podUid"], verdict["volume"], verdict["path"]) == (POD, "db", "password")
    assert verdict["version"] == version
    assert verdict["container"] == "default/web/app"
    assert (verdict["namespace"], verdict["pod"], verdict["kind"]) == ("default", "web", "open")
    assert verdict["exe"] == "/bin/busybox"
    assert verdict["pid"] == verdict["tid"] > 0

    assert app.run("ls", "/etc/db/").stdout.split() == ["password", "user"]
    assert part.run("cat", "/user").stdout == "u"

    pid = str(app.pid)
    refused = {
        Reason.HOST_PROCESS: host("cat", str(guarded.volume("db") / "password")),
        Reason.ENTERED: host("nsenter", "-t", pid, "-m", "cat", "/etc/db/password"),
        Reason.NOT_MOUNTED: sidecar.run("cat", f"{on_node}/password"),
        Reason.OUTSIDE_SUB_PATH: part.run("cat", f"{on_node}/password"),
        Reason.OTHER_NAMESPACE: app.run("unshare", "-m", "cat", "/etc/db/password"),
    }
    for reason, result in refused.items():
        assert "Permission denied" in result.stderr, (reason, result)
        assert result.stdout == ""
    host("cat", f"/proc/{pid}/root/etc/db/password")
    trail = node.call("audit")
    denied = [record for record in trail if record["verdict"] == "denied"]
    assert [record["reason"] for record in denied] == [*refused, Reason.HOST_PROCESS]
    assert [record["container"] for record in denied] == [
        "",
        "",
        "default/web/sidecar",
        "default/web/part",
        *("default/web/app", ""),
    ]
    assert {record["path"] for record in denied} == {"password"}
    assert "canary-1" not in str(trail)

    listing = host("ls", str(guarded.volume("db")))
    assert "Permission denied" in listing.stderr
    assert (guarded.last_verdict()["kind"], guarded.last_verdict()["path"]) == ("opendir", "")
    above = host("ls", str(node.fuse / POD))
    assert "Permission denied" in above.stderr


def test_a_caller_let_in_before_is_looked_at_again(guarded: GuardedNode) -> None:
    """One thread: a shell that reads, makes a mount namespace of its own, and reads again."""
    node = guarded.node
    node.call("set_up", pod=POD, volume="db", contents={"password": "1"})
    app = guarded.start("app", {"/etc/db": guarded.volume("db")}, [("db", "")])
    read = "read x < /etc/db/password"
    result = app.run("sh", "-c", f"{read}; {read}; {read}; {read}; exec unshare -m sh -c '{read}'")
    assert "Permission denied" in result.stderr
    trail = node.call("audit")
    counts = Counter[str]()  # on a slow machine the four are not folded in one second
    for record in trail:
        counts[record["reason"]] += record["count"]
    assert counts == {Reason.MOUNTED: 4, Reason.OTHER_NAMESPACE: 1}
    assert len({record["tid"] for record in trail}) == 1


@needs_idmapped_fuse
def test_a_container_in_a_user_namespace_is_let_in_and_who_joins_it_is_not(guarded: GuardedNode) -> None:
    """Its root is somebody else on the host, to whom the runtime maps the owner of the files."""
    node, first_uid = guarded.node, 100_000
    node.call("set_up", pod=POD, volume="db", contents={"password": "canary-1"}, mode=0o400)
    with mapped(guarded.volume("db"), guarded.scratch / "mapped", first_uid=first_uid) as volume:
        app = guarded.start("app", {"/etc/db": volume}, [("db", "")], first_uid=first_uid)
        read = app.run("cat", "/etc/db/password")
        assert (read.stdout, read.returncode) == ("canary-1", 0), read.stderr
        verdict = guarded.last_verdict()
        assert (verdict["verdict"], verdict["reason"]) == ("allowed", Reason.MOUNTED)
        assert (verdict["uid"], verdict["container"]) == (first_uid, "default/web/app")
        for joined in (["-m"], ["-U", "-m"], ["-U", "-m", "-p", "-C"]):
            refused = host("nsenter", "-t", str(app.pid), *joined, "/bin/cat", "/etc/db/password")
            assert "Permission denied" in refused.stderr, joined
            assert guarded.last_verdict()["reason"] == Reason.ENTERED
        stranger = guarded.start("stranger", {"/etc/db": volume}, [], first_uid=first_uid)
        assert "Permission denied" in stranger.run("cat", "/etc/db/password").stderr
        assert guarded.last_verdict()["reason"] == Reason.NOT_MOUNTED


def test_an_update_reaches_the_container_and_a_killed_agent_does_not_shut_it_out(guarded: GuardedNode) -> None:
    node = guarded.node
    node.call("set_up", pod=POD, volume="db", contents={"password": "1", "gone": "1"})
    app = guarded.start("app", {"/etc/db": guarded.volume("db")}, [("db", "")])
    with INotify() as inotify:
        inotify.add_watch(f"/proc/{app.pid}/root/etc/db", flags.CREATE | flags.MOVED_TO | flags.DELETE)
        before = app.run("readlink", "/etc/db/..data").stdout.strip()
        after = node.call("set_up", pod=POD, volume="db", contents={"password": "2", "new": "2"})
        names = [event.name for event in inotify.read(timeout=1000)]
    assert names == [after, "..data_tmp", "..data", "new", "gone", before]
    assert app.run("cat", "/etc/db/password", "/etc/db/new").stdout == "22"

    node.kill_agent()
    assert app.run("cat", "/etc/db/password").stdout == "2", "the registry is read back before the first request"
    assert "Permission denied" in host("cat", str(guarded.volume("db") / "password")).stderr
    assert node.call("adopted") == [f"{POD}/db"]
    assert node.call("set_up", pod=POD, volume="db", contents={"password": "2", "new": "2"}) == after
    node.call("set_up", pod=POD, volume="db", contents={"password": "3"})
    assert app.run("cat", "/etc/db/password").stdout == "3"


def test_tear_down_leaves_no_mount_and_no_file(guarded: GuardedNode) -> None:
    node = guarded.node
    node.call("set_up", pod=POD, volume="db", contents={"a/b": "1"})
    node.call("set_up", pod=POD, volume="db", contents={"a/b": "2"}, fs_group=2000)
    node.call("set_up", pod=POD, volume="other", contents={"c": "1"})
    node.call("sub_path", pod=POD, volume="db", sub_path="a")
    assert os.listdir(guarded.pods_dir) == [POD]
    node.call("tear_down_pod", pod=POD)
    assert os.listdir(guarded.pods_dir) == []
    with open("/proc/self/mountinfo") as table:
        assert not [line for line in table if str(guarded.pods_dir) in line]
    assert node.call("adopted") == []


@pytest.mark.skipif(
    tuple(int(part) for part in os.uname().release.split(".")[:2]) < (6, 14),
    reason="before Linux 6.14 pid_max is the whole machine's",
)
def test_a_number_used_again_means_the_new_process(tmp_path: Path) -> None:
    """What is remembered hangs on the pidfd: a stranger that gets the number of a process that was let in is a stranger."""
    path = f"/reused-{secrets.token_hex(4)}/id"
    cgroup = Path(f"{probe_cgroups().hierarchies[0]}{path}")
    cgroup.mkdir(parents=True)
    script = Path(__file__).with_name("reused_pid.py")
    namespace = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc"]
    try:
        done = host(*namespace, sys.executable, "-P", str(script), str(cgroup), path)
    finally:
        cgroup.rmdir()
        cgroup.parent.rmdir()
    assert done.returncode == 0, done.stderr
    records = msgspec.json.decode(done.stdout, type=list[AuditRecord])
    assert [(record.allowed, record.reason) for record in records] == [
        (True, Reason.MOUNTED),
        (False, Reason.ENTERED),
    ]
    assert records[0].pid == records[1].pid
