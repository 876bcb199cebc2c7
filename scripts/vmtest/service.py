"""The node as a service of systemd, its main process killed again and again: inside the guest, where systemd is the init.

python -m scripts.vmtest.service     prints what was seen; exit status 0 when every promise held
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import trio

from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.fusefs import mounts
from scripts.vmtest.checks import patience
from scripts.vmtest.pods import agent_pid, apply_secret, create_pod, run_inside, wait_content, wait_ready

_COMMAND = str(Path(sys.executable).with_name("kubelet-secrets"))
_UNIT = Path("/etc/systemd/system/kubelet-secrets.service")
_DROP_IN = Path(f"{_UNIT}.d/emulated.conf")
"""An emulated processor on a busy machine: what the unit says of time is for real ones."""
_ROOT_DIR = Path("/var/lib/kubelet-secrets/node")
_SOCKET = Path("/run/kubelet-secrets/agent.sock")
_KILLS = 3
_PATIENCE_S = 300 * patience()
_READER = """
n=0 bad=0
while [ ! -e /tmp/stop ]; do
    n=$((n+1))
    case "$(cat /v/key 2>&1)" in version-*) ;; *) bad=$((bad+1)) ;; esac
    usleep 50000
done
echo "$n $bad" > /tmp/result
trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done
"""


def _systemctl(*arguments: str) -> str:
    return subprocess.run(["systemctl", *arguments], check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def _main_pid() -> int:
    return int(_systemctl("show", "--property=MainPID", "--value", _UNIT.name))


@contextlib.contextmanager
def _api_server(directory: Path) -> Iterator[None]:
    command = [_COMMAND, "apiserver", "--in-memory", "--port", "0", "--node-name", "vm"]
    command += ["--kubeconfig", str(directory / "admin"), "--node-kubeconfig", str(directory / "node")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            while "ready at" not in (line := process.stdout.readline()):
                assert line, "the API server ended"
            yield
        finally:
            process.terminate()


async def _kill_keeper(client: ApiClient, container_id: str, number: int) -> None:
    """SIGKILL to the unit's main process; returns when the next one works, a rotation made meanwhile included."""
    keeper = _main_pid()
    agent = await agent_pid(_SOCKET)
    os.kill(keeper, signal.SIGKILL)
    await apply_secret(client, "served", key=f"version-{number}")
    await agent_pid(_SOCKET, other_than=agent)
    assert _main_pid() not in (0, keeper)
    await wait_content(_ROOT_DIR, container_id, "/v/key", f"version-{number}")


async def main() -> None:
    """Steps.

    1. The service file as ``systemd-unit`` prints it; systemd waits for READY=1.
    2. A container that reads all the time.
    3. The main process killed, again and again; then told to reload, as after an update.
    4. The same container, no failed read.
    5. Stopped: nothing is left.
    """
    with tempfile.TemporaryDirectory(dir="/run") as directory, _api_server(Path(directory)):
        with trio.fail_after(_PATIENCE_S):
            # (1)
            options = ["--kubeconfig", f"{directory}/node", "--node-name", "vm", "--root-dir", str(_ROOT_DIR)]
            options += ["--image-dir", "/var/lib/kubelet-secrets/images", "--socket", str(_SOCKET)]
            unit = subprocess.run([_COMMAND, "systemd-unit", *options], check=True, stdout=subprocess.PIPE).stdout
            _UNIT.write_bytes(unit)
            _DROP_IN.parent.mkdir(exist_ok=True)
            _DROP_IN.write_text("[Service]\nTimeoutStartSec=10min\nTimeoutStopSec=10min\nWatchdogSec=5min\n")
            _systemctl("daemon-reload")
            await trio.to_thread.run_sync(lambda: _systemctl("start", _UNIT.name))
            async with open_client(load_kubeconfig(Path(directory) / "admin")) as client:
                # (2)
                await apply_secret(client, "served", key="version-0")
                await create_pod(client, "served", _READER)
                container_id = await wait_ready(client, "served")
                # (3)
                for number in range(1, _KILLS + 1):
                    await _kill_keeper(client, container_id, number)
                agent = await agent_pid(_SOCKET)
                await trio.to_thread.run_sync(lambda: _systemctl("reload", _UNIT.name))
                await agent_pid(_SOCKET, other_than=agent)
                # (4)
                assert await wait_ready(client, "served") == container_id, "the container was started again"
                await run_inside(_ROOT_DIR, container_id, "touch", "/tmp/stop")
                while not (result := await run_inside(_ROOT_DIR, container_id, "cat", "/tmp/result")).endswith(b"\n"):
                    await trio.sleep(0.2)
            reads, bad = map(int, result.split())
            # (5)
            await trio.to_thread.run_sync(lambda: _systemctl("stop", _UNIT.name))
            left = [entry.target for entry in mounts.mounts_below(_ROOT_DIR)]
            failed = _systemctl("show", "--property=Result", "--value", _UNIT.name)
    print(f"{_KILLS} kills of the main process and a reload, {reads} reads, {bad} failed, stopped with {failed}")
    assert bad == 0, "reads failed"
    assert reads > 0, "nothing was read"
    assert left == [], f"mounts are left: {left}"
    assert failed == "success", failed


if __name__ == "__main__":
    trio.run(main)
