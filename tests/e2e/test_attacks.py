"""The attack matrix: every way to a secret file that we know, each tried by a real process against one real pod.

The rows of ``docs/threat-model.md``, "The attack matrix", are the ids here. Each says what comes of it, and what the audit
trail says.
Ways that take more than one process have tests of their own below the table.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from kubelet_secrets import linux
from kubelet_secrets.access.policy import Reason
from kubelet_secrets.api.core import Pod
from kubelet_secrets.control.protocol import AuditView
from kubelet_secrets.errors import NotFound
from tests.e2e.stacks import (
    WAIT_TIMEOUT_S,
    Cluster,
    Dialogue,
    container,
    eventually,
    in_thread,
    mount,
    secret_volume,
    talk_to,
    without_repeats,
)

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

VALUE = "only-for-its-container"
POD, NEIGHBOUR, USERS = "attacked", "attacked-neighbour", "attacked-users"
REFUSED = "EACCES"
UNASKED = None
"""Owner and mode, or the filesystem's being read-only, decide before anybody is judged, so there is no record."""

PIDFD_GETFD = 438


@dataclass
class Scene:
    """Two containers of the pod mount the volume, ``app`` and ``bare``; ``part`` one other key of it; ``sidecar`` nothing.

    ``sidecar``, ``part`` and the pod ``neighbour`` have the node's directory by hostPath, and all privileges; ``app`` has the
    directory alone.
    """

    cluster: Cluster
    pod: Pod
    attack: Path
    pid: int  # of app's first process, as the host has it
    inner_pid: int  # as the pod's containers, which share a pid namespace, have it

    @property
    def volume(self) -> Path:
        return self.cluster.volume_dir(self.pod, "v")

    def fill(self, command: str, where: str) -> str:
        """Put names into a command: as the host has them, or as a container has."""
        node = self.cluster.stack.root_dir
        seen = node if where.startswith("host") else Path("/node")
        return command.format(
            attack=self.attack if where.startswith("host") else "/attack/attack",
            volume=seen / self.volume.relative_to(node),
            fuse=seen / "fuse" / self.pod.metadata.uid,
            pid=self.pid,
            inner=self.inner_pid,
            join=JOIN.format(pid=self.pid),
        )

    async def run(self, where: str, command: str) -> str:
        """Run a shell line somewhere; returns what it says, without blank lines."""
        line = self.fill(command, where)
        if where == "host":
            done = await in_thread(subprocess.run, ["sh", "-c", line], capture_output=True, timeout=120)
        elif where == "host-user":
            user = ["setpriv", "--reuid", "1000", "--regid", "1000", "--clear-groups"]
            done = await in_thread(subprocess.run, [*user, "sh", "-c", line], capture_output=True, timeout=120)
        else:
            pod, _, name = where.rpartition("/")
            done = await self.cluster.try_exec(pod or POD, line, name)
        assert done.stderr == b"", done.stderr.decode(errors="replace")
        return " ".join(done.stdout.decode().split())

    async def trail(self, pod: str = POD) -> list[AuditView]:
        """The records about the pod's volumes, but for those that count repeats."""
        records = await in_thread(self.cluster.stack.ask, "audit", AuditView)
        return [each for each in without_repeats(records) if each.pod == pod]

    @asynccontextmanager
    async def talking(self, name: str, script: str) -> AsyncIterator[tuple[Dialogue, int]]:
        """Run the attack program in a container beside the block; yields it and its pid as the host has it."""
        uid = self.pod.metadata.uid
        before = attackers(uid)
        async with self.cluster.talking(POD, script, name) as dialogue:
            await eventually(lambda: attackers(uid) - before)
            (pid,) = attackers(uid) - before
            yield dialogue, pid


def attackers(pod_uid: str) -> set[int]:
    """Processes that are the attack program in a container of the pod."""
    found = set()
    for link in Path("/proc").glob("[0-9]*/exe"):
        with contextlib.suppress(OSError):
            if str(link.readlink()) == "/attack/attack" and pod_uid in (link.parent / "cgroup").read_text():
                found.add(int(link.parent.name))
    return found


JOIN = (
    "while IFS=: read n c p; do for f in /sys/fs/cgroup/*$p/cgroup.procs /sys/fs/cgroup$p/cgroup.procs; do "
    '[ $p != / ] && [ -e "$f" ] && echo $$ > "$f"; done; done < /proc/{pid}/cgroup'
)
"""Moves the shell into every cgroup of the container."""

LEAVE = (
    "for f in /sys/fs/cgroup/*/cgroup.procs /sys/fs/cgroup/cgroup.procs; do [ -e $f ] && echo {pid} > $f; done; true"
)


@pytest.fixture
async def scene(cluster: Cluster, attack_dir: Path) -> Scene:
    try:
        pod = await cluster.pod(POD)
    except NotFound:  # the first test of the module makes the scene
        await make_scene(cluster, attack_dir)
        pod = await cluster.pod(POD)
    pid = await cluster.pid(POD, "app")
    return Scene(cluster, pod, attack_dir / "attack", pid, inner_pid(pid))


async def make_scene(cluster: Cluster, attack_dir: Path) -> None:
    node = {"name": "node", "hostPath": {"path": str(cluster.stack.root_dir), "type": "Directory"}}
    attack = {"name": "attack", "hostPath": {"path": str(attack_dir)}}
    tools, v = mount("attack", "/attack"), mount("v", "/v")
    reaches = {"name": "node", "mountPath": "/node"}
    privileged = {"securityContext": {"privileged": True}}
    capable = {"securityContext": {"capabilities": {"add": ["SYS_ADMIN", "DAC_READ_SEARCH"]}}}
    bare = {"securityContext": {"capabilities": {"drop": ["ALL"]}, "allowPrivilegeEscalation": False}}
    user = {"securityContext": {"runAsUser": 1000}}
    await cluster.put_secret(POD, {"key": VALUE, "other": "another", "unseen": "never looked up by anybody"})
    await cluster.run_pod(
        POD,
        container("app", volumeMounts=[v, reaches, tools], **capable),
        container("bare", volumeMounts=[v, tools], **bare),
        container("part", volumeMounts=[mount("v", "/other", subPath="other"), reaches, tools], **privileged),
        container("sidecar", volumeMounts=[reaches, tools], **privileged),
        container("user", volumeMounts=[v, tools], **user),
        volumes=[secret_volume("v", POD, defaultMode=0o400), node, attack],
        shareProcessNamespace=True,
    )
    agent = {"name": "agent", "hostPath": {"path": str(cluster.stack.socket), "type": "Socket"}}
    asks = mount("agent", "/agent.sock")
    await cluster.run_pod(
        NEIGHBOUR,
        container(volumeMounts=[reaches, asks, tools], **privileged),
        volumes=[node, agent, attack],
        hostPID=True,
    )
    await cluster.run_pod(
        USERS,
        container("app", volumeMounts=[v, tools], **user),
        volumes=[secret_volume("v", POD, defaultMode=0o400), attack],
        securityContext={"fsGroup": 2000},
    )
    assert await cluster.exec(POD, "cat /v/key", "app") == VALUE  # from here on the names are in the kernel's cache


HOST, ENTERED, OTHER_NS = Reason.HOST_PROCESS, Reason.ENTERED, Reason.OTHER_NAMESPACE
MOUNTED = Reason.MOUNTED
FILE = "{volume}/key"
NEIGHBOURS = f"{NEIGHBOUR}/app"


@pytest.mark.parametrize(
    ("where", "command", "outcome", "reason"),
    [
        # From the host
        pytest.param("host", f"{{attack}} cat {FILE}", REFUSED, HOST, id="host-root"),
        pytest.param("host-user", f"{{attack}} cat {FILE}", REFUSED, UNASKED, id="host-user"),
        pytest.param("host", "{attack} cat {fuse}/v/..data/key", REFUSED, HOST, id="host-root-in-the-fuse-mount"),
        pytest.param("host", f"{{attack}} thread {FILE}", REFUSED, HOST, id="host-thread"),
        pytest.param("host", f"{{attack}} leaderless {FILE}", REFUSED, HOST, id="host-thread-without-leader"),
        pytest.param("host", f"{{attack}} uring {FILE}", REFUSED, HOST, id="host-io-uring"),
        pytest.param("host", f"{{attack}} uring-worker {FILE}", REFUSED, HOST, id="host-io-uring-worker"),
        pytest.param("host", f"{{attack}} uring-sqpoll {FILE}", REFUSED, HOST, id="host-io-uring-sqpoll"),
        pytest.param("host", f"{{attack}} pidns {FILE}", REFUSED, HOST, id="host-child-pid-namespace"),
        pytest.param("host", f"{{attack}} mntns {FILE}", REFUSED, HOST, id="host-new-mount-namespace"),
        pytest.param("host", f"{{attack}} userns {FILE}", REFUSED, HOST, id="host-user-namespace"),
        pytest.param("host", "{attack} chroot {volume} /key", REFUSED, HOST, id="host-chroot"),
        pytest.param("host", f"{{attack}} handle {FILE} {{volume}}", REFUSED, HOST, id="host-open-by-handle"),
        pytest.param("host", "{attack} open-tree {volume} key", REFUSED, HOST, id="host-open-tree"),
        pytest.param(
            "host",
            "unshare -m sh -c 'mount --bind {volume} /mnt && {attack} cat /mnt/key'",
            REFUSED,
            HOST,
            id="host-bind-mount",
        ),
        pytest.param(
            "host",
            "unshare -m sh -c 'mount -t tmpfs t /mnt && mkdir /mnt/low /mnt/over && "
            "mount -t overlay o -o lowerdir={volume}:/mnt/low /mnt/over && {attack} cat /mnt/over/key'",
            REFUSED,
            HOST,
            id="host-overlayfs",
        ),
        # From the host, by way of the container's process
        pytest.param("host", "{attack} cat /proc/{pid}/root/v/key", REFUSED, HOST, id="proc-root"),
        pytest.param("host", "{attack} chroot /proc/{pid}/root /v/key", REFUSED, HOST, id="chroot-to-proc-root"),
        pytest.param("host", "{attack} enter {pid} m /v/key", REFUSED, ENTERED, id="nsenter-mount"),
        pytest.param("host", f"{{attack}} enter {{pid}} p {FILE}", REFUSED, HOST, id="nsenter-pid"),
        pytest.param("host", f"{{attack}} enter {{pid}} C {FILE}", REFUSED, HOST, id="nsenter-cgroup"),
        pytest.param("host", "{attack} enter {pid} mp /v/key", REFUSED, ENTERED, id="nsenter-mount-pid"),
        pytest.param("host", "{attack} enter {pid} mC /v/key", REFUSED, ENTERED, id="nsenter-mount-cgroup"),
        pytest.param("host", "{attack} enter {pid} mpCuin /v/key", REFUSED, ENTERED, id="nsenter-all"),
        pytest.param("host", f"{{join}}; {{attack}} cat {FILE}", REFUSED, OTHER_NS, id="joined-cgroup"),
        pytest.param(
            "host",
            f"{{join}}; {{attack}} enter {{pid}} pC {FILE}",
            REFUSED,
            OTHER_NS,
            id="joined-cgroup-nsenter-pid-cgroup",
        ),
        pytest.param("host", "{join}; {attack} enter {pid} m /v/key", VALUE, MOUNTED, id="joined-cgroup-nsenter-mount"),
        # From other containers
        pytest.param("sidecar", f"{{attack}} cat {FILE}", REFUSED, Reason.NOT_MOUNTED, id="sibling"),
        pytest.param(
            "sidecar", "{attack} cat /proc/{inner}/root/v/key", REFUSED, Reason.NOT_MOUNTED, id="sibling-proc-root"
        ),
        pytest.param("sidecar", "{attack} enter {inner} m /v/key", REFUSED, OTHER_NS, id="sibling-nsenter-mount"),
        pytest.param("sidecar", f"{{attack}} uring-sqpoll {FILE}", REFUSED, Reason.NOT_MOUNTED, id="sibling-io-uring"),
        pytest.param("part", "{attack} cat /other", "another", MOUNTED, id="sub-path"),
        pytest.param("part", f"{{attack}} cat {FILE}", REFUSED, Reason.OUTSIDE_SUB_PATH, id="sibling-other-sub-path"),
        pytest.param(
            "part", "ls {volume}/ 2>&1 | grep -o 'denied'", "denied", Reason.OUTSIDE_SUB_PATH, id="sub-path-list"
        ),
        pytest.param(NEIGHBOURS, f"{{attack}} cat {FILE}", REFUSED, Reason.OTHER_POD, id="other-pod-host-path"),
        pytest.param(
            NEIGHBOURS, "{attack} cat /proc/{pid}/root/v/key", REFUSED, Reason.OTHER_POD, id="other-pod-proc-root"
        ),
        pytest.param(
            NEIGHBOURS, "{attack} enter {pid} m /v/key", REFUSED, OTHER_NS, id="other-pod-privileged-nsenter-mount"
        ),
        pytest.param(
            NEIGHBOURS, "{attack} enter {pid} mpCuin /v/key", REFUSED, OTHER_NS, id="other-pod-privileged-nsenter-all"
        ),
        # From the container itself: its own right, in whatever shape
        pytest.param("app", "{attack} cat /v/key", VALUE, MOUNTED, id="container"),
        pytest.param("bare", "{attack} cat /v/key", VALUE, MOUNTED, id="container-root-without-capabilities"),
        pytest.param("user", "{attack} cat /v/key", REFUSED, UNASKED, id="container-user-without-group"),
        pytest.param(f"{USERS}/app", "{attack} cat /v/key", VALUE, MOUNTED, id="container-user-with-fs-group"),
        pytest.param("app", "{attack} thread /v/key", VALUE, MOUNTED, id="container-thread"),
        pytest.param("app", "{attack} leaderless /v/key", VALUE, MOUNTED, id="container-thread-without-leader"),
        pytest.param("app", "{attack} uring /v/key", VALUE, MOUNTED, id="container-io-uring"),
        pytest.param("app", "{attack} uring-worker /v/key", VALUE, MOUNTED, id="container-io-uring-worker"),
        pytest.param("app", "{attack} uring-sqpoll /v/key", VALUE, MOUNTED, id="container-io-uring-sqpoll"),
        pytest.param("app", "{attack} pidns /v/key", VALUE, MOUNTED, id="container-child-pid-namespace"),
        pytest.param("app", "{attack} chroot /v /key", VALUE, MOUNTED, id="container-chroot"),
        pytest.param("app", "{attack} userns /v/key", VALUE, MOUNTED, id="container-user-namespace"),
        pytest.param("app", "{attack} handle /v/key /v", VALUE, MOUNTED, id="container-open-by-handle"),
        pytest.param("app", "{attack} cut /v/key", "EROFS", UNASKED, id="container-cuts-off"),
        pytest.param(
            "app", "{attack} cut {fuse}/v/..data/key", "EROFS", UNASKED, id="container-cuts-off-in-the-fuse-mount"
        ),
        pytest.param("app", "{attack} mntns /v/key", REFUSED, OTHER_NS, id="container-new-mount-namespace"),
        pytest.param("app", "{attack} userns-mntns /v/key", REFUSED, OTHER_NS, id="container-user-and-mount-namespace"),
        pytest.param(
            "app", "{attack} inherit /v/key", f"{VALUE} {REFUSED}", OTHER_NS, id="container-inherited-descriptor"
        ),
    ],
)
async def test_attack(scene: Scene, where: str, command: str, outcome: str, reason: Reason | None) -> None:
    about = USERS if where.startswith(USERS) else POD
    before = len(await scene.trail(about))
    # What fails earlier than it would with a full cache says where: "name_to_handle_at EACCES".
    assert (await scene.run(where, command)).endswith(outcome)
    new = (await scene.trail(about))[before:]
    assert VALUE not in str(new)
    if reason is UNASKED:
        assert [each for each in new if each.uid == 1000 or each.why == MOUNTED] == []
    else:
        verdict = "allowed" if reason is MOUNTED else "denied"
        assert (verdict, reason) in [(each.verdict, each.why.partition(" (x")[0]) for each in new], new


# --- ways that take several processes ---------------------------------------------------------------------------------


async def test_proc_cwd(scene: Scene) -> None:
    async with scene.talking("app", "cd /v && exec /attack/attack opener") as (_, pid):
        assert await scene.run("host", f"{{attack}} cat /proc/{pid}/cwd/key") == REFUSED
        assert await scene.run("sidecar", f"{{attack}} cat /proc/{inner_pid(pid)}/cwd/key") == REFUSED
    reasons = [each.why for each in (await scene.trail())[-2:]]
    assert reasons == [Reason.HOST_PROCESS, Reason.NOT_MOUNTED]


async def test_proc_fd_and_map_files(scene: Scene) -> None:
    """Links to what a process has open or mapped: to follow one is an open like any other."""
    async with scene.talking("app", "exec /attack/attack hold /v/key /v/") as (holder, pid):
        assert (await holder.hear()).startswith("held")
        for directory in ("fd", "map_files"):
            links = [
                each for each in Path(f"/proc/{pid}/{directory}").iterdir() if str(each.readlink()).endswith("/key")
            ]
            assert links, directory
            assert await scene.run("host", f"{{attack}} cat {links[0]}") == REFUSED


async def test_fanotify(scene: Scene) -> None:
    """An event brings a descriptor of what was opened, and opening that is a matter of whoever reads the event."""
    with trio.fail_after(WAIT_TIMEOUT_S):
        while True:
            assert await scene.run("app", "{attack} cat /v/key") == VALUE  # so that the name can be walked to at all
            async with talk_to([str(scene.attack), "fanotify", f"{scene.volume}/key"]) as watcher:
                if await watcher.hear() != "marked":
                    continue  # the kernel's cache was emptied just now
                assert await scene.run("app", "{attack} cat /v/key") == VALUE
                assert await watcher.hear() == REFUSED
                return


async def test_passed_descriptor_is_delegation(scene: Scene) -> None:
    """Over a socket or by inheritance: who was let in may hand on what it has. The record is of the open."""
    before = len(await scene.trail())
    path = scene.attack.parent / "passed.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        assert await scene.run("app", "{attack} send /v/key /attack/passed.sock") == "sent"
        connection, _ = listener.accept()
        with connection:
            _, (fd,), _, _ = socket.recv_fds(connection, 1, 1)
    path.unlink()
    try:
        assert os.pread(fd, 100, 0).decode() == VALUE
    finally:
        os.close(fd)
    opens = [each for each in (await scene.trail())[before:] if each.exe == "/attack/attack"]
    assert [(each.verdict, each.container) for each in opens] == [("allowed", f"default/{POD}/app")]


async def test_traced_process_gives_its_memory_and_descriptors(scene: Scene) -> None:
    """No goal of ours, written down as it is: whoever may trace a permitted process has what it has."""
    async with scene.talking("app", "exec /attack/attack hold /v/key /v/") as (holder, pid):
        address = int((await holder.hear()).split()[-1], 16)
        (number,) = [each.name for each in Path(f"/proc/{pid}/fd").iterdir() if str(each.readlink()).endswith("/key")]
        pidfd = os.pidfd_open(pid)
        try:
            taken = linux.syscall(PIDFD_GETFD, "pidfd_getfd", pidfd, int(number), 0)
        finally:
            os.close(pidfd)
        try:
            assert os.pread(taken, len(VALUE), 0).decode() == VALUE
        finally:
            os.close(taken)
        memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
        try:
            assert os.pread(memory, len(VALUE), address).decode() == VALUE
        finally:
            os.close(memory)


async def test_process_that_was_let_in_and_leaves_the_cgroup(scene: Scene) -> None:
    """The thread is the same and known, its mount namespace too: only its cgroup tells, so that is read each time."""
    async with scene.talking("app", "exec /attack/attack opener") as (opener, pid):
        assert await opener.hear() == "ready"
        for _ in range(3):
            assert await opener.ask("/v/key") == VALUE
        assert await scene.run("host", LEAVE.format(pid=pid)) == ""
        assert await opener.ask("/v/key") == REFUSED
    mine = [(each.verdict, each.why.partition(" (x")[0]) for each in await scene.trail() if each.pid == pid]
    assert set(mine) == {("allowed", MOUNTED), ("denied", ENTERED)}


async def test_process_that_leaves_the_cgroup_while_it_waits(scene: Scene) -> None:
    """The agent is held, so that the open waits; what counts is where its thread is when it is judged."""
    agent = (await in_thread(scene.cluster.stack.status)).agent_pid
    async with scene.talking("app", "exec /attack/attack opener") as (opener, pid):
        assert await opener.hear() == "ready"
        assert await opener.ask("/v/key") == VALUE
        os.kill(agent, signal.SIGSTOP)
        try:
            await opener.say("/v/key")
            openat = "257 "
            await eventually(lambda: Path(f"/proc/{pid}/syscall").read_text().startswith(openat))
            assert await scene.run("host", LEAVE.format(pid=pid)) == ""
        finally:
            os.kill(agent, signal.SIGCONT)
        assert await opener.hear() == REFUSED
    assert (await scene.trail())[-1].why == Reason.ENTERED


async def test_containers_root_does_not_ask_the_agent(scene: Scene) -> None:
    """It tells of all pods, and shows values on request."""
    socket_path = scene.cluster.stack.socket
    assert '"agentPid"' in await scene.run("host", f"{{attack}} ask {socket_path}")
    said = await scene.run(NEIGHBOURS, "{attack} ask /agent.sock")
    assert said == '{"error":"only processes of the host may ask the agent, containers may not"}'
    records = await in_thread(scene.cluster.stack.ask, "audit", AuditView, denied=True)
    asked = [each for each in records if each.kind == "ask"]
    assert [(each.who, each.why, each.exe) for each in asked] == [
        (f"default/{NEIGHBOUR}/app", Reason.ASKED, "/attack/attack")
    ]


# --- names and sizes --------------------------------------------------------------------------------------------------


async def test_names_are_told_to_strangers_only_from_the_cache(scene: Scene) -> None:
    """What no container has looked up is not told; what one has, the kernel tells everybody who gets to the mount."""
    assert await scene.run("app", "{attack} cat /v/key") == VALUE
    version = scene.volume / next(each.version for each in reversed(await scene.trail()) if each.path == "key")
    for name in ("unseen", "absent"):
        with pytest.raises(PermissionError):
            (version / name).stat()
    record = (await scene.trail())[-1]
    assert (record.kind, record.why, record.pid) == ("lookup", Reason.HOST_PROCESS, os.getpid())
    with pytest.raises(PermissionError):
        os.listdir(scene.volume)
    with trio.fail_after(WAIT_TIMEOUT_S):
        while True:
            assert await scene.cluster.exec(POD, "stat -L -c %s /v/unseen", "app") == "26\n"
            with contextlib.suppress(PermissionError):  # the kernel's cache was emptied just now
                assert (version / "unseen").stat().st_size == 26
                return


def test_every_way_is_in_the_threat_model() -> None:
    text = (Path(__file__).parents[2] / "docs/threat-model.md").read_text()
    _, _, matrix = text.partition("## The attack matrix")
    named = set(re.findall(r"`([\w-]+)`", matrix.partition("\n## ")[0]))
    mark = next(each for each in test_attack.pytestmark if each.name == "parametrize")  # type: ignore[attr-defined]
    assert {each.id for each in mark.args[1]} - named == set()


def inner_pid(pid: int) -> int:
    """A process's number in its own pid namespace."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("NSpid:")).split()[-1])
