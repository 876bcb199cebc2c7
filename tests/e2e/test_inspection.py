"""``status``, ``env``, ``tree``, ``audit`` and ``logs`` on a running node: what they print, in every format they have."""

from __future__ import annotations

import json
import re
import subprocess
from typing import Any

import pytest
import trio
import yaml

from tests.cli.command import COMMAND, environment, run_cli, the_line
from tests.e2e.stacks import Cluster, container, mount, receive, secret_env, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

VALUE = "open-sesame"


@pytest.fixture
async def shown(cluster: Cluster) -> Cluster:
    """A pod ``shown`` with two containers, made by the first test that asks for it."""
    await cluster.put_secret("shown", {"password": VALUE, "user": "ali"})
    if "shown" not in [pod.name for pod in cluster.stack.status().pods]:
        script = "echo one; echo two; cat /etc/s/password >/dev/null; exec sleep 1000"
        await cluster.run_pod(
            "shown",
            container(
                "app",
                script,
                env=[secret_env("PASSWORD", "shown", "password"), {"name": "PLAIN", "value": "x=y"}],
                volumeMounts=[mount("s", "/etc/s"), mount("s", "/one", subPath="user")],
            ),
            container("other"),
            volumes=[secret_volume("s", "shown", defaultMode=0o400)],
        )
        await cluster.logs("shown", until="two\n")
    return cluster


def ask(cluster: Cluster, *arguments: str) -> str:
    """Ask the node by a command that has to succeed; the value is never in what it prints."""
    done = cluster.stack.cli(*arguments)
    assert (done.returncode, done.stderr) == (0, ""), arguments
    if "--show-values" not in arguments:
        assert VALUE not in done.stdout
    return done.stdout


def plain(cluster: Cluster, *arguments: str) -> Any:
    """The same as JSON and as YAML."""
    found = json.loads(ask(cluster, *arguments, "-o", "json"))
    assert yaml.safe_load(ask(cluster, *arguments, "-o", "yaml")) == found
    return found


def columns(line: str) -> list[str]:
    return re.split(r" {2,}", line.strip())


async def test_status(shown: Cluster) -> None:
    lines = ask(shown, "status").splitlines()
    assert lines[0].startswith(f"node {shown.stack.node_name}: agent pid ")
    assert str(shown.stack.root_dir) in lines[0]
    assert columns(lines[1]) == ["POD", "PHASE", "CONTAINER", "STATE", "RESTARTS"]
    rows = [columns(line) for line in lines[2:]]
    assert ["default/shown", "Running", "app", "Running", "0"] in rows
    assert ["default/shown", "Running", "other", "Running", "0"] in rows
    assert re.fullmatch(r"audit trail: \d+ verdicts?, \d+ denied, no record dropped; the last record is \d+", lines[-1])
    found = plain(shown, "status")
    (pod,) = (pod for pod in found["pods"] if pod["name"] == "shown")
    assert (pod["phase"], pod["volumes"]) == ("Running", ["s"])
    assert [each["pid"] for each in pod["containers"]] == [
        await shown.pid("shown", "app"),
        await shown.pid("shown", "other"),
    ]


async def test_env(shown: Cluster) -> None:
    lines = ask(shown, "env", "shown").splitlines()
    assert lines[0].startswith("default/shown container app: ")
    assert columns(lines[1])[:3] == ["NAME", "VALUE", "STATE"]
    assert columns(lines[1])[-1] == "FROM"
    rows = {columns(line)[0]: columns(line) for line in lines[2:]}
    assert rows["PASSWORD"][1:3] == [f"<{len(VALUE)} bytes>", "current"]
    assert rows["PASSWORD"][-1] == "secret/shown key password"
    assert rows["PLAIN"][1] == "<3 bytes>"
    assert VALUE in ask(shown, "env", "shown", "--show-values")
    assert "PASSWORD" in ask(shown, "env", "shown", "-o", "name").splitlines()
    found = plain(shown, "env", "shown")
    (row,) = (row for row in found["rows"] if row["name"] == "PASSWORD")
    assert (row["value"], row["size"], row["origin"]) == (None, len(VALUE), "secret/shown key password")
    assert "PASSWORD" not in ask(shown, "env", "shown", "-c", "other", "-o", "name")


async def test_tree(shown: Cluster) -> None:
    lines = ask(shown, "tree", "shown").splitlines()
    heading = columns(lines[0])
    assert heading[:4] == ["PATH", "MODE", "OWNER", "SIZE"]
    assert heading[-1] == "FROM"
    rows = {columns(line)[0]: columns(line) for line in lines[1:]}
    assert rows["/etc/s/password"][1:4] == ["-r--------", "0:0", str(len(VALUE))]
    assert rows["/etc/s/password"][-1] == "secret/shown key password"
    assert sorted(ask(shown, "tree", "shown", "-o", "name").split()) == ["/etc/s/password", "/etc/s/user", "/one"]
    version = (await shown.exec("shown", "readlink /etc/s/..data")).strip()
    assert version in ask(shown, "tree", "shown", "-o", "wide")
    found = plain(shown, "tree", "shown")
    assert {row["path"]: (row["version"], row["updates"]) for row in found["rows"]} == {
        "/etc/s/password": (version, True),
        "/etc/s/user": (version, True),
        "/one": (version, False),
    }
    assert plain(shown, "tree", "shown", "-c", "other")["rows"] == []


async def test_audit(shown: Cluster) -> None:
    pod = await shown.pod("shown")
    path = shown.volume_dir(pod, "s") / "password"
    await trio.run_process(["cat", str(path)], check=False, capture_stderr=True)
    lines = ask(shown, "audit").splitlines()
    assert columns(lines[0]) == ["TIME", "VERDICT", "FILE", "WHO", "WHY"]
    assert any("default/shown/app" in line and "allowed" in line and "s/password" in line for line in lines)
    assert any("denied" in line and "s/password" in line and "/cat" in line for line in lines)
    records = [json.loads(line) for line in ask(shown, "audit", "-o", "json").splitlines()]
    mine = [record for record in records if record["pod"] == "shown"]
    assert {record["verdict"] for record in mine} == {"allowed", "denied"}
    for record in mine:
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z", record["time"])
        assert record["volume"] == "s"
        assert record["pid"] > 0
    denied = [json.loads(line) for line in ask(shown, "audit", "--denied", "-o", "json").splitlines()]
    assert {record["verdict"] for record in denied} == {"denied"}


async def test_logs(shown: Cluster) -> None:
    assert ask(shown, "logs", "shown") == "one\ntwo\n"
    assert ask(shown, "logs", "shown", "-c", "app", "--tail", "1") == "two\n"
    assert re.fullmatch(r"\d{4}-\S+Z one\n\d{4}-\S+Z two\n", ask(shown, "logs", "shown", "--timestamps"))
    assert ask(shown, "logs", "shown", "-c", "other") == ""


async def test_logs_are_followed_to_the_containers_end(cluster: Cluster) -> None:
    script = "echo begin; while [ ! -e /tmp/go ]; do sleep 0.05; done; echo end"
    await cluster.run_pod("followed", container(script=script), restartPolicy="Never")
    command = [*COMMAND, "logs", "-f", "followed", "--socket", str(cluster.stack.socket)]
    process = await trio.lowlevel.open_process(command, stdout=subprocess.PIPE, env=environment())
    await receive(process, "begin\n")
    await cluster.try_exec("followed", "touch /tmp/go")
    await receive(process, "end\n")
    with trio.fail_after(60):
        assert await process.wait() == 0
    assert process.stdout is not None
    await process.stdout.aclose()


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["env", "nobody"], 'no pod "nobody" in namespace "default" on node {node}', id="pod"),
        pytest.param(["tree", "shown", "-n", "kube-system"], 'no pod "shown" in namespace "kube-system" on node {node}',
                     id="namespace"),
        pytest.param(["env", "shown", "-c", "no"], "container no is not valid for pod shown: choose one of [app other]",
                     id="container"),
        pytest.param(["logs", "nobody"], 'no pod "nobody" in namespace "default" on node {node}', id="logs"),
    ],
)  # fmt: skip
async def test_names_that_do_not_exist_are_one_line(shown: Cluster, arguments: list[str], line: str) -> None:
    done = shown.stack.cli(*arguments)
    assert done.returncode == 2
    assert the_line(done) == "kubelet-secrets: " + line.format(node=shown.stack.node_name)


async def test_only_root_may_ask(shown: Cluster) -> None:
    socket = str(shown.stack.socket)
    done = run_cli("status", "--socket", socket, prefix=["setpriv", "--reuid", "65534", "--clear-groups"])
    assert done.returncode == 1
    assert the_line(done) == f"kubelet-secrets: {socket} is for root only: try again with sudo"


async def test_follower_ends_when_its_reader_does(shown: Cluster) -> None:
    """``audit | head``: no traceback into the terminal."""
    command = " ".join([*COMMAND, "audit", "--socket", str(shown.stack.socket)])
    done = await trio.run_process(
        ["sh", "-c", f"{command} | head -n 1"], capture_stdout=True, capture_stderr=True, env=environment()
    )
    assert done.stdout.startswith(b"TIME ")
    assert done.stderr == b""
