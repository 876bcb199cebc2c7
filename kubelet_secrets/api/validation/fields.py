"""One broken rule of the API: where, what kind, which value, why - and how upstream prints it.

Pure. Every function of this room returns a list of :class:`FieldError`; the API server turns it into a ``Status`` with
:func:`invalid_message` and :func:`status_causes`. Values of Secrets are never passed in: see :data:`REDACTED`.

Source: k8s.io/apimachinery/pkg/util/validation/field/{errors,path}.go; pkg/api/errors, NewInvalid.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.errors import aggregate_message

REDACTED = "<secret contents redacted>"
FILE_MODE_MESSAGE = "must be a number between 0 and 0777 (octal), both inclusive"
IMMUTABLE_MESSAGE = "field is immutable"


class ErrorType(Enum):
    """Kinds of errors: the text in a message, and the ``reason`` of a ``StatusCause``."""

    NOT_FOUND = ("Not found", "FieldValueNotFound")
    REQUIRED = ("Required value", "FieldValueRequired")
    DUPLICATE = ("Duplicate value", "FieldValueDuplicate")
    INVALID = ("Invalid value", "FieldValueInvalid")
    NOT_SUPPORTED = ("Unsupported value", "FieldValueNotSupported")
    FORBIDDEN = ("Forbidden", "FieldValueForbidden")
    TOO_LONG = ("Too long", "FieldValueTooLong")
    TOO_MANY = ("Too many", "FieldValueTooMany")

    @property
    def text(self) -> str:
        return self.value[0]

    @property
    def reason(self) -> str:
        return self.value[1]


_WITHOUT_VALUE = (ErrorType.REQUIRED, ErrorType.FORBIDDEN, ErrorType.TOO_LONG)


@dataclass(frozen=True, slots=True)
class Path:
    """Where a field stands: ``spec.volumes[0].secret.items[1].path``."""

    text: str

    def child(self, *names: str) -> Path:
        return Path(".".join((self.text, *names)))

    def index(self, position: int) -> Path:
        return Path(f"{self.text}[{position}]")

    def key(self, key: str) -> Path:
        return Path(f"{self.text}[{key}]")


METADATA, SPEC, STATUS = Path("metadata"), Path("spec"), Path("status")
WHOLE = Path("[]")
"""The object as such; upstream prints the empty path this way."""


@dataclass(frozen=True, slots=True)
class FieldError:
    """``str()`` is upstream's text."""

    path: str
    type: ErrorType
    value: Any = None  # what was found there; never a Secret's value
    detail: str = ""

    @property
    def body(self) -> str:
        """The text without the path."""
        text = self.type.text
        if self.type not in _WITHOUT_VALUE:
            text += f": {_show(self.value)}"
        return f"{text}: {self.detail}" if self.detail else text

    def __str__(self) -> str:
        return f"{self.path}: {self.body}"


def required(path: Path, detail: str = "") -> FieldError:
    return FieldError(path.text, ErrorType.REQUIRED, None, detail)


def invalid(path: Path, value: Any, detail: str) -> FieldError:
    return FieldError(path.text, ErrorType.INVALID, value, detail)


def each_invalid(path: Path, value: Any, details: Iterable[str]) -> list[FieldError]:
    """One error for each text a name rule returned."""
    return [invalid(path, value, detail) for detail in details]


def forbidden(path: Path, detail: str) -> FieldError:
    return FieldError(path.text, ErrorType.FORBIDDEN, None, detail)


def duplicate(path: Path, value: Any) -> FieldError:
    return FieldError(path.text, ErrorType.DUPLICATE, value)


def not_found(path: Path, value: Any) -> FieldError:
    return FieldError(path.text, ErrorType.NOT_FOUND, value)


def not_supported(path: Path, value: Any, supported: Sequence[str]) -> FieldError:
    detail = "supported values: " + ", ".join(map(go_quote, supported))
    return FieldError(path.text, ErrorType.NOT_SUPPORTED, value, detail)


def too_long(path: Path, limit_bytes: int) -> FieldError:
    return FieldError(path.text, ErrorType.TOO_LONG, None, f"may not be more than {limit_bytes} bytes")


def unless_one_of(path: Path, value: str, supported: Sequence[str]) -> list[FieldError]:
    """Nothing when *value* is supported; ``Required value`` when it is empty."""
    if value in supported:
        return []
    return [not_supported(path, value, supported) if value else required(path)]


def immutable(path: Path, new: Any, old: Any) -> list[FieldError]:
    return [] if new == old else [invalid(path, new, IMMUTABLE_MESSAGE)]


def invalid_message(kind: str, name: str, errors: Sequence[FieldError]) -> str:
    """The message of a 422: ``Secret "x" is invalid: data[a b]: Invalid value: …``, several errors in brackets.

    Args:
        kind: with its group unless that is core: ``Lease.coordination.k8s.io``.
    """
    return f"{kind} {go_quote(name)} is invalid: {aggregate_message(list(map(str, errors)))}"


def status_causes(errors: Iterable[FieldError]) -> list[dict[str, str]]:
    """``Status.details.causes``: what kubectl prints the errors from."""
    return [{"reason": error.type.reason, "message": error.body, "field": error.path} for error in errors]


def _show(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return go_quote(value)
        case int() | float():
            return str(value)
        case _:
            return json.dumps(value, separators=(",", ":"), ensure_ascii=False)
