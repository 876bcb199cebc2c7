"""The grammar of env files: semantics §6.5."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.envvars.filekeys import MAX_LINE_LENGTH, EnvFileError, find_value

INVALID = "invalid environment variable format at line"

# Source: pkg/util/env/env_test.go, TestParseEnv; semantics §6.5.
VALUES = [
    pytest.param("   KEY1='val1'\n\t\tKEY2='val2'\nKEY3='val3'\n", "KEY2", "val2", id="leading-whitespace"),
    pytest.param("# c\n\nKEY1='foo'\n   # another\n\nKEY2='bar'\n", "KEY2", "bar", id="blank-and-comment-lines"),
    pytest.param("KEY1='foo'\nKEY2='bar'\n", "KEY3", "", id="absent"),
    pytest.param("KEY1='foo#notcomment'\n", "KEY1", "foo#notcomment", id="hash-in-value"),
    pytest.param("KEY1='   foo bar   '\n", "KEY1", "   foo bar   ", id="blanks-in-value"),
    pytest.param("KEY1='foo'\nKEY2=''\n", "KEY2", "", id="empty"),
    pytest.param("KEY1='foo=bar=baz'\n", "KEY1", "foo=bar=baz", id="equals-in-value"),
    pytest.param("KEY1='foo'\nKEY2='bar' # comment\n", "KEY2", "bar", id="comment-behind"),
    pytest.param("KEY1='foo$BAR-${HOME}_$'\n", "KEY1", "foo$BAR-${HOME}_$", id="no-expansion"),
    pytest.param("KEY1='!@#$%^&*()_+-=[]{}|;:,.<>?/'\n", "KEY1", "!@#$%^&*()_+-=[]{}|;:,.<>?/", id="punctuation"),
    pytest.param("KEY1='line1\\nline2\\tline3'\n", "KEY1", "line1\\nline2\\tline3", id="no-escapes"),
    pytest.param("KEY1='中文 Español 🌍'\n", "KEY1", "中文 Español 🌍", id="unicode"),
    pytest.param("KEY1='say \"hi\"'\n", "KEY1", 'say "hi"', id="double-quotes-inside"),
    pytest.param('KEY1=\'{"nested": {"k": [1]}}\'\n', "KEY1", '{"nested": {"k": [1]}}', id="json"),
    pytest.param("KEY1='one\n  two\n\n    four'\nKEY2='bar'\n", "KEY1", "one\n  two\n\n    four", id="several-lines"),
    pytest.param("KEY1='one\n# two'\nKEY2='bar'\n", "KEY2", "bar", id="behind-several-lines"),
    pytest.param(
        "KEY1='-----BEGIN-----\nb3Blb\n-----END-----'\n", "KEY1", "-----BEGIN-----\nb3Blb\n-----END-----", id="pem"
    ),
    pytest.param("KEY='a'\nKEY='b'\n", "KEY", "a", id="first-definition-wins"),
    pytest.param("KEY='a'\nnonsense\n", "KEY", "a", id="later-mistakes-are-not-seen"),
    pytest.param("KEY='a'", "KEY", "a", id="no-final-newline"),
    pytest.param("", "KEY", "", id="empty-file"),
]


@pytest.mark.parametrize(("content", "key", "expected"), VALUES)
def test_value(content: str, key: str, expected: str) -> None:
    assert find_value(content.encode(), key) == expected.encode()


@pytest.mark.parametrize(("content", "key", "expected"), VALUES)
def test_value_agrees_with_a_posix_shell(content: str, key: str, expected: str) -> None:
    if "later-mistakes" in content or "nonsense" in content or content.startswith("KEY='a'\nKEY='b'"):
        return  # a shell reads the whole file; upstream compares none of these either
    script = f". /dev/stdin && printf '%s' \"${{{key}}}\""
    done = subprocess.run(["sh", "-c", script], input=content.encode(), capture_output=True, check=True, timeout=120)
    assert done.stdout == expected.encode()


@pytest.mark.parametrize(
    ("content", "key", "message"),
    [
        pytest.param(
            "KEY1 = 'v'\nKEY2=   'v'\n", "KEY2", f"{INVALID} 1: whitespace before '=' is not allowed", id="around"
        ),
        pytest.param("KEY1 ='foo'\n", "KEY1", f"{INVALID} 1: whitespace before '=' is not allowed", id="before"),
        pytest.param("='foo'\nKEY2='bar'\n", "KEY2", f"{INVALID} 1: empty variable name", id="no-name"),
        pytest.param(" \t ='foo'\n", "KEY2", f"{INVALID} 1: empty variable name", id="blank-name"),
        pytest.param("KEY1='foo'\nINVALID_LINE\n", "KEY2", f"{INVALID} 2: missing '='", id="no-equals"),
        pytest.param(
            "KEY1='foo'\nKEY2=bar\n", "KEY2", f"{INVALID} 2: value must be enclosed in single quotes", id="bare"
        ),
        pytest.param(
            'KEY2="bar"\n', "KEY2", f"{INVALID} 1: value must be enclosed in single quotes", id="double-quotes"
        ),
        pytest.param("KEY2=\n", "KEY2", f"{INVALID} 1: value must be enclosed in single quotes", id="nothing"),
        pytest.param("KEY1='foo''bar'", "KEY1", f"{INVALID} 1: unexpected content after closing quote", id="adjacent"),
        pytest.param("K='bar'baz\n", "K", f"{INVALID} 1: unexpected content after closing quote", id="behind"),
        pytest.param(
            "K='a \\'b\\' c'\n", "K", f"{INVALID} 1: unexpected content after closing quote", id="escaped-quote"
        ),
        pytest.param(
            "A='foo'\nK='bar\nC='baz'\n", "K", f"{INVALID} 3: unexpected content after closing quote", id="next-line"
        ),
        pytest.param(
            "A='foo'\nK='bar\nmore\n",
            "K",
            "invalid environment variable format starting at line 2: unclosed single quote",
            id="unclosed",
        ),
    ],
)
def test_mistake(content: str, key: str, message: str) -> None:
    with pytest.raises(EnvFileError) as caught:
        find_value(content.encode(), key)
    assert str(caught.value) == message


def test_blank_after_equals_empties_the_wanted_key_and_is_ignored_for_others() -> None:
    content = b"KEY1= 'a'\nKEY2=\t'b'\nKEY1='c'\n"
    assert find_value(content, "KEY1") == b""
    assert find_value(content + b"KEY3='d'\n", "KEY3") == b"d"


def test_windows_line_breaks_are_tolerated() -> None:
    assert find_value(b"A='x'\r\nKEY='one\r\ntwo'\r\n", "KEY") == b"one\ntwo"


def test_longest_line_is_just_under_64_kib() -> None:
    fits = b"KEY='" + b"x" * (MAX_LINE_LENGTH - 7) + b"'"
    assert len(fits) == MAX_LINE_LENGTH - 1
    assert len(find_value(fits + b"\n", "KEY")) == MAX_LINE_LENGTH - 7
    with pytest.raises(EnvFileError, match="token too long"):
        find_value(b"#" + fits, "KEY")


def test_value_that_is_not_utf8_survives() -> None:
    assert find_value(b"KEY='\xff\xfe'\n", "KEY") == b"\xff\xfe"


@given(st.binary().filter(lambda value: b"'" not in value and b"\r" not in value and len(value) < 1000))
def test_any_quoted_bytes_come_back(value: bytes) -> None:
    assert find_value(b"A='1'\nKEY='" + value + b"' # end\nB='2'\n", "KEY") == value


@given(st.binary(max_size=200), st.sampled_from(["KEY", "A", ""]))
def test_garbage_gives_a_value_or_one_kind_of_error_that_quotes_nothing(content: bytes, key: str) -> None:
    message = f"{INVALID} "
    try:
        find_value(content, key)
    except EnvFileError as error:
        message = str(error)
    assert message.startswith("invalid environment variable format ")
