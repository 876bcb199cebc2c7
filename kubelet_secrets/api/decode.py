"""Bytes of JSON (and parsed YAML) ⇄ the structs of ``api/core.py``.

The only room where ``Any`` is at home. ``null`` for a field means "absent", as in Go: the fast path decodes straight into
the struct, and only when that fails are nulls stripped and the conversion tried again. Error texts name a path such as
``$.spec.containers[0].image`` and never the offending value.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from typing import Any, TypeVar

import msgspec

from kubelet_secrets.api.core import ConfigMap, Secret
from kubelet_secrets.errors import UsageError
from kubelet_secrets.sensitive import SensitiveBytes

T = TypeVar("T")
_STEP = re.compile(r"\.[^.\[`]+|\[[0-9]+\]|\[\.\.\.\]")  # of a path: a field, an index, any key of a map


class DecodeError(UsageError):
    """The bytes are not the kind that was expected. The message names kind and field path."""


def _decode_custom(wanted: type, value: Any) -> Any:
    if wanted is SensitiveBytes:
        if isinstance(value, bytes):
            return SensitiveBytes(value)
        if not isinstance(value, str):
            raise ValueError("Expected a base64 string")
        try:
            # Go's decoder accepts line breaks inside base64 and no other white space.
            return SensitiveBytes(base64.b64decode(value.replace("\n", "").replace("\r", ""), validate=True))
        except (binascii.Error, ValueError):
            raise ValueError("Invalid base64-encoded string") from None
    raise NotImplementedError(wanted)


def _encode_custom(value: Any) -> Any:
    if isinstance(value, SensitiveBytes):
        return base64.b64encode(value.reveal()).decode("ascii")
    raise NotImplementedError(type(value))


def strip_nulls(value: Any) -> Any:
    """Return *value* without mapping entries that are ``None``, at every depth. Lists keep their length."""
    if isinstance(value, dict):
        return {key: strip_nulls(entry) for key, entry in value.items() if entry is not None}
    if isinstance(value, list):
        return [strip_nulls(entry) for entry in value]
    return value


def convert(value: Any, kind: type[T]) -> T:
    """Turn parsed JSON or YAML into *kind*.

    Raises:
        DecodeError: a field has the wrong type; the message gives its path, not its value.
    """
    plain = _merge_string_data(strip_nulls(_keep_null_keys(value, kind)), kind)
    try:
        return _finish(msgspec.convert(plain, kind, dec_hook=_decode_custom))
    except msgspec.ValidationError as error:
        raise DecodeError(f"{kind.__name__}: {_with_keys(str(error), plain, kind)}") from None


def decode(data: bytes, kind: type[T]) -> T:
    """Decode one JSON object into *kind*.

    Raises:
        DecodeError: not JSON, or a field has the wrong type; the message gives a path, never a value.
    """
    # stringData holds plain text where data holds base64, and the decoder sees one type for both: see _merge_string_data.
    if b'"stringData"' not in data:
        try:
            return _finish(msgspec.json.decode(data, type=kind, dec_hook=_decode_custom))
        except (msgspec.ValidationError, msgspec.DecodeError):
            pass  # once more below, without nulls
    try:
        return convert(msgspec.json.decode(data), kind)
    except msgspec.DecodeError:
        # msgspec's own text quotes no input, but it is chained to nothing on purpose.
        raise DecodeError(f"{kind.__name__}: not valid JSON") from None


def encode(value: Any) -> bytes:
    """Encode a struct (or plain data holding structs) as JSON. This unwraps secret values: the result is as secret as they."""
    return msgspec.json.encode(value, enc_hook=_encode_custom)


def to_builtins(value: Any) -> Any:
    """A struct as plain dictionaries and lists, ready for JSON or a patch. Unwraps secret values, like :func:`encode`."""
    return msgspec.to_builtins(value, enc_hook=_encode_custom)


def _with_keys(text: str, plain: Any, kind: type[Any]) -> str:
    """An error's *text* with the keys of the maps on its path, which msgspec leaves out: ``$.data[...]`` → ``$.data[user]``.

    Found by converting once more with one key at a time.
    """
    head, separator, path = text.partition(" - at `$")
    where: list[str | int] = []
    shown = ""
    for step in _STEP.findall(path):
        if step == "[...]":
            key = next((each for each in _get(plain, where) if _fails_alone(plain, where, each, kind, text)), None)
            if key is None:
                return text
            where.append(key)
            shown += f"[{key}]"
        else:
            where.append(int(step[1:-1]) if step.startswith("[") else step[1:])
            shown += step
    return f"{head}{separator}{shown}`" if separator else text


def _fails_alone(plain: Any, where: Sequence[str | int], key: str, kind: type[Any], text: str) -> bool:
    alone = _replace(plain, where, {key: _get(plain, where)[key]})
    try:
        msgspec.convert(alone, kind, dec_hook=_decode_custom)
    except msgspec.ValidationError as error:
        return str(error) == text
    return False


def _get(plain: Any, where: Sequence[str | int]) -> Any:
    for step in where:
        plain = plain[step]
    return plain


def _replace(plain: Any, where: Sequence[str | int], new: Any) -> Any:
    """*plain* with *new* at *where*; shares the rest."""
    if not where:
        return new
    copy: Any = dict(plain) if isinstance(plain, dict) else list(plain)
    copy[where[0]] = _replace(plain[where[0]], where[1:], new)
    return copy


def _keep_null_keys(value: Any, kind: type[Any]) -> Any:
    """In a map, ``null`` is the zero value of an entry that is there: ``data: {key: }`` gives an empty file, as in Go."""
    if kind not in (Secret, ConfigMap) or not isinstance(value, dict):
        return value
    value = dict(value)
    for field in ("data", "stringData", "binaryData"):
        if isinstance(value.get(field), dict):
            value[field] = {key: "" if entry is None else entry for key, entry in value[field].items()}
    return value


def _merge_string_data(value: Any, kind: type[Any]) -> Any:
    if kind is Secret and isinstance(value, dict) and isinstance(value.get("stringData"), dict):
        for key, entry in value["stringData"].items():
            if not isinstance(entry, str):
                found = (
                    "object"
                    if isinstance(entry, dict)
                    else "array"
                    if isinstance(entry, list)
                    else type(entry).__name__
                )
                raise DecodeError(f"Secret: Expected `str`, got `{found}` - at `$.stringData[{key}]`")
        value = dict(value)
        value["stringData"] = {key: entry.encode("utf-8") for key, entry in value["stringData"].items()}
    return value


def _finish(value: T) -> T:
    """Merge ``stringData`` over ``data`` (it is write-only in the API), so that no reader has to know of it."""
    if isinstance(value, Secret) and value.string_data:
        merged = msgspec.structs.replace(value, data={**value.data, **value.string_data}, string_data={})
        return merged
    return value
