"""A running API server, and a client that shows raw answers: what the tests of this room talk through."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import httpx2
import msgspec
import trio

from kubelet_secrets.apiserver.pki import KeyPair
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.client.answers import LineSplitter
from kubelet_secrets.client.http2 import H2Transport, Origin
from kubelet_secrets.memoryfile import memory_file

JSON = "application/json"
MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
TABLE = "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"


@dataclass(frozen=True)
class Answer:
    status: int
    body: bytes
    headers: httpx2.Headers

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.body)

    @property
    def message(self) -> str:
        return str(self.json["message"])


class Http:
    """Requests of one identity, over its own HTTP/2 connections."""

    def __init__(self, client: httpx2.AsyncClient) -> None:
        self._client = client

    async def send(
        self, method: str, path: str, body: Any = None, content_type: str = JSON, accept: str = ""
    ) -> Answer:
        content = body if isinstance(body, bytes) else b"" if body is None else msgspec.json.encode(body)
        headers = {"content-type": content_type} if content else {}
        if accept:
            headers["accept"] = accept
        response = await self._client.request(method, path, content=content, headers=headers, timeout=60)
        return Answer(response.status_code, response.content, response.headers)

    async def begin(self, method: str, path: str, content: bytes, content_type: str, accept: str) -> Answer:
        """The answer to any request; of one that does not end, a watch, only its head."""
        headers = {"content-type": content_type, "accept": accept}
        async with self._client.stream(method, path, content=content, headers=headers, timeout=120) as response:
            is_endless = response.status_code == 200 and "watch=" in path
            return Answer(response.status_code, b"" if is_endless else await response.aread(), response.headers)

    async def get(self, path: str, accept: str = "") -> Answer:
        return await self.send("GET", path, accept=accept)

    async def post(self, path: str, body: Any, content_type: str = JSON) -> Answer:
        return await self.send("POST", path, body, content_type)

    async def put(self, path: str, body: Any) -> Answer:
        return await self.send("PUT", path, body)

    async def patch(self, path: str, body: Any, content_type: str = MERGE) -> Answer:
        return await self.send("PATCH", path, body, content_type)

    async def delete(self, path: str, body: Any = None) -> Answer:
        return await self.send("DELETE", path, body)

    @asynccontextmanager
    async def watch(self, path: str, accept: str = "") -> AsyncIterator[Watch]:
        """Open a watch; *path* has a query already."""
        timeout = httpx2.Timeout(10, read=None)
        headers = {"accept": accept} if accept else {}
        async with self._client.stream("GET", path, timeout=timeout, headers=headers) as response:
            assert response.status_code == 200, (await response.aread()).decode()
            async with aclosing(response.aiter_raw()) as chunks:
                yield Watch(chunks)


class Watch:
    def __init__(self, chunks: AsyncIterator[bytes]) -> None:
        self._chunks = chunks
        self._splitter = LineSplitter()
        self._lines: deque[bytes] = deque()

    async def _line(self) -> bytes:
        while not self._lines:
            self._lines.extend(self._splitter.feed(await anext(self._chunks)))
        return self._lines.popleft()

    async def next(self) -> tuple[str, Any]:
        """The next event's type and object."""
        event = msgspec.json.decode(await self._line())
        return event["type"], event["object"]

    async def next_names(self, count: int) -> list[tuple[str, str]]:
        events = [await self.next() for _ in range(count)]
        return [(kind, obj["metadata"]["name"]) for kind, obj in events]

    async def rest(self) -> list[Any]:
        """Every event until the watch ends."""
        events = []
        try:
            while True:
                events.append(msgspec.json.decode(await self._line()))
        except StopAsyncIteration:
            return events


def client_context(server: ServerHandle, pair: KeyPair | None) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=server.ca_pem.decode())
    if pair is not None:
        with memory_file(pair.certificate_pem) as certificate, memory_file(pair.key_pem.reveal()) as key:
            context.load_cert_chain(certificate, key)
    return context


@asynccontextmanager
async def http_client(server: ServerHandle, pair: KeyPair | None, token: str = "") -> AsyncIterator[Http]:
    """A client with *pair*'s identity; without one and without *token*, an anonymous client."""

    async with trio.open_nursery() as nursery:
        transport = H2Transport(
            nursery, Origin(host="127.0.0.1", port=server.port, make_context=partial(client_context, server, pair))
        )
        headers = {"authorization": f"Bearer {token}"} if token else {}
        async with httpx2.AsyncClient(transport=transport, base_url=server.url, headers=headers) as client:
            yield Http(client)
        nursery.cancel_scope.cancel()


def secret(name: str, **data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name}, "stringData": data}


def pod(name: str, node: str = "", **spec: Any) -> dict[str, Any]:
    body: dict[str, Any] = {"containers": [{"name": "c", "image": "img"}], **spec}
    if node:
        body["nodeName"] = node
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": body}


SECRETS = "/api/v1/namespaces/default/secrets"
PODS = "/api/v1/namespaces/default/pods"
