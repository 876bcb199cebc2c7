"""``$(NAME)``: the grammar, as upstream's own table has it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.envvars.expansion import expand, expand_strict, referenced_names
from kubelet_secrets.errors import ContainerConfigError

VARIABLES = {"VAR_A": "A", "VAR_B": "B", "VAR_C": "C", "VAR_REF": "$(VAR_A)", "VAR_EMPTY": ""}

# Source: third_party/forked/golang/expansion/expand_test.go, doExpansionTest; semantics §6.4.
CASES = [
    ("whole string", "$(VAR_A)", "A"),
    ("repeat", "$(VAR_A)-$(VAR_A)", "A-A"),
    ("beginning", "$(VAR_A)-1", "A-1"),
    ("middle", "___$(VAR_B)___", "___B___"),
    ("end", "___$(VAR_C)", "___C"),
    ("compound", "$(VAR_A)_$(VAR_B)_$(VAR_C)", "A_B_C"),
    ("escape & expand", "$$(VAR_B)_$(VAR_A)", "$(VAR_B)_A"),
    ("compound escape", "$$(VAR_A)_$$(VAR_B)", "$(VAR_A)_$(VAR_B)"),
    ("mixed in escapes", "f000-$$VAR_A", "f000-$VAR_A"),
    ("backslash escape ignored", "foo\\$(VAR_C)bar", "foo\\Cbar"),
    ("two backslashes", "foo\\\\$(VAR_C)bar", "foo\\\\Cbar"),
    ("lots of backslashes", "foo\\\\\\\\$(VAR_A)bar", "foo\\\\\\\\Abar"),
    ("nested var references", "$(VAR_A$(VAR_B))", "$(VAR_A$(VAR_B))"),
    ("nested, second type", "$(VAR_A$(VAR_B)", "$(VAR_A$(VAR_B)"),
    ("value is a reference", "$(VAR_REF)", "$(VAR_A)"),
    ("value is a reference, escaped", "%%$(VAR_REF)--$$(VAR_REF)%%", "%%$(VAR_A)--$(VAR_REF)%%"),
    ("empty value", "foo$(VAR_EMPTY)bar", "foobar"),
    ("unterminated", "foo$(VAR_Awhoops!", "foo$(VAR_Awhoops!"),
    ("no operator", "f00__(VAR_A)__", "f00__(VAR_A)__"),
    ("shell specials", "$?_boo_$!", "$?_boo_$!"),
    ("shell variable", "$VAR_A", "$VAR_A"),
    ("braces", "${VAR_A}", "${VAR_A}"),
    ("half open", "$VAR_A)", "$VAR_A)"),
    ("undefined", "$(VAR_DNE)", "$(VAR_DNE)"),
    ("multiple even", "$$$$$$(BIG_MONEY)", "$$$(BIG_MONEY)"),
    ("multiple even, defined", "$$$$$$(VAR_A)", "$$$(VAR_A)"),
    ("multiple odd", "$$$$$$$(GOOD_ODDS)", "$$$$(GOOD_ODDS)"),
    ("multiple odd, defined", "$$$$$$$(VAR_A)", "$$$A"),
    ("missing open", "$VAR_A)", "$VAR_A)"),
    ("shell syntax", "${VAR_A}", "${VAR_A}"),
    ("trailing incomplete", "$(VAR_B)_______$(A", "B_______$(A"),
    ("trailing incomplete, nothing", "$(VAR_C)_______$(", "C_______$("),
    ("operator at the end", "$(VAR_A)foobarzab$", "Afoobarzab$"),
    ("after escaped backslash", "foo\\\\$(VAR_A)bar$", "foo\\\\Abar$"),
    ("several incomplete", "--$($($($($--", "--$($($($($--"),
    ("several incomplete, trailing", "$($($($($--foo$(", "$($($($($--foo$("),
    ("incomplete at the end", "foo0--$($($($(", "foo0--$($($($("),
    ("operators in a reference", "$(foo$$var)", "$(foo$$var)"),
    ("multi-byte after operator", "$£FOO", "$£FOO"),
    ("multi-byte in the middle", "prefix-$€-suffix", "prefix-$€-suffix"),
    ("multi-byte word", "$中文", "$中文"),
    ("empty name", "$()", "$()"),
    ("empty text", "", ""),
    ("lone operator", "$", "$"),
]


@pytest.mark.parametrize(("text", "expected"), [pytest.param(a, b, id=name) for name, a, b in CASES])
def test_expand(text: str, expected: str) -> None:
    assert expand(text, VARIABLES.get) == expected


# Source: pkg/kubelet/container/helpers_test.go, TestExpandVolumeMountsWithSubpath; semantics §5.3.
@pytest.mark.parametrize(
    ("text", "variables", "expected"),
    [
        pytest.param("foo", {}, "foo", id="literal"),
        pytest.param("foo/$(POD_NAME)", {"POD_NAME": "bar"}, "foo/bar", id="behind"),
        pytest.param("$(POD_NAME)/bar", {"POD_NAME": "foo"}, "foo/bar", id="before"),
        pytest.param("", {}, "", id="empty"),
        pytest.param("$$(POD_NAME)", {}, "$(POD_NAME)", id="escaped"),
        pytest.param("$(FOO)/$(BAR)", {"FOO": "f", "BAR": "b"}, "f/b", id="joined"),
    ],
)
def test_strict_expansion(text: str, variables: dict[str, str], expected: str) -> None:
    assert expand_strict(text, variables.get) == expected


@pytest.mark.parametrize(
    ("text", "variables", "names"),
    [
        pytest.param("/foo/$(POD_NAME)", {}, "POD_NAME", id="undefined"),
        pytest.param("foo/$(POD_NAME)/$(ANNOTATION)", {"POD_NAME": "p", "ANNOTATION": ""}, "ANNOTATION", id="empty"),
        pytest.param("$(ODD)/$(POD)/$(ODD)", {}, "ODD, POD", id="sorted-and-once"),
        pytest.param("$(b)/$(a)/$(B)", {}, "B, a, b", id="byte-order"),
    ],
)
def test_strict_expansion_names_what_is_missing(text: str, variables: dict[str, str], names: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        expand_strict(text, variables.get)
    assert str(caught.value) == f"missing value for {names}"


def test_referenced_names_are_told_once_in_order() -> None:
    assert referenced_names("$(B)$(A)$$(C)$(B)$(D") == ("B", "A")


@given(st.text())
def test_text_without_operator_is_unchanged(text: str) -> None:
    plain = text.replace("$", "")
    assert expand(plain, {"": "x"}.get) == plain


@given(st.text(alphabet="$()Aé", max_size=40))
def test_undefined_names_change_nothing_but_doubled_operators(text: str) -> None:
    """With no variable defined, expansion only halves ``$$``, as a byte-by-byte reading of upstream's loop says."""
    assert expand(text, lambda name: None) == reference_expand(text, {})


@given(st.text(alphabet="$()ABé", max_size=60), st.dictionaries(st.text("ABé$", max_size=2), st.text(max_size=5)))
def test_expansion_agrees_with_a_literal_reading_of_upstream(text: str, variables: dict[str, str]) -> None:
    assert expand(text, variables.get) == reference_expand(text, variables)


@given(st.text())
def test_escaping_every_operator_gives_the_text_back(text: str) -> None:
    assert expand(text.replace("$", "$$"), {"A": "x"}.get) == text


def reference_expand(text: str, variables: dict[str, str]) -> str:
    """Upstream's cursor loop, step by step."""
    output, checkpoint, cursor = "", 0, 0
    while cursor < len(text):
        if text[cursor] == "$" and cursor + 1 < len(text):
            output += text[checkpoint:cursor]
            rest = text[cursor + 1 :]
            if rest[0] == "$":
                read, is_variable, advance = "$", False, 1
            elif rest[0] == "(":
                end = rest.find(")", 1)
                if end >= 0:
                    read, is_variable, advance = rest[1:end], True, end + 1
                else:
                    read, is_variable, advance = "$(", False, 1
            else:
                read, is_variable, advance = "$" + rest[0], False, 1
            output += variables.get(read, f"$({read})") if is_variable else read
            cursor += advance
            checkpoint = cursor + 1
        cursor += 1
    return output + text[checkpoint:]
