"""Values on their way through a node that is short of memory, killed and dumped; the host then searches the disks for them.

A process of its own inside the guest, so that nothing else there knows the values. Its memory is locked, as that of every
process of the program that holds a value: what the disks show comes from elsewhere. Beside the values three *controls*,
which are not protected and have to be found: a search that misses them would miss the others too.

    python -m scripts.vmtest.canary RUNTIME     tells the host names and values through the report port
"""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
import tempfile
from functools import partial
from pathlib import Path

import trio

from kubelet_secrets.api.meta import PODS
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.stack import StackOptions, run_stack
from scripts.vmtest.checks import patience
from scripts.vmtest.guest import report
from scripts.vmtest.pods import SLEEP, agent_pid, apply_secret, create_pod, wait_content, wait_ready

_PATIENCE_S = 300 * patience()
_CONTROL_BYTES = 16 << 20
_SQUEEZES = 8
_SQUEEZE_BYTES = 64 << 20
_CRASH_DIR = Path("/var/crash")
_ENVIRONMENT = [{"name": "VALUE", "valueFrom": {"secretKeyRef": {"name": "canary", "key": "env"}}}]
_CONTROL_SCRIPT = """
import mmap, os, signal, sys
value, size = sys.stdin.readline().strip().encode(), int(sys.argv[1])
memory = mmap.mmap(-1, size)
for offset in range(0, size, 4096):
    memory[offset:offset + len(value)] = value
print("ready", flush=True)
if sys.argv[2] == "crash":
    os.kill(os.getpid(), signal.SIGSEGV)
sys.stdin.read()
"""


def _new(name: str) -> str:
    return f"{name}-{secrets.token_urlsafe(24)}"


def _squeeze() -> None:
    """Have the kernel write to swap what it may: memory of processes rather than pages of files."""
    Path("/proc/sys/vm/swappiness").write_text("200")
    for _ in range(_SQUEEZES):
        try:
            Path("/sys/fs/cgroup/memory.reclaim").write_text(str(_SQUEEZE_BYTES))
        except BlockingIOError:
            return  # it finds no more


def _start_control(value: str, fate: str) -> subprocess.Popen[str]:
    """A process that holds *value* all over its memory and protects nothing."""

    def allow_cores() -> None:
        _, hard = resource.getrlimit(resource.RLIMIT_CORE)
        resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))

    process = subprocess.Popen(
        [sys.executable, "-c", _CONTROL_SCRIPT, str(_CONTROL_BYTES), fate],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=allow_cores,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(value + "\n")
    process.stdin.flush()
    process.stdout.readline()
    return process


async def main(runtime: str) -> None:
    """Steps.

    1. Controls: one in swap, one in a core file, one in a file.
    2. A pod with the values in volume and environment; a rotation.
    3. Memory gets short.
    4. The agent dies as by a bug of its own (SIGSEGV), which would leave a core, then by SIGKILL; another rotation.
    5. Memory gets short again; the pod is deleted; memory gets short again.
    """
    harden_process()
    values = {name: _new(name) for name in ("volume", "env", "rotated", "rotated-again")}
    controls = {name: _new(name) for name in ("swap", "core", "file")}
    # (1)
    _CRASH_DIR.mkdir(exist_ok=True)
    Path("/proc/sys/kernel/core_pattern").write_text(f"{_CRASH_DIR}/core.%p")
    (_CRASH_DIR / "control").write_text(controls["file"])
    holder = _start_control(controls["swap"], "wait")
    _start_control(controls["core"], "crash").wait()
    with tempfile.TemporaryDirectory(prefix="canary-", dir="/var/lib") as directory:
        options = StackOptions(
            node_name=f"canary-{runtime}",
            root_dir=Path(directory) / "node",
            image_dir=Path("/var/lib/kubelet-secrets/images"),
            socket=Path(directory) / "agent.sock",
            port=0,
            runtime=runtime,
            verbose=2,
        )
        with trio.fail_after(_PATIENCE_S):
            async with run_stack(options) as stack:
                client = stack.client
                # (2)
                node = options.root_dir
                inside = partial(wait_content, node, runtime=runtime)
                await apply_secret(client, "canary", volume=values["volume"], env=values["env"])
                await create_pod(client, "canary", SLEEP, env=_ENVIRONMENT)
                container_id = await wait_ready(client, "canary")
                await inside(container_id, "/v/volume", values["volume"])
                await apply_secret(client, "canary", volume=values["rotated"])
                await inside(container_id, "/v/volume", values["rotated"])
                # (3)
                await trio.to_thread.run_sync(_squeeze)
                # (4)
                before = await agent_pid(options.socket)
                os.kill(before, signal.SIGSEGV)
                after = await agent_pid(options.socket, other_than=before)
                os.kill(after, signal.SIGKILL)
                await agent_pid(options.socket, other_than=after)
                await apply_secret(client, "canary", volume=values["rotated-again"])
                await inside(container_id, "/v/volume", values["rotated-again"])
                # (5)
                await trio.to_thread.run_sync(_squeeze)
                await client.delete(PODS, "default", "canary", grace_period_s=1)
                await trio.to_thread.run_sync(_squeeze)
    holder.kill()
    holder.wait()
    os.sync()
    report(check="values", runtime=runtime, values=values, controls=controls)


if __name__ == "__main__":
    trio.run(main, sys.argv[1])
