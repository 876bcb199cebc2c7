"""The body of a write: read up to the limit, and checked against the URL and the schema of its kind.

Called by ``resource_call.py``. Not here: what a content type means (``negotiation.py``), which fields a kind has
(``strictness.py``).

Source: k8s.io/apiserver pkg/endpoints/handlers/{create,rest}.go; MaxRequestBodyBytes.
"""

from __future__ import annotations

from collections.abc import Sequence

import trio
from starlette.requests import ClientDisconnect, Request

from kubelet_secrets.apiserver import negotiation, statuses, strictness
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.conform import conform
from kubelet_secrets.apiserver.duplicate_fields import duplicate_fields
from kubelet_secrets.apiserver.negotiation import PROTOBUF, YAML
from kubelet_secrets.apiserver.patch import APPLY
from kubelet_secrets.apiserver.resources import ServedResource

_LARGE_BYTES = 64 * 1024
MODES = ("Strict", "Warn", "Ignore")


async def read_body(request: Request) -> bytes:
    """Raises: Invalid: 413, it is larger than 3 MiB; ClientDisconnect."""
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await request.receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > negotiation.BODY_LIMIT_BYTES:
            raise statuses.too_large(negotiation.BODY_LIMIT_BYTES)
        chunks.append(chunk)
        if not message.get("more_body", False):
            return b"".join(chunks)


class BodyDecoder:
    """Bodies as objects. YAML is read at some 100 kB a second, so a large one is read in a thread, one at a time: whoever sends
    the largest there may be keeps nobody else waiting. One per server."""

    def __init__(self) -> None:
        self._one_at_a_time = trio.CapacityLimiter(1)

    async def decode(self, content_type: str, body: bytes, mode: str) -> tuple[Object, list[str]]:
        """The object in *body*, and what :func:`repeated_fields` finds.

        Args:
            mode: one of :data:`MODES`.

        Raises:
            Invalid: 415 or 400.

        Cancellation: the thread is left to itself; nobody reads what it finds.
        """
        if len(body) <= _LARGE_BYTES or not _is_yaml(content_type):
            return _decode(content_type, body, mode)
        return await trio.to_thread.run_sync(
            _decode, content_type, body, mode, abandon_on_cancel=True, limiter=self._one_at_a_time
        )


def _decode(content_type: str, body: bytes, mode: str) -> tuple[Object, list[str]]:
    return negotiation.decode_object(content_type, body), repeated_fields(content_type, body, mode)


def _is_yaml(content_type: str) -> bool:
    return content_type.partition(";")[0].strip().lower() in (YAML, APPLY)


def repeated_fields(content_type: str, body: bytes, mode: str) -> list[str]:
    """The fields that a well-formed *body* names twice; not looked for when *mode* is to ignore them."""
    media_type = content_type.partition(";")[0].strip().lower()
    if mode == "Ignore" or media_type == PROTOBUF:
        return []
    return duplicate_fields(body, is_yaml=_is_yaml(content_type))


def check_kind(row: ServedResource, obj: Object) -> None:
    """Raises: Invalid: 400, *obj* is of another kind than the URL's. A kind it does not name is given to it."""
    expected = (row.resource.api_version, row.kind)
    given = (obj.setdefault("apiVersion", expected[0]), obj.setdefault("kind", expected[1]))
    if given[0] != expected[0]:
        raise statuses.bad_request(
            f"the API version in the data ({given[0]}) does not match the expected API version ({expected[0]})"
        )
    if given[1] != expected[1]:
        raise statuses.bad_request(f"the object provided is unrecognized (must be of type {expected[1]})")


def check_types(obj: Object, api_version: str, kind: str) -> None:
    """Raises: Invalid: 400, a field of *obj* has a type that it cannot have in a *kind*."""
    if cause := strictness.decode_error(obj, api_version, kind):
        raise statuses.bad_request(cause)


def check_namespace(obj: Object, namespace: str) -> None:
    """Raises: Invalid: 400, *obj* names another namespace than the URL."""
    given = (obj.get("metadata") or {}).get("namespace")
    if given and namespace and given != namespace:
        raise statuses.bad_request(
            "the namespace of the provided object does not match the namespace sent on the request"
        )


def check_fields(
    row: ServedResource, obj: Object, mode: str, repeated: Sequence[str], *, is_patched: bool = False
) -> list[str]:
    """Wrong types are an error; unknown and repeated fields an error, a warning or nothing, by *mode*, and they go.

    Args:
        mode: one of :data:`MODES`.
        repeated: what :func:`repeated_fields` found in the body.
        is_patched: *obj* is what a patch has made of an object: upstream blames the patch then.

    Returns:
        The warnings.

    Raises:
        Invalid: 400, of a patch 422.
    """
    api_version, kind = row.resource.api_version, row.kind
    problems: list[str] = []
    cause = strictness.mismatch(obj, api_version, kind)
    if cause is None and mode != "Ignore":
        problems = [*repeated, *strictness.unknown_fields(obj, api_version, kind)]
        if problems and mode == "Strict":
            cause = strictness.strict_cause(problems)
    if cause is not None:
        if is_patched:
            raise statuses.invalid_patch(cause)
        raise statuses.bad_request(strictness.cannot_be_handled(kind, api_version, cause))
    conform(obj, api_version, kind)
    return problems
