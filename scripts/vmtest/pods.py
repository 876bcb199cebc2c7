"""One Secret and one pod on a node inside the guest, for ``canary`` and ``service``."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.control.client import ask
from kubelet_secrets.control.protocol import NodeSummary
from kubelet_secrets.errors import HostError

SLEEP = "trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done"
_PAUSE_S = 0.2


async def apply_secret(client: ApiClient, name: str, **values: str) -> None:
    """Make the Secret, or change the keys given."""
    data = {key: base64.b64encode(value.encode()).decode() for key, value in values.items()}
    metadata = {"name": name, "namespace": "default"}
    await client.apply({"apiVersion": "v1", "kind": "Secret", "metadata": metadata, "type": "Opaque", "data": data})


async def create_pod(client: ApiClient, name: str, script: str, **container: Any) -> None:
    """A pod with one container, which has the Secret of that name at /v."""
    app = {
        "name": "app",
        "image": "localhost/busybox:1",
        "command": ["sh", "-c", script],
        "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}],
        **container,
    }
    spec = {"containers": [app], "volumes": [{"name": "v", "secret": {"secretName": name}}]}
    metadata = {"name": name, "namespace": "default"}
    await client.create(PODS, "default", {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": spec})


async def wait_ready(client: ApiClient, name: str) -> str:
    """The id of the container, once it runs."""
    while True:
        pod = await client.get(PODS, "default", name, Pod)
        statuses = pod.status.container_statuses
        if statuses and all(each.ready for each in statuses):
            return str(statuses[0].container_id).partition("://")[2]
        await trio.sleep(_PAUSE_S)


async def run_inside(root_dir: Path, container_id: str, *command: str, runtime: str = "runc") -> bytes:
    """What a command says in the container; nothing when it fails."""
    root = root_dir / "run" / "runc"
    done = await trio.run_process(
        [runtime, "--root", str(root), "exec", container_id, *command],
        check=False,
        capture_stdout=True,
        capture_stderr=True,
    )
    return done.stdout


async def wait_content(root_dir: Path, container_id: str, path: str, value: str, *, runtime: str = "runc") -> None:
    """Until the container's file says *value*."""
    while await run_inside(root_dir, container_id, "cat", path, runtime=runtime) != value.encode():
        await trio.sleep(_PAUSE_S)


async def agent_pid(socket: Path, *, other_than: int = 0) -> int:
    """The agent's pid, once one answers that is not *other_than* and knows its pods."""
    while True:
        try:
            (summary,) = await trio.to_thread.run_sync(lambda: list(ask(str(socket), "status", NodeSummary)))
            if summary.agent_pid != other_than and summary.pods:
                return int(summary.agent_pid)
        except (HostError, OSError):
            pass  # just being started again
        await trio.sleep(_PAUSE_S)
