"""Make namespaces without a process in them: a thread of ours steps into new ones, pins them to files, and ends.

Everything here is synchronous and runs in a thread of its own: a thread that has left the host's namespaces must never go
back to a pool. Called by ``sandbox`` only.
"""

from __future__ import annotations

import fcntl
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

from kubelet_secrets.linux import CLONE_NEWIPC, CLONE_NEWNET, CLONE_NEWUTS, MS_BIND, mount, unshare

_FLAGS = {"net": CLONE_NEWNET, "ipc": CLONE_NEWIPC, "uts": CLONE_NEWUTS}

# <linux/sockios.h>, <linux/if.h>
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_SIOCSIFADDR = 0x8916
_SIOCSIFNETMASK = 0x891C
_IFF_UP = 0x1


def make_namespaces(
    targets: Mapping[str, Path], *, hostname: str, ip: str | None, sysctls: Mapping[str, str] | None = None
) -> None:
    """Create new namespaces and bind each to a file, which keeps it until it is unmounted.

    Args:
        targets: ``net``, ``ipc``, ``uts`` → an existing empty file. Kinds left out stay the host's.
        hostname: set in a new uts namespace.
        ip: IPv4 address for the loopback interface of a new net namespace, beside 127.0.0.1.
        sysctls: dotted name → value; net.* needs a new net namespace, kernel.shm*/msg*/sem and fs.mqueue.* a new ipc one.

    Raises:
        OSError: a step failed. Files already bound stay bound: the caller unmounts all of them.
    """

    def work() -> None:
        flags = 0
        for kind in targets:
            flags |= _FLAGS[kind]
        unshare(flags)
        if "uts" in targets:
            socket.sethostname(hostname)
        if "net" in targets:
            bring_up_loopback(ip)
        for name, value in (sysctls or {}).items():
            # /proc/sys shows the namespaces of the thread that looks.
            Path("/proc/sys", *name.split("/") if "/" in name else name.split(".")).write_text(value)
        for kind, target in targets.items():
            mount(f"/proc/thread-self/ns/{kind}", target, None, MS_BIND)

    if targets:
        run_in_new_thread(work)


def bring_up_loopback(ip: str | None) -> None:
    """Set ``lo`` up in the current net namespace, and give it *ip* as a /32 under the label ``lo:pod``."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as control:
        request = struct.pack("16sH14x", b"lo", 0)
        (flags,) = struct.unpack_from("H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))
        if ip is not None:
            for call, address in ((_SIOCSIFADDR, ip), (_SIOCSIFNETMASK, "255.255.255.255")):
                # struct ifreq: name, then sockaddr_in: family, port, address, padding
                fcntl.ioctl(
                    control, call, struct.pack("16sHH4s8x", b"lo:pod", socket.AF_INET, 0, socket.inet_aton(address))
                )


def run_in_new_thread(work: Callable[[], None]) -> None:
    """Run *work* in a thread that ends with it; its exception is raised here."""
    failure: list[BaseException] = []

    def guarded() -> None:
        try:
            work()
        except BaseException as error:
            failure.append(error)

    thread = threading.Thread(target=guarded, name="namespaces")
    thread.start()
    thread.join()
    if failure:
        raise failure[0]
