"""A watch as an HTTP response: events as lines of JSON until the client goes, time is up, or the server goes down.

A bare ASGI response with a nursery of its own: one task waits for the client's disconnect, the other sends. A client that
reads too slowly stops the sending task in flow control; the hub then ends its subscription (see ``watch.py``).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from datetime import UTC, datetime

import trio
from starlette.types import Receive, Scope, Send

from kubelet_secrets.apiserver import codec, negotiation, statuses, tables
from kubelet_secrets.apiserver.encryption import TransformError
from kubelet_secrets.apiserver.list_options import parse_revision
from kubelet_secrets.apiserver.negotiation import JSON, Answer, View
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.requestinfo import is_true
from kubelet_secrets.apiserver.selection import Selection
from kubelet_secrets.apiserver.storage import Compacted
from kubelet_secrets.apiserver.watch import BOOKMARK, Event, Watcher, WatchOptions
from kubelet_secrets.errors import ApiError, Invalid

_MAX_TIMEOUT_S = 10**9  # of those who ask for more
_MIN_TIMEOUT_S = 1800  # upstream's --min-request-timeout: a watch without timeoutSeconds gets 1–2 times that


class WatchResponse:
    """An ASGI application that answers one watch request.

    Raises:
        Invalid: from the constructor, 400 or 422, for options that do not fit together.
    """

    def __init__(self, registry: Registry, selection: Selection, query: Mapping[str, str], answer: Answer) -> None:
        self._registry = registry
        self._selection = selection
        self._answer = answer
        self._include = query.get("includeObject") or "Metadata"
        self._sends_columns = True
        self._options = parse_options(query)
        try:
            self._timeout_s = min(int(query.get("timeoutSeconds") or 0), _MAX_TIMEOUT_S)
        except ValueError:
            raise statuses.bad_request("timeoutSeconds: must be an integer") from None
        if self._timeout_s <= 0:
            self._timeout_s = int(_MIN_TIMEOUT_S * random.uniform(1, 2))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = [(b"content-type", b"application/json"), (b"cache-control", b"no-cache, private")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_cancel_on_disconnect, receive, nursery.cancel_scope)
            with trio.move_on_after(self._timeout_s):
                await self._send_events(send)
            # Without this last part the client of an HTTP/2 stream would never learn that the watch has ended.
            await send({"type": "http.response.body", "body": b"", "more_body": False})
            nursery.cancel_scope.cancel()

    async def _send_events(self, send: Send) -> None:
        try:
            with self._registry.watch(self._selection, self._options) as watcher:
                await self._forward(watcher, send)
        except Compacted as error:
            await self._send_error(send, statuses.expired(str(error)))
        except TransformError as error:
            await self._send_error(send, statuses.internal(str(error)))

    async def _forward(self, watcher: Watcher, send: Send) -> None:
        while events := await watcher.wait_events():
            lines = b"".join(self._line(event) for event in events)
            await send({"type": "http.response.body", "body": lines, "more_body": True})

    async def _send_error(self, send: Send, error: ApiError) -> None:
        line = codec.to_json({"type": "ERROR", "object": statuses.status_body(error)}) + b"\n"
        await send({"type": "http.response.body", "body": line, "more_body": True})

    def _line(self, event: Event) -> bytes:
        value = event.value
        if self._answer.view is View.TABLE:
            value = self._table(event)
        elif self._answer.view is View.METADATA and event.type != BOOKMARK:
            value = codec.to_json(negotiation.partial_metadata([event.object])[0])
        return b'{"type":"%s","object":%s}\n' % (event.type.encode(), value)

    def _table(self, event: Event) -> bytes:
        metadata = {"resourceVersion": str(event.revision)}
        objects = [] if event.type == BOOKMARK else [event.object]
        table = tables.to_table(self._selection.row, objects, datetime.now(UTC), self._include, metadata)
        if not self._sends_columns:
            table["columnDefinitions"] = None
        self._sends_columns = False
        return negotiation.encode(table, JSON)


async def _cancel_on_disconnect(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


def parse_options(query: Mapping[str, str]) -> WatchOptions:
    """The options of a watch request.

    Raises:
        Invalid: 400 for a malformed resourceVersion; 422 for ``sendInitialEvents`` without its companions.

    Source: apimachinery pkg/apis/meta/internalversion/validation, ValidateListOptions; API concepts, "Semantics for watch".
    """
    version, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    sends_initial: bool | None = None
    if "sendInitialEvents" in query:
        sends_initial = is_true(query["sendInitialEvents"])
        if match != "NotOlderThan":
            raise _invalid_options("sendInitialEvents requires setting resourceVersionMatch to NotOlderThan")
    elif match:
        raise _invalid_options("resourceVersionMatch is forbidden for watch unless sendInitialEvents is provided")
    since = parse_revision(version) if version not in ("", "0") else None
    has_state_first = sends_initial if sends_initial is not None else since is None
    return WatchOptions(
        since=since,
        sends_initial_events=has_state_first,
        marks_initial_end=bool(sends_initial),
        sends_bookmarks=is_true(query.get("allowWatchBookmarks", "")),
    )


def _invalid_options(detail: str) -> Invalid:
    return statuses.invalid_options(
        "ListOptions", "resourceVersionMatch", "FieldValueForbidden", f"Forbidden: {detail}"
    )
