"""``ApiClient`` against an HTTP/2 server whose answers each test writes down."""

from __future__ import annotations

import functools
import gzip
import json
import traceback
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, nullcontext
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from kubelet_secrets import __version__
from kubelet_secrets.api.core import ConfigMap, Lease, LeaseSpec, Node, Pod, Secret
from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.api.meta import CONFIG_MAPS, EVENTS, LEASES, NODES, PODS, SECRETS, SERVICE_ACCOUNTS, ObjectMeta
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.lanes import WATCHES_ASKED_AT_ONCE
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import (
    AlreadyExists,
    ApiError,
    ApiUnavailable,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
    UsageError,
)
from kubelet_secrets.sensitive import SensitiveBytes
from tests.client.h2server import CA_PEM, H2Server, ServerStream, eventually, serve, server_context

Answer = Callable[[ServerStream], Awaitable[None]]


@asynccontextmanager
async def client_to(server: H2Server, **settings: Any) -> AsyncIterator[ApiClient]:
    async with open_client(ClusterConfig(server=server.url, ca_pem=CA_PEM, **settings)) as client:
        yield client


def answering(status: int, body: Any, headers: dict[str, str] | None = None) -> Answer:
    async def answer(stream: ServerStream) -> None:
        await stream.complete.wait()
        await stream.answer(status, body if isinstance(body, bytes) else json.dumps(body).encode(), headers)

    return answer


def query(stream: ServerStream) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(stream.path).query).items()}


SECRET = {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "db", "namespace": "shop"}, "data": {"k": "djE="}}


async def test_get_decodes_into_the_kind() -> None:
    with trio.fail_after(60):
        async with serve(answering(200, SECRET)) as server, client_to(server) as client:
            secret = await client.get(SECRETS, "shop", "db", Secret)
    assert secret.data == {"k": SensitiveBytes(b"v1")}
    [stream] = server.seen
    assert (stream.method, stream.path) == ("GET", "/api/v1/namespaces/shop/secrets/db")
    assert stream.headers["user-agent"] == f"kubelet-secrets/{__version__}"
    assert stream.headers["accept"] == "application/json"
    assert "authorization" not in stream.headers


async def test_names_and_selectors_arrive_as_they_were_given() -> None:
    with trio.fail_after(60):
        async with (
            serve(answering(200, {"kind": "SecretList", "items": []})) as server,
            client_to(server) as client,
        ):
            await client.list(SECRETS, "a b/c", Secret, label_selector="x in (a,b),y!=ü", field_selector="a=b&c")
    [stream] = server.seen
    assert stream.path.startswith("/api/v1/namespaces/a%20b/c/secrets?")
    assert query(stream)["labelSelector"] == "x in (a,b),y!=ü"
    assert query(stream)["fieldSelector"] == "a=b&c"


async def test_compressed_answer_is_read() -> None:
    body = gzip.compress(json.dumps(SECRET).encode())
    with trio.fail_after(60):
        async with (
            serve(answering(200, body, {"content-encoding": "gzip"})) as server,
            client_to(server) as client,
        ):
            secret = await client.get(SECRETS, "shop", "db", Secret)
    assert secret.metadata.name == "db"
    assert "gzip" in server.seen[0].headers["accept-encoding"]


async def test_server_address_with_a_path_keeps_it() -> None:
    with trio.fail_after(60):
        async with serve(answering(200, SECRET)) as server:
            config = ClusterConfig(server=f"{server.url}/k8s/clusters/c-1", ca_pem=CA_PEM)
            async with open_client(config) as client:
                await client.get(SECRETS, "shop", "db", Secret)
    assert server.seen[0].path == "/k8s/clusters/c-1/api/v1/namespaces/shop/secrets/db"


def status(code: int, reason: str, message: str = "told you") -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": message,
    }


@pytest.mark.parametrize(
    ("code", "reason", "kind"),
    [
        (404, "NotFound", NotFound),
        (409, "AlreadyExists", AlreadyExists),
        (409, "Conflict", Conflict),
        (410, "Expired", Expired),
        (401, "Unauthorized", Unauthorized),
        (403, "Forbidden", Forbidden),
        (422, "Invalid", Invalid),
        (400, "BadRequest", Invalid),
        (429, "TooManyRequests", TooManyRequests),
        (500, "InternalError", ApiError),
        (504, "Timeout", ApiError),
    ],
)
async def test_status_becomes_the_error_of_its_reaction(code: int, reason: str, kind: type[ApiError]) -> None:
    with trio.fail_after(60):
        async with serve(answering(code, status(code, reason))) as server, client_to(server) as client:
            with pytest.raises(ApiError) as caught:
                await client.get(SECRETS, "shop", "db", Secret)
    error = caught.value
    assert (type(error), str(error), error.code, error.reason) == (kind, "told you", code, reason)


@pytest.mark.parametrize(("code", "retry_after"), [(429, "31"), (503, "31")])
async def test_retry_after_is_in_the_error(code: int, retry_after: str) -> None:
    """A wait longer than a request may take is for whoever wanted the answer."""
    answer = answering(code, status(code, ""), {"retry-after": retry_after})
    with trio.fail_after(60):
        async with serve(answer) as server, client_to(server) as client:
            with pytest.raises(TooManyRequests) as caught:
                await client.get(SECRETS, "shop", "db", Secret)
    assert caught.value.retry_after_s == 31


@pytest.mark.parametrize("code", [429, 503])
async def test_busy_server_is_asked_again_when_it_says(code: int) -> None:
    """Source: k8s.io/client-go rest/with_retry_test.go."""
    refusals = 3

    async def busy(stream: ServerStream) -> None:
        nonlocal refusals
        await stream.complete.wait()
        refusals -= 1
        if refusals >= 0:
            await stream.answer(code, json.dumps(status(code, "")).encode(), {"retry-after": "0"})
        else:
            await stream.answer(200, json.dumps(SECRET).encode())

    with trio.fail_after(60):
        async with serve(busy) as server, client_to(server) as client:
            found = await client.patch(SECRETS, "shop", "db", {"data": {}}, Secret)
            assert found.metadata.name == "db"
            assert [(each.method, each.body) for each in server.seen] == [("PATCH", b'{"data":{}}')] * 4
            refusals = 1000
            with pytest.raises(TooManyRequests):
                await client.get(SECRETS, "shop", "db", Secret)
            assert len(server.seen) == 4 + 11


async def test_end_of_an_outage_is_told_once() -> None:
    code = 200  # 0: the connection breaks

    async def answer(stream: ServerStream) -> None:
        if code == 0:
            stream.connection.kill()
        else:
            await stream.answer(code, json.dumps(SECRET if code == 200 else status(code, "")).encode())

    async def ask(client: ApiClient, wanted: int) -> None:
        nonlocal code
        code = wanted
        with nullcontext() if wanted == 200 else pytest.raises(ApiUnavailable if wanted == 0 else ApiError):
            await client.get(SECRETS, "shop", "db", Secret)

    async def has_returned(client: ApiClient, seen: int) -> bool:
        with trio.move_on_after(0):
            await client.wait_returned(seen)
            return True
        return False

    with trio.fail_after(60):
        async with serve(answer) as server, client_to(server) as client:
            await ask(client, 200)
            await ask(client, 0)
            await ask(client, 0)
            await ask(client, 503)  # it answers, and is not ready
            assert not await has_returned(client, 0)
            await ask(client, 200)
            assert await client.wait_returned(0) == 1
            await ask(client, 200)
            assert not await has_returned(client, 1)
            await ask(client, 0)
            await ask(client, 403)  # it knows what it says
            assert await client.wait_returned(1) == 2


async def test_failure_without_a_status_shows_no_body() -> None:
    with trio.fail_after(60):
        async with serve(answering(502, b"<html>canary</html>")) as server, client_to(server) as client:
            with pytest.raises(ApiError) as caught:
                await client.get(SECRETS, "shop", "db", Secret)
    assert str(caught.value) == "the server answered 502 Bad Gateway"


async def test_success_with_garbage_is_a_decode_error_without_the_garbage() -> None:
    with trio.fail_after(60):
        async with serve(answering(200, b'{"data": {"k": "canary!!"}}')) as server, client_to(server) as client:
            with pytest.raises(DecodeError) as caught:
                await client.get(SECRETS, "shop", "db", Secret)
    assert "canary" not in str(caught.value)


async def test_dead_server_is_unavailable_and_named() -> None:
    async with serve(answering(200, SECRET)) as server:
        pass
    with trio.fail_after(60):
        async with client_to(server) as client:
            with pytest.raises(ApiUnavailable, match=rf"^API server 127.0.0.1:{server.port}: connection refused$"):
                await client.get(SECRETS, "shop", "db", Secret)


async def test_exception_of_the_block_is_not_wrapped() -> None:
    with trio.fail_after(60):
        async with serve(answering(404, status(404, "NotFound"))) as server:
            with pytest.raises(NotFound):  # and not a group of it
                async with client_to(server) as client:
                    await client.get(SECRETS, "shop", "db", Secret)


async def test_list_follows_the_pages() -> None:
    async def pages(stream: ServerStream) -> None:
        token = query(stream).get("continue")
        names, following = (["a", "b"], "more") if token is None else (["c"], "")
        items = [{"metadata": {"name": name}} for name in names]
        await stream.answer(
            200, json.dumps({"metadata": {"resourceVersion": "7", "continue": following}, "items": items}).encode()
        )

    with trio.fail_after(60):
        async with serve(pages) as server, client_to(server) as client:
            pods = await client.list(PODS, "", Pod, field_selector="spec.nodeName=n1")
    assert [pod.metadata.name for pod in pods] == ["a", "b", "c"]
    assert (len(pods), pods.resource_version) == (3, "7")
    assert [query(stream) for stream in server.seen] == [
        {"fieldSelector": "spec.nodeName=n1", "limit": "500"},
        {"fieldSelector": "spec.nodeName=n1", "limit": "500", "continue": "more"},
    ]


async def test_expired_page_falls_back_to_everything_at_once() -> None:
    async def pages(stream: ServerStream) -> None:
        asked = query(stream)
        if "continue" in asked:
            await stream.answer(410, json.dumps(status(410, "Expired")).encode())
            return
        names, following = (["old"], "more") if "limit" in asked else (["x", "y"], "")
        items = [{"metadata": {"name": name}} for name in names]
        await stream.answer(
            200, json.dumps({"metadata": {"resourceVersion": "9", "continue": following}, "items": items}).encode()
        )

    with trio.fail_after(60):
        async with serve(pages) as server, client_to(server) as client:
            maps = await client.list(CONFIG_MAPS, "shop", ConfigMap)
    assert [entry.metadata.name for entry in maps] == ["x", "y"]


async def test_null_items_are_an_empty_list() -> None:
    with trio.fail_after(60):
        async with (
            serve(answering(200, {"metadata": {"resourceVersion": "1"}, "items": None})) as server,
            client_to(server) as client,
        ):
            assert len(await client.list(PODS, "shop", Pod)) == 0


async def test_create_sends_api_version_and_kind_of_a_struct() -> None:
    with trio.fail_after(60):
        async with serve(answering(201, SECRET)) as server, client_to(server) as client:
            sent = Secret(metadata=ObjectMeta(name="db", namespace="shop"), data={"k": SensitiveBytes(b"v1")})
            assert (await client.create(SECRETS, "shop", sent)).data == sent.data
            assert (await client.create(SECRETS, "shop", SECRET))["data"] == {"k": "djE="}
    assert json.loads(server.seen[0].body) == SECRET
    assert server.seen[0].headers["content-type"] == "application/json"
    assert server.seen[0].path == "/api/v1/namespaces/shop/secrets"


async def test_create_under_an_object() -> None:
    with trio.fail_after(60):
        async with serve(answering(201, {"status": {"token": "t"}})) as server, client_to(server) as client:
            answer = await client.create(SERVICE_ACCOUNTS, "shop", {"spec": {}}, name="default", subresource="token")
    assert answer == {"status": {"token": "t"}}
    assert server.seen[0].path == "/api/v1/namespaces/shop/serviceaccounts/default/token"


async def test_replace_patch_and_delete_ask_for_what_they_say() -> None:
    async def echo(stream: ServerStream) -> None:
        await stream.complete.wait()
        await stream.answer(200, json.dumps({"metadata": {"name": "n1"}}).encode())

    with trio.fail_after(60):
        async with serve(echo) as server, client_to(server) as client:
            lease = Lease(metadata=ObjectMeta(name="n1", resource_version="3"), spec=LeaseSpec(holder_identity="n1"))
            await client.replace(LEASES, "kube-node-lease", lease)
            node = await client.patch(NODES, "", "n1", {"status": {}}, Node, subresource="status")
            await client.delete(PODS, "shop", "p", grace_period_s=0, uid="u-1")
    replaced, patched, deleted = server.seen
    assert (replaced.method, replaced.path) == (
        "PUT",
        "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/n1",
    )
    assert json.loads(replaced.body)["kind"] == "Lease"
    assert (patched.method, patched.path) == ("PATCH", "/api/v1/nodes/n1/status")
    assert patched.headers["content-type"] == "application/strategic-merge-patch+json"
    assert node.metadata.name == "n1"
    assert json.loads(deleted.body) == {
        "apiVersion": "v1",
        "kind": "DeleteOptions",
        "gracePeriodSeconds": 0,
        "preconditions": {"uid": "u-1"},
    }


async def test_lanes_have_connections_of_their_own() -> None:
    """A node whose watches have used up every stream still renews its lease."""

    async def handler(stream: ServerStream) -> None:
        if "watch" in query(stream):
            await stream.respond()
            await trio.sleep_forever()
        await stream.answer(200, b'{"metadata": {"name": "n1"}}')

    with trio.fail_after(60):
        async with serve(handler, max_streams=1) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret):
                await client.get(SECRETS, "shop", "db", Secret)
                assert server.accepted == 2
                await client.get(NODES, "", "n1", Node)
                await client.replace(LEASES, "kube-node-lease", Lease(metadata=ObjectMeta(name="n1")))
                await client.patch(NODES, "", "n1", {}, subresource="status")
                assert server.accepted == 3
                await client.patch(PODS, "shop", "p", {}, subresource="status")
                await client.create(EVENTS, "shop", {"metadata": {"name": "e"}})
                assert server.accepted == 4


# --- watch ---


def line(kind: str, obj: Any) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


async def test_lease_leaves_a_dead_connection_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection that swallows everything would show by its PINGs after 45 s: the node would be declared lost."""
    monkeypatch.setattr("kubelet_secrets.client.lanes.HEARTBEAT_TIMEOUT_S", 0.5)

    async def handler(stream: ServerStream) -> None:
        if "watch=true" in stream.path:
            await stream.respond(200)
            await trio.sleep_forever()
        elif stream.method == "PUT" and sum(each.method == "PUT" for each in server.seen) == 1:
            await trio.sleep_forever()
        await stream.answer(200, json.dumps({"metadata": {"name": "n1"}}).encode())

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret):
                lease = Lease(metadata=ObjectMeta(name="n1"))
                with pytest.raises(ApiUnavailable, match=r"no answer within 0\.5 s"):
                    await client.replace(LEASES, "kube-node-lease", lease)
                monkeypatch.undo()
                await client.replace(LEASES, "kube-node-lease", lease)
                assert server.accepted == 3, "one for the watch, which stays; two for the lease"
                assert server.open_streams == 1


async def test_watch_yields_typed_events_however_they_are_cut() -> None:
    bookmark = {
        "kind": "Secret",
        "metadata": {"resourceVersion": "12", "annotations": {"k8s.io/initial-events-end": "true"}},
    }
    data = line("ADDED", SECRET) + b"\n" + line("BOOKMARK", bookmark) + line("DELETED", SECRET)

    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        for start in range(0, len(data), 37):
            await stream.send(data[start : start + 37])
        await stream.end()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(
                SECRETS,
                "shop",
                Secret,
                field_selector="metadata.name=db",
                timeout_s=300,
                send_initial_events=True,
            ) as events:
                got = [event async for event in events]
    assert [str(event.type) for event in got] == ["ADDED", "BOOKMARK", "DELETED"]
    assert got[0].object.data == {"k": SensitiveBytes(b"v1")}
    assert [event.ends_initial_events for event in got] == [False, True, False]
    assert got[1].resource_version == "12"
    assert query(server.seen[0]) == {
        "watch": "true",
        "fieldSelector": "metadata.name=db",
        "timeoutSeconds": "300",
        "allowWatchBookmarks": "true",
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
    }


async def test_watch_error_event_is_raised() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        await stream.send(line("ADDED", SECRET) + line("ERROR", status(410, "Expired", "too old resource version")))
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret, resource_version="5") as events:
                assert (await anext(events)).object.metadata.name == "db"
                with pytest.raises(Expired, match="too old resource version"):
                    await anext(events)
            await server.wait_open_streams(0)


async def test_refused_watch_is_raised_at_the_door() -> None:
    with trio.fail_after(60):
        async with serve(answering(403, status(403, "Forbidden"))) as server, client_to(server) as client:
            with pytest.raises(Forbidden):
                async with client.watch(SECRETS, "shop", Secret):
                    raise AssertionError("not reached")


async def test_watch_of_a_dying_server_is_unavailable() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        await stream.send(line("ADDED", SECRET))
        stream.connection.kill()
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret) as events:
                await anext(events)
                with pytest.raises(ApiUnavailable):
                    await anext(events)


async def test_thousands_of_watches_are_not_asked_for_at_once() -> None:
    """Each would wait for the answers to all others; those that are answered count no more."""
    answered, count = trio.Event(), WATCHES_ASKED_AT_ONCE + 20

    async def handler(stream: ServerStream) -> None:
        await answered.wait()
        await stream.respond()
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client, trio.open_nursery() as nursery:

            async def watch() -> None:
                async with client.watch(SECRETS, "shop", Secret):
                    await trio.sleep_forever()

            for _ in range(count):
                nursery.start_soon(watch)
            await eventually(lambda: len(server.seen) == WATCHES_ASKED_AT_ONCE)
            answered.set()
            await eventually(lambda: len(server.seen) == count)
            nursery.cancel_scope.cancel()


async def test_leaving_or_cancelling_a_watch_resets_its_stream() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        await stream.send(line("ADDED", SECRET))
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret) as events:
                await anext(events)
            await server.wait_open_streams(0)
            async with trio.open_nursery() as nursery:

                async def watch() -> None:
                    async with client.watch(SECRETS, "shop", Secret) as events:
                        async for _ in events:
                            pass

                nursery.start_soon(watch)
                await eventually(lambda: len(server.seen) == 2)
                nursery.cancel_scope.cancel()
            await server.wait_open_streams(0)


async def test_garbled_event_is_a_decode_error_without_the_garbage() -> None:
    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        await stream.send(b'{"type": "ADDED", "object": canary}\n')
        await trio.sleep_forever()

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            async with client.watch(SECRETS, "shop", Secret) as events:
                with pytest.raises(DecodeError) as caught:
                    await anext(events)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize("checkpoint", range(10))
async def test_watch_cancelled_anywhere_leaves_no_stream(checkpoint: int) -> None:
    """Cancel after the n-th schedule point: connecting, waiting for headers, between events, inside one."""

    async def handler(stream: ServerStream) -> None:
        await stream.respond()
        text = line("ADDED", SECRET)
        while True:
            await stream.send(text[:50])
            await trio.lowlevel.checkpoint()
            await stream.send(text[50:])

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server) as client:
            with trio.CancelScope() as scope:
                async with trio.open_nursery() as nursery:

                    async def watch() -> None:
                        async with client.watch(SECRETS, "shop", Secret) as events:
                            async for event in events:
                                assert event.object.metadata.name == "db"

                    nursery.start_soon(watch)
                    for _ in range(checkpoint**2):
                        await trio.lowlevel.checkpoint()
                    scope.cancel()
            await server.wait_open_streams(0)
            server.handler = answering(200, SECRET)
            assert (await client.get(SECRETS, "shop", "db", Secret)).metadata.name == "db"
    assert server.errors == []


async def test_watch_over_http11() -> None:
    """A server, or a proxy before it, that does not offer HTTP/2: one connection per watch, the same events."""
    open_connections = 0

    async def handle(tcp: trio.SocketStream) -> None:
        nonlocal open_connections
        tls = trio.SSLStream(tcp, server_context(("http/1.1",)), server_side=True, https_compatible=True)
        head = b""
        try:
            while b"\r\n\r\n" not in head:
                if not (part := bytes(await tls.receive_some(4096))):
                    return
                head += part
            open_connections += 1
            await tls.send_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            text = line("ADDED", SECRET)
            for part in (text[:20], text[20:]):
                await tls.send_all(b"%x\r\n%s\r\n" % (len(part), part))
            await tls.receive_some(1)  # until the client hangs up
            open_connections -= 1
        except trio.BrokenResourceError:
            open_connections -= 1
        finally:
            await trio.aclose_forcefully(tls)

    async def watch(client: ApiClient, seen: list[str]) -> None:
        async with client.watch(SECRETS, "shop", Secret) as events:
            seen.append((await anext(events)).object.metadata.name)
            await anext(events)

    seen: list[str] = []
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            [listener] = await nursery.start(functools.partial(trio.serve_tcp, handle, 0, host="127.0.0.1"))
            port = listener.socket.getsockname()[1]
            async with open_client(ClusterConfig(server=f"https://127.0.0.1:{port}", ca_pem=CA_PEM)) as client:
                async with trio.open_nursery() as watches:
                    for _ in range(5):
                        watches.start_soon(watch, client, seen)
                    await eventually(lambda: len(seen) == 5)
                    assert open_connections == 5
                    watches.cancel_scope.cancel()
                await eventually(lambda: open_connections == 0)
            nursery.cancel_scope.cancel()


# --- apply ---


class Objects:
    """A server of one Secret, with or without server-side apply."""

    def __init__(self, *, has_apply: bool) -> None:
        self.has_apply = has_apply
        self.stored: dict[str, Any] | None = None
        self.log: list[str] = []

    async def __call__(self, stream: ServerStream) -> None:
        await stream.complete.wait()
        kind = stream.headers.get("content-type", "")
        self.log.append(f"{stream.method} {kind.removeprefix('application/')}".strip())
        if stream.method == "GET":
            code, body = (200, self.stored) if self.stored else (404, status(404, "NotFound"))
        elif kind == "application/apply-patch+yaml" and not self.has_apply:
            code, body = 415, status(415, "UnsupportedMediaType")
        elif stream.method == "POST" and self.stored is not None:
            code, body = 409, status(409, "AlreadyExists")
        else:
            sent = json.loads(stream.body)
            if self.stored is None:
                self.stored = {**sent, "metadata": {**sent["metadata"], "resourceVersion": "1"}}
            elif sent["data"] != self.stored["data"]:
                self.stored = {**self.stored, "data": sent["data"]}
                self.stored["metadata"] = {**self.stored["metadata"], "resourceVersion": "2"}
            code, body = 200, self.stored
        await stream.answer(code, json.dumps(body).encode())


@pytest.mark.parametrize("has_apply", [True, False])
async def test_apply_says_what_it_did_in_kubectls_words(has_apply: bool) -> None:
    objects = Objects(has_apply=has_apply)
    with trio.fail_after(60):
        async with serve(objects) as server, client_to(server) as client:
            changed = {**SECRET, "data": {"k": "djI="}}
            lines = [str(await client.apply(manifest)) for manifest in (SECRET, SECRET, changed)]
    assert lines == ["secret/db created", "secret/db unchanged", "secret/db configured"]
    if has_apply:
        assert query(server.seen[1]) == {"fieldManager": "kubelet-secrets", "force": "true"}
        assert "POST json" not in objects.log


async def test_apply_uses_the_default_namespace_and_knows_rbac() -> None:
    role = {"apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role", "metadata": {"name": "r"}, "data": {}}
    with trio.fail_after(60):
        async with serve(Objects(has_apply=True)) as server, client_to(server, namespace="team") as client:
            assert str(await client.apply(role)) == "role.rbac.authorization.k8s.io/r created"
    assert server.seen[0].path == "/apis/rbac.authorization.k8s.io/v1/namespaces/team/roles/r"


@pytest.mark.parametrize(
    "manifest",
    [
        {"apiVersion": "example.org/v1", "kind": "Secret", "metadata": {"name": "x"}},
        {"kind": "Secret", "metadata": {"name": "x"}},
        {"apiVersion": "v1", "kind": "Secret", "metadata": {}},
        {"apiVersion": "v1", "kind": "Secret"},
    ],
)
async def test_apply_of_nonsense_is_the_users_mistake(manifest: dict[str, Any]) -> None:
    with trio.fail_after(60):
        async with client_to(H2Server(answering(200, {}))) as client:
            with pytest.raises(UsageError):
                await client.apply(manifest)


# --- credentials on the way ---


async def test_token_file_is_read_again_after_401(tmp_path: Any) -> None:
    token = tmp_path / "token"
    token.write_text("old\n")
    accepted = "Bearer old"

    async def handler(stream: ServerStream) -> None:
        if stream.headers.get("authorization") == accepted:
            await stream.answer(200, json.dumps(SECRET).encode())
        else:
            await stream.answer(401, json.dumps(status(401, "Unauthorized", "Unauthorized")).encode())

    with trio.fail_after(60):
        async with serve(handler) as server, client_to(server, token_file=token) as client:
            await client.get(SECRETS, "shop", "db", Secret)
            accepted = "Bearer new"
            with pytest.raises(Unauthorized):
                await client.get(SECRETS, "shop", "db", Secret)
            token.write_text("new\n")
            await client.get(SECRETS, "shop", "db", Secret)
    assert [stream.headers["authorization"] for stream in server.seen] == [
        "Bearer old",
        "Bearer old",  # the file has not changed: not worth a second try
        "Bearer old",
        "Bearer new",
    ]


async def test_no_value_and_no_token_in_logs_at_debug(caplog: pytest.LogCaptureFixture) -> None:
    """Libraries are as talkative as their root logger allows; some print headers, and a header is the token."""
    caplog.set_level("DEBUG")
    value = {**SECRET, "data": {"k": "Y2FuYXJ5LXZhbHVl"}}
    with trio.fail_after(60):
        async with serve(answering(200, value)) as server:
            async with client_to(server, token=SensitiveBytes(b"canary-token")) as client:
                secret = await client.get(SECRETS, "shop", "db", Secret)
                await client.create(SECRETS, "shop", secret)
                server.handler = answering(409, status(409, "Conflict"))
                with pytest.raises(Conflict) as caught:
                    await client.create(SECRETS, "shop", secret)
    assert server.seen[0].headers["authorization"] == "Bearer canary-token"
    shown = caplog.text + "".join(traceback.format_exception(caught.value)) + repr(client)
    for text in ("canary", "Y2FuYXJ5"):
        assert text not in shown
