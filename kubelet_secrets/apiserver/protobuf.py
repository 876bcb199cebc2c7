"""Bodies in Kubernetes' protobuf, turned into the plain data that the same request in JSON would have given.

Only inwards: ``kubectl create secret`` and its like send nothing else and have no fallback, but every client reads JSON. The
way back, for the store, is ``protobuf_form.py``.
Pure but for reading its own package file once. Made by ``scripts/generate-protobuf``: message → field → number and type.

Source: k8s.io/apimachinery/pkg/runtime/serializer/protobuf (the ``k8s\\0`` envelope), k8s.io/api/*/generated.proto.
Which zeros say something, as pointers do in Go, the table has for every field (:class:`Presence`).
"""

from __future__ import annotations

import base64
import gzip
import importlib.resources
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from kubelet_secrets.apiserver.schemas import document

MAGIC = b"k8s\0"
_MALFORMED = "the protobuf content is malformed"
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_META = "k8s.io.apimachinery.pkg.apis.meta.v1."
UNKNOWN = "k8s.io.apimachinery.pkg.runtime.Unknown"

RENAMED = {"uID": "uid"}


class Presence(StrEnum):
    """What becomes of a field that is zero in Go, by its Go type and JSON tag. On the wire only a nil pointer is left out."""

    POINTER = "pointer"  # nil is absent, zero is there
    VALUE = "value"  # left out of JSON
    ALWAYS = "always"  # in JSON too
    INLINE = "inline"  # embedded: its fields stand in the message around it
    NILABLE = ""  # lists and maps


_Entry = tuple[int, str] | tuple[int, str, str]  # number, type, presence

Field = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": Field.TYPE_STRING,
    "bytes": Field.TYPE_BYTES,
    "bool": Field.TYPE_BOOL,
    "int32": Field.TYPE_INT32,
    "int64": Field.TYPE_INT64,
    "double": Field.TYPE_DOUBLE,
}


def decode_protobuf(body: bytes) -> dict[str, Any]:
    """Decode one enveloped object.

    Returns:
        The object with ``apiVersion`` and ``kind``, bytes as base64, times as RFC 3339.

    Raises:
        ValueError: not the envelope, a kind that is not served, or broken content. The text holds no data.
    """
    if not body.startswith(MAGIC):
        raise ValueError("provided data does not appear to be a protobuf message, expected prefix 6b 38 73 00")
    envelope = _parse(UNKNOWN, body[len(MAGIC) :])
    api_version, kind = envelope.typeMeta.apiVersion, envelope.typeMeta.kind
    name = message_of(api_version, kind)
    if name is None:
        raise ValueError(f'no kind "{kind}" is registered for version "{api_version}"')
    try:
        content = _to_plain(_parse(name, envelope.raw))
    except (OverflowError, json.JSONDecodeError, RecursionError, UnicodeDecodeError):
        # A time beyond the calendar; managed fields that are no JSON, or nest endlessly; a key of a map that is not UTF-8.
        raise ValueError(_MALFORMED) from None
    return {"apiVersion": api_version, "kind": kind, **content}


@cache
def presence_of(field: FieldDescriptor) -> Presence:
    assert field.containing_type is not None, "no extension"
    entry = _table_by_flat_name()[field.containing_type.name][field.name]
    return Presence(entry[2]) if len(entry) == 3 else Presence.NILABLE


def message_of(api_version: str, kind: str) -> str | None:
    """The full name of a kind's message; None when there is none."""
    name = document()["kinds"].get(f"{api_version}/{kind}")
    return str(name).replace("io.k8s", "k8s.io", 1) if name is not None else None


def _parse(name: str, data: bytes) -> Any:
    try:
        return message_class(name).FromString(data)
    except DecodeError:
        raise ValueError(_MALFORMED) from None


@cache
def message_class(name: str) -> type[Message]:
    """The class of the message of that full name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(flat(name)))


@cache
def _table_by_flat_name() -> Mapping[str, Mapping[str, _Entry]]:
    packed = (importlib.resources.files(__package__) / "messages.json.gz").read_bytes()
    return {flat(name): fields for name, fields in json.loads(gzip.decompress(packed)).items()}


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    """The table as descriptors, all in one file without a package: dots in a message's name become underscores."""
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="kubernetes.proto", syntax="proto2")
    for name, fields in _table_by_flat_name().items():
        _add_message(file, name, fields)
    pool.Add(file)
    return pool


def _add_message(file: descriptor_pb2.FileDescriptorProto, name: str, fields: Mapping[str, _Entry]) -> None:
    message = file.message_type.add(name=name)
    for field_name, (number, text, *_) in fields.items():
        field = message.field.add(name=field_name, number=number, label=Field.LABEL_OPTIONAL)
        if text.startswith("map<"):
            key, value = text[4:-1].split(",")
            entry = message.nested_type.add(name=field_name[0].upper() + field_name[1:] + "Entry")
            entry.options.map_entry = True
            _set_type(entry.field.add(name="key", number=1, label=Field.LABEL_OPTIONAL), key)
            _set_type(entry.field.add(name="value", number=2, label=Field.LABEL_OPTIONAL), value)
            field.label, field.type = Field.LABEL_REPEATED, Field.TYPE_MESSAGE
            field.type_name = f".{name}.{entry.name}"
            continue
        if text.startswith("repeated "):
            field.label = Field.LABEL_REPEATED
        _set_type(field, text.removeprefix("repeated "))


def _set_type(field: descriptor_pb2.FieldDescriptorProto, text: str) -> None:
    if text in _SCALARS:
        field.type = _SCALARS[text]
    else:
        field.type = Field.TYPE_MESSAGE
        field.type_name = "." + flat(text)


def flat(name: str) -> str:
    """A message's full name as the descriptors have it."""
    return name.replace(".", "_")


def _to_plain(message: Message) -> Any:
    special = _SPECIAL.get(message.DESCRIPTOR.name)
    if special is not None:
        return special(message)
    plain: dict[str, Any] = {}
    for field, value in message.ListFields():
        name = RENAMED.get(field.name, field.name)
        entry = _field_to_plain(field, value)
        presence = presence_of(field)
        if presence is Presence.INLINE:
            plain.update(entry)
        elif entry is not None and (presence is not Presence.VALUE or entry not in ("", False, 0)):
            plain[name] = entry
    return plain


def _field_to_plain(field: FieldDescriptor, value: Any) -> Any:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        keys, values = field.message_type.fields_by_name["key"], field.message_type.fields_by_name["value"]
        return {_value_to_plain(keys, key): _value_to_plain(values, entry) for key, entry in value.items()}
    if field.is_repeated:
        return [_value_to_plain(field, entry) for entry in value]
    return _value_to_plain(field, value)


def _value_to_plain(field: FieldDescriptor, value: Any) -> Any:
    if isinstance(value, Message):
        return _to_plain(value)
    if isinstance(value, bytes):
        if field.type == FieldDescriptor.TYPE_STRING:
            raise ValueError(_MALFORMED)  # not UTF-8: protobuf hands such a text out as bytes
        return base64.b64encode(value).decode("ascii")
    return value


def _time_to_plain(message: Any) -> str | None:
    moment = _moment(message)
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_time_to_plain(message: Any) -> str | None:
    moment = _moment(message)
    return None if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _moment(message: Any) -> datetime | None:
    """None for Go's zero time, which is sent as the epoch."""
    if message.seconds == 0 and message.nanos == 0:
        return None
    return EPOCH + timedelta(seconds=message.seconds, microseconds=message.nanos // 1000)


def _int_or_string_to_plain(message: Any) -> int | str:
    chosen: int | str = message.strVal if message.type == 1 else message.intVal
    return chosen


_SPECIAL: Mapping[str, Callable[[Any], Any]] = {
    flat(_META + "Time"): _time_to_plain,
    flat(_META + "MicroTime"): _micro_time_to_plain,
    flat(_META + "FieldsV1"): lambda message: json.loads(message.Raw or b"{}"),
    flat("k8s.io.apimachinery.pkg.api.resource.Quantity"): lambda message: message.string,
    flat("k8s.io.apimachinery.pkg.util.intstr.IntOrString"): _int_or_string_to_plain,
    flat("k8s.io.api.authentication.v1.ExtraValue"): lambda message: list(message.items),
    flat("k8s.io.api.authorization.v1.ExtraValue"): lambda message: list(message.items),
    flat("k8s.io.api.certificates.v1.ExtraValue"): lambda message: list(message.items),
}
