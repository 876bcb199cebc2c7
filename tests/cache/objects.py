"""Objects and a fake API server's list-watch for the cache's tests: in memory, driven line by line."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import trio

from kubelet_secrets.api.core import Container, EnvFromSource, Pod, PodSpec, Secret, SecretEnvSource
from kubelet_secrets.api.meta import ObjectMeta, Resource
from kubelet_secrets.client.answers import INITIAL_EVENTS_END, EventType, WatchEvent
from kubelet_secrets.client.rest import ObjectList
from kubelet_secrets.errors import ApiError, ApiUnavailable, Expired, Forbidden, Invalid, NotFound
from kubelet_secrets.sensitive import SensitiveBytes


def secret(name: str, version: int, value: str = "", *, immutable: bool | None = None, uid: str = "u") -> Secret:
    return Secret(
        metadata=ObjectMeta(name=name, namespace="shop", uid=uid, resource_version=str(version)),
        data={"k": SensitiveBytes((value or f"v{version}").encode())},
        immutable=immutable,
    )


def pod(uid: str, *names: str, namespace: str = "shop") -> Pod:
    """A pod that takes its environment from the named Secrets."""
    sources = tuple(EnvFromSource(secret_ref=SecretEnvSource(name=name)) for name in names)
    return Pod(
        metadata=ObjectMeta(name=f"pod-{uid}", namespace=namespace, uid=uid),
        spec=PodSpec(containers=(Container(name="c", env_from=sources),)),
    )


def event(kind: str, obj: Secret) -> WatchEvent[Secret]:
    return WatchEvent(EventType(kind), obj)


def bookmark(version: int, *, ends_initial_events: bool = False) -> WatchEvent[Secret]:
    annotations = {INITIAL_EVENTS_END: "true"} if ends_initial_events else {}
    return WatchEvent(
        EventType.BOOKMARK, Secret(metadata=ObjectMeta(resource_version=str(version), annotations=annotations))
    )


UNREACHABLE = ApiUnavailable("API server 10.0.0.1:6443: connection refused")
FORBIDDEN = Forbidden("no relationship found between node 'n1' and this object", code=403, reason="Forbidden")
EXPIRED = Expired("too old resource version", code=410, reason="Expired")
INVALID = Invalid("sendInitialEvents is forbidden for watch unless the WatchList feature gate is enabled", code=422)
INTERNAL = ApiError("boom", code=500, reason="InternalError")


@dataclass(eq=False)
class _FakeWatch:
    name: str
    send: trio.MemorySendChannel[WatchEvent[Secret] | Exception]


class FakeServer:
    """Secrets of one namespace, and the client to them. Single-object list-watches only, as the Node authorizer wants."""

    def __init__(self, *, has_streaming: bool = True) -> None:
        self.has_streaming = has_streaming
        self.objects: dict[str, Secret] = {}
        self.version = 100
        self.failures: deque[Exception] = deque()  # for the next requests, in order
        self.failure: Exception | None = None  # for every request
        self.forbidden: set[str] = set()  # names of objects whose requests are refused
        self.hangs = False
        self.pace_s = 0.0  # requests are answered one by one, each after so long
        self._turn = trio.Lock()
        self.requests: list[str] = []  # "stream db", "list db", "watch db 101", "get db"
        self.watches: list[_FakeWatch] = []

    # --- What a test does to it ---

    def put(self, name: str, value: str = "", *, immutable: bool | None = None, uid: str = "u") -> Secret:
        self.version += 1
        kind = "MODIFIED" if name in self.objects else "ADDED"
        obj = self.objects[name] = secret(name, self.version, value, immutable=immutable, uid=uid)
        self._tell(event(kind, obj))
        return obj

    def remove(self, name: str) -> None:
        self.version += 1
        gone = self.objects.pop(name)
        self._tell(event("DELETED", secret(name, self.version, uid=gone.metadata.uid)))

    def cut(self, error: Exception | None = None) -> None:
        """End every watch: with *error*, or as after a timeout."""
        for watch in list(self.watches):
            if error is not None:
                watch.send.send_nowait(error)
            watch.send.close()
        self.watches.clear()

    def _tell(self, happened: WatchEvent[Secret]) -> None:
        for watch in self.watches:
            if watch.name == happened.object.metadata.name:
                watch.send.send_nowait(happened)

    # --- The client ---

    async def _request(self, line: str) -> None:
        self.requests.append(line)
        if self.pace_s:
            async with self._turn:
                await trio.sleep(self.pace_s)
        await trio.lowlevel.checkpoint()
        if self.hangs:
            await trio.sleep_forever()
        if line.split()[1] in self.forbidden:
            raise FORBIDDEN
        if self.failures:
            raise self.failures.popleft()
        if self.failure is not None:
            raise self.failure

    async def get(
        self, resource: Resource, namespace: str, name: str, kind: type[Any], *, resource_version: str = ""
    ) -> Any:
        await self._request(f"get {name} {resource_version}".strip())
        if name not in self.objects:
            raise NotFound(f'secrets "{name}" not found', code=404, reason="NotFound")
        return self.objects[name]

    async def list(
        self, resource: Resource, namespace: str, kind: type[Any], *, field_selector: str, label_selector: str
    ) -> Any:
        name = field_selector.removeprefix("metadata.name=")
        await self._request(f"list {name}")
        found = tuple(obj for obj in self.objects.values() if obj.metadata.name == name)
        return ObjectList(found, str(self.version))

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str,
        kind: type[Any],
        *,
        field_selector: str,
        label_selector: str,
        resource_version: str,
        timeout_s: int,
        send_initial_events: bool,
    ) -> AsyncIterator[Any]:
        name = field_selector.removeprefix("metadata.name=")
        await self._request(f"stream {name}" if send_initial_events else f"watch {name} {resource_version}")
        if send_initial_events and not self.has_streaming:
            raise INVALID
        if not send_initial_events and int(resource_version) < self.version:
            raise EXPIRED  # this server has no history
        send, receive = trio.open_memory_channel[WatchEvent[Secret] | Exception](1000)
        watch = _FakeWatch(name, send)
        if send_initial_events:
            if name in self.objects:
                send.send_nowait(event("ADDED", self.objects[name]))
            send.send_nowait(bookmark(self.version, ends_initial_events=True))
        self.watches.append(watch)
        try:
            yield _Events(receive)
        finally:
            if watch in self.watches:
                self.watches.remove(watch)
            send.close()
            receive.close()


class _Events:
    def __init__(self, receive: trio.MemoryReceiveChannel[WatchEvent[Secret] | Exception]) -> None:
        self._receive = receive

    def __aiter__(self) -> _Events:
        return self

    async def __anext__(self) -> WatchEvent[Secret]:
        try:
            item = await self._receive.receive()
        except trio.EndOfChannel:
            raise StopAsyncIteration from None
        if isinstance(item, Exception):
            raise item
        return item
