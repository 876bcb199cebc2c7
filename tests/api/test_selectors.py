"""Source of the cases: labels/selector_test.go and fields/selector_test.go of k8s.io/apimachinery."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.selectors import exact_name, parse_field_selector, parse_label_selector


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        ("x=a,y=b,z=c", "x=a,y=b,z=c"),
        ("x!=a,y=b", "x!=a,y=b"),
        ("x==a", "x==a"),
        ("x=", "x="),
        ("x= ", "x="),
        ("x= ,z= ", "x=,z="),
        ("x", "x"),
        ("!x", "!x"),
        (" x in ( b , a ) , !y", "x in (a,b),!y"),
        ("x notin (c)", "x notin (c)"),
        ("b,a", "a,b"),
        ("x in (,a)", "x in (,a)"),
        ("x in (a,,b)", "x in (,a,b)"),
        ("in in (in,notin)", "in in (in,notin)"),
        ("example.com/x>1,y<7", "example.com/x>1,y<7"),
    ],
)
def test_label_selector_round_trip(text: str, printed: str) -> None:
    selector = parse_label_selector(text)
    assert str(selector) == printed
    assert parse_label_selector(printed) == selector


def test_a_set_of_the_empty_value_alone_prints_as_upstream_prints_it() -> None:
    """The one selector that does not survive printing, here as upstream."""
    selector = parse_label_selector("x in (,)")
    assert selector.matches({"x": ""})
    assert str(selector) == "x in ()"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("a,", "found '', expected: identifier after ','"),
        ("a b", "unable to parse requirement: found 'b', expected: in, notin, =, ==, !=, gt, lt"),
        ("a in", "unable to parse requirement: found '' expected: '('"),
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a=b)", "found ')', expected: ',' or 'end of string'"),
        ("a==)", "unable to parse requirement: found ')', expected: identifier"),
        ("!", "unable to parse requirement: found '', expected: identifier"),
        (
            "-a=b",
            'unable to parse requirement: <nil>: Invalid value: "-a": name part must consist of alphanumeric characters, '
            "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or "
            "'123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
        ),
        (
            "a=-b",
            'unable to parse requirement: values[0][a]: Invalid value: "-b": a valid label must be an empty string or '
            "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
            "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
            "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')",
        ),
        (
            "a>b",
            "unable to parse requirement: values[0]: Invalid value: \"b\": for 'Gt', 'Lt' operators, "
            "the value must be an integer",
        ),
        (
            "a in ()",
            "unable to parse requirement: values: Invalid value: []: for 'in', 'notin' operators, values set can't be empty",
        ),
    ],
)
def test_label_selector_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_label_selector(text)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("text", "labels", "expected"),
    [
        ("", {"x": "y"}, True),
        ("x=y", {"x": "y"}, True),
        ("x=y", {}, False),
        ("x=", {}, False),
        ("x!=y", {}, True),
        ("x!=y", {"x": "y"}, False),
        ("x in (a,b)", {"x": "b"}, True),
        ("x notin (a,b)", {"x": "b"}, False),
        ("x notin (a,b)", {}, True),
        ("x", {"x": ""}, True),
        ("!x", {"x": ""}, False),
        ("x>1", {"x": "2"}, True),
        ("x>1", {"x": "1"}, False),
        ("x<2", {"x": "many"}, False),
        ("x<2", {}, False),
        ("x=y,z=w", {"x": "y"}, False),
    ],
)
def test_label_selector_matches(text: str, labels: dict[str, str], expected: bool) -> None:
    assert parse_label_selector(text).matches(labels) is expected


def test_label_selector_takes_absent_labels_as_none() -> None:
    assert parse_label_selector("!a").matches(None)


@pytest.mark.parametrize(
    ("text", "printed"),
    [
        ("", ""),
        ("metadata.name=x", "metadata.name=x"),
        ("metadata.name==x", "metadata.name=x"),
        ("type!=Opaque,metadata.name=b", "metadata.name=b,type!=Opaque"),
        (r"a=b\,c\=d\\e", r"a=b\,c\=d\\e"),
        ("a=,b!=", "a=,b!="),
        (",,a=b,", "a=b"),
    ],
)
def test_field_selector_round_trip(text: str, printed: str) -> None:
    selector = parse_field_selector(text)
    assert str(selector) == printed
    assert parse_field_selector(printed) == selector


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a", "invalid selector: 'a'; can't understand 'a'"),
        ("x=1,a", "invalid selector: 'x=1,a'; can't understand 'a'"),
        ("a=b=c", "invalid field selector: unescaped character in value: 61"),
        (r"a=b\c", "invalid field selector: invalid escape sequence: \\c"),
        ("a=b\\", "invalid field selector: invalid escape sequence: \\"),
    ],
)
def test_field_selector_errors(text: str, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        parse_field_selector(text)
    assert str(caught.value) == message


def test_field_selector_matches_mappings_and_functions() -> None:
    selector = parse_field_selector("metadata.name=a,status.phase!=Running")
    assert selector.matches({"metadata.name": "a", "status.phase": "Pending"})
    assert selector.matches({"metadata.name": "a"})
    assert not selector.matches(lambda field: {"metadata.name": "a", "status.phase": "Running"}[field])


def test_exact_name_is_what_the_node_authorizer_takes_for_the_request_name() -> None:
    assert exact_name(parse_field_selector("metadata.name=db,type=Opaque")) == "db"
    assert exact_name(parse_field_selector("metadata.name!=db")) is None
    assert parse_field_selector("spec.nodeName=n1").exact("spec.nodeName") == "n1"
    assert parse_field_selector("spec.nodeName=n1").fields == ("spec.nodeName",)


@given(st.text(max_size=30))
def test_any_field_value_survives_printing_and_parsing(value: str) -> None:
    from kubelet_secrets.api.selectors import FieldRequirement, FieldSelector

    selector = FieldSelector((FieldRequirement("metadata.name", value),))
    assert parse_field_selector(str(selector)) == selector


@given(st.text(alphabet="ab=!(),<> \\in", max_size=20))
def test_any_text_parses_or_is_a_value_error(text: str) -> None:
    for parse in (parse_label_selector, parse_field_selector):
        try:
            selector = parse(text)
        except ValueError:
            continue
        str(selector)
