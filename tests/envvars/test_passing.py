"""What a process gets of a value. Source: Go's encoding/json over utf8.DecodeRune; execve(2); semantics §6.1."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.envvars.passing import argument_refusal, as_passed, count_replaced, refusal


def text_of(value: bytes) -> str:
    """A value as ``environment`` has it."""
    return value.decode("utf-8", "surrogateescape")


@pytest.mark.parametrize(
    ("value", "passed"),
    [
        pytest.param(b"plain", "plain", id="ascii"),
        pytest.param("ä中🌍\ufffd".encode(), "ä中🌍\ufffd", id="utf-8"),
        pytest.param(b"\xff\xfeok", "\ufffd\ufffdok", id="never-utf-8"),
        pytest.param(b"caf\xe9", "caf\ufffd", id="latin-1"),
        pytest.param(b"a\xe4\xbdb", "a\ufffd\ufffdb", id="cut-short-one-for-each-byte"),
        pytest.param(b"\xed\xa0\x80", "\ufffd\ufffd\ufffd", id="surrogate"),
        pytest.param(b"\xc0\x80", "\ufffd\ufffd", id="overlong"),
        pytest.param(b"\xf4\x90\x80\x80", "\ufffd" * 4, id="beyond-unicode"),
    ],
)
def test_each_byte_that_is_not_utf8_becomes_one_replacement_character(value: bytes, passed: str) -> None:
    assert as_passed(text_of(value)) == passed


@given(st.binary(max_size=60))
def test_anything_can_be_passed_and_only_bad_bytes_are_lost(value: bytes) -> None:
    text = text_of(value)
    passed = as_passed(text).encode()
    assert len(passed) == len(value) + 2 * count_replaced(text)
    assert (passed == value) == (count_replaced(text) == 0)


@pytest.mark.parametrize(
    ("name", "value", "why"),
    [
        ("X", "a\0b", 'environment variable "X" contains a NUL byte'),
        ("X", "\0", 'environment variable "X" contains a NUL byte'),
        ("X\udcff", "a\0b", 'environment variable "X\ufffd" contains a NUL byte'),
        ("X", "\udcff", ""),
        ("X", "", ""),
    ],
)
def test_only_a_nul_byte_stops_a_variable(name: str, value: str, why: str) -> None:
    assert refusal(name, value) == why


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ((), ""),
        (("sh", "-c", "ä 🌍"), ""),
        (("echo", "a\0b"), "an argument of the command contains a NUL byte"),
        (("echo", "caf\udce9"), "an argument of the command is not valid UTF-8"),
    ],
)
def test_arguments_travel_as_strings(arguments: tuple[str, ...], why: str) -> None:
    assert argument_refusal(arguments) == why
