"""``/portForward``: connections to a pod's own ``localhost``, made in its network namespace, for ``kubectl port-forward``.

Only SPDY/3.1, which is what API servers speak to kubelets, with ``portforward.k8s.io`` on it (``forwardstreams.py``). A pod
sees the connection come from itself, as with containerd and CRI-O, so also what listens on its loopback alone is reached.

Source: pkg/kubelet/server/server.go (getPortForward), pkg/kubelet/kubelet_pods.go (GetPortForward); containerd
internal/cri/server/sandbox_portforward_linux.go for the texts; semantics §12.2.
"""

from __future__ import annotations

import errno
import logging
import os
from http import HTTPStatus
from pathlib import Path

import trio

from kubelet_secrets.kubeletapi.authn import UserInfo
from kubelet_secrets.kubeletapi.forwardstreams import Forward, ForwardStreams
from kubelet_secrets.kubeletapi.http1 import Exchange, HttpRequest
from kubelet_secrets.kubeletapi.remotecommand import IDLE_S
from kubelet_secrets.pod.podnet import connect
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.runtime.sandbox import SandboxManager

logger = logging.getLogger(__name__)

PROTOCOL = "portforward.k8s.io"
PROTOCOL_HEADER = "X-Stream-Protocol-Version"
GRACE_S = 1.0  # for the client's rest, once the pod has ended the connection
LINGER_S = 60.0  # for the pod to go on, once the client has said its last
_LOOPBACK = (("tcp4", "127.0.0.1"), ("tcp6", "::1"))  # one after the other: namespaces do not go with happy eyeballs
_CHUNK_BYTES = 64 * 1024


async def answer_port_forward(exchange: Exchange, sandboxes: SandboxManager, view: PodView, user: UserInfo) -> None:
    """Answer one request; it carries as many connections as the client makes, until the client goes."""
    meta = view.pod.metadata
    sandbox = sandboxes.get(meta.uid)
    if sandbox is None:
        text = f'pod not found ("{meta.name}_{meta.namespace}")'
        await exchange.respond(HTTPStatus.INTERNAL_SERVER_ERROR, text)
        return
    if (refusal := _refusal(exchange.request)) is not None:
        await exchange.respond(*refusal)
        return
    headers = [("Connection", "Upgrade"), ("Upgrade", "SPDY/3.1"), (PROTOCOL_HEADER, PROTOCOL)]
    stream = await exchange.upgrade(headers)
    network = sandbox.namespaces.net

    async def serve(forward: Forward) -> str:
        try:
            connection = await _dial(network, forward.port, meta.uid)
            async with connection:
                problem = await _copy(connection, forward, streams)
        except _DialFailed as failed:
            problem = str(failed)
        if not problem:
            return ""
        where = "host" if network is None else str(network)
        reason = f'failed to execute portforward in network namespace "{where}": {problem}'
        return f"error forwarding port {forward.port} to pod {meta.uid}, uid : {reason}"

    streams = ForwardStreams(stream, serve, described=f"{meta.namespace}/{meta.name}")
    logger.info("port-forward to pod %s/%s by %s", meta.namespace, meta.name, user.name)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_when_idle, exchange, nursery.cancel_scope)
        await streams.run()
        nursery.cancel_scope.cancel()
    await stream.aclose()


def _refusal(request: HttpRequest) -> tuple[int, str] | None:
    """Why the connection cannot leave HTTP; None when it can."""
    offered = [each.strip() for each in request.headers.get(PROTOCOL_HEADER.lower(), "").split(",") if each.strip()]
    if not request.is_upgrade_to("SPDY/3.1"):
        return HTTPStatus.BAD_REQUEST, "unable to upgrade: missing upgrade headers in request\n"
    if not offered:
        return HTTPStatus.BAD_REQUEST, f"unable to upgrade: {PROTOCOL_HEADER} is required\n"
    if PROTOCOL not in offered:
        text = f"unable to negotiate protocol: client supports [{' '.join(offered)}], server accepts [{PROTOCOL}]"
        return HTTPStatus.FORBIDDEN, f"unable to upgrade: {text}\n"
    return None


class _DialFailed(Exception):
    """Nobody listens there; says so."""


async def _dial(network: Path | None, port: int, pod_uid: str) -> trio.SocketStream:
    """Raises: _DialFailed."""
    reasons = []
    for family, address in _LOOPBACK:
        try:
            return await connect(network, address, port)
        except OSError as error:
            shown = f"[{address}]" if ":" in address else address
            reasons.append(f"dial {family} {shown}:{port}: connect: {_reason(error)}")
    four, six = reasons
    where = f'failed to connect to localhost:{port} inside namespace "{pod_uid}"'
    raise _DialFailed(f"{where}, IPv4: {four} IPv6 {six} ")


async def _copy(connection: trio.SocketStream, forward: Forward, streams: ForwardStreams) -> str:
    """Both ways, to the pod's end of the connection. What the client has closed on its side only is closed on the pod's.

    Returns:
        How the pod broke the connection; "" when it did not.
    """
    patience = trio.CancelScope()
    is_half_closed = False
    has_taken_all = trio.Event()
    problem = ""

    async def inward() -> None:
        nonlocal is_half_closed
        try:
            while data := await forward.receive():
                await connection.send_all(data)
            await connection.send_eof()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            pass  # the pod reads no more: how it ends is told by the other direction
        is_half_closed = True
        patience.deadline = trio.current_time() + LINGER_S
        has_taken_all.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(inward)
        try:
            with patience:
                while data := bytes(await connection.receive_some(_CHUNK_BYTES)):
                    await streams.send(forward, data)
                    if is_half_closed:
                        patience.deadline = trio.current_time() + LINGER_S
            await streams.end_output(forward)
        except trio.BrokenResourceError as error:
            # Without a cause it is the client that has gone, and nobody is told.
            problem = f"read: {_reason(error.__cause__)}" if isinstance(error.__cause__, OSError) else ""
        with trio.move_on_after(GRACE_S if not problem else 0):
            await has_taken_all.wait()
        nursery.cancel_scope.cancel()
    return problem


def _reason(error: OSError) -> str:
    """As Go words it. Source: the table of syscall/zerrors_linux.go, which is strerror's in lower case."""
    if error.errno == errno.ENOENT or error.errno is None:
        return "no such file or directory"  # the namespace has gone
    return os.strerror(error.errno).lower()


async def _end_when_idle(exchange: Exchange, scope: trio.CancelScope) -> None:
    await exchange.wait_idle(IDLE_S)
    logger.info("a port-forward is ended: nothing was said for %d s", IDLE_S)
    scope.cancel()
