"""Objects as kube-apiserver stores them: what goes in comes out, for every kind, and the bytes are those that it reads."""

from __future__ import annotations

import base64
import copy
import gzip
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.apiserver import patch, protobuf, resources
from kubelet_secrets.apiserver.conform import conform
from kubelet_secrets.apiserver.encryption import Identity
from kubelet_secrets.apiserver.protobuf_form import ProtobufForm, encode_protobuf
from tests.apiserver.test_any_object import FEW, whole

Obj = dict[str, Any]
VECTORS = Path(__file__).parent / "vectors" / "upstream.json.gz"
"""Kubernetes' own objects for round trips, JSON beside protobuf: k8s.io/api/testdata/HEAD of 1.36.4, Apache-2.0."""
STORED = [row for row in resources.SERVED if not row.is_review]


def telling(value: Any) -> Any:
    """*value* without what says no more than its absence: Go's ``omitempty``."""
    if isinstance(value, dict):
        return {
            key: below for key, entry in value.items() if (below := telling(entry)) not in (None, "", False, 0, [], {})
        }
    if isinstance(value, list):
        return [telling(entry) for entry in value]
    return value.replace(".000000Z", "Z") if isinstance(value, str) else value  # the drawn times are whole seconds


@pytest.mark.parametrize("row", STORED, ids=lambda row: row.plural)
@FEW
@given(data=st.data())
def test_every_field_of_every_kind_survives(row: resources.ServedResource, data: st.DataObject) -> None:
    obj = data.draw(whole(row))
    gvk = {"api_version": row.resource.api_version, "kind": row.kind}
    conform(obj, **gvk)
    obj["metadata"].pop("managedFields", None)
    obj["metadata"] |= patch.track_update(None, obj, "m", now="2026-01-01T00:00:00Z", **gvk)["metadata"]
    encoded = encode_protobuf(copy.deepcopy(obj))
    if encoded is None:
        return  # a field that is newer than the table
    again = protobuf.decode_protobuf(encoded)
    assert telling(again) == telling(obj)
    repeated = encode_protobuf(again)
    assert repeated is not None
    assert protobuf.decode_protobuf(repeated) == again


def upstream(kind: str) -> tuple[Obj, bytes]:
    """One of the recorded objects and its bytes."""
    found = UPSTREAM[kind]
    return copy.deepcopy(found["object"]), base64.b64decode(found["protobuf"])


UPSTREAM = json.loads(gzip.decompress(VECTORS.read_bytes()))


@pytest.mark.parametrize("kind", UPSTREAM)
def test_upstreams_own_bytes(kind: str) -> None:
    """Every field of every kind that is served, as the real code reads and writes it."""
    obj, recorded = upstream(kind)
    assert encode_protobuf(obj) == recorded
    assert protobuf.decode_protobuf(recorded) == obj


def test_zeros_that_were_pointers_in_go_and_empty_values_survive() -> None:
    secret = {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "s", "uid": "u"},
        "data": {"empty": "", "binary": "AP8="},
        "immutable": False,
        "type": "Opaque",
    }
    again = protobuf.decode_protobuf(encode_protobuf(secret) or b"")
    assert again == secret


def test_the_envelope_and_its_content_byte_for_byte() -> None:
    """Taken apart by hand, as ``protoc --decode_raw`` shows them."""
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "n1"},
        "spec": {"leaseDurationSeconds": 40, "renewTime": "2026-01-01T00:00:00.000005Z"},
    }
    time = bytes.fromhex("0880f2d6ca06") + bytes.fromhex("108827")  # 1: 1767225600, 2: 5000 ns
    spec = b"\x10\x28" + b"\x22" + bytes([len(time)]) + time
    # The name, then what is no pointer in Go: generateName, namespace, selfLink, uid, resourceVersion, generation, creation.
    metadata = b"\x0a\x02n1" + bytes.fromhex("12001a0022002a00320038004200")
    content = b"\x0a" + bytes([len(metadata)]) + metadata + b"\x12" + bytes([len(spec)]) + spec
    kind = b"\x0a\x16coordination.k8s.io/v1\x12\x05Lease"
    assert encode_protobuf(lease) == (
        b"k8s\0" + b"\x0a" + bytes([len(kind)]) + kind + b"\x12" + bytes([len(content)]) + content + b"\x1a\0\x22\0"
    )
    assert datetime.fromtimestamp(1767225600, UTC).year == 2026


async def test_a_value_of_the_other_form_is_stale() -> None:
    form = ProtobufForm(Identity())
    json = msgspec.json.encode({"kind": "Secret", "apiVersion": "v1", "metadata": {"name": "s"}, "data": {"a": "Yg=="}})
    stored = await form.to_storage(json, context=b"")
    assert stored.startswith(b"k8s\0")
    assert base64.b64decode("Yg==") in stored  # identity: it is the form of the plain value
    assert not (await form.from_storage(stored, context=b"")).is_stale
    assert (await form.from_storage(json, context=b"")).is_stale


@pytest.mark.parametrize(
    "obj",
    [
        {"kind": "Other", "apiVersion": "example.com/v1", "metadata": {"name": "s"}},
        {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": "s"}, "status": {"fromTheFuture": 3}},
        {
            "kind": "Lease",
            "apiVersion": "coordination.k8s.io/v1",
            "metadata": {"name": "s"},
            "spec": {"renewTime": "0001-01-01T00:00:00+23:59"},
        },
    ],
    ids=["kind", "field", "time"],
)
async def test_what_no_message_has_stays_json(obj: Obj) -> None:
    """Rather than losing it; and it is not stale for ever."""
    json, form = msgspec.json.encode(obj), ProtobufForm(Identity())
    assert await form.to_storage(json, context=b"") == json
    assert await form.from_storage(json, context=b"") == (json, False)
