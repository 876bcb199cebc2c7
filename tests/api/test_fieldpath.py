"""Field paths, subscripts and Go's quoting. Source: pkg/fieldpath/fieldpath_test.go; semantics §4.4."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.fieldpath import FieldPathError, extract_field, format_map, split_subscript
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.quoting import go_quote

LABELS = {"key": "value", "Www.k8s.io/test": "1"}
POD = Pod(
    metadata=ObjectMeta(
        name="object-name",
        namespace="object-namespace",
        uid="object-uid",
        labels={"key": "value"},
        annotations={"builder": "john-doe", "Www.k8s.io/test": "1", "z": "a\nb", "a": ""},
    )
)


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("metadata.annotations['key']", ("metadata.annotations", "key"), id="annotation"),
        pytest.param("metadata.annotations['a[b']c']", ("metadata.annotations", "a[b']c"), id="brackets-inside"),
        pytest.param("metadata.labels['']", ("metadata.labels", ""), id="empty-key"),
        pytest.param("metadata.labels['Www.k8s.io/test']", ("metadata.labels", "Www.k8s.io/test"), id="prefix"),
        pytest.param("metadata.labels[ 'k' ]", None, id="blanks"),
        pytest.param("metadata.labels[]", None, id="nothing"),
        pytest.param("metadata.labels[']", None, id="one-quote"),
        pytest.param("metadata.labels['k']bar", None, id="trailing-text"),
        pytest.param("['key']", None, id="no-path"),
        pytest.param("metadata.labels", None, id="plain"),
        pytest.param("", None, id="empty"),
    ],
)
def test_split_subscript(path: str, expected: tuple[str, str] | None) -> None:
    assert split_subscript(path) == expected


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        pytest.param("metadata.name", "object-name", id="name"),
        pytest.param("metadata.namespace", "object-namespace", id="namespace"),
        pytest.param("metadata.uid", "object-uid", id="uid"),
        pytest.param("metadata.labels", 'key="value"', id="labels"),
        pytest.param(
            "metadata.annotations",
            'Www.k8s.io/test="1"\na=""\nbuilder="john-doe"\nz="a\\nb"',
            id="annotations-sorted-by-byte",
        ),
        pytest.param("metadata.labels['key']", "value", id="label"),
        pytest.param("metadata.labels['none']", "", id="label-missing"),
        pytest.param("metadata.annotations['Www.k8s.io/test']", "1", id="annotation"),
        pytest.param("metadata.annotations['z']", "a\nb", id="annotation-raw"),
    ],
)
def test_extract_field(path: str, expected: str) -> None:
    assert extract_field(POD, path) == expected


@pytest.mark.parametrize(
    ("path", "start"),
    [
        pytest.param("metadata.whoops", "unsupported fieldPath: metadata.whoops", id="unknown"),
        pytest.param("spec.nodeName", "unsupported fieldPath: spec.nodeName", id="not-metadata"),
        pytest.param("spec.x['k']", "fieldPath \"spec.x['k']\" does not support subscript", id="no-map"),
        pytest.param(
            "metadata.labels['www.k8s.io/']",
            "invalid key subscript in metadata.labels['www.k8s.io/']: name part must",
            id="no-name",
        ),
        pytest.param(
            "metadata.labels['Www.k8s.io/test']",
            "invalid key subscript in metadata.labels['Www.k8s.io/test']: prefix part",
            id="upper-case-label-prefix",
        ),
        pytest.param(
            "metadata.annotations['a b']",
            "invalid key subscript in metadata.annotations['a b']: name part must",
            id="blank",
        ),
    ],
)
def test_field_that_cannot_be_given(path: str, start: str) -> None:
    with pytest.raises(FieldPathError) as caught:
        extract_field(POD, path)
    assert str(caught.value).startswith(start)


def test_empty_map_is_empty_text() -> None:
    assert format_map({}) == ""


@pytest.mark.parametrize(
    ("text", "quoted"),
    [
        pytest.param("plain", '"plain"', id="plain"),
        pytest.param('a"b\\c', r'"a\"b\\c"', id="quote-and-backslash"),
        pytest.param("\a\b\f\n\r\t\v", r'"\a\b\f\n\r\t\v"', id="named"),
        pytest.param("\x00\x1f\x7f", r'"\x00\x1f\x7f"', id="control"),
        pytest.param("\x80\u200b\ufeff", r'"\u0080\u200b\ufeff"', id="invisible"),
        pytest.param("é中🌍", '"é中🌍"', id="printable-unicode"),
        pytest.param("\u00a0\u3000", r'"\u00a0\u3000"', id="spaces-other-than-the-space"),
        pytest.param("\U000e0001", r'"\U000e0001"', id="beyond-the-basic-plane"),
        pytest.param(b"\xff".decode("utf-8", "surrogateescape"), r'"\xff"', id="not-utf8"),
    ],
)
def test_go_quote(text: str, quoted: str) -> None:
    """Source: strconv.Quote."""
    assert go_quote(text) == quoted


@given(st.text())
def test_quoted_text_stays_on_one_printable_line(text: str) -> None:
    assert go_quote(text).isprintable()
