"""What ``-f`` reads."""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.errors import UsageError
from kubelet_secrets.manifests import manifest_files, parse_manifest, read_manifests

POD = "apiVersion: v1\nkind: Pod\n"


def parse(text: str) -> list[tuple[dict[str, Any], str]]:
    return [(found.obj, found.source) for found in parse_manifest(text.encode(), source="f.yaml")]


def test_documents_are_counted_and_empty_ones_are_skipped() -> None:
    found = parse(f"---\n# nothing\n---\n{POD}---\n---\napiVersion: v1\nkind: Secret\n")
    assert [(obj["kind"], source) for obj, source in found] == [
        ("Pod", "f.yaml, document 1"),
        ("Secret", "f.yaml, document 2"),
    ]


def test_each_document_is_told_of() -> None:
    told: list[int] = []
    parse_manifest(f"{POD}---\n{POD}---\n{POD}".encode(), source="f.yaml", tell=told.append)
    assert told == [1, 2, 3]


def test_lists_are_flattened() -> None:
    inner = "{apiVersion: v1, kind: SecretList, items: [{metadata: {name: a}}]}"
    text = f"apiVersion: v1\nkind: List\nitems:\n- {{apiVersion: v1, kind: Pod}}\n- {inner}\n"
    assert parse(text) == [
        ({"apiVersion": "v1", "kind": "Pod"}, "f.yaml, item 1"),
        ({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}}, "f.yaml, item 2, item 1"),
    ]
    assert parse("apiVersion: v1\nkind: List\nitems: []\n") == []
    assert parse("apiVersion: v1\nkind: List\n") == []


def test_json_documents_behind_each_other() -> None:
    one, two = {"apiVersion": "v1", "kind": "Pod"}, {"apiVersion": "v1", "kind": "Secret"}
    assert [obj for obj, _ in parse(json.dumps(one, indent="\t") + "\n" + json.dumps(two))] == [one, two]
    assert [obj for obj, _ in parse("{apiVersion: v1, kind: Pod}")] == [one]
    assert parse('{"apiVersion": "v1", "kind": "Pod", "a": "\\ud800x"}')[0][0]["a"] == "\ufffdx"


@pytest.mark.parametrize(
    ("scalar", "expected"),
    [
        pytest.param("2026-01-01", "2026-01-01", id="date-is-text"),
        pytest.param("2026-01-01T00:00:00Z", "2026-01-01T00:00:00Z", id="time-is-text"),
        pytest.param("12:30", "12:30", id="no-base-60"),
        pytest.param("0400", 0o400, id="octal"),
        pytest.param("0o400", 0o400, id="yaml-1.2-octal"),
        pytest.param("0x1f", 31, id="hexadecimal"),
        pytest.param("-7", -7, id="negative"),
        pytest.param("0", 0, id="zero"),
        pytest.param("1.5", 1.5, id="fraction"),
        pytest.param("1e3", 1000.0, id="exponent"),
        pytest.param("1.2.3.4", "1.2.3.4", id="address"),
        pytest.param("64Mi", "64Mi", id="quantity"),
        pytest.param("true", True, id="true"),
        pytest.param("no", False, id="no"),
        pytest.param("~", None, id="null"),
        pytest.param("-", "-", id="dash"),
        pytest.param(".", ".", id="dot"),
        pytest.param("=", "=", id="equals"),
        pytest.param("'0400'", "0400", id="quoted"),
    ],
)
def test_scalars_are_what_kubectl_would_send(scalar: str, expected: object) -> None:
    value = parse(f"{POD}x: [{scalar}]\n" if scalar not in "-" else f"{POD}x: ['{scalar}']\n")[0][0]["x"][0]
    assert value == expected
    assert type(value) is type(expected)


def test_keys_become_text() -> None:
    assert parse(f"{POD}data: {{1: a, true: b, 1.5: c}}\n")[0][0]["data"] == {"1": "a", "true": "b", "1.5": "c"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param(
            "a: b: c", "f.yaml, line 1, column 5: mapping values are not allowed in this context", id="syntax"
        ),
        pytest.param("- 1", "f.yaml: not an object but a list", id="list"),
        pytest.param("hello", "f.yaml: not an object but text", id="text"),
        pytest.param("apiVersion: v1", "f.yaml: kind is missing", id="kind"),
        pytest.param("kind: Pod", "f.yaml: apiVersion is missing", id="apiVersion"),
        pytest.param(f"{POD}---\n5\n", "f.yaml, document 2: not an object but a bare value", id="second-document"),
        pytest.param(
            f"{POD}x: !foo bar\n",
            "f.yaml, line 3, column 4: could not determine a constructor for the tag '!foo'",
            id="tag",
        ),
        pytest.param(f"{POD}x: {'[' * 5000}{']' * 5000}", "f.yaml: nested too deeply", id="deep"),
        pytest.param("[" * 300_000, "f.yaml: nested too deeply", id="very-deep"),
        pytest.param('{"a":' * 300_000 + "1" + "}" * 300_000, "f.yaml: nested too deeply", id="deep-json"),
        pytest.param("- " * 5000, "f.yaml: nested too deeply", id="deep-block"),
        pytest.param(f"{POD}a: &a [1, *a]\n", "f.yaml: aliases expand to too many nodes", id="endless-alias"),
    ],
)
def test_unusable(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text)
    assert str(caught.value) == message


def test_alias_bomb_is_refused_without_expanding_it() -> None:
    lines = ["a0: &a0 [1,1,1,1,1,1,1,1,1,1]"]
    lines += [f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]" for level in range(1, 30)]
    with pytest.raises(UsageError, match="aliases expand to too many nodes"):
        parse(POD + "\n".join(lines))


def test_not_utf8_is_told_without_quoting() -> None:
    with pytest.raises(UsageError, match=r"^f.yaml: not UTF-8 at byte 3$"):
        parse_manifest(b"a: \xff", source="f.yaml")


def test_files_directories_and_standard_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("b.yaml", "a.yml", "c.json", "notes.txt"):
        (tmp_path / name).write_text(json.dumps({"apiVersion": "v1", "kind": name}))
    (tmp_path / "deeper.yaml").mkdir()
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(POD.encode())))
    found = read_manifests([str(tmp_path), "-"])
    assert [each.kind for each in found] == ["a.yml", "b.yaml", "c.json", "Pod"]
    assert found[-1].source == "standard input"
    assert "notes" not in repr(manifest_files([str(tmp_path)]))


def test_path_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"none\.yaml: No such file or directory"):
        read_manifests([str(tmp_path / "none.yaml")])
    with pytest.raises(UsageError, match=r"no \.json, \.yaml or \.yml file in this directory"):
        read_manifests([str(tmp_path)])


def test_repr_shows_no_content() -> None:
    assert "c4n4ry" not in repr(parse_manifest(f"{POD}x: c4n4ry\n".encode(), source="f"))


@given(st.text(alphabet=st.sampled_from("ab:-[]{}\n \t'\"#&*!|>?%@`,0"), max_size=60))
def test_garbage_gives_objects_or_one_kind_of_error(text: str) -> None:
    try:
        found = parse_manifest(text.encode(), source="f")
    except UsageError:
        return
    assert all(isinstance(each.obj, dict) for each in found)
