"""Logs and commands of real containers: by kubectl, by WebSocket through the API server, by SPDY straight from the kubelet.

Semantics §12. What kubectl does stands once more without it, for machines that have none.
"""

from __future__ import annotations

import json
import os
import pty
import re
import secrets
import ssl
import termios
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from urllib.parse import urlencode

import httpx2
import pytest
import trio

from kubelet_secrets.api.core import Node
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.client.kubeconfig import load_kubeconfig, ssl_context
from kubelet_secrets.control.protocol import AuditView
from kubelet_secrets.kubeletapi.spdy import Data, GoAway, SpdyMachine, SynReply
from tests import podexec
from tests.apiserver.kubectl import find_kubectl
from tests.e2e.stacks import IMAGE, Cluster, container, mount, secret_volume
from tests.podexec import Command

_PATH = find_kubectl()
needs_kubectl = pytest.mark.skipif(_PATH is None, reason="needs kubectl 1.27 or later on PATH")

TALK = "echo out; echo err >&2; trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"


def unique(name: str) -> str:
    return f"{name}-{secrets.token_hex(3)}"


# --- kubectl ------------------------------------------------------------------------------------------------------------


async def kubectl(
    cluster: Cluster, *arguments: str, stdin: bytes = b"", websockets: bool = True
) -> tuple[int, str, str]:
    assert _PATH is not None
    with trio.fail_after(60):
        done = await trio.run_process(
            [_PATH, f"--kubeconfig={cluster.stack.kubeconfig}", *arguments],
            stdin=stdin,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            env={
                "PATH": os.environ["PATH"],
                "HOME": "/nonexistent",
                "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true" if websockets else "false",
            },
        )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_logs(cluster: Cluster) -> None:
    name = unique("logs")
    script = "echo one; echo two; echo three"
    await cluster.create_pod(name, container(script=script), container("other", script), restartPolicy="Never")
    await cluster.wait_phase(name, "Succeeded")
    assert await kubectl(cluster, "logs", name, "-c", "app") == (0, "one\ntwo\nthree\n", "")
    assert (await kubectl(cluster, "logs", name, "-c", "app", "--tail=1"))[1] == "three\n"
    assert (await kubectl(cluster, "logs", name, "-c", "app", "--limit-bytes=5"))[1] == "one\nt"
    assert (await kubectl(cluster, "logs", name, "-c", "app", "--since=1h"))[1] == "one\ntwo\nthree\n"
    assert (await kubectl(cluster, "logs", name, "-c", "app", "-f"))[1] == "one\ntwo\nthree\n"
    stamped = (await kubectl(cluster, "logs", name, "-c", "app", "--timestamps", "--tail=1"))[1].split()
    assert (stamped[0][-1], stamped[1]) == ("Z", "three")
    both = (await kubectl(cluster, "logs", name, "--all-containers", "--prefix"))[1].splitlines()
    assert sorted({line.split()[0] for line in both}) == [f"[pod/{name}/app]", f"[pod/{name}/other]"]
    code, _, error = await kubectl(cluster, "logs", name, "-c", "app", "-p")
    assert code == 1
    assert f'previous terminated container "app" in pod "{name}" not found' in error
    assert "container nope is not valid for pod" in (await kubectl(cluster, "logs", name, "-c", "nope"))[2]


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_exec(cluster: Cluster) -> None:
    name = unique("exec")
    await cluster.run_pod(name, container())
    code, out, error = await kubectl(cluster, "exec", name, "--", "sh", "-c", "echo out; echo err >&2; exit 3")
    assert (code, out) == (3, "out\n")
    assert error == "err\ncommand terminated with exit code 3\n"
    data = os.urandom(300_000)
    assert _PATH is not None
    code, out, _ = await kubectl(cluster, "exec", "-i", name, "--", "sh", "-c", "wc -c; echo end", stdin=data)
    assert (code, out.split()) == (0, ["300000", "end"])
    # As kubectl before 1.30 does it: by SPDY.
    code, out, _ = await kubectl(
        cluster, "exec", "-i", name, "--", "sh", "-c", "wc -c; exit 3", stdin=data, websockets=False
    )
    assert (code, out) == (3, "300000\n")
    code, out, error = await kubectl(cluster, "exec", name, "-c", "nope", "--", "true")
    assert (code, out) == (1, "")
    assert f"container nope is not valid for pod {name}" in error
    code, _, error = await kubectl(cluster, "exec", name, "--", "no-such-program")
    assert code != 0
    assert "executable file not found" in error


NOT_RUNNING = 'Internal error occurred: unable to upgrade connection: container not found ("app")'
NOT_RUNNING_SPDY = 'unable to upgrade connection: container not found ("app")'


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_exec_in_a_container_that_does_not_run(cluster: Cluster) -> None:
    name = unique("waits")
    await cluster.create_pod(name, {**container(), "image": "nowhere:1", "imagePullPolicy": "Never"})
    await cluster.wait_waiting(name, "ErrImageNeverPull")
    assert await kubectl(cluster, "exec", name, "--", "true") == (1, "", f"error: {NOT_RUNNING}\n")
    assert (await kubectl(cluster, "exec", name, "--", "true", websockets=False))[2] == f"error: {NOT_RUNNING_SPDY}\n"


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_exec_on_a_terminal(cluster: Cluster) -> None:
    name = unique("tty")
    await cluster.run_pod(name, container())
    async with terminal(cluster, "exec", "-it", name, "--", "sh") as (stream, process):
        await _read_until(stream, "# ")
        # The size comes as a message of its own: a shell asks again until it has it.
        await stream.send_all(b"until stty size | grep 77; do sleep 0.1; done; tty; exit 7\r")
        assert "33 77" in await _read_until(stream, "/dev/pts/")
        assert await process.wait() == 7


@pytest.mark.kubectl
@needs_kubectl
async def test_kubectl_run_and_debug_join_their_container(cluster: Cluster) -> None:
    """attach: what is typed reaches the container's own process, and its end is the container's where it is said to be."""
    run = ("run", unique("run"), "-i", "--rm", "--quiet", "--restart=Never", f"--image={IMAGE}", "--command")
    code, out, error = await kubectl(cluster, *run, "--", "sh", "-c", "cat; echo end >&2", stdin=b"hello\n")
    assert (code, out, "end\n" in error) == (0, "hello\n", True)
    name = unique("debug")
    await cluster.run_pod(name, container())
    debug = ("debug", "-it", name, f"--image={IMAGE}", "--target=app", "--profile=general", "-c", "look", "--", "sh")
    async with terminal(cluster, *debug) as (stream, process):
        await _read_until(stream, "press")  # "If you don't see a command prompt, try pressing enter."
        await stream.send_all(b"until stty size | grep 77; do sleep 0.1; done; tty; tr '\\0' ' ' < /proc/1/cmdline\r")
        seen = await _read_until(stream, "trap")
        assert "33 77" in seen
        await stream.send_all(b"exit\r")
        await process.wait()


@asynccontextmanager
async def terminal(cluster: Cluster, *arguments: str) -> AsyncIterator[tuple[trio.lowlevel.FdStream, trio.Process]]:
    """kubectl on a terminal of 33 lines and 77 columns; ended if it has not ended by itself."""
    controller, follower = pty.openpty()
    termios.tcsetwinsize(follower, (33, 77))
    try:
        process = await trio.lowlevel.open_process(
            [str(_PATH), f"--kubeconfig={cluster.stack.kubeconfig}", *arguments],
            stdin=follower,
            stdout=follower,
            stderr=follower,
            env={"PATH": os.environ["PATH"], "HOME": "/nonexistent", "KUBECTL_REMOTE_COMMAND_WEBSOCKETS": "true"},
            start_new_session=True,
        )
    finally:
        os.close(follower)
    try:
        with trio.fail_after(60):
            async with trio.lowlevel.FdStream(os.dup(controller)) as stream:
                yield stream, process
    finally:
        process.kill()
        os.close(controller)


async def _read_until(stream: trio.lowlevel.FdStream, text: str) -> str:
    seen = ""
    while text not in seen.replace("| grep 77; do sleep 0.1; done; tty", ""):  # but for its own echo
        seen += (await stream.receive_some(4096)).decode(errors="replace")
        print("SEEN", repr(seen), flush=True)
    return seen


# --- plain HTTP and WebSockets, through the API server --------------------------------------------------------------------


@asynccontextmanager
async def admin_client(cluster: Cluster) -> AsyncIterator[httpx2.AsyncClient]:
    config = load_kubeconfig(cluster.stack.kubeconfig)
    async with httpx2.AsyncClient(verify=ssl_context(config), base_url=config.server, timeout=120) as client:
        yield client


async def test_log_over_plain_http(cluster: Cluster) -> None:
    name = unique("rawlog")
    await cluster.create_pod(name, container(script="echo one; echo two >&2"), restartPolicy="Never")
    path = f"/api/v1/namespaces/default/pods/{name}/log"
    await cluster.wait_phase(name, "Succeeded")
    async with admin_client(cluster) as client:
        answer = await client.get(path)
        assert (answer.status_code, sorted(answer.text.split())) == (200, ["one", "two"])
        assert answer.headers["content-type"].startswith("text/plain")
        assert (await client.get(path, params={"stream": "Stderr"})).text == "two\n"
        refused = await client.get(path, params={"tailLines": "x"})
        assert (refused.status_code, refused.json()["reason"]) == (400, "BadRequest")
        assert (await client.get(path, params={"tailLines": "-1"})).status_code == 422
        gone = await client.get("/api/v1/namespaces/default/pods/nobody/log")
        assert (gone.status_code, gone.json()["message"]) == (404, 'pods "nobody" not found')


async def test_log_of_a_container_that_has_not_started(cluster: Cluster) -> None:
    name = unique("early")
    reader = container(volumeMounts=[mount("v", "/v")])
    await cluster.create_pod(name, reader, volumes=[secret_volume("v", unique("missing"))])
    await cluster.wait_waiting(name, "ContainerCreating")
    async with admin_client(cluster) as client:
        answer = await client.get(f"/api/v1/namespaces/default/pods/{name}/log")
    text = f'container "app" in pod "{name}" is waiting to start: ContainerCreating'
    assert (answer.status_code, answer.json()["message"]) == (400, text)
    await cluster.delete_pod(name, grace_s=0)


async def test_followed_log_ends_with_the_container(cluster: Cluster) -> None:
    name = unique("follow")
    script = "echo one; while [ ! -e /tmp/go ]; do sleep 0.1; done; echo two"
    await cluster.create_pod(name, container(script=script), restartPolicy="Never")
    await cluster.wait_ready(name)
    async with admin_client(cluster) as client:
        query = {"follow": "true"}
        seen = ""
        async with client.stream("GET", f"/api/v1/namespaces/default/pods/{name}/log", params=query) as answer:
            with trio.fail_after(60):
                async for chunk in answer.aiter_text():
                    if not seen:
                        assert chunk == "one\n"
                        await websocket_exec(cluster, name, ["touch", "/tmp/go"])
                    seen += chunk
    assert seen == "one\ntwo\n"


async def test_denied_without_the_right(cluster: Cluster) -> None:
    async with admin_client(cluster) as client:
        headers = {"Impersonate-User": "jane"}
        answer = await client.get("/api/v1/namespaces/default/pods/x/log", headers=headers)
        assert answer.status_code == 403
        assert 'cannot get resource "pods/log"' in answer.json()["message"]
        answer = await client.post("/api/v1/namespaces/default/pods/x/exec?command=ls", headers=headers)
        assert 'cannot create resource "pods/exec"' in answer.json()["message"]


async def websocket_exec(
    cluster: Cluster, pod: str, command: Sequence[str], *, stdin: bytes | None = None, user: str = "", **flags: str
) -> Command:
    config = load_kubeconfig(cluster.stack.kubeconfig)
    return await podexec.websocket_exec(config, "default", pod, command, stdin=stdin, user=user, **flags)


async def test_exec_by_websocket(cluster: Cluster) -> None:
    name = unique("ws")
    await cluster.run_pod(name, container())
    done = await websocket_exec(cluster, name, ["sh", "-c", "echo out; echo err >&2; exit 4"])
    assert (done.out[1], done.out[2]) == (b"out\n", b"err\n")
    assert done.status["details"]["causes"] == [{"reason": "ExitCode", "message": "4"}]
    done = await websocket_exec(cluster, name, ["cat"], stdin=b"x" * 100_000)
    assert (done.out[1], done.status["status"]) == (b"x" * 100_000, "Success")
    assert (await websocket_exec(cluster, name, ["ls"], user="jane")).status["code"] == 403
    trail = [each for each in cluster.stack.ask("audit", AuditView) if each.kind == "exec" and each.pod == name]
    assert {(each.verdict, each.who, each.file) for each in trail} == {
        ("allowed", "user kube-apiserver-kubelet-client", f"exec in default/{name}/app")
    }
    assert (await websocket_exec(cluster, "nobody", ["ls"])).status["code"] == 404


@pytest.mark.parametrize("protocol", ["v5.channel.k8s.io", "v4.channel.k8s.io", "channel.k8s.io"])
async def test_exec_in_a_container_that_does_not_run(cluster: Cluster, protocol: str) -> None:
    """In words that the client shows: by the status of the command where it has one, else by HTTP."""
    name = unique("waits")
    await cluster.create_pod(name, {**container(), "image": "nowhere:1", "imagePullPolicy": "Never"})
    await cluster.wait_waiting(name, "ErrImageNeverPull")
    status = (await websocket_exec(cluster, name, ["ls"], protocol=protocol)).status
    assert status["code"] == 500
    if protocol != "channel.k8s.io":
        assert status["message"] == NOT_RUNNING


@pytest.mark.parametrize(
    "protocol", ["", "channel.k8s.io", "base64.channel.k8s.io", "v4.channel.k8s.io", "v4.base64.channel.k8s.io"]
)
async def test_exec_by_older_websocket_protocols(cluster: Cluster, protocol: str) -> None:
    """The e2e tests' client speaks the first of them. Before v4 success is told by nothing, and failure by text."""
    name = unique("oldws")
    await cluster.run_pod(name, container())
    done = await websocket_exec(cluster, name, ["echo", "remote execution test"], protocol=protocol)
    assert done.out[1] == b"remote execution test\n"
    failed = await websocket_exec(cluster, name, ["sh", "-c", "exit 4"], protocol=protocol)
    if protocol.startswith("v4"):
        assert (done.status["status"], failed.status["details"]["causes"][0]["message"]) == ("Success", "4")
    else:
        assert done.out.get(3, b"") == b""
        assert failed.out[3] == b"command terminated with non-zero exit code: exit status 4"


async def grant(cluster: Cluster, user: str, verb: str, resource: str) -> None:
    """A Role with one rule, bound to *user*."""
    group, name = "rbac.authorization.k8s.io", unique("grant")
    role = {"metadata": {"name": name}, "rules": [{"apiGroups": [""], "resources": [resource], "verbs": [verb]}]}
    binding = {
        "metadata": {"name": name},
        "roleRef": {"apiGroup": group, "kind": "Role", "name": name},
        "subjects": [{"apiGroup": group, "kind": "User", "name": user}],
    }
    async with admin_client(cluster) as client:
        for plural, obj in (("roles", role), ("rolebindings", binding)):
            answer = await client.post(f"/apis/{group}/v1/namespaces/default/{plural}", json=obj)
            assert answer.status_code == 201, answer.text


async def test_exec_takes_the_right_to_create(cluster: Cluster) -> None:
    """Of pods/exec alone, as roles commonly give it: kubectl's WebSocket is a GET, but reading is not what it does."""
    name, maker, reader = unique("rights"), unique("maker"), unique("reader")
    await cluster.run_pod(name, container())
    await grant(cluster, maker, "create", "pods/exec")
    await grant(cluster, reader, "get", "pods/exec")
    done = await websocket_exec(cluster, name, ["echo", "in"], user=maker)
    assert (done.out[1], done.status["status"]) == (b"in\n", "Success")
    assert (await websocket_exec(cluster, name, ["echo", "in"], user=reader)).status["code"] == 403


# --- the kubelet itself ---------------------------------------------------------------------------------------------------


@asynccontextmanager
async def kubelet_stream(cluster: Cluster) -> AsyncIterator[trio.SSLStream[trio.SocketStream]]:
    """A connection to the kubelet with the admin's certificate."""
    node = await cluster.client.get(NODES, "", cluster.stack.node_name, Node)
    context = ssl_context(load_kubeconfig(cluster.stack.kubeconfig))
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["http/1.1"])
    port = node.status.daemon_endpoints.kubelet_endpoint.port
    stream = trio.SSLStream(await trio.open_tcp_stream("127.0.0.1", port), context, https_compatible=True)
    with trio.fail_after(60):
        async with stream:
            yield stream


async def test_exec_by_spdy(cluster: Cluster) -> None:
    """As API servers before 1.36 reach a kubelet."""
    name = unique("spdy")
    await cluster.run_pod(name, container())
    query = urlencode(
        [("command", "sh"), ("command", "-c"), ("command", "cat; exit 9"), ("input", "1"), ("output", "1")]
    )
    head = (
        f"POST /exec/default/{name}/app?{query} HTTP/1.1\r\nHost: n\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\n"
        "X-Stream-Protocol-Version: v4.channel.k8s.io\r\nContent-Length: 0\r\n\r\n"
    )
    async with kubelet_stream(cluster) as stream:
        await stream.send_all(head.encode())
        answer = b""
        while b"\r\n\r\n" not in answer:
            answer += await stream.receive_some()
        first, _, rest = answer.partition(b"\r\n\r\n")
        assert first.startswith(b"HTTP/1.1 101")
        assert b"x-stream-protocol-version: v4.channel.k8s.io" in first.lower()
        machine = SpdyMachine()
        streams = {"error": 1, "stdin": 3, "stdout": 5}
        for kind, number in streams.items():
            await stream.send_all(machine.syn_stream(number, {"streamType": kind}))
        await stream.send_all(machine.data(3, b"hello", is_last=True))
        frames = list(machine.receive(rest))
        while not any(isinstance(each, GoAway) for each in frames):
            frames += list(machine.receive(bytes(await stream.receive_some())))
        assert {each.stream_id for each in frames if isinstance(each, SynReply)} == {1, 3, 5}
        out = b"".join(each.data for each in frames if isinstance(each, Data) and each.stream_id == 5)
        status = b"".join(each.data for each in frames if isinstance(each, Data) and each.stream_id == 1)
        assert out == b"hello"
        assert json.loads(status)["details"]["causes"][0]["message"] == "9"


async def _ask(cluster: Cluster, path: str) -> tuple[int, str]:
    async with kubelet_stream(cluster) as stream:
        await stream.send_all(f"GET {path} HTTP/1.1\r\nHost: n\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join([bytes(chunk) async for chunk in stream])
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), body.decode()


async def test_health_pods_metrics(cluster: Cluster) -> None:
    name = unique("listed")
    await cluster.run_pod(name, container())
    assert await _ask(cluster, "/healthz") == (200, "ok")
    code, body = await _ask(cluster, "/pods")
    assert name in [pod["metadata"]["name"] for pod in json.loads(body)["items"]]
    code, body = await _ask(cluster, "/metrics")
    assert code == 200
    assert "\nkubelet_running_pods " in body
    assert "\nkubelet_secrets_store_files " in body
    assert f'\nkubelet_node_name{{node="{cluster.stack.node_name}"}} 1\n' in body
    assert "\nprocess_start_time_seconds " in body
    assert await _ask(cluster, "/nothing") == (404, "404 page not found\n")
    assert (await _ask(cluster, "/containerLogs/default/nobody/app"))[0] == 404
    assert await _ask(cluster, f"/exec/default/{name}/app?command=ls") == (
        400,
        "you must specify at least 1 of stdin, stdout, stderr\n",
    )
    assert (await _ask(cluster, f"/exec/default/{name}/app?command=ls&output=1"))[0] == 400
    assert await _ask(cluster, "/exec/default/nobody/app?command=ls&output=1") == (404, "pod does not exist\n")


async def test_what_containers_use(cluster: Cluster) -> None:
    """What metrics-server and dashboards read, of a container that works and holds memory."""
    name = unique("busy")
    script = "head -c 20000000 /dev/zero | tail -c 20000000 | (sleep 1; cat >/dev/null) & while :; do :; done"
    script = "head -c 1000000 /dev/urandom | tee /e/file > /tmp/file; echo done; " + script
    await cluster.put_secret(name, {"key": "value"})
    fields = {"limits": {"cpu": "200m", "memory": "64Mi"}}
    mounts = [{"name": "e", "mountPath": "/e"}, mount("s", "/s")]
    volumes = [{"name": "e", "emptyDir": {}}, secret_volume("s", name)]
    await cluster.run_pod(name, container(script=script, resources=fields, volumeMounts=mounts), volumes=volumes)
    await cluster.logs(name, until="done\n")
    labels = f'{{container="app",namespace="default",pod="{name}"}}'
    read: dict[str, float] = {}
    with trio.fail_after(60):
        while read.get("container_cpu_usage_seconds_total", 0) < 0.2:
            code, body = await _ask(cluster, "/metrics/resource")
            assert code == 200
            lines = [line.rpartition("}")[::2] for line in body.splitlines() if labels in line]
            read = {head.partition("{")[0]: float(rest.split()[0]) for head, rest in lines}
    assert read["container_memory_working_set_bytes"] > 100_000
    assert "\nnode_cpu_usage_seconds_total " in body
    assert "\nresource_scrape_error 0\n" in body
    code, body = await _ask(cluster, "/stats/summary")
    told = json.loads(body)
    assert told["node"]["nodeName"] == cluster.stack.node_name
    (pod,) = [each for each in told["pods"] if each["podRef"]["name"] == name]
    assert pod["cpu"]["usageCoreNanoSeconds"] >= pod["containers"][0]["cpu"]["usageCoreNanoSeconds"] > 200_000_000
    only = pod["containers"][0]
    assert only["memory"]["availableBytes"] < 64 << 20
    used = {each["name"]: each["usedBytes"] for each in pod["volume"]}
    assert (used["e"] >= 1_000_000, used["s"], only["logs"]["usedBytes"] > 0) == (True, 4096, True)
    assert 1_000_000 <= only["rootfs"]["usedBytes"] < 2_000_000 <= pod["ephemeral-storage"]["usedBytes"]
    code, body = await _ask(cluster, "/stats/summary?only_cpu_and_memory=true")
    assert "fs" not in json.loads(body)["node"]
    code, body = await _ask(cluster, "/metrics/cadvisor")
    assert re.search(rf'\ncontainer_cpu_cfs_periods_total{{container="app",id="\S+",.*pod="{name}"}} ', body)
    code, body = await _ask(cluster, "/configz")
    assert json.loads(body)["kubeletconfig"]["configMapAndSecretChangeDetectionStrategy"] == "Watch"
    await cluster.delete_pod(name, grace_s=0)  # it would take the processor from the tests after it


async def test_through_the_api_server(cluster: Cluster) -> None:
    """As dashboards and the e2e tests ask: by nodes/proxy."""
    path = f"/api/v1/nodes/{cluster.stack.node_name}/proxy"
    async with admin_client(cluster) as client:
        assert (await client.get(f"{path}/healthz")).text == "ok"
        told = await client.get(f"{path}/stats/summary", params={"only_cpu_and_memory": "true"})
        assert told.json()["node"]["nodeName"] == cluster.stack.node_name
        assert "fs" not in told.json()["node"]
        assert told.headers["content-type"] == "application/json"
        lost = await client.get(f"{path}/nothing/here")
        assert (lost.status_code, lost.text) == (404, "404 page not found\n")
        assert (await client.post(f"{path}/healthz")).status_code == 405
        assert (await client.get("/api/v1/nodes/nobody/proxy/healthz")).status_code == 404
        denied = await client.get(f"{path}/healthz", headers={"Impersonate-User": "jane"})
        assert (denied.status_code, 'cannot get resource "nodes/proxy"' in denied.json()["message"]) == (403, True)


async def test_who_may_ask_the_kubelet(cluster: Cluster) -> None:
    """No credentials: 401. A service account without rights on the node: 403."""
    node = await cluster.client.get(NODES, "", cluster.stack.node_name, Node)
    url = f"https://127.0.0.1:{node.status.daemon_endpoints.kubelet_endpoint.port}"
    token = await cluster.client.request_json(
        "POST", "/api/v1/namespaces/default/serviceaccounts/default/token", body={"spec": {"audiences": []}}
    )
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    async with httpx2.AsyncClient(verify=context, timeout=120) as client:
        answer = await client.get(f"{url}/pods")
        assert (answer.status_code, answer.text) == (401, "Unauthorized")
        bearer = {"Authorization": f"Bearer {token['status']['token']}"}
        answer = await client.get(f"{url}/pods", headers=bearer)
        assert answer.status_code == 403
        assert answer.text == (
            "Forbidden (user=system:serviceaccount:default:default, verb=get, resource=nodes, "
            "subresource(s)=[pods proxy])\n"
        )
        assert (await client.get(f"{url}/pods", headers={"Authorization": "Bearer nonsense"})).status_code == 401
