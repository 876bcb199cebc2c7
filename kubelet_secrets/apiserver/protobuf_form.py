"""The other form of a stored object: Kubernetes' protobuf in its envelope, as kube-apiserver keeps objects unless it is told
``--storage-media-type=application/json``.

:class:`ProtobufForm` stands between the store, which knows JSON, and a resource's encryption; it is used when the server is
started with kube-apiserver's flag of that name. Reading understands both forms in any case (``stored.py``), so the flag can
be changed at any time; a value of the other form is stale, and its next write changes it.
Pure. What the table of messages does not know stays JSON, whole, so that nothing is lost: kube-apiserver reads that too. These
are fields newer than the table, and kinds, as custom resources are upstream.

Source: k8s.io/apimachinery pkg/runtime/serializer/protobuf; k8s.io/api/*/generated.proto. Differs: Go writes fields that are
no pointers even when they are empty; here they are left out, which reads the same.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Mapping
from typing import Any

import msgspec
from google.protobuf.descriptor import FieldDescriptor

from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.apiserver import codec, protobuf
from kubelet_secrets.apiserver.encryption import Opened, Transformer
from kubelet_secrets.apiserver.protobuf import MAGIC, RENAMED, UNKNOWN, Presence, presence_of

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
# Of the calendar, in UTC: 0001-01-01 and 9999-12-31.
_FIRST_S, _LAST_S = -62_135_596_800, 253_402_300_799
_TO_MESSAGE = {plain: name for name, plain in RENAMED.items()}


def _has_form(value: bytes) -> bool:
    """Whether *value*, JSON, can be had as protobuf. What is no JSON is nobody's form: who reads it says so."""
    try:
        return encode_protobuf(msgspec.json.decode(value)) is not None
    except (ValueError, TypeError, KeyError):
        return False


class _NoForm(Exception):
    """The object has a field that its message has not, or a time that could not be read again."""


class ProtobufForm:
    """A transformer that keeps objects as protobuf behind *inner*."""

    def __init__(self, inner: Transformer) -> None:
        self._inner = inner

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        return await self._inner.to_storage(encode_protobuf(msgspec.json.decode(value)) or value, context=context)

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        opened = await self._inner.from_storage(stored, context=context)
        return Opened(opened.value, opened.is_stale or (not opened.value.startswith(MAGIC) and _has_form(opened.value)))


def encode_protobuf(obj: codec.Object) -> bytes | None:
    """The envelope with *obj*, whose fields have the types of its kind; None when it has something that no message has."""
    name = protobuf.message_of(obj["apiVersion"], obj["kind"])
    if name is None:
        return None
    content = protobuf.message_class(name)()
    try:
        _fill(content, {key: value for key, value in obj.items() if key not in ("apiVersion", "kind")})
    except _NoForm:
        return None
    envelope: Any = protobuf.message_class(UNKNOWN)()
    envelope.typeMeta.apiVersion, envelope.typeMeta.kind = obj["apiVersion"], obj["kind"]
    # In the order of their keys, as Go's generated code writes maps: the same object is the same bytes.
    envelope.raw = content.SerializeToString(deterministic=True)
    envelope.contentEncoding = envelope.contentType = ""
    return MAGIC + bytes(envelope.SerializeToString(deterministic=True))


def _fill(message: Any, plain: Any) -> None:
    """Set the fields of *message* to what *plain* says, and others that are no pointers in Go to zero: there they are sent."""
    message.SetInParent()
    if (special := _SPECIAL.get(message.DESCRIPTOR.name)) is not None:
        special(message, plain)
        return
    fields = message.DESCRIPTOR.fields_by_name
    for field in fields.values():
        presence = presence_of(field)
        if presence is Presence.INLINE:
            below = field.message_type.fields_by_name
            own = {key: value for key, value in plain.items() if key in below or _TO_MESSAGE.get(key) in below}
            _fill(getattr(message, field.name), own)
            plain = {key: value for key, value in plain.items() if key not in own}
        elif presence in (Presence.VALUE, Presence.ALWAYS):
            _set_zero(message, field)
    for key, value in plain.items():
        field = fields.get(key) or fields.get(_TO_MESSAGE.get(key, ""))
        if field is None:
            raise _NoForm
        if value is not None:
            _set(message, field, value)


def _set_zero(message: Any, field: FieldDescriptor) -> None:
    if field.message_type is not None:
        _fill(getattr(message, field.name), _ZERO.get(field.message_type.name, {}))
    else:
        setattr(message, field.name, field.default_value)


def _set(message: Any, field: FieldDescriptor, value: Any) -> None:
    if field.message_type is not None and field.message_type.GetOptions().map_entry:
        entries, kind = getattr(message, field.name), field.message_type.fields_by_name["value"]
        for key, entry in value.items():
            if kind.message_type is not None:
                _fill(entries[key], entry)
            else:
                entries[key] = _scalar(kind, entry)
    elif field.is_repeated:
        for entry in value:
            if field.message_type is not None:
                _fill(getattr(message, field.name).add(), entry)
            else:
                getattr(message, field.name).append(_scalar(field, entry))
    elif field.message_type is not None:
        _fill(getattr(message, field.name), value)
    else:
        setattr(message, field.name, _scalar(field, value))


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    return base64.b64decode(value) if field.type == FieldDescriptor.TYPE_BYTES else value


def _set_time(message: Any, text: str) -> None:
    moment = parse_rfc3339(text)
    if moment is not None:
        message.seconds, message.nanos = int((moment - protobuf.EPOCH).total_seconds() // 1), 0
        if not _FIRST_S <= message.seconds <= _LAST_S:
            raise _NoForm  # its offset leads beyond the calendar
        if message.DESCRIPTOR.name == _MICRO_TIME:
            message.nanos = moment.microsecond * 1000


def _set_text(message: Any, value: Any) -> None:
    message.string = str(value)


def _set_int_or_string(message: Any, value: int | str) -> None:
    if isinstance(value, str):
        message.type, message.intVal, message.strVal = 1, 0, value
    else:
        message.type, message.intVal, message.strVal = 0, value, ""


def _set_items(message: Any, values: list[str]) -> None:
    message.items.extend(values)


def _set_raw(message: Any, fields: Any) -> None:
    message.Raw = msgspec.json.encode(fields, order="deterministic")


_MICRO_TIME = protobuf.flat("k8s.io.apimachinery.pkg.apis.meta.v1.MicroTime")
_SPECIAL: Mapping[str, Callable[[Any, Any], None]] = {
    protobuf.flat("k8s.io.apimachinery.pkg.apis.meta.v1.Time"): _set_time,
    _MICRO_TIME: _set_time,
    protobuf.flat("k8s.io.apimachinery.pkg.apis.meta.v1.FieldsV1"): _set_raw,
    protobuf.flat("k8s.io.apimachinery.pkg.api.resource.Quantity"): _set_text,
    protobuf.flat("k8s.io.apimachinery.pkg.util.intstr.IntOrString"): _set_int_or_string,
    protobuf.flat("k8s.io.api.authentication.v1.ExtraValue"): _set_items,
    protobuf.flat("k8s.io.api.authorization.v1.ExtraValue"): _set_items,
    protobuf.flat("k8s.io.api.certificates.v1.ExtraValue"): _set_items,
}
# What a special message is made from when it is zero; every other kind of message: from nothing.
_ZERO: Mapping[str, Any] = {
    protobuf.flat("k8s.io.apimachinery.pkg.apis.meta.v1.Time"): "",
    _MICRO_TIME: "",
    protobuf.flat("k8s.io.apimachinery.pkg.api.resource.Quantity"): "0",
    protobuf.flat("k8s.io.apimachinery.pkg.util.intstr.IntOrString"): 0,
}
