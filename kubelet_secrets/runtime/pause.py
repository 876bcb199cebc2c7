"""The first process of a shared pid namespace: it does nothing, reaps, and holds no rights.

Containers of a pod with ``shareProcessNamespace`` see it as pid 1, as they see ``/pause`` on a real node. It runs as user 65535
in an empty root directory without capabilities, so seeing it is of no use. It survives the agent; ``sandbox`` finds it by its
cgroup.

Run as ``python -I -S -c <source>`` with this file's *PROGRAM*: nothing of the package is imported, so it stays small.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from kubelet_secrets.linux import MS_BIND, mount
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.tools import tool_environment

_GONE_S = 5.0

# Parent: a new pid namespace begins with its first child. It tells the child's host pid on stdout and waits until its stdin is
# closed, when the namespace is pinned. Child: gives up everything, then sleeps for ever; children are reaped by SIG_IGN.
PROGRAM = r"""
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, CLONE_NEWPID = 0x20000, 0x20000000
MS_RDONLY, MS_REC, MS_PRIVATE = 1, 16384, 1 << 18
PR_SET_NAME, PR_SET_NO_NEW_PRIVS = 15, 38
def check(result):
    if result:
        os._exit(70)
check(libc.unshare(CLONE_NEWNS | CLONE_NEWPID))
ready_read, ready_write = os.pipe()
child = os.fork()
if child:
    os.close(ready_write)
    if os.read(ready_read, 1) != b"r":
        os._exit(71)
    os.write(1, b"%d\n" % child)
    os.read(0, 1)
    os._exit(0)
check(libc.mount(None, b"/", None, MS_REC | MS_PRIVATE, None))
check(libc.mount(b"tmpfs", b"/proc", b"tmpfs", MS_RDONLY, b"size=4k,mode=0555"))
os.setsid()
os.chroot("/proc")
os.chdir("/")
for number in range(1, signal.NSIG):
    if number not in (signal.SIGKILL, signal.SIGSTOP):
        try:
            signal.signal(number, signal.SIG_IGN)
        except (OSError, ValueError):
            pass
os.setgroups([])
os.setresgid(65535, 65535, 65535)
os.setresuid(65535, 65535, 65535)
check(libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))
libc.prctl(PR_SET_NAME, b"pause", 0, 0, 0)
os.write(ready_write, b"r")
os.closerange(0, 64)
while True:
    signal.pause()
"""


async def start_pause(target: Path, *, cgroups: CgroupTree, cgroup_path: str) -> None:
    """Start it in a new pid namespace and bind that to the existing file *target*.

    Raises:
        OSError: the namespace cannot be made or pinned.

    Cancellation: shielded; it takes some 50 ms.
    """
    with trio.CancelScope(shield=True):
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=tool_environment(),
            start_new_session=True,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        async with process.stdin, process.stdout:
            line = await process.stdout.receive_some(32)
            if not line:
                await process.wait()
                raise OSError(0, "no pid namespace could be made", "pid")
            pid = int(line)
            try:
                cgroups.place(pid, cgroup_path)
                await trio.to_thread.run_sync(mount, f"/proc/{pid}/ns/pid", target, None, MS_BIND)
            except BaseException:
                os.kill(pid, signal.SIGKILL)  # our grandchild, whose parent still waits: the number is its
                raise
            finally:
                await process.stdin.aclose()
                await process.wait()


async def kill_pause(cgroups: CgroupTree, cgroup_path: str) -> None:
    """End it, and with it whatever still runs in its pid namespace. Idempotent."""
    for pid in cgroups.processes(cgroup_path):
        try:
            fd = os.pidfd_open(pid)
        except OSError:
            continue
        try:
            if pid in cgroups.processes(cgroup_path):
                signal.pidfd_send_signal(fd, signal.SIGKILL)
                with trio.move_on_after(_GONE_S):
                    await trio.lowlevel.wait_readable(fd)
        except ProcessLookupError:
            pass
        finally:
            os.close(fd)
