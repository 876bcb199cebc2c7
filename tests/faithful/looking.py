"""What a container really has, and what ``explain`` says that it will have, in the same words.

The first is read inside the container by its own processes, the second is computed from the manifests alone.
"""

from __future__ import annotations

import json
import posixpath
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.api.core import Event, Pod
from kubelet_secrets.api.meta import EVENTS, NAMESPACES, PODS, SERVICES, find_resource
from kubelet_secrets.client.answers import EventType
from kubelet_secrets.explain import ContainerView, Explanation, explain
from kubelet_secrets.manifests import ManifestObject, parse_manifest
from tests.e2e.stacks import RUNTIME, Cluster, container_id, is_ready

FROM_ELSEWHERE = frozenset({"PATH", "HOSTNAME", "HOME", "TERM"})  # of the image and the runtime

_LOOK = r"""
walk() {
    for f in "$1"/* "$1"/.[!.]*; do
        if [ -d "$f" ]; then walk "$f"; elif [ -f "$f" ]; then show "$f"; fi
    done
}
show() {
    about=$(stat -L -c '%a %u %g %s %n' "$1") && content=$(hexdump -ve '1/1 "%02x"' "$1") || return 0
    echo "$about"
    echo "$content"
}
for place; do
    if [ -d "$place" ]; then walk "$place"; elif [ -f "$place" ]; then show "$place"; fi
done
"""
"""Prints two lines per file: mode, owner, size and path; content. ``..data`` and its like are no user's files.

A file that goes while it is looked at is left out: it was of a version that has just been replaced.
"""


@dataclass(frozen=True)
class SeenFile:
    """``size`` and ``content`` are None where only a running node knows them."""

    mode: int
    uid: int
    gid: int
    size: int | None
    content: bytes | None


@dataclass(frozen=True)
class Seen:
    """What one container sees: files by path, variables by name, mount points and whether they are read-only."""

    files: dict[str, SeenFile]
    variables: dict[str, str | None]
    mounts: dict[str, bool]

    def without_run_time(self, unknown: Seen) -> Seen:
        """The same, with everything left open that *unknown* leaves open: contents and values, never names, modes, owners."""
        files = {}
        for path, file in self.files.items():
            other = unknown.files.get(path)
            is_open = other is not None and other.content is None
            files[path] = SeenFile(file.mode, file.uid, file.gid, None, None) if is_open else file
        variables = {
            name: None if name in unknown.variables and unknown.variables[name] is None else value
            for name, value in self.variables.items()
        }
        return Seen(files, variables, self.mounts)


# --- what is foretold ------------------------------------------------------------------------------------------------


def foretell(text: str, namespace: str) -> Explanation:
    manifests = parse_manifest(text.encode(), source="case.yaml")
    return explain(manifests, now=datetime.now(UTC), namespace=namespace)


def foretold(container: ContainerView) -> Seen:
    files = {
        file.path: SeenFile(
            mode=file.ownership.mode,
            uid=file.ownership.uid,
            gid=file.ownership.gid,
            size=file.size_bytes,
            content=file.data.reveal() if file.data is not None else None,
        )
        for file in container.files
    }
    variables = {variable.name: variable.value for variable in container.variables}
    return Seen(files, variables, {mount.path: mount.read_only for mount in container.mounts})


# --- what there is ---------------------------------------------------------------------------------------------------


async def look(cluster: Cluster, pod: Pod, container: str) -> Seen:
    """Look around in a running container, as root, so that every file can be read whatever its mode."""
    spec = next(each for each in (*pod.spec.containers, *pod.spec.init_containers) if each.name == container)
    names = {volume.name for volume in pod.spec.volumes if volume.empty_dir is not None or volume.host_path is not None}
    points: dict[str, list[str]] = {mount.name: [] for mount in spec.volume_mounts}
    for mount in spec.volume_mounts:
        points[mount.name].append(posixpath.normpath("/" + mount.mount_path.lstrip("/")))
    places = [point for name, each in points.items() if name not in names for point in each]
    seen = await run_inside(cluster, pod, container, "sh", "-c", _LOOK, "look", *places)
    pid = await _pid(cluster, pod, container)
    own_points = {point for each in points.values() for point in each}
    mounts = {point: read_only for point, read_only in _mounts(pid).items() if point in own_points}
    return Seen(_parse_files(seen.splitlines()), _variables(pid), mounts)


def _parse_files(lines: Sequence[str]) -> dict[str, SeenFile]:
    found = {}
    for line, content in zip(lines[::2], lines[1::2], strict=True):
        mode, uid, gid, size, path = line.split(" ", 4)
        found[path] = SeenFile(int(mode, 8), int(uid), int(gid), int(size), bytes.fromhex(content))
    return found


async def run_inside(cluster: Cluster, pod: Pod, container: str, *command: str) -> str:
    """What *command* prints, run in the container as root."""
    line = [*_runtime(cluster), "exec", "--user", "0:0", container_id(pod, container), *command]
    done = await trio.run_process(line, capture_stdout=True, capture_stderr=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.decode()


async def arguments(cluster: Cluster, pod: Pod, container: str) -> list[str]:
    """The argument vector of the container's first process."""
    pid = await _pid(cluster, pod, container)
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().removesuffix("\0").split("\0")


def _runtime(cluster: Cluster) -> list[str]:
    return [RUNTIME, "--root", str(cluster.stack.runtime_root)]


async def _pid(cluster: Cluster, pod: Pod, container: str) -> int:
    command = [*_runtime(cluster), "state", container_id(pod, container)]
    done = await trio.run_process(command, capture_stdout=True, stderr=subprocess.DEVNULL)
    return int(json.loads(done.stdout)["pid"])


def _mounts(pid: int) -> dict[str, bool]:
    """Mount point → whether it is read-only, of the topmost mount there. Source: proc_pid_mountinfo(5)."""
    lines = [line.split() for line in Path(f"/proc/{pid}/mountinfo").read_text().splitlines()]
    return {line[4]: "ro" in line[5].split(",") for line in lines}


def _variables(pid: int) -> dict[str, str | None]:
    """The environment of the container's first process, as it was started with."""
    pairs = Path(f"/proc/{pid}/environ").read_bytes().decode("utf-8", "surrogateescape").split("\0")
    variables: dict[str, str | None] = dict(pair.split("=", 1) for pair in pairs if pair)
    return {name: value for name, value in variables.items() if name not in FROM_ELSEWHERE}


# --- the cluster -----------------------------------------------------------------------------------------------------


async def make_namespace(cluster: Cluster, name: str) -> None:
    await cluster.client.create(NAMESPACES, "", {"metadata": {"name": name}})


async def apply(cluster: Cluster, text: str, namespace: str) -> None:
    """Apply the manifests with the namespace that ``kubectl -n`` would give them, pods last. Raises: ApiError.

    A container has the variables of those Services that the node knows when it starts it.
    """
    manifests: list[ManifestObject] = parse_manifest(text.encode(), source="case.yaml")
    for manifest in sorted(manifests, key=lambda each: each.kind == "Pod"):
        resource = find_resource(manifest.obj["apiVersion"], manifest.kind)
        assert resource is not None
        if resource.namespaced:
            manifest.obj["metadata"].setdefault("namespace", namespace)
        await cluster.client.apply(manifest.obj)


async def wait_pod(cluster: Cluster, namespace: str, name: str) -> Pod:
    """Wait until a pod's containers are ready."""
    last: Any = None
    with trio.move_on_after(90):
        selector = f"metadata.name={name}"
        async with cluster.client.watch(
            PODS, namespace, Pod, field_selector=selector, send_initial_events=True
        ) as events:
            async for event in events:
                if event.object is not None and event.type in (EventType.ADDED, EventType.MODIFIED):
                    last = event.object.status
                    if is_ready(event.object):
                        return event.object
    seen = [(each.reason, each.message) for each in await cluster.client.list(EVENTS, namespace, Event)]
    raise AssertionError(f"pod {namespace}/{name} is not ready: {last}; events: {seen}")


async def wait_refusal(cluster: Cluster, namespace: str, pod: str) -> str:
    """Wait until a pod's event says why it does not start, and return what it says."""
    with trio.fail_after(60):
        async with cluster.client.watch(EVENTS, namespace, Event, send_initial_events=True) as events:
            async for event in events:
                seen = event.object
                if seen is not None and seen.type == "Warning" and seen.involved_object.name == pod:
                    return seen.message
    raise AssertionError("the watch has ended")


async def own_service(cluster: Cluster) -> str:
    """The Service ``default/kubernetes``, which every cluster has and no manifest names."""
    found = await cluster.client.get(SERVICES, "default", "kubernetes", dict)
    kept = {"metadata": {"name": "kubernetes", "namespace": "default"}, "spec": found["spec"]}
    return "\n---\n" + json.dumps({"apiVersion": "v1", "kind": "Service", **kept}) + "\n"
