"""A keeper in a process of its own, with the agent of ``serving_agent``, for tests against a real mount."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from kubelet_secrets.caretaker import COMMAND_NAME
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.notify import NotifySocket, parse_notification

AGENT = Path(__file__).with_name("serving_agent.py")
# A slow machine's run of the tests stretches what is called so: scripts/vmtest/patience.py.
_TIMEOUT_S = 60
_STOP_TIMEOUT_S = 40.0
_SILENCE_TIMEOUT_S = 60.0

_KEEPER = """
import json, sys
from pathlib import Path
from kubelet_secrets.errors import HostError
from kubelet_secrets.keeper import KeeperOptions, run_keeper
given = json.loads(sys.argv[1])
try:
    status = run_keeper(KeeperOptions(
        root_dir=Path(given["root"]), image_dir=Path(given["root"]) / "images",
        agent_options=given["options"], agent_command=tuple(given["command"]),
        store_size_bytes=given["store_size_bytes"], run_size_bytes=16 << 20,
        stop_timeout_s=given["stop_timeout_s"], healthy_after_s=0, silence_s=given["silence_s"],
        arguments=tuple(given["arguments"]),
    ))
except HostError as exc:
    sys.exit(f"keeper: {exc}")
sys.exit(status)
"""


# What systemd does between fork and exec: the stored descriptors become 3, 4, …, and LISTEN_PID is known.
WITH_DESCRIPTORS = """
import fcntl, json, os, sys
stored = json.loads(sys.argv[1])
copies = [fcntl.fcntl(fd, fcntl.F_DUPFD, 100) for fd in stored.values()]
for number, copy in enumerate(copies, 3):
    os.dup2(copy, number, inheritable=True)
    os.close(copy)
os.environ |= {"LISTEN_PID": str(os.getpid()), "LISTEN_FDS": str(len(stored)), "LISTEN_FDNAMES": ":".join(stored)}
os.execv(sys.argv[2], sys.argv[2:])
"""


class RunningNode:
    """Start, drive and stop; see ``running_node``.

    Attributes:
        stored: the descriptors that the keeper had us keep, by name. As systemd does we give them to the next keeper.
    """

    def __init__(self, root: Path, **options: object) -> None:
        self.root = root
        self.fuse = root / "fuse"
        self.options: dict[str, object] = {"socket": f"{root}.sock", **options}
        self.stop_timeout_s = _STOP_TIMEOUT_S
        self.store_size_bytes = 64 << 20
        self.silence_s = _SILENCE_TIMEOUT_S
        self.arguments: list[str] = []  # of the agent's command line, for the preflight
        self.command = [sys.executable, str(AGENT)]
        self.prefix: list[str] = []
        self.environ: Mapping[str, str] = {}
        self.stored: dict[str, int] = {}
        self.notified: list[dict[str, str]] = []
        self._notifications = NotifySocket()
        self._process: subprocess.Popen[str] | None = None

    @property
    def keeper(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    def start(self, *, wait: bool = True) -> None:
        given = {
            "root": str(self.root),
            "options": self.options,
            "command": self.command,
            "stop_timeout_s": self.stop_timeout_s,
            "store_size_bytes": self.store_size_bytes,
            "silence_s": self.silence_s,
            "arguments": self.arguments,
        }
        prefix = self.prefix
        if self.stored:
            prefix = [sys.executable, "-c", WITH_DESCRIPTORS, json.dumps(self.stored), *prefix]
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-c", _KEEPER, json.dumps(given)],
            env={**os.environ, "NOTIFY_SOCKET": self._notifications.address, **self.environ},
            stderr=subprocess.PIPE,
            text=True,
            pass_fds=tuple(self.stored.values()),
            start_new_session=True,  # without a terminal, as a daemon
        )
        if wait:
            self.wait_notification("READY=1")

    def wait_notification(self, text: str) -> None:
        self._notifications.socket.settimeout(_TIMEOUT_S)
        while text not in self._receive():
            pass

    def drain_notifications(self) -> None:
        """Read what is there."""
        self._notifications.socket.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            while True:
                self._receive()

    def _receive(self) -> str:
        data, descriptors, _, _ = socket.recv_fds(self._notifications.socket, 4096, 1)
        message = parse_notification(data)
        self.notified.append(message)
        name = message.get("FDNAME", "")
        if "FDSTORE" in message:
            (descriptor,) = descriptors
            self.stored[name] = descriptor
        elif "FDSTOREREMOVE" in message and name in self.stored:
            os.close(self.stored.pop(name))
        return data.decode()

    def call(self, name: str, **arguments: object) -> Any:
        """Have the agent do something; OSError comes back as OSError."""
        deadline_s = time.monotonic() + _TIMEOUT_S
        while True:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(_TIMEOUT_S)
                try:
                    client.connect(str(self.options["socket"]))
                    client.sendall(json.dumps([name, arguments]).encode() + b"\n")
                    with client.makefile() as lines:
                        line = lines.readline()
                except (ConnectionRefusedError, FileNotFoundError):  # an agent is starting
                    assert time.monotonic() < deadline_s, "the agent does not come up"
                    with contextlib.suppress(subprocess.TimeoutExpired):
                        self.keeper.wait(0.05)
                    continue
            if not line:
                raise ConnectionResetError("the agent died over it")
            reply = json.loads(line)
            if "errno" in reply:
                raise OSError(reply["errno"], reply["message"])
            assert "error" not in reply, reply
            return reply.get("result")

    def kill_agent(self) -> None:
        """SIGKILL, and return when another agent serves."""
        before = self.call("pids")["agent"]
        os.kill(before, signal.SIGKILL)
        wait_end(before)
        assert self.call("pids")["agent"] != before

    def children(self) -> list[int]:
        """All but the caretaker."""
        return [pid for pid in self._all_children() if pid != self.caretaker()]

    def caretaker(self) -> int:
        """Its pid; 0 when there is none."""
        return next((pid for pid in self._all_children() if _command_name(pid) == COMMAND_NAME), 0)

    def _all_children(self) -> list[int]:
        text = Path(f"/proc/{self.keeper.pid}/task/{self.keeper.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.keeper.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.keeper.wait(_TIMEOUT_S)

    def stderr(self) -> str:
        assert self.keeper.stderr is not None
        return self.keeper.stderr.read()

    def clean_up(self) -> None:
        """Whatever the test did: no process, no mount."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
                try:
                    self._process.wait(_TIMEOUT_S)
                except subprocess.TimeoutExpired:
                    self._process.kill()
                    self._process.wait(_TIMEOUT_S)
            assert self._process.stderr is not None
            print(self._process.stderr.read())
            self._process.stderr.close()
        self._notifications.close()
        for descriptor in self.stored.values():
            os.close(descriptor)
        with contextlib.suppress(OSError):
            mounts.umount_lazy(self.fuse, force=True)
        mounts.umount_all_below(self.root)


def _command_name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except (FileNotFoundError, ProcessLookupError):
        return ""


def wait_end(pid: int) -> None:
    """Return when the process, child or not, has ended."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], _TIMEOUT_S)[0], f"process {pid} does not end"
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def running_node(root: Path, **options: object) -> Iterator[RunningNode]:
    """A node that serves; stopped and unmounted at the end whatever happened."""
    node = RunningNode(root, **options)
    try:
        node.start()
        yield node
    finally:
        node.clean_up()
