"""Networks by CNI: the configuration's rules, and real plugins around a real sandbox."""

from __future__ import annotations

import json
import os
import secrets
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.pod.podnet import connect
from kubelet_secrets.runtime.cni import (
    CniNetwork,
    NetworkFailed,
    PortMapping,
    addresses,
    parse_config,
    plugin_input,
)
from kubelet_secrets.runtime.sandbox import SandboxFailed, SandboxManager, SandboxSettings
from tests.runtime.conftest import Node

PLUGINS = Path("/usr/lib/cni")


# --- rules --------------------------------------------------------------------------------------------------------------


def test_list_and_single_plugin() -> None:
    single = {"cniVersion": "1.0.0", "name": "n", "type": "bridge"}
    assert parse_config(json.dumps(single), source="a").plugins == (single,)
    plugins = [{"type": "bridge"}, {"type": "portmap"}]
    found = parse_config(json.dumps({"cniVersion": "0.3.1", "name": "n", "plugins": plugins}), source="a")
    assert [each["type"] for each in found.plugins] == ["bridge", "portmap"]


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("{", "a.conf: not valid JSON: "),
        ("[]", "a.conf: not a network configuration"),
        ('{"cniVersion":"1.0.0","type":"bridge"}', "a.conf: name is missing"),
        ('{"cniVersion":"1.0.0","name":7,"type":"bridge"}', "a.conf: name is missing"),
        ('{"name":"n","type":"bridge"}', "a.conf: cniVersion '' is not supported: 0.3.1 or later is needed"),
        ('{"cniVersion":"0.2.0","name":"n","type":"x"}', "a.conf: cniVersion '0.2.0' is not supported"),
        ('{"cniVersion":"new","name":"n","type":"x"}', "a.conf: cniVersion 'new' is not supported"),
        ('{"cniVersion":"1.0.0","name":"n","plugins":[]}', "a.conf: plugins: no plugin is named"),
        ('{"cniVersion":"1.0.0","name":"n","plugins":["x"]}', "a.conf: plugins[0].type is missing or no plain name"),
        ('{"cniVersion":"1.0.0","name":"n","type":"../x"}', "a.conf: plugins[0].type is missing or no plain name"),
    ],
)
def test_refused_configurations(text: str, complaint: str) -> None:
    with pytest.raises(NetworkFailed) as caught:
        parse_config(text, source="a.conf")
    assert str(caught.value).startswith(complaint)


def test_what_a_plugin_reads() -> None:
    config = parse_config('{"cniVersion":"1.0.0","name":"n","plugins":[{"type":"x"}]}', source="a")
    ports = [{"hostPort": 1}]
    able = {"type": "portmap", "capabilities": {"portMappings": True}}
    assert plugin_input(config, able, ports, {"ips": []}) == {
        "type": "portmap",
        "name": "n",
        "cniVersion": "1.0.0",
        "runtimeConfig": {"portMappings": ports},
        "prevResult": {"ips": []},
    }
    assert plugin_input(config, {"type": "x"}, ports, None) == {"type": "x", "name": "n", "cniVersion": "1.0.0"}


def test_addresses() -> None:
    assert addresses({"ips": [{"address": "10.1.0.2/24"}, {"address": "fd00::2/64"}, {}]}) == ("10.1.0.2", "fd00::2")
    assert addresses({}) == ()


def test_node_says_what_its_network_lacks(tmp_path: Path) -> None:
    """The Node's Ready condition, as long as a cluster's network has not installed itself."""
    network = CniNetwork(tmp_path, [PLUGINS])
    assert network.problem() == (
        "container runtime network not ready: NetworkReady=false reason:NetworkPluginNotReady message:Network plugin returns "
        f"error: cni plugin not initialized: no network config found in {tmp_path}"
    )
    (tmp_path / "10-net.conflist").write_text('{"cniVersion": "1.0.0", "name": "n", "plugins": [{"type": "bridge"}]}')
    assert network.problem() == ""


def test_first_configuration_counts(tmp_path: Path) -> None:
    network = CniNetwork(tmp_path / "missing", [])
    with pytest.raises(NetworkFailed, match=r"cni plugin not initialized: .*: No such file or directory"):
        network.read_config()
    network = CniNetwork(tmp_path, [])
    (tmp_path / "README").write_text("not a configuration")
    with pytest.raises(NetworkFailed, match="cni plugin not initialized: no network config found in"):
        network.read_config()
    for name in ("20-b.conf", "10-a.conflist"):
        (tmp_path / name).write_text(json.dumps({"cniVersion": "1.0.0", "name": name, "type": "x"}))
    assert network.read_config().name == "10-a.conflist"


# --- real plugins ---------------------------------------------------------------------------------------------------------


class Lab:
    """A directory of configurations, one of programs that stand in for plugins, and sandboxes attached by them."""

    def __init__(self, node: Node, directory: Path) -> None:
        self.conf_dir, self.bin_dir = directory / "net.d", directory / "bin"
        self.ipam_dir = directory / "ipam"
        self.bridge = f"kst{secrets.token_hex(4)}"
        for each in (self.conf_dir, self.bin_dir):
            each.mkdir()
        network = CniNetwork(self.conf_dir, [self.bin_dir, PLUGINS])
        self.sandboxes = SandboxManager(node.run_dir, cgroups=node.cgroups, network=network)
        self.settings = SandboxSettings(pod_uid=node.pod_uid, namespace="shop", name="web", hostname="web")

    def configure(self, *plugins: dict[str, Any]) -> None:
        config = {"cniVersion": "1.0.0", "name": "lab", "plugins": list(plugins)}
        (self.conf_dir / "10-lab.conflist").write_text(json.dumps(config))

    def bridge_plugin(self) -> dict[str, Any]:
        return {
            "type": "bridge",
            "bridge": self.bridge,
            "isGateway": True,
            "ipam": {"type": "host-local", "dataDir": str(self.ipam_dir), "subnet": "198.18.77.0/24"},
        }

    def program(self, name: str, script: str) -> None:
        path = self.bin_dir / name
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(path.stat().st_mode | stat.S_IXUSR)

    @property
    def leases(self) -> list[str]:
        directory = self.ipam_dir / "lab"
        return sorted(each for each in os.listdir(directory) if each[0].isdigit()) if directory.exists() else []


@pytest.fixture
def lab(node: Node, tmp_path: Path) -> Iterator[Lab]:
    lab = Lab(node, tmp_path)
    yield lab

    async def clean_up() -> None:
        for path in (node.run_dir / "netns").iterdir():
            await lab.sandboxes.remove(path.name)
        await trio.run_process(["ip", "link", "delete", lab.bridge], check=False, capture_stderr=True)

    trio.run(clean_up)
    assert os.listdir(node.run_dir / "netns") == []


@pytest.mark.runtime
async def test_bridge_reaches_the_pod_and_is_undone_by_the_next_agent(lab: Lab, node: Node) -> None:
    lab.configure(lab.bridge_plugin())
    sandbox = await lab.sandboxes.create(lab.settings)
    assert sandbox.ips == ("198.18.77.2",)
    assert lab.leases == ["198.18.77.2"]
    assert "198.18.77.2\tweb" in sandbox.hosts_path.read_text()
    shared = {"namespaces": sandbox.namespaces, "hosts_path": sandbox.hosts_path}
    await node.run("sh", "-c", "while echo hello | nc -l -p 8080; do :; done", **shared)
    with trio.fail_after(60):
        assert await _answer("198.18.77.2", 8080) == b"hello\n"  # from the host's own network

    next_agent = SandboxManager(
        node.run_dir, cgroups=node.cgroups, network=CniNetwork(lab.conf_dir, [lab.bin_dir, PLUGINS])
    )
    (lab.conf_dir / "10-lab.conflist").unlink()
    for handle in node.runtime.list():
        await node.runtime.delete(handle.id)
    await next_agent.remove(lab.settings.pod_uid)
    assert lab.leases == []


async def _answer(host: str, port: int) -> bytes:
    while True:
        try:
            stream = await connect(None, host, port)
        except OSError:
            await trio.sleep(0.05)
            continue
        async with stream:
            return b"".join([chunk async for chunk in stream])


@pytest.mark.runtime
async def test_plugins_are_told_of_the_pod_and_undone_backwards(lab: Lab, tmp_path: Path) -> None:
    record = 'cat > "$0.$CNI_COMMAND.in"; echo "$CNI_COMMAND ${0##*/} $CNI_ARGS $CNI_IFNAME" >> ' + str(
        tmp_path / "log"
    )
    lab.program("first", record + '; echo \'{"ips":[{"address":"192.0.2.9/32"}],"a":1}\'')
    lab.program("second", record + '; echo \'{"ips":[{"address":"192.0.2.9/32"},{"address":"2001:db8::9/64"}]}\'')
    lab.configure({"type": "first"}, {"type": "second", "capabilities": {"portMappings": True}})
    mapping = PortMapping(host_port=8080, container_port=80, protocol="TCP")
    settings = SandboxSettings(
        pod_uid=lab.settings.pod_uid, namespace="shop", name="web", hostname="web", port_mappings=(mapping,)
    )
    sandbox = await lab.sandboxes.create(settings)
    assert sandbox.ips == ("192.0.2.9", "2001:db8::9")
    given = json.loads((lab.bin_dir / "second.ADD.in").read_text())
    assert given["prevResult"]["a"] == 1
    assert given["runtimeConfig"] == {
        "portMappings": [{"hostPort": 8080, "containerPort": 80, "protocol": "tcp", "hostIP": ""}]
    }
    await lab.sandboxes.remove(settings.pod_uid)
    lines = [line.split() for line in (tmp_path / "log").read_text().splitlines()]
    assert [line[:2] for line in lines] == [["ADD", "first"], ["ADD", "second"], ["DEL", "second"], ["DEL", "first"]]
    assert lines[0][2:] == [
        f"IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web;K8S_POD_INFRA_CONTAINER_ID={settings.pod_uid};"
        f"K8S_POD_UID={settings.pod_uid}",
        "eth0",
    ]


@pytest.mark.runtime
@pytest.mark.parametrize(
    ("script", "complaint"),
    [
        ('echo \'{"code":11,"msg":"no range","details":"try later"}\'; exit 1', "no range: try later"),
        ("echo broken >&2; exit 3", "broken"),
        ("exit 3", "exit status 3"),
        ("echo nonsense", "its answer is no result"),
    ],
)
async def test_failing_plugin_leaves_nothing_behind(lab: Lab, script: str, complaint: str) -> None:
    lab.program("broken", f'cat >/dev/null; [ "$CNI_COMMAND" = DEL ] && exit 0; {script}')
    lab.configure(lab.bridge_plugin(), {"type": "broken"})
    with pytest.raises(SandboxFailed) as caught:
        await lab.sandboxes.create(lab.settings)
    assert str(caught.value) == (
        f'failed to create pod sandbox: failed to setup network for sandbox "{lab.settings.pod_uid}": '
        f'plugin type="broken" name="lab" failed (add): {complaint}'
    )
    assert lab.leases == []
    assert lab.sandboxes.list() == ()


@pytest.mark.runtime
async def test_missing_plugin_is_named(lab: Lab) -> None:
    lab.configure({"type": "nowhere"})
    with pytest.raises(SandboxFailed, match='failed to find plugin "nowhere" in path'):
        await lab.sandboxes.create(lab.settings)


@pytest.mark.runtime
async def test_network_without_an_address_is_none(lab: Lab) -> None:
    lab.program("empty", "cat >/dev/null; echo '{}'")
    lab.configure({"type": "empty"})
    with pytest.raises(SandboxFailed, match='network "lab" gave the pod no address'):
        await lab.sandboxes.create(lab.settings)
