"""The way to an API server behind a proxy: ``CONNECT`` over http or https, or SOCKS 5. What travels inside is TLS as ever.

Which proxy is meant (:func:`parse_proxy`, :func:`environment_proxy`) is decided without I/O and without showing a password;
:func:`dial` connects. Used by ``kubeconfig.py`` and ``http2.py``.

Source: k8s.io/client-go tools/clientcmd (proxy-url), golang.org/x/net/http/httpproxy (which addresses go through
``$HTTPS_PROXY``); RFC 9110 §9.3.6, RFC 1928, RFC 1929.
"""

from __future__ import annotations

import base64
import ipaddress
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit

import trio

from kubelet_secrets.errors import UsageError
from kubelet_secrets.sensitive import SensitiveBytes

_PORTS = {"http": 80, "https": 443, "socks5": 1080}
_LARGEST_ANSWER_BYTES = 16 * 1024
_HAPPY_EYEBALLS_S = 0.25
_SOCKS_PROBLEMS = {
    1: "general failure",
    2: "connection not allowed by its rules",
    3: "network unreachable",
    4: "host unreachable",
    5: "connection refused",
    6: "time to live expired",
    7: "command not supported",
    8: "address type not supported",
}


class ProxyError(OSError):
    """The proxy does not let us through; the text is its own reason, without the credentials that it was shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Proxy:
    """One proxy. ``str()`` is its address, without credentials."""

    scheme: str  # "http", "https", "socks5"
    host: str
    port: int
    username: str = ""
    password: SensitiveBytes = field(default_factory=lambda: SensitiveBytes(b""))

    def __str__(self) -> str:
        return f"{self.scheme}://{_authority(self.host, self.port)}"

    def credentials(self) -> tuple[str, str] | None:
        """Name and password, to be shown to it at once; None when it wants none."""
        return (self.username, self.password.reveal().decode()) if self.username else None


def parse_proxy(url: str, field: str) -> Proxy:
    """Read ``proxy-url``.

    Args:
        field: where it stands, for the message of an error.

    Raises:
        UsageError: it is no address of a proxy of a known kind. The URL is not quoted: it may hold a password.
    """
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError:
        raise UsageError(f"{field}: not the address of a proxy") from None
    if parts.scheme not in _PORTS:
        raise UsageError(f"{field}: unsupported scheme, must be http, https, or socks5")
    if not host:
        raise UsageError(f"{field}: not the address of a proxy")
    return Proxy(
        scheme=parts.scheme,
        host=host,
        port=port or _PORTS[parts.scheme],
        username=unquote(parts.username or ""),
        password=SensitiveBytes(unquote(parts.password or "").encode()),
    )


def environment_proxy(scheme: str, host: str, port: int, environment: Mapping[str, str]) -> Proxy | None:
    """The proxy that the environment names for an address; None: none. Loopback is never reached through one.

    Raises:
        UsageError: the variable that counts holds no address of a proxy.
    """
    name = "HTTPS_PROXY" if scheme == "https" else "HTTP_PROXY"
    url = environment.get(name) or environment.get(name.lower()) or ""
    if not url or _is_loopback(host) or _is_exempt(host, port, environment):
        return None
    return parse_proxy(url if "://" in url else f"http://{url}", name)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _is_exempt(host: str, port: int, environment: Mapping[str, str]) -> bool:
    """Whether ``NO_PROXY`` covers the address. Source: httpproxy, config.useProxy and its matchers."""
    listed = environment.get("NO_PROXY") or environment.get("no_proxy") or ""
    return any(_covers(entry.strip().lower(), host.lower(), port) for entry in listed.split(",") if entry.strip())


def _covers(entry: str, host: str, port: int) -> bool:
    if entry == "*":
        return True
    try:
        network = ipaddress.ip_network(entry, strict=False)
        return ipaddress.ip_address(host) in network
    except ValueError:
        pass  # a name is on one of the two sides
    name, colon, wanted_port = entry.rpartition(":")
    if colon and wanted_port.isdigit():
        if int(wanted_port) != port:
            return False
        entry = name.strip("[]")
    suffix = entry.removeprefix("*")
    return host.endswith(suffix) if suffix.startswith(".") else host == suffix or host.endswith(f".{suffix}")


async def dial(host: str, port: int, proxy: Proxy | None) -> trio.abc.Stream:
    """A connection to *host*, through *proxy* where there is one. *host* may be a name: a proxy looks it up itself.

    Raises:
        ProxyError: the proxy refuses.
        OSError, trio.BrokenResourceError: no connection.

    Cancellation: nothing stays open.
    """
    if proxy is None:
        return await trio.open_tcp_stream(host, port, happy_eyeballs_delay=_HAPPY_EYEBALLS_S)
    stream: trio.abc.Stream = await trio.open_tcp_stream(proxy.host, proxy.port, happy_eyeballs_delay=_HAPPY_EYEBALLS_S)
    try:
        if proxy.scheme == "https":
            context = ssl.create_default_context()
            stream = trio.SSLStream(stream, context, server_hostname=proxy.host, https_compatible=True)
        if proxy.scheme == "socks5":
            await _ask_socks(stream, host, port, proxy)
        else:
            await _ask_connect(stream, host, port, proxy)
    except BaseException:
        await trio.aclose_forcefully(stream)
        raise
    return stream


async def _ask_connect(stream: trio.abc.Stream, host: str, port: int, proxy: Proxy) -> None:
    target = _authority(host, port)
    lines = [f"CONNECT {target} HTTP/1.1", f"Host: {target}"]
    if proxy.username:
        credentials = f"{proxy.username}:".encode() + proxy.password.reveal()
        lines.append(f"Proxy-Authorization: Basic {base64.b64encode(credentials).decode()}")
    await stream.send_all("\r\n".join([*lines, "", ""]).encode())
    answer = bytearray()
    # By single bytes: whatever follows the empty line is the server's, and TLS is to read it.
    while not answer.endswith(b"\r\n\r\n"):
        piece = await stream.receive_some(1)
        if not piece or len(answer) > _LARGEST_ANSWER_BYTES:
            raise ProxyError(f"proxy {proxy}: no answer to CONNECT")
        answer += piece
    status_line = bytes(answer).split(b"\r\n", 1)[0].decode("latin-1")
    version, _, status = status_line.partition(" ")
    if not version.startswith("HTTP/1.") or not status.startswith("2"):
        shown = status if version.startswith("HTTP/1.") and status.isprintable() else "not HTTP"
        raise ProxyError(f"proxy {proxy}: {shown}")


async def _ask_socks(stream: trio.abc.Stream, host: str, port: int, proxy: Proxy) -> None:
    method = 2 if proxy.username else 0
    await stream.send_all(bytes([5, 1, method]))
    if await _receive_exactly(stream, 2, proxy) != bytes([5, method]):
        raise ProxyError(f"proxy {proxy}: it wants another authentication")
    if proxy.username:
        name, password = proxy.username.encode(), proxy.password.reveal()
        if len(name) > 255 or len(password) > 255:
            raise ProxyError(f"proxy {proxy}: the credentials are too long")
        await stream.send_all(bytes([1, len(name)]) + name + bytes([len(password)]) + password)
        if (await _receive_exactly(stream, 2, proxy))[1] != 0:
            raise ProxyError(f"proxy {proxy}: it refuses the credentials")
    await stream.send_all(b"\x05\x01\x00" + _socks_address(host) + port.to_bytes(2, "big"))
    version, reply, _, kind = await _receive_exactly(stream, 4, proxy)
    if version != 5 or reply != 0:
        raise ProxyError(f"proxy {proxy}: {_SOCKS_PROBLEMS.get(reply, 'not SOCKS 5')}")
    length = {1: 4, 4: 16}.get(kind) or (await _receive_exactly(stream, 1, proxy))[0]
    await _receive_exactly(stream, length + 2, proxy)


def _socks_address(host: str) -> bytes:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        name = host.encode("idna")
        return bytes([3, len(name)]) + name
    return bytes([1 if address.version == 4 else 4]) + address.packed


async def _receive_exactly(stream: trio.abc.Stream, count: int, proxy: Proxy) -> bytes:
    received = bytearray()
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        if not piece:
            raise ProxyError(f"proxy {proxy}: it closed the connection")
        received += piece
    return bytes(received)


def _authority(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
