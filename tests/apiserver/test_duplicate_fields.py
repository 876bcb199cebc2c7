from __future__ import annotations

import pytest

from kubelet_secrets.apiserver.duplicate_fields import duplicate_fields


@pytest.mark.parametrize(
    ("body", "texts"),
    [
        ('{"a":1,"b":{"a":1},"c":[{"a":1},{"a":1}]}', []),
        ('{"a":1,"a":2,"a":3}', ['duplicate field "a"']),
        ('{"a":{"b":1},"a":{"b":1}}', ['duplicate field "a"']),
        (
            '{"a":{"b":[{"c":1,"c":2},[{"d":1,"d":1}]]}}',
            ['duplicate field "a.b[0].c"', 'duplicate field "a.b[1][0].d"'],
        ),
        ("[1]", []),
        ("null", []),
    ],
)
def test_in_json_by_path(body: str, texts: list[str]) -> None:
    assert duplicate_fields(body.encode(), is_yaml=False) == texts


@pytest.mark.parametrize(
    ("body", "lines"),
    [
        ("a: 1\nb: {a: 1}\nc: [{a: 1}, {a: 2}]\n", []),
        (
            "a: 1\nb:\n  x: 1\n  x: 2\na: 2\n",
            ['line 4: key "x" already set in map', 'line 5: key "a" already set in map'],
        ),
        ("1: a\n'1': b\n", []),
        ("? [a]\n: 1\n? [a]\n: 2\n", []),
        ("", []),
    ],
)
def test_in_yaml_by_line(body: str, lines: list[str]) -> None:
    expected = ["yaml: unmarshal errors:\n" + "\n".join(f"  {line}" for line in lines)] if lines else []
    assert duplicate_fields(body.encode(), is_yaml=True) == expected


def test_no_more_than_a_hundred_are_told() -> None:
    body = "{" + ",".join(f'"{name}":1,"{name}":1' for name in range(150)) + "}"
    assert len(duplicate_fields(body.encode(), is_yaml=False)) == 100
