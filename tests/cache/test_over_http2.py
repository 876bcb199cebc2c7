"""A reflector over real HTTP/2 connections, against a server that does on purpose what real ones do now and then."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import trio

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.cache.listwatch import Phase
from kubelet_secrets.cache.reflector import Reflector, Target
from kubelet_secrets.client.answers import INITIAL_EVENTS_END
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.rest import open_client
from tests.client.h2server import CA_PEM, ServerStream, eventually, serve


def secret(version: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "db", "namespace": "shop", "uid": "u", "resourceVersion": str(version)},
    }


def status(code: int, reason: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "message": reason,
        "reason": reason,
        "code": code,
    }


def line(kind: str, obj: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": obj}).encode() + b"\n"


def bookmark(version: int, *, ends: bool = False) -> bytes:
    annotations = {INITIAL_EVENTS_END: "true"} if ends else {}
    metadata = {"resourceVersion": str(version), "annotations": annotations}
    return line("BOOKMARK", {"kind": "Secret", "apiVersion": "v1", "metadata": metadata})


Answer = Callable[[ServerStream], Awaitable[None]]


def refuse(code: int, reason: str, **headers: str) -> Answer:
    async def answer(stream: ServerStream) -> None:
        await stream.answer(code, json.dumps(status(code, reason)).encode(), headers)

    return answer


def listing(*versions: int, at: int) -> Answer:
    async def answer(stream: ServerStream) -> None:
        items = [secret(version) for version in versions]
        body = {"kind": "SecretList", "apiVersion": "v1", "metadata": {"resourceVersion": str(at)}, "items": items}
        await stream.answer(200, json.dumps(body).encode())

    return answer


def watching(*lines: bytes, then: str = "") -> Answer:
    """Send *lines*, and then stay, or ``end``, ``kill`` the connection, or say ``goaway``."""

    async def answer(stream: ServerStream) -> None:
        await stream.respond(200, {"content-type": "application/json"})
        for each in lines:
            await stream.send(each)
        if then == "end":
            await stream.end()
        elif then == "kill":
            stream.connection.kill()
        else:
            if then == "goaway":
                await stream.connection.goaway(stream.stream_id)
                await stream.end()
            await trio.sleep_forever()

    return answer


class Versions:
    """A sink that keeps every version of the object, in order; 0: it is not there."""

    def __init__(self) -> None:
        self.seen: list[int] = []

    def replace(self, objects: Sequence[Secret]) -> None:
        self.seen.append(int(objects[0].metadata.resource_version) if objects else 0)

    def upsert(self, obj: Secret) -> None:
        self.seen.append(int(obj.metadata.resource_version))

    def remove(self, obj: Secret) -> None:
        self.seen.append(0)

    def report(self, error: Exception | None) -> None:
        pass


def asked(stream: ServerStream) -> str:
    """``stream``, ``list`` or ``watch 7``: what a request is, in short. Each names the one object that may be asked for."""
    url = urlsplit(stream.path)
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert url.path == "/api/v1/namespaces/shop/secrets"
    assert query["fieldSelector"] == "metadata.name=db"
    if "watch" not in query:
        assert "resourceVersion" not in query
        return "list"
    assert query["allowWatchBookmarks"] == "true"
    assert int(query["timeoutSeconds"]) >= 1800
    if query.get("sendInitialEvents") == "true":
        assert query["resourceVersionMatch"] == "NotOlderThan"
        return "stream"
    return f"watch {query['resourceVersion']}"


@asynccontextmanager
async def reflecting(answers: Sequence[Answer]) -> AsyncIterator[tuple[list[str], Versions]]:
    """Give each request the next of *answers*; pauses are cut short. Ends when all have been given and the last one lasts."""
    requests: list[str] = []
    rest = list(answers)

    async def answer(stream: ServerStream) -> None:
        requests.append(asked(stream))
        await rest.pop(0)(stream)

    sink = Versions()
    with trio.fail_after(60):
        async with serve(answer) as server, open_client(ClusterConfig(server=server.url, ca_pem=CA_PEM)) as client:
            target = Target(resource=SECRETS, kind=Secret, namespace="shop", field_selector="metadata.name=db")
            reflector = Reflector(client, target, sink)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(reflector.run)

                async def hurry() -> None:
                    while True:
                        if reflector.phase is Phase.WAITING:
                            reflector.nudge()
                        await trio.sleep(0.005)

                nursery.start_soon(hurry)
                await eventually(lambda: not rest and reflector.phase is Phase.WATCHING)
                yield requests, sink
                nursery.cancel_scope.cancel()


FIRST = (line("ADDED", secret(1)), bookmark(5, ends=True))


@pytest.mark.parametrize(
    ("answers", "requests", "seen"),
    [
        pytest.param([watching(*FIRST, line("MODIFIED", secret(7)))], ["stream"], [1, 7], id="streaming-list"),
        pytest.param(
            [refuse(422, "Invalid"), listing(1, at=5), watching(line("MODIFIED", secret(7)))],
            ["stream", "list", "watch 5"],
            [1, 7],
            id="server-without-streaming-lists",
        ),
        pytest.param(
            [refuse(403, "Forbidden"), refuse(403, "Forbidden"), watching(*FIRST)],
            ["stream", "stream", "stream"],
            [1],
            id="forbidden-for-a-moment-after-the-binding",
        ),
        pytest.param(
            [watching(*FIRST, bookmark(9), then="end"), watching(line("MODIFIED", secret(11)))],
            ["stream", "watch 9"],
            [1, 11],
            id="ended-watch-resumes-at-the-bookmark",
        ),
        pytest.param(
            [watching(*FIRST, then="kill"), watching(line("MODIFIED", secret(7)))],
            ["stream", "watch 5"],
            [1, 7],
            id="broken-connection-resumes-without-a-list",
        ),
        pytest.param(
            [watching(*FIRST, line("MODIFIED", secret(6)), then="goaway"), watching(line("MODIFIED", secret(7)))],
            ["stream", "watch 6"],
            [1, 6, 7],
            id="goaway",
        ),
        pytest.param(
            [
                watching(*FIRST, line("ERROR", status(410, "Expired"))),
                watching(line("ADDED", secret(20)), bookmark(21, ends=True)),
            ],
            ["stream", "stream"],
            [1, 20],
            id="expired-in-the-watch",
        ),
        pytest.param(
            [watching(*FIRST, then="end"), refuse(410, "Expired"), watching(bookmark(21, ends=True))],
            ["stream", "watch 5", "stream"],
            [1, 0],
            id="expired-at-the-door",
        ),
        pytest.param(
            [
                watching(*FIRST, then="end"),
                refuse(429, "TooManyRequests", **{"retry-after": "0"}),
                refuse(503, "ServiceUnavailable"),
                watching(line("MODIFIED", secret(7))),
            ],
            ["stream", "watch 5", "watch 5", "watch 5"],
            [1, 7],
            id="busy-server-is-resumed",
        ),
        pytest.param(
            [watching(*FIRST, line("DELETED", secret(8)), then="end"), watching()],
            ["stream", "watch 8"],
            [1, 0],
            id="deleted",
        ),
    ],
)
async def test_dialogue(answers: list[Answer], requests: list[str], seen: list[int]) -> None:
    async with reflecting(answers) as (made, sink):
        await eventually(lambda: sink.seen == seen)
        assert made == requests
