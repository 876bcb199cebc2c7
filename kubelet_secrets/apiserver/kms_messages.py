"""The messages of KMS v2: what is said to a plugin, and the object stored in place of a value, to and from protobuf.

Pure. Called by ``kms_client.py`` and ``kms.py``.

Source: k8s.io/kms apis/v2/api.proto; k8s.io/apiserver storage/value/encrypt/envelope/kmsv2/v2/api.proto.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError, Message

from kubelet_secrets.sensitive import SensitiveBytes

AES_GCM_KEY = 0
"""The data is encrypted with the plugin-wrapped key itself."""
HKDF_SHA256_XNONCE_AES_GCM_SEED = 1
"""The wrapped bytes are a seed; each write derives a key of its own from it."""

_Field = descriptor_pb2.FieldDescriptorProto
_MAP = "map<string,bytes>"
_TYPES = {"string": _Field.TYPE_STRING, "bytes": _Field.TYPE_BYTES, "int32": _Field.TYPE_INT32}
_MESSAGES: dict[str, tuple[tuple[int, str, str], ...]] = {
    "StatusRequest": (),
    "StatusResponse": ((1, "version", "string"), (2, "healthz", "string"), (3, "key_id", "string")),
    "EncryptRequest": ((1, "plaintext", "bytes"), (2, "uid", "string")),
    "EncryptResponse": ((1, "ciphertext", "bytes"), (2, "key_id", "string"), (3, "annotations", _MAP)),
    "DecryptRequest": (
        (1, "ciphertext", "bytes"),
        (2, "uid", "string"),
        (3, "key_id", "string"),
        (4, "annotations", _MAP),
    ),
    "DecryptResponse": ((1, "plaintext", "bytes"),),
    "EncryptedObject": (
        (1, "encryptedData", "bytes"),
        (2, "keyID", "string"),
        (3, "encryptedDEKSource", "bytes"),
        (4, "annotations", _MAP),
        (5, "encryptedDEKSourceType", "int32"),  # an enum; the same on the wire, and unknown numbers survive
    ),
}


@dataclass(frozen=True, slots=True)
class PluginStatus:
    """How a plugin says it is."""

    version: str  # "v2"
    healthz: str  # "ok"
    key_id: str


@dataclass(frozen=True, slots=True)
class WrappedKey:
    """A data encryption key, or seed, as the plugin encrypted it."""

    ciphertext: bytes
    key_id: str
    annotations: Mapping[str, bytes] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class EncryptedObject:
    """What is stored behind the prefix ``k8s:enc:kms:v2:<provider>:``."""

    data: bytes
    source: WrappedKey
    source_type: int


def encode_status_request() -> bytes:
    return _encode("StatusRequest")


def decode_status(body: bytes) -> PluginStatus:
    """Raises: ValueError."""
    found = _decode("StatusResponse", body)
    return PluginStatus(found.version, found.healthz, found.key_id)


def encode_encrypt_request(plaintext: SensitiveBytes, uid: str) -> bytes:
    return _encode("EncryptRequest", plaintext=plaintext.reveal(), uid=uid)


def decode_encrypted(body: bytes) -> WrappedKey:
    """Raises: ValueError."""
    found = _decode("EncryptResponse", body)
    return WrappedKey(found.ciphertext, found.key_id, dict(found.annotations))


def encode_decrypt_request(wrapped: WrappedKey, uid: str) -> bytes:
    return _encode(
        "DecryptRequest",
        ciphertext=wrapped.ciphertext,
        uid=uid,
        key_id=wrapped.key_id,
        annotations=dict(wrapped.annotations),
    )


def decode_decrypted(body: bytes) -> SensitiveBytes:
    """Raises: ValueError."""
    return SensitiveBytes(_decode("DecryptResponse", body).plaintext)


def encode_object(obj: EncryptedObject) -> bytes:
    return _encode(
        "EncryptedObject",
        encryptedData=obj.data,
        keyID=obj.source.key_id,
        encryptedDEKSource=obj.source.ciphertext,
        annotations=dict(obj.source.annotations),
        encryptedDEKSourceType=obj.source_type,
    )


def decode_object(stored: bytes) -> EncryptedObject:
    """Raises: ValueError."""
    found = _decode("EncryptedObject", stored)
    wrapped = WrappedKey(found.encryptedDEKSource, found.keyID, dict(found.annotations))
    return EncryptedObject(found.encryptedData, wrapped, found.encryptedDEKSourceType)


def _encode(name: str, **fields: Any) -> bytes:
    return _message_class(name)(**fields).SerializeToString(deterministic=True)


def _decode(name: str, body: bytes) -> Any:
    try:
        return _message_class(name).FromString(body)
    except DecodeError:
        raise ValueError("proto: cannot parse invalid wire-format data") from None


@cache
def _message_class(name: str) -> type[Message]:
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(f"v2.{name}"))


@cache
def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()
    file = descriptor_pb2.FileDescriptorProto(name="kms.proto", package="v2", syntax="proto3")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, field_name, type_name in fields:
            added = message.field.add(name=field_name, number=number, label=_Field.LABEL_OPTIONAL)
            if type_name == _MAP:
                _make_map(message, added, name)
            else:
                added.type = _TYPES[type_name]
    pool.Add(file)
    return pool


def _make_map(
    message: descriptor_pb2.DescriptorProto, added: descriptor_pb2.FieldDescriptorProto, message_name: str
) -> None:
    entry = message.nested_type.add(name="AnnotationsEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_STRING)
    entry.field.add(name="value", number=2, label=_Field.LABEL_OPTIONAL, type=_Field.TYPE_BYTES)
    added.label, added.type = _Field.LABEL_REPEATED, _Field.TYPE_MESSAGE
    added.type_name = f".v2.{message_name}.AnnotationsEntry"
