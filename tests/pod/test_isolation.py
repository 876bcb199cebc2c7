"""What a pod's securityContext, namespaces and resources do to its containers, seen from inside.

Source: test/e2e/common/node/security_context.go, test/e2e_node/security_context_test.go.
"""

from __future__ import annotations

import json
import os
from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from tests.pod.cluster import IMAGE, Cluster

pytestmark = pytest.mark.runtime


def once(name: str, script: str, **spec: Any) -> dict[str, Any]:
    return {
        "name": name,
        "image": IMAGE,
        "imagePullPolicy": "Never",
        "command": ["sh", "-c", script],
        **spec,
    }


def facts(text: str) -> dict[str, str]:
    return dict(line.split("=", 1) for line in text.splitlines() if "=" in line)


def said(lab: Cluster, pod: Pod, name: str) -> dict[str, str]:
    return facts(lab.log(pod, name))


ID = "echo uid=$(id -u); echo gid=$(id -g); echo groups=$(id -G)"
STATUS = (
    'for n in CapEff CapPrm CapBnd NoNewPrivs Seccomp; do echo $n=$(awk "/^$n:/ {print \\$2}" /proc/self/status); done'
)
WRITES = (
    "for f in /a /tmp/a /proc/sys/kernel/domainname /sys/a; do "
    "if (: > $f) 2>/dev/null; then echo $f=rw; else echo $f=ro; fi; done"
)
CHOWN, NET_ADMIN, NET_RAW = 1 << 0, 1 << 12, 1 << 13


async def test_security_contexts(lab: Cluster) -> None:
    profiles = lab.host.directory / "seccomp"
    profiles.mkdir()
    rule = {"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}
    profile = {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [rule]}
    (profiles / "no-mkdir.json").write_text(json.dumps(profile))
    touch = "touch /data/$HOSTNAME; stat -c 'volume=%a %u %g' /data; stat -c 'file=%u %g' /data/$HOSTNAME"
    drop = {"drop": ["ALL"], "add": ["NET_ADMIN", "CAP_CHOWN"]}
    localhost = {"type": "Localhost", "localhostProfile": "no-mkdir.json"}
    kcore = "echo kcore=$(head -c 1 /proc/kcore 2>/dev/null | wc -c)"
    async with lab.agent():
        await lab.create(
            "web",
            once("pod", f"{ID}; {touch}", volumeMounts=[{"name": "data", "mountPath": "/data"}]),
            once("own", ID, securityContext={"runAsUser": 4711, "runAsGroup": 0}),
            once("plain", f"{STATUS}; {WRITES}; {kcore}; mkdir /d && echo mkdir=yes", securityContext={"runAsUser": 0}),
            once("caps", STATUS, securityContext={"runAsUser": 0, "capabilities": drop}),
            once("sealed", f"{STATUS}; {WRITES}", securityContext={
                "runAsUser": 0, "readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False,
                "seccompProfile": {"type": "RuntimeDefault"},
            }),
            once("privileged", f"{STATUS}; {WRITES}; ls /dev | grep -q kmsg && echo kmsg=yes",
                 securityContext={"runAsUser": 0, "privileged": True}),
            once("local", f"{STATUS}; mkdir /d 2>/dev/null || echo mkdir=no",
                 securityContext={"runAsUser": 0, "seccompProfile": localhost}),
            securityContext={
                "runAsUser": 1000, "runAsGroup": 3000, "supplementalGroups": [4000], "fsGroup": 2000,
                "fsGroupChangePolicy": "OnRootMismatch", "supplementalGroupsPolicy": "Strict",
            },
            volumes=[{"name": "data", "emptyDir": {}}],
            restartPolicy="Never",
        )  # fmt: skip
        pod = await lab.wait("web", lambda pod: pod.status.phase in ("Succeeded", "Failed"))
        pod_says = said(lab, pod, "pod")
        assert (pod_says["uid"], pod_says["gid"]) == ("1000", "3000")
        assert sorted(pod_says["groups"].split(), key=int) == ["2000", "3000", "4000"]
        assert (pod_says["volume"], pod_says["file"]) == ("2777 0 2000", "1000 2000")
        linux = {each.name: each.user.linux for each in pod.status.container_statuses}  # type: ignore[union-attr]
        assert linux["pod"] is not None
        assert (linux["pod"].uid, linux["pod"].gid, linux["pod"].supplemental_groups) == (
            1000,
            3000,
            (3000, 4000, 2000),
        )
        own = said(lab, pod, "own")
        assert (own["uid"], own["gid"]) == ("4711", "0")
        plain = said(lab, pod, "plain")
        assert int(plain["CapEff"], 16) & (CHOWN | NET_RAW | NET_ADMIN) == CHOWN | NET_RAW
        assert (plain["NoNewPrivs"], plain["Seccomp"]) == ("0", "0")
        assert (plain["/a"], plain["/proc/sys/kernel/domainname"], plain["/sys/a"]) == ("rw", "ro", "ro")
        assert (plain["kcore"], plain["mkdir"]) == ("0", "yes")
        caps = said(lab, pod, "caps")
        assert [int(caps[name], 16) for name in ("CapEff", "CapPrm", "CapBnd")] == [CHOWN | NET_ADMIN] * 3
        sealed = said(lab, pod, "sealed")
        assert (sealed["NoNewPrivs"], sealed["Seccomp"], sealed["/a"], sealed["/tmp/a"]) == ("1", "2", "ro", "ro")
        privileged = said(lab, pod, "privileged")
        assert int(privileged["CapEff"], 16) & NET_ADMIN
        assert (privileged["Seccomp"], privileged["/proc/sys/kernel/domainname"]) == ("0", "rw")
        assert ("kmsg" in privileged) is os.path.exists("/dev/kmsg")
        local = said(lab, pod, "local")
        assert (local["Seccomp"], local["mkdir"]) == ("2", "no")


async def test_what_must_not_run_does_not(lab: Cluster) -> None:
    """Root where none may be, a profile that is not there, a wall that there is not: each says so and waits."""
    missing = {"seccompProfile": {"type": "Localhost", "localhostProfile": "none.json"}}
    async with lab.agent() as agent:
        await lab.create(
            "web",
            once("root", "sleep 1000", securityContext={"runAsNonRoot": True}),
            once("zero", "sleep 1000", securityContext={"runAsNonRoot": True, "runAsUser": 0}),
            once("unfiltered", "sleep 1000", securityContext=missing),
        )
        await lab.create("apart", once("c", "sleep 1000"), hostUsers=False)
        pod = await lab.wait("web", lambda pod: len(_waiting(pod)) == 3)
        where = f'(pod: "web_default({pod.metadata.uid})", container: '
        path = lab.host.directory / "seccomp" / "none.json"
        assert _waiting(pod) == {
            "root": (
                "CreateContainerConfigError",
                f"container has runAsNonRoot and image will run as root {where}root)",
            ),
            "zero": ("CreateContainerConfigError", f"container's runAsUser breaks non-root policy {where}zero)"),
            "unfiltered": (
                "CreateContainerError",
                f'failed to generate seccomp spec opts: cannot load seccomp profile "{path}": '
                f"open {path}: no such file or directory",
            ),
        }
        assert [each.restart_count for each in pod.status.container_statuses] == [0, 0, 0]
        await lab.wait_event("web", "Failed", "Error: container has runAsNonRoot and image will run as root")
        await lab.wait_event("apart", "FailedCreatePodSandBox", "does not support user namespaces")
        assert agent.parts.runtime.list() == ()


def _waiting(pod: Pod) -> dict[str, tuple[str, str]]:
    return {
        each.name: (each.state.waiting.reason, each.state.waiting.message)
        for each in pod.status.container_statuses
        if each.state.waiting is not None and each.state.waiting.message
    }


NAMESPACES = "for n in net ipc uts pid mnt; do echo $n=$(readlink /proc/self/ns/$n); done"


async def test_namespaces(lab: Cluster) -> None:
    """A pod of its own, one on the host's, one whose containers see each other's processes."""

    def mine(name: str) -> str:
        return os.readlink(f"/proc/self/ns/{name}")

    async with lab.agent():
        peek = "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline; done | grep -q 'neighbour_[s]leeps' && echo neighbour=yes"
        files = "sed s/^/hosts=/ /etc/hosts; sed s/^/dns=/ /etc/resolv.conf"
        await lab.create(
            "own",
            once("a", f"{NAMESPACES}; {files}; echo hostname=$(hostname); echo | nc -l -p 99; : neighbour_sleeps"),
            once("b", f"{NAMESPACES}; {peek}; until nc -w 5 127.0.0.1 99 < /dev/null; do sleep 0.1; done"),
            dnsConfig={"options": [{"name": "ndots", "value": "2"}]},
            hostname="ariel",
            subdomain="sea",
            hostAliases=[{"ip": "192.0.2.9", "hostnames": ["one.example", "two.example"]}],
            restartPolicy="Never",
        )
        await lab.create(
            "host", once("a", NAMESPACES), hostNetwork=True, hostPID=True, hostIPC=True, restartPolicy="Never"
        )
        await lab.create(
            "shared",
            once("a", f"until {peek}; do sleep 0.1; done; {NAMESPACES}; echo first=$(cat /proc/1/comm)"),
            once("b", f"{NAMESPACES}; sleep 1000; : neighbour_sleeps"),
            shareProcessNamespace=True,
            restartPolicy="Never",
            terminationGracePeriodSeconds=0,
        )
        pod = await lab.wait_phase("own", "Succeeded")
        a, b = said(lab, pod, "a"), said(lab, pod, "b")
        assert [a[name] == b[name] for name in ("net", "ipc", "uts", "pid", "mnt")] == [True, True, True, False, False]
        assert not any(a[name] == mine(name) for name in ("net", "ipc", "uts", "pid", "mnt"))
        assert "neighbour" not in b
        assert a["hostname"] == "ariel"
        lines = lab.log(pod, "a")
        ip = pod.status.pod_ip
        assert f"hosts={ip}\tariel.sea.default.svc.cluster.local\tariel" in lines
        assert "hosts=192.0.2.9\tone.example\ttwo.example" in lines
        assert [each.ip for each in pod.status.pod_ips] == [ip]
        assert (pod.status.host_ip, [each.ip for each in pod.status.host_ips]) == ("192.0.2.7", ["192.0.2.7"])
        assert "dns=search default.svc.cluster.local svc.cluster.local cluster.local" in lines
        assert "dns=nameserver 10.96.0.10\ndns=options ndots:2" in lines
        pod = await lab.wait_phase("host", "Succeeded")
        on_host = said(lab, pod, "a")
        assert [name for name in ("net", "ipc", "uts", "pid", "mnt") if on_host[name] == mine(name)] == [
            "net", "ipc", "uts", "pid",
        ]  # fmt: skip
        assert pod.status.pod_ip == pod.status.host_ip == "192.0.2.7"
        pod = await lab.wait("shared", lambda pod: pod.status.phase == "Running" and _ended(pod, "a"))
        a, b = said(lab, pod, "a"), said(lab, pod, "b")
        assert (a["pid"] == b["pid"], a["pid"] == mine("pid"), a["first"]) == (True, False, "pause")


def _ended(pod: Pod, name: str) -> bool:
    return any(each.name == name and each.state.terminated is not None for each in pod.status.container_statuses)
