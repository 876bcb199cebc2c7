"""Connect to a port of a pod from the node: sockets that live in the pod's network namespace.

A pod's address exists inside its own namespace only (``runtime/sandbox.py``): probes, hooks and port-forwarding step in.
A socket belongs for good to the namespace it was made in: a short-lived thread makes it, the event loop uses it.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

import trio

from kubelet_secrets.linux import CLONE_NEWNET, setns
from kubelet_secrets.runtime.netns import run_in_new_thread


async def connect(network: Path | None, host: str, port: int) -> trio.SocketStream:
    """Open a TCP connection as a process of the pod would.

    Args:
        network: the pod's network namespace; None for the host's.
        host: an address; on the host's network a name as well.

    Raises:
        OSError: nobody listens there, or the namespace is gone.
    """
    if network is None:
        family, _, _, _, address = (await trio.socket.getaddrinfo(host, port, type=socket.SOCK_STREAM))[0]
        connection = trio.socket.socket(family, socket.SOCK_STREAM)
    else:
        family, address = socket.AF_INET6 if ":" in host else socket.AF_INET, (host, port)
        connection = trio.socket.from_stdlib_socket(await trio.to_thread.run_sync(_make_socket, network, family))
    try:
        await connection.connect(address)
    except BaseException:
        connection.close()
        raise
    return trio.SocketStream(connection)


def _make_socket(network: Path, family: socket.AddressFamily) -> socket.socket:
    made: list[socket.socket] = []

    def work() -> None:
        fd = os.open(network, os.O_RDONLY | os.O_CLOEXEC)
        try:
            setns(fd, CLONE_NEWNET)
        finally:
            os.close(fd)
        made.append(socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC))

    run_in_new_thread(work)  # never a thread of the pool: it has left the host's namespace
    return made[0]
