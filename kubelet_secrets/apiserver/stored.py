"""A stored record opened into the JSON that ``codec.py`` keeps: decrypted, and what kube-apiserver wrote understood.

This server writes JSON, or protobuf when it is told so (``protobuf_form.py``), and kube-apiserver does the same the other way
round; both read both. Protobuf becomes JSON here.
What is neither is garbage, as a wrong key makes it: AES-CBC tells one from the right key by the padding only, so one value in
some 256 seems fine. Called by whoever reads the store.

Source: k8s.io/apimachinery/pkg/runtime/serializer/recognizer.
"""

from __future__ import annotations

import msgspec

from kubelet_secrets.apiserver import codec
from kubelet_secrets.apiserver.encryption import Opened, TransformError
from kubelet_secrets.apiserver.protobuf import MAGIC, decode_protobuf
from kubelet_secrets.apiserver.storage import Record, Storage

_OWN = b'{"kind":"'  # how ``codec.encode`` begins
_NOT_AN_OBJECT = "the stored data is no object: the key may be a wrong one"


async def open_object(storage: Storage, record: Record) -> Opened:
    """The JSON of *record*, which must not be a deletion.

    Raises:
        TransformError: it cannot be decrypted, or holds no object.
    """
    opened = await storage.open(record)
    if opened.value.startswith(_OWN):
        return opened  # not parsed: every read comes through here
    try:
        obj = decode_protobuf(opened.value) if opened.value.startswith(MAGIC) else msgspec.json.decode(opened.value)
        is_object = bool(obj["kind"] and obj["apiVersion"] and obj["metadata"]["name"])
    except (ValueError, TypeError, KeyError):
        is_object = False
    if not is_object:
        raise TransformError(_NOT_AN_OBJECT)
    return Opened(codec.encode(obj), opened.is_stale)
