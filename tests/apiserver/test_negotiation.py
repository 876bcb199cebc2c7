"""What a body may be: text that stands for endless data is refused in one line, before it takes time, memory or the process."""

from __future__ import annotations

import json
from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver import negotiation, patch
from kubelet_secrets.apiserver.duplicate_fields import duplicate_fields
from kubelet_secrets.apiserver.request_body import BodyDecoder
from kubelet_secrets.errors import Invalid

TOO_DEEP = "the body nests deeper than 300 levels"
EXPANDS = "the body is not valid YAML: document contains excessive aliasing"
ALIASES = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
    f"{after}: &{after} [{','.join([f'*{before}'] * 9)}]\n"
    for before, after in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("media_type", "body", "message"),
    [
        pytest.param("json", "[" * 100_000, TOO_DEEP, id="json-open"),
        pytest.param("json", '{"a":' * 400 + "1" + "}" * 400, TOO_DEEP, id="json-400-levels"),
        pytest.param("yaml", "[" * 100_000, TOO_DEEP, id="yaml-flow"),
        pytest.param("yaml", "- " * 5_000, TOO_DEEP, id="yaml-block"),
        pytest.param("yaml", ALIASES, EXPANDS, id="yaml-aliases-of-aliases"),
        pytest.param("yaml", "a: &a [*a]\n", EXPANDS, id="yaml-alias-in-itself"),
        pytest.param("yaml", f"a: &a {'x' * 10_000}\nb: [{','.join(['*a'] * 1_000)}]\n", EXPANDS, id="yaml-long-text"),
        pytest.param(
            "json", f'{{"a": {"9" * 5_000}}}', "the body is not valid JSON: Integer", id="json-endless-number"
        ),
        pytest.param("yaml", "a: \xff\x00", "the body is not valid YAML", id="yaml-control-character"),
    ],
)
def test_body_that_stands_for_too_much(media_type: str, body: str, message: str) -> None:
    with pytest.raises(Invalid) as caught:
        negotiation.decode_object(f"application/{media_type}", body.encode("latin-1"))
    assert caught.value.code == 400
    assert str(caught.value).startswith(message)


def test_yaml_is_read_as_kubectl_reads_it() -> None:
    """A date is text, a number with colons too, keys are text; anchors are fine where they stay small."""
    body = b"a: 2024-01-31\nb: 12:30:45\n1: x\nc: 0644\nd: &d {e: f}\ng: *d\n"
    assert negotiation.decode_object("application/yaml", body) == {
        "a": "2024-01-31",
        "b": "12:30:45",
        "1": "x",
        "c": 0o644,
        "d": {"e": "f"},
        "g": {"e": "f"},
    }


@pytest.mark.parametrize(("lines", "lets_others_go_on"), [(10, False), (10_000, True)], ids=["small", "large"])
async def test_large_yaml_keeps_nobody_waiting(lines: int, lets_others_go_on: bool) -> None:
    went_on = False

    async def other() -> None:
        nonlocal went_on
        went_on = True

    body = "data:\n" + "".join(f"  k{n}: v\n" for n in range(lines))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        obj, repeated = await BodyDecoder().decode("application/yaml", f"{body}data: {{}}\n".encode(), "Warn")
        assert went_on is lets_others_go_on
    assert obj == {"data": {}}
    assert repeated == [f'yaml: unmarshal errors:\n  line {lines + 2}: key "data" already set in map']


def test_repeated_fields_are_looked_for_once_behind_many_aliases() -> None:
    assert duplicate_fields(f"{ALIASES}z: 1\nz: 2\n".encode(), is_yaml=True) == [
        'yaml: unmarshal errors:\n  line 11: key "z" already set in map'
    ]


@pytest.mark.parametrize(
    "operations",
    [
        pytest.param([{"op": "copy", "from": "/data", "path": f"/data/c{n}"} for n in range(40)], id="doubling"),
        pytest.param([{"op": "copy", "from": "/data", "path": "/data/a"}] * 1_000, id="deepening"),
        pytest.param([{"op": "copy", "from": "/data/big", "path": f"/data/{n}"} for n in range(100)], id="adding-up"),
    ],
)
def test_copies_in_a_json_patch_add_up_to_a_body_at_most(operations: list[dict[str, Any]]) -> None:
    obj = {"data": {"a": "x" * 100, "big": "x" * 100_000}}
    with pytest.raises(Invalid) as caught:
        patch.apply_json_patch(obj, operations)
    assert caught.value.code == 422
    assert len(json.dumps(obj)) < 200_000


def test_a_patch_may_not_leave_more_levels_than_a_body_may_have() -> None:
    operations = [{"op": "add", "path": "/data" + "/a" * depth, "value": {}} for depth in range(1, 400)]
    with pytest.raises(Invalid, match=TOO_DEEP):
        negotiation.check_depth(patch.apply_json_patch({"data": {}}, operations))
