"""A whole agent as far as volumes and verdicts are concerned: filesystem, writer, volume manager, guard and audit trail, put
together as ``agent.py`` does, and told over a socket what to do. Started by the keeper. One JSON line in, one out.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import trio

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.guard import ContainerGuard
from kubelet_secrets.access.procfs import mount_namespace
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry
from kubelet_secrets.api.core import Pod, SecretVolumeSource, Volume
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.errors import KubeletSecretsError
from kubelet_secrets.fusefs.frontdesk import FrontDesk
from kubelet_secrets.fusefs.handover import Handover
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.orders import FileEntry
from kubelet_secrets.fusefs.session import serve
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.writerclient import WriterClient
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.layout import PodsLayout
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.store import Store


class Remote:
    """What a test can ask for."""

    def __init__(
        self, volumes: VolumeManager, registry: ContainerRegistry, audit: AuditLog, writer: WriterClient
    ) -> None:
        self._volumes = volumes
        self._registry = registry
        self._audit = audit
        self._writer = writer

    async def set_up(
        self, pod: str, volume: str, contents: dict[str, str], fs_group: int | None = None, mode: int = 0o644
    ) -> str:
        payload = {path: FileEntry(path, SensitiveBytes(text.encode()), mode, None) for path, text in contents.items()}
        version = await self._volumes.set_up(_pod(pod), _volume(volume), payload, fs_group=fs_group)
        return version.name

    async def tear_down_pod(self, pod: str) -> None:
        await self._volumes.tear_down_pod(pod)

    async def sub_path(self, pod: str, volume: str, sub_path: str) -> str:
        target = await self._volumes.prepare_sub_path(
            pod, _volume(volume), container="c", index=0, mount_name=volume, sub_path=sub_path
        )
        return str(target)

    async def register(
        self, pod: str, container: str, container_id: str, cgroup_path: str, mounts: list[tuple[str, str]]
    ) -> None:
        self._registry.register(
            ContainerIdentity(
                pod_uid=pod,
                namespace="default",
                pod="web",
                container=container,
                container_id=container_id,
                cgroup_path=cgroup_path,
                mounts=frozenset((volume, sub_path) for volume, sub_path in mounts),
            )
        )

    async def learn(self, container_id: str, pid: int) -> None:
        self._registry.learn_mount_namespace(container_id, mount_namespace(pid))

    async def audit(self) -> list[Any]:
        self._audit.expire(datetime.max.replace(tzinfo=UTC))
        return [msgspec.to_builtins(record) for record in self._audit.records()]

    async def pids(self) -> dict[str, object]:
        return {"agent": os.getpid()}

    async def adopted(self) -> list[str]:
        return [f"{ref.pod_uid}/{ref.volume}" for ref in await self._volumes.adopt()]


def _pod(uid: str) -> Pod:
    return Pod(metadata=ObjectMeta(uid=uid, namespace="default", name="web"))


def _volume(name: str) -> Volume:
    return Volume(name=name, secret=SecretVolumeSource(secret_name=name))


async def main() -> None:
    handover = Handover.from_environ(os.environ)
    options: dict[str, Any] = json.loads(os.environ["KS_AGENT_OPTIONS"])
    root = handover.fuse_mount.parent
    tree = Tree(handover.store_fd, resumed=handover.resume)
    registry = ContainerRegistry(root / "run/containers.json")
    audit = AuditLog()
    guard = ContainerGuard(registry, audit)
    client = WriterClient(socket.socket(fileno=handover.writer_fd), writer_pid=handover.writer_pid)
    front_desk = FrontDesk(tree, guard, client.is_writer)
    operations = Operations(tree, client.is_writer, resumed=handover.resume)
    volumes = VolumeManager(Store(handover.store_fd), PodsLayout(root / "pods"), client, remover=tree)
    remote = Remote(volumes, registry, audit, client)

    async def answer(stream: trio.SocketStream) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += (part := await stream.receive_some())
            if not part:
                return
        name, arguments = json.loads(line)
        try:
            reply = {"result": await getattr(remote, name)(**arguments)}
        except OSError as error:
            reply = {"errno": error.errno, "message": str(error)}
        except KubeletSecretsError as error:
            reply = {"error": type(error).__name__, "message": str(error)}
        await stream.send_all(json.dumps(reply).encode() + b"\n")

    listener = trio.socket.socket(socket.AF_UNIX)
    Path(options["socket"]).unlink(missing_ok=True)
    await listener.bind(options["socket"])
    listener.listen()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    nursery.cancel_scope.cancel()

            async def serve_filesystem(*, task_status: trio.TaskStatus[None]) -> None:
                await serve(
                    handover.fuse_fd,
                    handover.init_request,
                    front_desk,
                    operations,
                    resume=handover.resume,
                    tell_alive=handover.tell_alive,
                    task_status=task_status,
                )
                sys.exit(3)  # the mount is gone

            nursery.start_soon(stop_on_signal)
            await nursery.start(serve_filesystem)
            await nursery.start(client.run)
            await volumes.adopt()
            nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(listener)])
            handover.tell_ready()


if __name__ == "__main__":
    trio.run(main)
