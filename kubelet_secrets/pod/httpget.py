"""One HTTP GET of a probe or a hook, in the words of the kubelet's client.

A pod's port is no place for a client that keeps connections or takes a body in: a status line is all that counts. Called by
``pod/handlers.py``. Source: pkg/probe/http (request.go, http.go); Go's net/http for the errors.
"""

from __future__ import annotations

import os
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import trio

from kubelet_secrets.api.core import HTTPGetAction
from kubelet_secrets.pod.podnet import connect

MAX_HEAD_BYTES = 10 * 1024
MAX_REDIRECTS = 10
REDIRECTS = (301, 302, 303, 307, 308)


class GetFailed(Exception):
    """There was no answer. The text is the kubelet's, and quotes nothing that the container sent."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a GET.

    Attributes:
        code: of the last answer.
        leads_away: it was a redirect to another host, which is not followed.
    """

    code: int
    leads_away: bool = False


@dataclass(frozen=True, slots=True)
class _Head:
    code: int
    location: str


async def get(action: HTTPGetAction, *, network: Path | None, host: str, port: int, user_agent: str) -> Answer:
    """GET as *action* asks, following redirects within the same host.

    Args:
        network: where *host* is reached from; None: the node itself.
        user_agent: unless *action* names another.

    Raises:
        GetFailed: see there.

    Cancellation: the connection is closed.
    """
    scheme = action.scheme.lower() or "http"
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    first = f"{scheme}://{join_host_port(host, port)}{path}"
    url = first
    for _ in range(MAX_REDIRECTS):
        head = await _get_once(url, _headers(action, user_agent), network)
        if head.code not in REDIRECTS or not head.location:
            return Answer(head.code)
        target = urljoin(url, head.location)
        if urlsplit(target).hostname != urlsplit(first).hostname or urlsplit(target).scheme not in ("http", "https"):
            return Answer(head.code, leads_away=True)
        url = target
    raise GetFailed(f'Get "{url}": stopped after {MAX_REDIRECTS} redirects')


def join_host_port(host: str, port: int) -> str:
    """Source: net.JoinHostPort."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _headers(action: HTTPGetAction, user_agent: str) -> dict[str, str]:
    """A header of the action's own replaces a default one; an empty User-Agent or Accept leaves it out."""
    headers = {"User-Agent": user_agent, "Accept": "*/*", "Connection": "close"}
    for header in action.http_headers:
        name = header.name.title()
        headers[name] = f"{headers[name]}, {header.value}" if name in headers and name not in _SINGLE else header.value
    return {name: text for name, text in headers.items() if text or name not in _SINGLE}


_SINGLE = ("User-Agent", "Accept", "Connection", "Host")


async def _get_once(url: str, headers: Mapping[str, str], network: Path | None) -> _Head:
    parts = urlsplit(url)
    host, is_tls = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if is_tls else 80)
    request = _request(url, headers)
    try:
        stream: trio.abc.Stream = await connect(network, host, port)
    except OSError as error:
        raise GetFailed(f'Get "{url}": {dial_error(host, port, error)}') from error
    async with stream:
        if is_tls:
            # Like the kubelet, which does not know who signed a container's certificate.
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            stream = trio.SSLStream(stream, context, server_hostname=host, https_compatible=True)
        try:
            await stream.send_all(request)
            data = await _receive_head(stream)
        except trio.BrokenResourceError as error:
            raise GetFailed(f'Get "{url}": {_broken(error)}') from error
    head = _parse_head(data)
    if head is None:
        cause = "net/http: HTTP/1.x transport connection broken: malformed HTTP response" if data else "EOF"
        raise GetFailed(f'Get "{url}": {cause}')
    return head


def dial_error(host: str, port: int, error: OSError) -> str:
    """``dial tcp 10.0.0.1:80: connect: connection refused``. Source: net.OpError."""
    if isinstance(error, socket.gaierror):
        return f"dial tcp: lookup {host}: no such host"
    # By its number: trio puts the address into the text.
    cause = os.strerror(error.errno) if error.errno else str(error)
    return f"dial tcp {join_host_port(host, port)}: connect: {cause.lower()}"


def _broken(error: trio.BrokenResourceError) -> str:
    cause = error.__cause__
    if isinstance(cause, ssl.SSLError):
        if cause.reason == "WRONG_VERSION_NUMBER":
            return "http: server gave HTTP response to HTTPS client"
        return f"remote error: tls: {(cause.reason or 'handshake failure').lower().replace('_', ' ')}"
    if isinstance(cause, OSError) and cause.strerror:
        return f"read: {cause.strerror.lower()}"
    return "EOF"


def _request(url: str, headers: Mapping[str, str]) -> bytes:
    parts = urlsplit(url)
    target = parts.path or "/"
    if parts.query:
        target += f"?{parts.query}"
    wanted = {"Host": parts.netloc, **headers}
    lines = [f"GET {target} HTTP/1.1", *(f"{name}: {text}" for name, text in wanted.items())]
    if any("\r" in line or "\n" in line for line in lines):
        raise GetFailed(f'Get "{parts.scheme}://{parts.netloc}": a path or header holds a line break')
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


async def _receive_head(stream: trio.abc.Stream) -> bytes:
    data = b""
    while b"\r\n\r\n" not in data and len(data) < MAX_HEAD_BYTES:
        chunk = await stream.receive_some(4096)
        if not chunk:
            break
        data += chunk
    return data


def _parse_head(data: bytes) -> _Head | None:
    """None: no HTTP/1 answer. A head that is cut off counts by its first line."""
    lines = data.split(b"\r\n\r\n", 1)[0].split(b"\r\n")
    words = lines[0].split(b" ")
    if len(words) < 2 or not words[0].startswith(b"HTTP/1.") or not (words[1].isdigit() and len(words[1]) == 3):
        return None
    location = ""
    for line in lines[1:]:
        name, colon, value = line.partition(b":")
        if colon and name.strip().lower() == b"location":
            location = value.strip().decode("latin-1")
    return _Head(int(words[1]), location)
