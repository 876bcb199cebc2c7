"""Run one handler of a container: exec, httpGet, tcpSocket or sleep. What hooks and probes are made of.

Called by ``pod/termination.py`` (preStop), ``pod/containers.py`` (postStart) and ``pod/probes.py``. Source:
pkg/kubelet/lifecycle/handlers.go, pkg/probe.
"""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

import trio

from kubelet_secrets.api.core import (
    Container,
    ExecAction,
    HTTPGetAction,
    IntOrString,
    LifecycleHandler,
    Probe,
    SleepAction,
    TCPSocketAction,
)
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.podnet import connect
from kubelet_secrets.runtime.oci import OciRuntime

MAX_OUTPUT_BYTES = 10 * 1024
MAX_ANSWER_BYTES = 10 * 1024


class HandlerFailed(Exception):
    """The handler ran and said no, or could not run. The text is for an event: it never quotes output of the container."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The running container that a handler is about."""

    container: Container
    container_id: str
    pod_ip: str
    network: Path | None  # its network namespace; None: the host's


async def run_handler(runtime: OciRuntime, handler: LifecycleHandler | Probe, target: Target) -> None:
    """Run *handler* to its end.

    Raises:
        HandlerFailed: it failed.

    Cancellation: a command under way is killed, a connection closed.
    """
    sleep: SleepAction | None = handler.sleep if isinstance(handler, LifecycleHandler) else None
    if handler.exec is not None:
        await _run_command(runtime, handler.exec, target)
    elif handler.http_get is not None:
        await _get(handler.http_get, target)
    elif handler.tcp_socket is not None:
        await _connect(handler.tcp_socket, target)
    elif sleep is not None:
        await trio.sleep(sleep.seconds)
    else:
        raise HandlerFailed("invalid handler: nothing is set")


async def _run_command(runtime: OciRuntime, action: ExecAction, target: Target) -> None:
    try:
        result = await runtime.exec(target.container_id, list(action.command), max_output_bytes=MAX_OUTPUT_BYTES)
    except ContainerRunError as error:
        raise HandlerFailed(str(error)) from error
    if result.code != 0:
        # Differs: the kubelet puts the output into the event. It may be anything the container can read.
        raise HandlerFailed(f"command exited with {result.code}")


async def _connect(action: TCPSocketAction, target: Target) -> None:
    host, port = action.host or target.pod_ip, find_port(target.container, action.port)
    try:
        stream = await connect(target.network, host, port)
    except OSError as error:
        raise HandlerFailed(f"dial tcp {host}:{port}: connect: {(error.strerror or str(error)).lower()}") from error
    await stream.aclose()


async def _get(action: HTTPGetAction, target: Target) -> None:
    """One GET over HTTP/1.1. A pod's port is no place for a client that follows redirects and keeps connections."""
    host, port = action.host or target.pod_ip, find_port(target.container, action.port)
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    scheme = action.scheme.lower() or "http"
    url = f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}{path}"
    try:
        stream: trio.abc.Stream = await connect(target.network, host, port)
        async with stream:
            if scheme == "https":
                # Like the kubelet, which does not know who signed a container's certificate.
                context = ssl.create_default_context()
                context.check_hostname = False
                context.verify_mode = ssl.CERT_NONE
                stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
            await stream.send_all(_request(action, path, host, port))
            code = await _read_status(stream)
    except (OSError, trio.BrokenResourceError) as error:
        raise HandlerFailed(f'Get "{url}": {type(error).__name__}') from error
    if code is None:
        raise HandlerFailed(f'Get "{url}": malformed HTTP response')
    if not 200 <= code < 400:
        raise HandlerFailed(f"HTTP probe failed with statuscode: {code}")


def _request(action: HTTPGetAction, path: str, host: str, port: int) -> bytes:
    headers = {"Host": f"{host}:{port}", "User-Agent": "kube-probe/1.36", "Accept": "*/*", "Connection": "close"}
    for header in action.http_headers:
        headers[header.name] = header.value
    lines = [f"GET {path} HTTP/1.1", *(f"{name}: {text}" for name, text in headers.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise HandlerFailed("a path or header of the handler holds a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _read_status(stream: trio.abc.Stream) -> int | None:
    """The code of ``HTTP/1.1 200 OK``, read from as much as is needed; None when it is no such line."""
    data = b""
    while b"\r\n" not in data and len(data) < MAX_ANSWER_BYTES:
        chunk = await stream.receive_some(4096)
        if not chunk:
            break
        data += chunk
    words = data.split(b"\r\n", 1)[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not words[1].isdigit():
        return None
    return int(words[1])


def find_port(container: Container, port: IntOrString) -> int:
    """A port by number or by the name that the container's spec gives it.

    Raises:
        HandlerFailed: no port of that name, or no port number.
    """
    if isinstance(port, str) and not port.isdecimal():
        named = next((each.container_port for each in container.ports if each.name == port), None)
        if named is None:
            raise HandlerFailed(f"couldn't find port: {port}")
        return named
    number = int(port)
    if not 0 < number < 65536:
        raise HandlerFailed(f"invalid port number: {number}")
    return number
