"""Sandboxes for real: namespaces pinned to files, shared by containers, gone afterwards."""

from __future__ import annotations

import ipaddress
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.fusefs.mounts import is_noswap_supported
from kubelet_secrets.runtime.sandbox import (
    Sandbox,
    SandboxFailed,
    SandboxManager,
    SandboxSettings,
    check_sysctls,
    pick_address,
)
from tests.runtime.conftest import Node

pytestmark = pytest.mark.runtime


@pytest.fixture
def manager(node: Node) -> Iterator[SandboxManager]:
    manager = SandboxManager(node.run_dir, cgroups=node.cgroups)
    yield manager

    async def clean_up() -> None:
        for handle in node.runtime.list():
            await node.runtime.delete(handle.id)
        for path in (node.run_dir / "netns").iterdir():
            await manager.remove(path.name)

    trio.run(clean_up)
    assert os.listdir(node.run_dir / "netns") == []


def sandbox_changes(sandbox: Sandbox) -> dict[str, Any]:
    return {
        "namespaces": sandbox.namespaces,
        "hosts_path": sandbox.hosts_path,
        "resolv_conf_path": sandbox.resolv_conf_path,
        "hostname_path": sandbox.hostname_path,
        "shm_path": sandbox.shm_path,
    }


async def test_two_containers_talk_over_the_loopback_interface(node: Node, manager: SandboxManager) -> None:
    sandbox = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web"))
    shared = sandbox_changes(sandbox)
    server, _ = await node.run("sh", "-c", "echo hello | nc -l -p 8080", **shared)
    client = "while ! nc -w 5 127.0.0.1 8080 </dev/null; do sleep 0.05; done"
    assert await node.output("sh", "-c", client, **shared) == (0, "hello")
    with trio.fail_after(60):
        assert (await node.runtime.wait_exit(server.id)).code == 0


async def test_pod_has_its_address_name_and_files(node: Node, manager: SandboxManager) -> None:
    sandbox = await manager.create(
        SandboxSettings(
            pod_uid=node.pod_uid,
            hostname="web",
            resolv_conf="nameserver 192.0.2.1\n",
            host_aliases=(("192.0.2.9", ("db",)),),
        )
    )
    script = "hostname; hostname -i; cat /etc/hostname /etc/resolv.conf; grep db /etc/hosts; ip -o -4 addr show lo"
    _, text = await node.output("sh", "-c", script, **sandbox_changes(sandbox))
    (ip,) = sandbox.ips
    lines = text.splitlines()
    assert lines[:5] == ["web", ip, "web", "nameserver 192.0.2.1", "192.0.2.9\tdb"]
    assert f"{ip}/32" in text
    assert "127.0.0.1/8" in text


async def test_shm_and_ipc_are_shared(node: Node, manager: SandboxManager) -> None:
    sandbox = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web"))
    shared = sandbox_changes(sandbox)
    assert await node.output("sh", "-c", "echo x > /dev/shm/f", **shared) == (0, "")
    assert await node.output("cat", "/dev/shm/f", **shared) == (0, "x")
    if is_noswap_supported():
        code, mounted = await node.output("grep", " /dev/shm ", "/proc/mounts", **shared)
        assert code == 0
        assert "noswap" in mounted.split()[3].split(",")


async def test_pods_are_apart_from_each_other_and_from_the_host(node: Node, manager: SandboxManager) -> None:
    one = await manager.create(SandboxSettings(pod_uid="one", hostname="a"))
    two = await manager.create(SandboxSettings(pod_uid="two", hostname="b"))
    assert one.ips != two.ips
    assert one.namespaces.net is not None
    assert two.namespaces.net is not None
    inodes = {path.stat().st_ino for path in (one.namespaces.net, two.namespaces.net, Path("/proc/self/ns/net"))}
    assert len(inodes) == 3


async def test_worker_threads_stay_in_the_hosts_namespaces(manager: SandboxManager) -> None:
    """A thread that unshared must not be handed out again."""
    await manager.create(SandboxSettings(pod_uid="one", hostname="a"))
    here = os.readlink("/proc/self/ns/net")
    found = {await trio.to_thread.run_sync(os.readlink, "/proc/thread-self/ns/net") for _ in range(4)}
    assert found == {here}


async def test_host_network_pod_shares_it_with_the_host(node: Node, manager: SandboxManager) -> None:
    sandbox = await manager.create(
        SandboxSettings(pod_uid=node.pod_uid, hostname="node1", host_network=True, host_ips=("192.0.2.7",))
    )
    assert sandbox.ips == ("192.0.2.7",)
    assert sandbox.hostname == sandbox.hostname_path.read_text().strip() == socket.gethostname()
    _, text = await node.output("readlink", "/proc/self/ns/net", **sandbox_changes(sandbox))
    assert text == os.readlink("/proc/self/ns/net")
    assert sandbox.hosts_path.read_text().startswith("# Kubernetes-managed hosts file (host network).\n")


async def test_shared_pid_namespace_has_a_powerless_first_process(node: Node, manager: SandboxManager) -> None:
    sandbox = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web", share_process_namespace=True))
    shared = sandbox_changes(sandbox)
    await node.run("sleep", "611", **shared)
    _, text = await node.output(
        "sh",
        "-c",
        "cat /proc/1/comm; grep -E '^(Uid|CapEff|NoNewPrivs)' /proc/1/status; ps; ls /proc/1/root/",
        **shared,
    )
    assert text.startswith("pause\n")
    assert "Uid:\t65535\t65535\t65535\t65535" in text
    assert "CapEff:\t0000000000000000" in text
    assert "sleep 611" in text
    assert "Permission denied" in text.splitlines()[-1]


async def test_remains_of_a_container_in_a_shared_pid_namespace_end_with_it(
    node: Node, manager: SandboxManager
) -> None:
    sandbox = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web", share_process_namespace=True))
    handle, settings = await node.run("sh", "-c", "sleep 600 & exit 6", **sandbox_changes(sandbox))
    with trio.fail_after(60):
        assert (await node.runtime.wait_exit(handle.id)).code == 6
        while node.cgroups.processes(settings.cgroup_path):  # noqa: ASYNC110 - SIGKILL was sent; the kernel takes a moment
            await trio.sleep(0.01)


async def test_removed_sandbox_leaves_no_mount_process_or_cgroup(node: Node, manager: SandboxManager) -> None:
    """Nor the node's own cgroup, once its last pod has gone."""
    sandbox = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web", share_process_namespace=True))
    pause = f"{sandbox.cgroup_path}/pause"
    assert len(node.cgroups.processes(pause)) == 1
    await manager.remove(node.pod_uid)
    await manager.remove(node.pod_uid)
    assert node.cgroups.processes(pause) == ()
    assert str(node.run_dir / "netns") not in Path("/proc/self/mountinfo").read_text()
    assert manager.list() == ()
    for hierarchy in node.cgroups.layout.hierarchies:
        assert not (hierarchy / node.cgroups.instance_path.lstrip("/")).exists()


async def test_cgroup_of_the_node_stays_while_another_pod_is_there(node: Node, manager: SandboxManager) -> None:
    await manager.create(SandboxSettings(pod_uid="one", hostname="a"))
    other = await manager.create(SandboxSettings(pod_uid="two", hostname="b"))
    await manager.remove("one")
    for hierarchy in node.cgroups.layout.hierarchies:
        assert (hierarchy / other.cgroup_path.lstrip("/")).exists()


async def test_a_new_manager_finds_sandboxes_and_sweeps_unfinished_ones(node: Node, manager: SandboxManager) -> None:
    made = await manager.create(SandboxSettings(pod_uid=node.pod_uid, hostname="web"))
    half = await manager.create(SandboxSettings(pod_uid="half", hostname="web"))
    (node.run_dir / "netns" / half.pod_uid / "sandbox.json").unlink()
    successor = SandboxManager(node.run_dir, cgroups=node.cgroups)
    await successor.sweep()
    assert successor.list() == (made,)
    assert await successor.create(SandboxSettings(pod_uid=node.pod_uid, hostname="other")) == made
    assert not half.hosts_path.parent.exists()


@pytest.mark.parametrize("delay_s", [0.0, 0.001, 0.005, 0.02])
async def test_cancelled_creation_leaves_nothing(node: Node, manager: SandboxManager, delay_s: float) -> None:
    with trio.move_on_after(delay_s) as scope:
        await manager.create(SandboxSettings(pod_uid="one", hostname="a", share_process_namespace=True))
    if scope.cancelled_caught:
        assert os.listdir(node.run_dir / "netns") == []


async def test_sysctls_are_set_in_the_pod_only(node: Node, manager: SandboxManager) -> None:
    before = Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text()
    sandbox = await manager.create(
        SandboxSettings(
            pod_uid=node.pod_uid,
            hostname="web",
            sysctls={"net.ipv4.ip_unprivileged_port_start": "17", "kernel.shm_rmid_forced": "1"},
        )
    )
    script = "cat /proc/sys/net/ipv4/ip_unprivileged_port_start /proc/sys/kernel/shm_rmid_forced"
    assert await node.output("sh", "-c", script, **sandbox_changes(sandbox)) == (0, "17\n1")
    assert Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text() == before


@pytest.mark.parametrize(
    ("name", "own_net", "own_ipc"),
    [
        pytest.param("vm.swappiness", True, True, id="not-namespaced"),
        pytest.param("kernel.hostname", True, True, id="not-offered"),
        pytest.param("net/../vm/swappiness", True, True, id="climbing"),
        pytest.param("net.core.somaxconn", False, True, id="host-network"),
        pytest.param("kernel.sem", True, False, id="host-ipc"),
    ],
)
def test_sysctls_that_reach_beyond_the_pod_are_refused(name: str, own_net: bool, own_ipc: bool) -> None:
    with pytest.raises(SandboxFailed, match="sysctl"):
        check_sysctls([name], own_net=own_net, own_ipc=own_ipc)


def test_addresses_are_stable_distinct_and_usable() -> None:
    network = ipaddress.IPv4Network("10.0.0.0/29")
    first = pick_address(network, "uid-1", set())
    assert pick_address(network, "uid-1", set()) == first
    used: set[str] = set()
    for _ in range(5):
        used.add(str(pick_address(network, "uid-1", used)))
    assert used == {"10.0.0.2", "10.0.0.3", "10.0.0.4", "10.0.0.5", "10.0.0.6"}
    with pytest.raises(SandboxFailed, match="no address left"):
        pick_address(network, "uid-1", used)


async def test_addresses_are_remembered_and_given_back(node: Node) -> None:
    """Also by a manager that finds sandboxes of an earlier one: no two pods have one address, and none is lost for good."""
    network = "10.88.0.0/29"  # room for five
    manager = SandboxManager(node.run_dir, cgroups=node.cgroups, pod_cidr=network)
    made = [await manager.create(SandboxSettings(pod_uid=f"{node.pod_uid}{n}", hostname="h")) for n in range(3)]
    successor = SandboxManager(node.run_dir, cgroups=node.cgroups, pod_cidr=network)
    made += [await successor.create(SandboxSettings(pod_uid=f"{node.pod_uid}{n}", hostname="h")) for n in (3, 4)]
    assert len({sandbox.ips for sandbox in made}) == 5
    with pytest.raises(SandboxFailed, match="no address left"):
        await successor.create(SandboxSettings(pod_uid=f"{node.pod_uid}5", hostname="h"))
    await successor.remove(made[0].pod_uid)
    again = await successor.create(SandboxSettings(pod_uid=f"{node.pod_uid}5", hostname="h"))
    assert again.ips == made[0].ips
    for sandbox in (*made, again):
        await successor.remove(sandbox.pod_uid)
