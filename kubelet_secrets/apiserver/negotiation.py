"""Bodies: what a request's content type means, and which form of an answer its ``Accept`` asks for.

JSON and YAML go both ways, protobuf only in (``kubectl create`` sends nothing else for some kinds and has no fallback); answers
may be a Table or metadata alone. Pure. Error texts never quote a body.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any, TypeVar

import msgspec
import yaml

from kubelet_secrets.api import yamltext
from kubelet_secrets.api.decode import strip_nulls
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.protobuf import decode_protobuf
from kubelet_secrets.errors import ApiError

T = TypeVar("T")
JSON, YAML, PROTOBUF = "application/json", "application/yaml", "application/vnd.kubernetes.protobuf"
BODY_LIMIT_BYTES = 3 * 2**20  # upstream's MaxRequestBodyBytes
_EXPANDED_LIMIT = 2 * BODY_LIMIT_BYTES  # of YAML with its aliases written out


class View(Enum):
    """What of an object an answer shows."""

    OBJECT = ""
    TABLE = "Table"
    METADATA = "PartialObjectMetadata"


@dataclass(frozen=True, slots=True)
class Answer:
    """The form of an answer."""

    media_type: str = JSON
    view: View = View.OBJECT


_VIEWS = {
    "": View.OBJECT,
    "Table": View.TABLE,
    "PartialObjectMetadata": View.METADATA,
    "PartialObjectMetadataList": View.METADATA,
}


def negotiate(accept: str) -> Answer:
    """The first form in ``Accept`` that this server speaks; quality values are ignored, as upstream's clients send none.

    Raises:
        Invalid: 406.
    """
    for part in accept.split(",") if accept.strip() else ("*/*",):
        media_type, parameters = _parse(part)
        if media_type in ("*/*", "application/*"):
            media_type = JSON
        view = _VIEWS.get(parameters.get("as", ""))
        if media_type not in (JSON, YAML) or view is None:
            continue
        if view is not View.OBJECT and (parameters.get("g"), parameters.get("v")) != ("meta.k8s.io", "v1"):
            continue
        return Answer(media_type, view)
    raise statuses.not_acceptable((JSON, YAML))


def _parse(part: str) -> tuple[str, dict[str, str]]:
    media_type, *parameters = (piece.strip() for piece in part.split(";"))
    pairs = (parameter.partition("=") for parameter in parameters)
    return media_type.lower(), {name.strip(): value.strip() for name, _, value in pairs}


def decode_object(content_type: str, body: bytes) -> Object:
    """One object from a request's body; nulls are dropped, as Go's decoder does.

    Raises:
        Invalid: 415 or 400.
    """
    media_type, _ = _parse(content_type or JSON)
    if media_type == PROTOBUF:
        try:
            value: Any = check_depth(decode_protobuf(body))
        except ValueError as error:
            raise statuses.bad_request(f"the body cannot be decoded: {error}") from None
    elif media_type in (JSON, YAML, "application/apply-patch+yaml"):
        value = parse(media_type, body)
    else:
        raise statuses.unsupported_media_type((JSON, YAML, PROTOBUF))
    if not isinstance(value, dict):
        raise statuses.bad_request("the body must be an object")
    if media_type != "application/apply-patch+yaml":
        _keep_empty_values(value)
    stripped: Object = strip_nulls(value)
    return stripped


def _keep_empty_values(obj: Object) -> None:
    """In a map a null is the zero value of a key that is there: ``data: {key: }`` in a Secret or ConfigMap."""
    for field in ("data", "stringData", "binaryData"):
        if isinstance(entries := obj.get(field), dict):
            obj[field] = {key: "" if entry is None else entry for key, entry in entries.items()}


def parse(media_type: str, body: bytes) -> Any:
    """JSON or YAML as plain data. Raises: Invalid: 400, with a position and without the text there; or it is no end of data."""
    value = _parse_json(body) if media_type == JSON or media_type.endswith("+json") else _parse_yaml(body)
    return check_depth(value)


def check_depth(value: T) -> T:
    """*value* itself. Raises: Invalid: 400, it nests deeper than this program recurses."""
    if yamltext.is_deeper(value):
        raise _too_deep()
    return value


def _parse_json(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)
    except msgspec.DecodeError as error:
        raise statuses.bad_request(f"the body is not valid JSON: {error}") from None
    except RecursionError:
        raise _too_deep() from None


def _parse_yaml(body: bytes) -> Any:
    try:
        return msgspec.json.decode(body)  # what kubectl apply --server-side sends as YAML
    except (msgspec.DecodeError, RecursionError):
        pass
    try:
        text = body.decode("utf-8-sig")
        if yamltext.is_too_deep(text):
            raise _too_deep()
        value = yaml.load(text, yamltext.Loader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark is not None else 0
        raise statuses.bad_request(f"the body is not valid YAML: line {line}") from None
    except (yaml.YAMLError, ValueError, RecursionError):
        raise statuses.bad_request("the body is not valid YAML") from None
    if yamltext.expanded_size(value, counts_text=True) > _EXPANDED_LIMIT:
        raise statuses.bad_request("the body is not valid YAML: document contains excessive aliasing")
    return value


def _too_deep() -> ApiError:
    return statuses.bad_request(f"the body nests deeper than {yamltext.DEEPEST} levels")


def encode(value: Any, media_type: str) -> bytes:
    """An answer's bytes."""
    if media_type == YAML:
        return yaml.safe_dump(value, sort_keys=False, allow_unicode=True).encode()
    return msgspec.json.encode(value)


def partial_metadata(objects: Sequence[Object]) -> list[Object]:
    """``PartialObjectMetadata`` of each."""
    head = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    return [{**head, "metadata": obj["metadata"]} for obj in objects]
