"""A whole agent as far as the filesystem is concerned: serves, and does what a test tells it over a socket.

Started by the keeper in place of ``kubelet_secrets.agent_process``. Not a test double of anything in ``fusefs``: it is what
``agent.py`` does with these parts, with a guard and a remote control of its own. One JSON line in, one out.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import trio

from kubelet_secrets.access.revocations import RevocationList
from kubelet_secrets.errors import KubeletSecretsError
from kubelet_secrets.fusefs.athand import AtHand
from kubelet_secrets.fusefs.frontdesk import CallerContext, FrontDesk
from kubelet_secrets.fusefs.handover import Handover
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.fusefs.init import parse_init
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.orders import FileEntry
from kubelet_secrets.fusefs.revoker import Revoker
from kubelet_secrets.fusefs.session import REQUEST_BYTES, serve
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.unanswered import NAME as UNANSWERED
from kubelet_secrets.fusefs.unanswered import Unanswered
from kubelet_secrets.fusefs.writerclient import WriterClient
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume import atomicwriter


class RecordingGuard:
    """Lets everybody in but to the volumes named in *closed* and those that are revoked; remembers who asked."""

    def __init__(self, revocations: RevocationList) -> None:
        self._revocations = revocations
        self.closed: set[str] = set()
        self.asked: list[dict[str, object]] = []
        self.is_recording = False
        self.is_deadly = False

    def group(self, tid: int) -> str:
        return ""

    def may_open(self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: str) -> bool:
        if self.is_deadly or path.endswith("/deadly"):  # for every agent
            os.kill(os.getpid(), signal.SIGKILL)
        if self.is_recording:
            self.asked.append({"pod": pod_uid, "volume": volume, "path": path, "tid": ctx.tid, "kind": kind})
        return volume not in self.closed and not self.is_revoked(pod_uid, volume)

    def may_read(self, pod_uid: str, volume: str, path: str, ctx: CallerContext, kind: str) -> bool:
        return not self.is_revoked(pod_uid, volume)

    def is_revoked(self, pod_uid: str, volume: str) -> bool:
        return self._revocations.find(pod_uid, volume) is not None

    def may_look(self, pod_uid: str, volume: str, path: str, ctx: CallerContext) -> bool:
        return True


class MortalOperations(Operations):
    """The handlers, and death at a chosen change: just before it is made, or when it is made but not answered."""

    die_over: tuple[int, str] | None = None
    ignores_forgets = False

    async def forget(self, *arguments: Any) -> None:
        if not self.ignores_forgets:
            await super().forget(*arguments)

    async def _mortally(self, change: Awaitable[Any]) -> Any:
        if self.die_over is None:
            return await change
        number, moment = self.die_over
        self.die_over = (number - 1, moment)
        if number == 1 and moment == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = await change
        if number == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    async def mkdir(self, *arguments: Any) -> Any:
        return await self._mortally(super().mkdir(*arguments))

    async def create(self, *arguments: Any) -> Any:
        return await self._mortally(super().create(*arguments))

    async def write(self, *arguments: Any) -> Any:
        return await self._mortally(super().write(*arguments))

    async def symlink(self, *arguments: Any) -> Any:
        return await self._mortally(super().symlink(*arguments))

    async def setattr(self, *arguments: Any) -> Any:
        return await self._mortally(super().setattr(*arguments))

    async def unlink(self, *arguments: Any) -> Any:
        return await self._mortally(super().unlink(*arguments))

    async def rmdir(self, *arguments: Any) -> Any:
        return await self._mortally(super().rmdir(*arguments))

    async def rename(self, *arguments: Any) -> Any:
        return await self._mortally(super().rename(*arguments))


class Remote:
    """What a test can ask for."""

    def __init__(
        self,
        handover: Handover,
        tree: Tree,
        guard: RecordingGuard,
        client: WriterClient,
        operations: MortalOperations,
        revoker: Revoker,
    ) -> None:
        self._revoker = revoker
        self._handover = handover
        self._tree = tree
        self._guard = guard
        self._client = client
        self._operations = operations

    async def create(self, pod: str, volume: str, files: dict[str, str], mode: int = 0o644) -> str:
        """A volume's first version, straight into the store."""
        store = self._handover.store_fd
        for path, bits in ((pod, 0o755), (f"{pod}/{volume}", 0o777)):
            try:
                os.mkdir(path, dir_fd=store)
            except FileExistsError:
                continue
            os.chmod(path, bits, dir_fd=store)
        directory_fd = os.open(f"{pod}/{volume}", os.O_RDONLY | os.O_DIRECTORY, dir_fd=store)
        try:
            return atomicwriter.write(directory_fd, entries(files, mode)).version
        finally:
            os.close(directory_fd)

    async def update(
        self, pod: str, volume: str, files: dict[str, str], mode: int = 0o644, fs_group: int | None = None
    ) -> str:
        return (await self._client.update(pod, volume, entries(files, mode), fs_group=fs_group)).version

    async def remove(self, pod: str, volume: str) -> None:
        await self._client.remove_volume(pod, volume)

    async def remove_directly(self, pod: str, volume: str) -> None:
        self._tree.remove_volume(pod, volume)

    async def purge(self, pod: str) -> None:
        self._tree.purge_pod(pod)

    async def make_directory(self, pod: str, volume: str, path: str) -> None:
        await self._client.make_nested_directory(pod, volume, path)

    async def attach(self, pod: str, volume: str, target: str, path: str = "") -> None:
        await self._client.attach(pod, volume, Path(target), path=path)

    async def close(self, volumes: list[str]) -> None:
        self._guard.closed = set(volumes)

    async def asked(self) -> list[dict[str, object]]:
        """Who asked since the last call; recording starts with the first."""
        self._guard.is_recording = True
        asked, self._guard.asked = self._guard.asked, []
        return asked

    async def revoke(self, pod: str, volume: str) -> int:
        """Returns how many files the kernel was told to drop."""
        return (await self._revoker.revoke(pod, volume, cause="test"))[1]

    async def restore(self, pod: str, volume: str) -> bool:
        return self._revoker.restore(pod, volume)

    async def withdraw_and_remove(self, pod: str, volume: str) -> None:
        """What becomes of a volume when its pod ends."""
        await self._revoker.withdraw(pod, volume)
        self._tree.remove_volume(pod, volume)
        self._tree.purge_pod(pod)
        self._revoker.forget_pod(pod)

    async def die_over_revocation(self, pod: str, volume: str) -> None:
        """Be killed when it is noted and the kernel not told."""
        self._client.drop_pages = self._die  # type: ignore[method-assign]
        await self._revoker.revoke(pod, volume, cause="test")

    async def _die(self, numbers: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    async def pids(self) -> dict[str, object]:
        writer = next((n for n in range(1, 1 << 22) if self._client.is_writer(n)), 0)
        return {"agent": os.getpid(), "writer": writer, "resume": self._handover.resume}

    async def store(self) -> list[str]:
        """Every path in the store, graveyard included, but for the request at hand."""
        found = []
        for directory, subdirectories, files, _ in os.fwalk(".", dir_fd=self._handover.store_fd):
            found += [os.path.normpath(os.path.join(directory, name)) for name in (*subdirectories, *files)]
        return sorted(set(found) - {os.fsdecode(UNANSWERED)})

    async def die_over_change(self, number: int, moment: str) -> None:
        self._operations.die_over = (number, moment)

    async def ignore_forgets(self) -> None:
        """Lose them, as an agent does that dies with them in hand."""
        self._operations.ignores_forgets = True

    async def hang(self) -> None:
        """Never come back to the event loop, busily."""
        while True:
            pass

    async def die_over_open(self) -> None:
        """Be killed when somebody opens something, its request read and not answered."""
        self._guard.is_deadly = True

    async def open_own_mount_and_die(self, path: str) -> None:
        """A thread asks our own mount, and we are killed between taking its question and answering."""
        self._guard.is_deadly = True
        threading.Thread(target=lambda: os.open(path, os.O_RDONLY), daemon=True).start()


def entries(files: dict[str, str], mode: int) -> dict[str, FileEntry]:
    return {path: FileEntry(path, SensitiveBytes(text.encode()), mode, None) for path, text in files.items()}


async def main(handover: Handover) -> None:
    options: dict[str, Any] = json.loads(os.environ["KS_AGENT_OPTIONS"])
    harden_process()
    tree = Tree(handover.store_fd, resumed=handover.resume)
    revocations = RevocationList(handover.fuse_mount.parent / "run/revocations.json")
    guard = RecordingGuard(revocations)
    client = WriterClient(socket.socket(fileno=handover.writer_fd), writer_pid=handover.writer_pid)
    front_desk = FrontDesk(tree, guard, client.is_writer)
    operations = MortalOperations(tree, client.is_writer, resumed=handover.resume)
    revoker = Revoker(revocations, tree, client, now=lambda: datetime.now(UTC))
    remote = Remote(handover, tree, guard, client, operations, revoker)

    async def answer(stream: trio.SocketStream) -> None:
        line = b""
        while not line.endswith(b"\n"):
            line += (part := await stream.receive_some())
            if not part:
                return
        name, arguments = json.loads(line)
        try:
            reply = {"result": await getattr(remote, name)(**arguments)}
        except OSError as exc:
            reply = {"errno": exc.errno, "message": str(exc)}
        except KubeletSecretsError as exc:
            reply = {"error": type(exc).__name__, "message": str(exc)}
        await stream.send_all(json.dumps(reply).encode() + b"\n")

    listener = trio.socket.socket(socket.AF_UNIX)
    Path(options["socket"]).unlink(missing_ok=True)
    await listener.bind(options["socket"])
    listener.listen()
    with trio.open_signal_receiver(signal.SIGTERM) as signals:
        async with trio.open_nursery() as nursery:

            async def stop_on_signal() -> None:
                async for _ in signals:
                    if options.get("deaf"):
                        continue
                    nursery.cancel_scope.cancel()

            nursery.start_soon(stop_on_signal)

            # As agent.py does; a test may ask for what older kernels need.
            keeps = options.get("keeps_unanswered") or not parse_init(handover.init_request).can_resend
            unanswered = Unanswered(handover.store_fd, size_bytes=REQUEST_BYTES) if keeps else None
            await nursery.start(
                partial(
                    serve,
                    resume=handover.resume,
                    unanswered=unanswered,
                    at_hand=AtHand(handover.fuse_mount.parent / "run" / "at-hand", resumed=handover.resume),
                    tell_alive=handover.tell_alive,
                ),
                handover.fuse_fd,
                handover.init_request,
                front_desk,
                operations,
            )
            await nursery.start(client.run)
            await revoker.resume()
            nursery.start_soon(trio.serve_listeners, answer, [trio.SocketListener(listener)])
            handover.tell_ready()


if __name__ == "__main__":
    faulthandler.enable()
    if json.loads(os.environ["KS_AGENT_OPTIONS"]).get("fail"):
        print("this node cannot start", file=sys.stderr)
        sys.exit(2)
    trio.run(main, Handover.from_environ(os.environ))
