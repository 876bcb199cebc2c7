"""What the API server's answers mean: a ``Status`` becomes an error of ``errors.py``, a watch line a :class:`WatchEvent`.

Pure; used by ``rest.py``. Bodies never reach an error's text: only ``Status.message``, which the server wrote to be read.
"""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Generic, Protocol, TypeVar

import msgspec

from kubelet_secrets.api.core import Status
from kubelet_secrets.api.decode import DecodeError, decode
from kubelet_secrets.api.meta import ListMeta, ObjectMeta
from kubelet_secrets.errors import (
    AlreadyExists,
    ApiError,
    Conflict,
    Expired,
    Forbidden,
    Invalid,
    NotFound,
    TooManyRequests,
    Unauthorized,
)

INITIAL_EVENTS_END = "k8s.io/initial-events-end"  # annotation of the bookmark that ends a streaming list (KEP-3157)
MAX_LINE_BYTES = 32 * 1024 * 1024  # one watch event; an object is at most 3 MiB of etcd, escaped at worst six times


class ApiObject(Protocol):
    """Any kind of ``api/core.py`` that has metadata."""

    @property
    def metadata(self) -> ObjectMeta: ...


K = TypeVar("K", bound=ApiObject)
T = TypeVar("T")


class EventType(enum.StrEnum):
    """ERROR is missing: it is raised."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent(Generic[K]):
    """One event of a watch. A BOOKMARK's object has nothing but ``metadata.resourceVersion`` and annotations."""

    type: EventType
    object: K

    @property
    def resource_version(self) -> str:
        return self.object.metadata.resource_version

    @property
    def ends_initial_events(self) -> bool:
        """Whether this is the bookmark after which a streaming list is complete."""
        return (
            self.type is EventType.BOOKMARK and self.object.metadata.annotations.get(INITIAL_EVENTS_END, "") == "true"
        )


class _WatchLine(msgspec.Struct, frozen=True):
    type: str = ""
    object: msgspec.Raw = msgspec.Raw()


class _ListBody(msgspec.Struct, frozen=True):
    metadata: ListMeta = ListMeta()
    items: list[msgspec.Raw] | None = None


def decode_list(body: bytes, kind: type[T]) -> tuple[list[T], ListMeta]:
    """Decode a list answer into its items and its own metadata.

    Raises:
        DecodeError: not a list, or an item is not of *kind*.
    """
    try:
        document = msgspec.json.decode(body, type=_ListBody)
    except msgspec.MsgspecError:
        raise DecodeError(f"{kind.__name__}List: not a list") from None
    return [decode(bytes(item), kind) for item in document.items or ()], document.metadata


def decode_event(line: bytes, kind: type[K]) -> WatchEvent[K]:
    """Decode one line of a watch.

    Raises:
        ApiError: the line is an ERROR event; the class says what to do (Expired: relist).
        DecodeError: it is no watch event, or its object is not of *kind*.
    """
    try:
        event = msgspec.json.decode(line, type=_WatchLine)
    except msgspec.MsgspecError:
        raise DecodeError("watch: a line is not an event") from None
    if event.type == "ERROR":
        status = decode(bytes(event.object), Status)
        raise make_error(status.code or HTTPStatus.INTERNAL_SERVER_ERROR, status)
    try:
        return WatchEvent(EventType(event.type), decode(bytes(event.object), kind))
    except ValueError:
        raise DecodeError("watch: an event of unknown type") from None


def read_error(code: int, headers: Mapping[str, str], body: bytes) -> ApiError:
    """The error for an answer with a failing *code*. A body that is no Status is not shown."""
    try:
        status = decode(body, Status)
    except DecodeError:
        status = Status()
    if status.kind != "Status":
        status = Status()
    retry_after = headers.get("retry-after", "")
    return make_error(code, status, float(retry_after) if retry_after.isdigit() else None)


def make_error(code: int, status: Status, retry_after_s: float | None = None) -> ApiError:
    """Choose the class for *status*, by its reason where the code leaves a choice.

    Source: k8s.io/apimachinery pkg/api/errors, ReasonForError and SuggestsClientDelay.
    """
    kind: type[ApiError] = ApiError
    if code == HTTPStatus.NOT_FOUND:
        kind = NotFound
    elif code == HTTPStatus.CONFLICT:
        kind = AlreadyExists if status.reason == "AlreadyExists" else Conflict
    elif code == HTTPStatus.GONE:
        kind = Expired
    elif code == HTTPStatus.UNAUTHORIZED:
        kind = Unauthorized
    elif code == HTTPStatus.FORBIDDEN:
        kind = Forbidden
    elif code in (HTTPStatus.UNPROCESSABLE_ENTITY, HTTPStatus.BAD_REQUEST):
        kind = Invalid
    elif code == HTTPStatus.TOO_MANY_REQUESTS or (code >= 500 and retry_after_s is not None):
        kind = TooManyRequests
    return kind(
        status.message or f"the server answered {code} {_phrase(code)}",
        code=code,
        reason=status.reason,
        retry_after_s=retry_after_s,
    )


class LineSplitter:
    """Cuts what arrives into lines, however it was cut before. Blank lines are skipped."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """Yield the lines that *data* completes, without their line feed.

        Raises:
            DecodeError: a line is longer than ``MAX_LINE_BYTES``.
        """
        # Searching only what is new keeps a line that comes in thousand parts linear.
        start = len(self._rest)
        self._rest += data
        while (end := self._rest.find(b"\n", start)) >= 0:
            line = bytes(self._rest[:end])
            del self._rest[: end + 1]
            start = 0
            if line.strip():
                yield line
        if len(self._rest) > MAX_LINE_BYTES:
            raise DecodeError(f"watch: an event of more than {MAX_LINE_BYTES} bytes")


def _phrase(code: int) -> str:
    try:
        return HTTPStatus(code).phrase
    except ValueError:
        return "(unknown status)"
