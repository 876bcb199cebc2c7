"""API servers that are reached through a proxy only: which one, and that everything works through it."""

from __future__ import annotations

import base64
import dataclasses
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.client.kubeconfig import ClusterConfig, load_kubeconfig
from kubelet_secrets.client.proxy import Proxy, environment_proxy, parse_proxy
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import ApiUnavailable, UsageError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.client.h2server import CA_PEM, ServerStream, serve

# --- which ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "shown", "username"),
    [
        ("http://proxy:3128", "http://proxy:3128", ""),
        ("http://proxy", "http://proxy:80", ""),
        ("https://proxy/", "https://proxy:443", ""),
        ("socks5://u%40x:canary@[::1]", "socks5://[::1]:1080", "u@x"),
    ],
)
def test_address_of_a_proxy(url: str, shown: str, username: str) -> None:
    proxy = parse_proxy(url, "proxy-url")
    assert (str(proxy), proxy.username) == (shown, username)
    assert "canary" not in repr(proxy)


@pytest.mark.parametrize("url", ["ftp://canary", "canary", "http://", "http://u:canary@host:port"])
def test_what_is_no_proxy_is_not_quoted(url: str) -> None:
    with pytest.raises(UsageError, match=r"^x: ") as caught:
        parse_proxy(url, "x")
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("host", "no_proxy", "is_used"),
    [
        pytest.param("api.example.org", "", True, id="set"),
        pytest.param("localhost", "", False, id="localhost"),
        pytest.param("127.0.0.2", "", False, id="loopback"),
        pytest.param("::1", "", False, id="loopback-6"),
        pytest.param("api.example.org", "*", False, id="everything"),
        pytest.param("api.example.org", "other.org, example.org", False, id="domain"),
        pytest.param("api.example.org", "api.example.org:6443", False, id="with-port"),
        pytest.param("api.example.org", "api.example.org:443", True, id="other-port"),
        pytest.param("example.org", ".example.org", True, id="subdomains-only"),
        pytest.param("api.example.org", "*.example.org", False, id="star"),
        pytest.param("myexample.org", "example.org", True, id="no-domain"),
        pytest.param("10.1.2.3", "10.0.0.0/8", False, id="cidr"),
        pytest.param("10.1.2.3", "10.1.2.4,192.168.0.0/16", True, id="other-address"),
        pytest.param("2001:db8::5", "2001:db8::/32", False, id="cidr-6"),
    ],
)
def test_environment_says_what_goes_through_a_proxy(host: str, no_proxy: str, is_used: bool) -> None:
    """Source: golang.org/x/net/http/httpproxy, proxy_test.go."""
    environment = {"https_proxy": "proxy:3128", "NO_PROXY": no_proxy}
    found = environment_proxy("https", host, 6443, environment)
    assert (str(found) if found else None) == ("http://proxy:3128" if is_used else None)
    assert environment_proxy("http", host, 80, environment) is None


# --- through it -----------------------------------------------------------------------------------------------------


@dataclass
class FakeProxy:
    """Connects wherever it is asked to, as long as it is asked properly."""

    answer: bytes = b"HTTP/1.1 200 Connection established\r\n\r\n"
    asked: list[str] = field(default_factory=list)
    port: int = 0

    async def connect(self, client: trio.SocketStream) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            request += await client.receive_some(1)
        self.asked.append(request.decode())
        await client.send_all(self.answer)
        if b" 200 " in self.answer:
            await self.tunnel(client, int(request.split()[1].rpartition(b":")[2]))

    async def socks(self, client: trio.SocketStream) -> None:
        _, _, method = await exactly(client, 3)
        await client.send_all(bytes([5, method]))
        if method == 2:
            _, length = await exactly(client, 2)
            name = await exactly(client, length)
            password = await exactly(client, (await exactly(client, 1))[0])
            self.asked.append(f"{name.decode()}:{password.decode()}")
            await client.send_all(bytes([1, 0 if password == b"pass" else 1]))
        _, _, _, kind = await exactly(client, 4)
        host = await exactly(client, {1: 4, 4: 16}.get(kind) or (await exactly(client, 1))[0])
        port = int.from_bytes(await exactly(client, 2), "big")
        self.asked.append(host.decode() if kind == 3 else host.hex())
        await client.send_all(b"\x05\x00\x00\x03\x05proxy\x00\x00")
        await self.tunnel(client, port)

    async def tunnel(self, client: trio.SocketStream, port: int) -> None:
        async with await trio.open_tcp_stream("127.0.0.1", port) as server, trio.open_nursery() as nursery:

            async def copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
                try:
                    async for piece in source:
                        await sink.send_all(piece)
                except (trio.BrokenResourceError, trio.ClosedResourceError):
                    pass
                nursery.cancel_scope.cancel()

            nursery.start_soon(copy, client, server)
            nursery.start_soon(copy, server, client)


async def exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = b""
    while len(received) < count:
        piece = await stream.receive_some(count - len(received))
        if not piece:
            raise trio.BrokenResourceError
        received += piece
    return received


@asynccontextmanager
async def running(proxy: FakeProxy, kind: str) -> AsyncIterator[None]:
    async def answer(client: trio.SocketStream) -> None:
        try:
            await (proxy.socks if kind == "socks5" else proxy.connect)(client)
        except trio.BrokenResourceError:
            pass

    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
    proxy.port = listeners[0].socket.getsockname()[1]
    async with trio.open_nursery() as nursery:
        await nursery.start(trio.serve_listeners, answer, listeners)
        yield
        nursery.cancel_scope.cancel()


async def say_name(stream: ServerStream) -> None:
    await stream.answer(200, b'{"metadata": {"name": "db"}}')


def config(server_url: str, proxy: FakeProxy, scheme: str, *, username: str = "", password: str = "") -> ClusterConfig:
    through = Proxy(
        scheme=scheme,
        host="127.0.0.1",
        port=proxy.port,
        username=username,
        password=SensitiveBytes(password.encode()),
    )
    return ClusterConfig(server=server_url, ca_pem=CA_PEM, proxy=through)


async def test_request_travels_through_an_http_proxy() -> None:
    proxy = FakeProxy()
    with trio.fail_after(60):
        async with serve(say_name) as server, running(proxy, "http"):
            connection = config(server.url, proxy, "http", username="user", password="pass")
            async with open_client(connection) as client:
                assert (await client.get(SECRETS, "shop", "db", Secret)).metadata.name == "db"
    [request] = proxy.asked
    assert request.startswith(f"CONNECT 127.0.0.1:{server.port} HTTP/1.1\r\n")
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'user:pass').decode()}\r\n" in request


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
async def test_request_travels_through_a_socks_proxy(host: str) -> None:
    """A name is the proxy's to look up."""
    proxy = FakeProxy()
    with trio.fail_after(60):
        async with serve(say_name) as server, running(proxy, "socks5"):
            made = config(f"https://{host}:{server.port}", proxy, "socks5", username="user", password="pass")
            async with open_client(dataclasses.replace(made, tls_server_name="127.0.0.1")) as client:
                assert (await client.get(SECRETS, "shop", "db", Secret)).metadata.name == "db"
    assert proxy.asked == ["user:pass", "7f000001" if host == "127.0.0.1" else host]


@pytest.mark.parametrize(
    ("scheme", "answer", "problem"),
    [
        ("http", b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n", "407 Proxy Authentication Required"),
        ("http", b"canary-of-another-protocol\r\n\r\n", "not HTTP"),
        ("socks5", b"", "it refuses the credentials"),
    ],
)
async def test_refusal_of_a_proxy_is_its_own_reason(scheme: str, answer: bytes, problem: str) -> None:
    proxy = FakeProxy(answer)
    with trio.fail_after(60):
        async with running(proxy, scheme):
            connection = config("https://10.0.0.1", proxy, scheme, username="user", password="canary")
            async with open_client(connection) as client:
                with pytest.raises(ApiUnavailable, match=problem) as caught:
                    await client.get(SECRETS, "shop", "db", Secret)
    assert f"proxy {scheme}://127.0.0.1:{proxy.port}: " in str(caught.value)
    assert "canary" not in str(caught.value)


async def test_proxy_that_is_not_there() -> None:
    proxy = FakeProxy()
    async with running(proxy, "http"):
        pass
    with trio.fail_after(60):
        async with open_client(config("https://10.0.0.1", proxy, "http")) as client:
            with pytest.raises(ApiUnavailable, match="connection refused"):
                await client.get(SECRETS, "shop", "db", Secret)


async def test_environment_is_asked_where_the_kubeconfig_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    proxy = FakeProxy(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    with trio.fail_after(60):
        async with running(proxy, "http"):
            monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{proxy.port}")
            monkeypatch.setenv("NO_PROXY", "elsewhere.example")
            async with open_client(ClusterConfig(server="https://api.example", ca_pem=CA_PEM)) as client:
                with pytest.raises(ApiUnavailable, match="403 Forbidden"):
                    await client.get(SECRETS, "shop", "db", Secret)
    assert proxy.asked[0].startswith("CONNECT api.example:443 ")


def test_proxy_of_a_kubeconfig(tmp_path: Path) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(
        '{"kind": "Config", "current-context": "m", "contexts": [{"name": "m", "context": {"cluster": "c"}}], '
        '"clusters": [{"name": "c", "cluster": {"server": "https://x", "proxy-url": "socks5://p"}}]}'
    )
    assert str(load_kubeconfig(path).proxy) == "socks5://p:1080"
