"""``ApiClient``: typed requests to one API server.

Paths, parameters, encoding and decoding; how a request travels is ``lanes.py``. Nothing here is retried, but what the server
asks to send again: back-off is the business of whoever knows what waits for the answer.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any, Generic, TypeVar, overload

import httpx2
import msgspec

from kubelet_secrets import __version__
from kubelet_secrets.api.decode import DecodeError, decode, encode, to_builtins
from kubelet_secrets.api.meta import EVENTS, LEASES, NODES, ApiStruct, Resource
from kubelet_secrets.client.answers import K, LineSplitter, WatchEvent, decode_event, decode_list
from kubelet_secrets.client.apply import Applied, apply_object
from kubelet_secrets.client.kubeconfig import ClusterConfig
from kubelet_secrets.client.lanes import Lane, Lanes, open_lanes
from kubelet_secrets.errors import Expired
from kubelet_secrets.sensitive import SensitiveBytes

T = TypeVar("T")
S = TypeVar("S", bound=ApiStruct)

STRATEGIC_MERGE_PATCH = "application/strategic-merge-patch+json"
MERGE_PATCH = "application/merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY_PATCH = "application/apply-patch+yaml"

PAGE_SIZE = 500  # client-go's pager
_WATCH_GRACE_S = 30.0  # how long after timeoutSeconds a server may take to end a watch


@dataclass(frozen=True, slots=True)
class ObjectList(Generic[T]):
    """A consistent list: everything as it was at *resource_version*."""

    items: tuple[T, ...]
    resource_version: str

    def __iter__(self) -> Iterator[T]:
        return iter(self.items)

    def __len__(self) -> int:
        return len(self.items)


@asynccontextmanager
async def open_client(
    config: ClusterConfig, *, user_agent: str = f"kubelet-secrets/{__version__}", connect_timeout_s: float = 10
) -> AsyncIterator[ApiClient]:
    """A client for the length of the block. Connections are made when first needed, lane by lane.

    Raises:
        UsageError: the configuration's certificates cannot be used.

    Cancellation: connections are cut. An exception of the block leaves as it is, not wrapped in a group.
    """
    async with open_lanes(config, user_agent=user_agent, connect_timeout_s=connect_timeout_s) as lanes:
        yield ApiClient(lanes, namespace=config.namespace or "default")


class ApiClient:
    """Made by :func:`open_client`; used by any number of tasks.

    Every method raises ``ApiError`` (by subclass) when the server says no, ``ApiUnavailable`` when it says nothing, and
    ``DecodeError`` when it says something that is not the kind asked for. Cancelling any of them resets its stream; whether
    the server has acted on a cancelled write is not known.

    Attributes:
        namespace: the configuration's default namespace.
    """

    def __init__(self, lanes: Lanes, *, namespace: str) -> None:
        self._lanes = lanes
        self.namespace = namespace

    def __repr__(self) -> str:
        return f"<ApiClient {self.host}>"

    @property
    def host(self) -> str:
        """``host:port``, for messages."""
        return self._lanes.host

    async def wait_returned(self, seen: int) -> int:
        """Wait until the server answers again after it had not: the end of an outage.

        Args:
            seen: what the call before returned, 0 at first: an end that came meanwhile is not missed.
        """
        return await self._lanes.wait_returned(seen)

    def use_key_pair(self, cert_pem: bytes, key_pem: SensitiveBytes) -> None:
        """Authenticate with another client certificate (rotation): new requests use it, running watches stay on the old
        connections until they end.

        Raises:
            UsageError: the pair cannot be used; the old one stays.
        """
        self._lanes.credentials.use_key_pair(cert_pem, key_pem)

    # --- Reading ---

    async def get(
        self, resource: Resource, namespace: str, name: str, kind: type[T], *, resource_version: str = ""
    ) -> T:
        """Read one object.

        Args:
            namespace: "" for what has none.
            kind: a struct of ``api/core.py``, or ``dict``.
            resource_version: "0" lets the server answer from its cache; "" asks for the latest.
        """
        params = {"resourceVersion": resource_version} if resource_version else {}
        lane = Lane.HEARTBEAT if resource in (LEASES, NODES) else Lane.OBJECTS
        body = await self._lanes.request("GET", resource.path(namespace, name), params=params, lane=lane)
        return decode(body, kind)

    async def list(
        self,
        resource: Resource,
        namespace: str,
        kind: type[T],
        *,
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str = "",
    ) -> ObjectList[T]:
        """Read all objects that match, page by page where the server pages.

        Args:
            namespace: "" for all namespaces.
        """
        params = _params(
            fieldSelector=field_selector,
            labelSelector=label_selector,
            resourceVersion=resource_version,
            limit=PAGE_SIZE,
        )
        path = resource.path(namespace)
        items: list[T] = []
        while True:
            try:
                page, meta = decode_list(await self._lanes.request("GET", path, params=params), kind)
            except Expired:
                if "continue" not in params:
                    raise
                # The pages' snapshot is gone: everything at once, as client-go's pager.
                params = _params(fieldSelector=field_selector, labelSelector=label_selector)
                items = []
                continue
            items += page
            if not meta.continue_:
                return ObjectList(tuple(items), meta.resource_version)
            params = {**params, "continue": meta.continue_}
            params.pop("resourceVersion", None)  # the token carries it

    @asynccontextmanager
    async def watch(
        self,
        resource: Resource,
        namespace: str,
        kind: type[K],
        *,
        field_selector: str = "",
        label_selector: str = "",
        resource_version: str = "",
        timeout_s: int | None = None,
        send_initial_events: bool = False,
        allow_bookmarks: bool = True,
    ) -> AsyncIterator[AsyncIterator[WatchEvent[K]]]:
        """Watch objects for the length of the block; the watch's events are what it yields.

        Args:
            resource_version: where to start; "" with *send_initial_events* means from the beginning.
            timeout_s: ask the server to end the watch after so long.
            send_initial_events: a streaming list: what exists comes as ADDED, then a bookmark with
                :attr:`WatchEvent.ends_initial_events` (KEP-3157).

        The iterator ends when the server ends the watch, raises ``ApiUnavailable`` when the connection fails, and an
        ``ApiError`` for an ERROR event (``Expired``: relist).

        Cancellation: leaving the block in any way resets the stream.
        """
        params = _params(
            watch="true",
            fieldSelector=field_selector,
            labelSelector=label_selector,
            resourceVersion=resource_version,
            timeoutSeconds=timeout_s,
            allowWatchBookmarks="true" if allow_bookmarks or send_initial_events else "",
            sendInitialEvents="true" if send_initial_events else "",
            resourceVersionMatch="NotOlderThan" if send_initial_events else "",
        )
        response = await self._lanes.send(
            Lane.WATCH,
            "GET",
            resource.path(namespace),
            params=params,
            headers={"accept-encoding": "identity"},  # a compressor may sit on an event until the next one
            read_timeout_s=None if timeout_s is None else timeout_s + _WATCH_GRACE_S,
        )
        try:
            async with aclosing(aiter(response.stream)) as parts:  # type: ignore[type-var,arg-type]  # httpx2 says SyncByteStream too
                yield _WatchEvents(parts, kind, self._lanes)
        finally:
            await response.aclose()

    # --- Writing ---

    @overload
    async def create(
        self, resource: Resource, namespace: str, obj: S, *, name: str = ..., subresource: str = ...
    ) -> S: ...
    @overload
    async def create(
        self, resource: Resource, namespace: str, obj: Mapping[str, Any], *, name: str = ..., subresource: str = ...
    ) -> dict[str, Any]: ...
    async def create(
        self, resource: Resource, namespace: str, obj: Any, *, name: str = "", subresource: str = ""
    ) -> Any:
        """POST *obj* and return what the server made of it, in the same type.

        Args:
            name, subresource: for what is created under an object: ``token``, ``binding``, ``eviction``.
        """
        content = _content(resource, obj, with_kind=not subresource)
        body = await self._lanes.request(
            "POST",
            resource.path(namespace, name, subresource),
            content=content,
            lane=_lane(resource, subresource),
        )
        return decode(body, _kind_of(obj))

    @overload
    async def replace(self, resource: Resource, namespace: str, obj: S, *, subresource: str = ...) -> S: ...
    @overload
    async def replace(
        self, resource: Resource, namespace: str, obj: Mapping[str, Any], *, subresource: str = ...
    ) -> dict[str, Any]: ...
    async def replace(self, resource: Resource, namespace: str, obj: Any, *, subresource: str = "") -> Any:
        """PUT *obj* over the object of its name.

        Raises:
            Conflict: it carries a resourceVersion that is not the latest.
        """
        name = obj["metadata"]["name"] if isinstance(obj, Mapping) else obj.metadata.name
        body = await self._lanes.request(
            "PUT",
            resource.path(namespace, name, subresource),
            content=_content(resource, obj),
            lane=_lane(resource, subresource),
        )
        return decode(body, _kind_of(obj))

    @overload
    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        *,
        subresource: str = ...,
        content_type: str = ...,
        params: Mapping[str, str] = ...,
    ) -> dict[str, Any]: ...
    @overload
    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        kind: type[T],
        *,
        subresource: str = ...,
        content_type: str = ...,
        params: Mapping[str, str] = ...,
    ) -> T: ...
    async def patch(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        body: Any,
        kind: Any = dict,
        *,
        subresource: str = "",
        content_type: str = STRATEGIC_MERGE_PATCH,
        params: Mapping[str, str] = {},
    ) -> Any:
        """PATCH one object with *body* (plain data; structs inside it are encoded) and return the result as *kind*."""
        answer = await self._lanes.request(
            "PATCH",
            resource.path(namespace, name, subresource),
            params=params,
            content=encode(body),
            content_type=content_type,
            lane=_lane(resource, subresource),
        )
        return decode(answer, kind)

    async def delete(
        self,
        resource: Resource,
        namespace: str,
        name: str,
        *,
        grace_period_s: int | None = None,
        uid: str | None = None,
        propagation: str | None = None,
    ) -> None:
        """Delete one object.

        Args:
            grace_period_s: 0 removes a pod's object at once: the last step of the deletion handshake.
            uid: fail with Conflict when the name now belongs to another object.
            propagation: ``Background``, ``Foreground`` or ``Orphan``.
        """
        options: dict[str, Any] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if propagation is not None:
            options["propagationPolicy"] = propagation
        await self._lanes.request("DELETE", resource.path(namespace, name), content=encode(options))

    async def apply(self, obj: Mapping[str, Any], field_manager: str = "kubelet-secrets") -> Applied:
        """Bring the server's object to what the manifest *obj* says; see ``client/apply.py``."""
        return await apply_object(self, obj, field_manager)

    async def request_json(
        self,
        method: str,
        path: str,
        *,
        params: Mapping[str, str] = {},
        body: Any = None,
    ) -> Any:
        """Any other endpoint, as plain data: ``/version``, ``/apis``."""
        content = b"" if body is None else encode(body)
        answer = await self._lanes.request(method, path, params=params, content=content)
        try:
            return msgspec.json.decode(answer)
        except msgspec.DecodeError:
            raise DecodeError(f"{path}: not valid JSON") from None

    async def request_text(self, path: str, *, params: Mapping[str, str] = {}) -> str:
        """An endpoint that answers with text: ``/healthz``, a pod's ``log``."""
        return (await self._lanes.request("GET", path, params=params)).decode("utf-8", "replace")


class _WatchEvents(Generic[K]):
    """Iterator over a watch's events. An object, not a generator: a task may leave it at any event."""

    def __init__(self, parts: AsyncIterator[bytes], kind: type[K], lanes: Lanes) -> None:
        self._parts = parts
        self._kind = kind
        self._lanes = lanes
        self._splitter = LineSplitter()
        self._lines: Iterator[bytes] = iter(())

    def __aiter__(self) -> _WatchEvents[K]:
        return self

    async def __anext__(self) -> WatchEvent[K]:
        while True:
            for line in self._lines:
                return decode_event(line, self._kind)
            try:
                part = await anext(self._parts)
            except httpx2.HTTPError as error:
                raise self._lanes.unavailable(error) from error
            self._lines = self._splitter.feed(part)


def _lane(resource: Resource, subresource: str) -> Lane:
    if resource is LEASES or (resource is NODES and subresource == "status"):
        return Lane.HEARTBEAT
    return Lane.REPORTS if resource is EVENTS or subresource == "status" else Lane.OBJECTS


def _params(**values: str | int | None) -> dict[str, str]:
    return {name: str(value) for name, value in values.items() if value not in (None, "")}


def _content(resource: Resource, obj: Any, *, with_kind: bool = True) -> bytes:
    """Encode *obj*; a struct leaves out what has its default, apiVersion and kind among them."""
    if isinstance(obj, Mapping) or not with_kind:
        return encode(obj)
    return encode({"apiVersion": resource.api_version, "kind": resource.kind, **to_builtins(obj)})


def _kind_of(obj: Any) -> type[Any]:
    return dict if isinstance(obj, Mapping) else type(obj)
