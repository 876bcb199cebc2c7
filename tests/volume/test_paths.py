"""Paths of a payload. Source: pkg/volume/util/atomic_writer_test.go, TestValidatePath; semantics §3.3."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.errors import InvalidPath
from kubelet_secrets.volume.paths import clean_path, find_conflict, validate_path

LONG_NAME = "f" * 256
LONG_PATH = "/".join(["d" * 100] * 41)


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("", 'invalid path: must not be empty: ""', id="empty"),
        pytest.param("/dev/null", "invalid path: must be relative path: /dev/null", id="absolute"),
        pytest.param(LONG_PATH, "invalid path: must be less than or equal to 4096 characters", id="long-path"),
        pytest.param("é" * 2049, "invalid path: must be less than or equal to 4096 characters", id="long-in-bytes"),
        pytest.param("..", "invalid path: must not contain '..': ..", id="parent"),
        pytest.param("hello/../etc/x", "invalid path: must not contain '..': hello/../etc/x", id="parent-inside"),
        pytest.param(
            "hello/there/../../etc/passwd",
            "invalid path: must not contain '..': hello/there/../../etc/passwd",
            id="parents-inside",
        ),
        pytest.param(LONG_NAME, "invalid path: filenames must be less than or equal to 255 characters", id="long-name"),
        pytest.param(
            "a/" + "é" * 128,
            "invalid path: filenames must be less than or equal to 255 characters",
            id="long-name-in-bytes",
        ),
        pytest.param("..sneaky.txt", "invalid path: must not start with '..': ..sneaky.txt", id="reserved"),
        pytest.param("..data/x", "invalid path: must not start with '..': ..data/x", id="reserved-directory"),
    ],
)
def test_refused(path: str, message: str) -> None:
    for check in (validate_path, clean_path):
        with pytest.raises(InvalidPath) as caught:
            check(path)
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("path", "cleaned"),
    [
        pytest.param("i/am/well/behaved.txt", "i/am/well/behaved.txt", id="nested"),
        pytest.param(".dotfile", ".dotfile", id="dotfile"),
        pytest.param("a/..b", "a/..b", id="dots-behind-the-first-element"),
        pytest.param("foo////bar", "foo/bar", id="slashes"),
        pytest.param("./bar", "bar", id="dot"),
        pytest.param("foo//bar.txt", "foo/bar.txt", id="two-slashes"),
        pytest.param("bar///bar/zab.txt", "bar/bar/zab.txt", id="three-slashes"),
        pytest.param("foo/./bar/", "foo/bar", id="dot-inside-and-slash-behind"),
        pytest.param("f" * 255, "f" * 255, id="longest-name"),
        pytest.param(b"\xff".decode("utf-8", "surrogateescape"), "\udcff", id="not-utf8"),
    ],
)
def test_cleaned(path: str, cleaned: str) -> None:
    validate_path(path)
    assert clean_path(path) == cleaned


@pytest.mark.parametrize(
    "path",
    [
        pytest.param(".", id="the-volume-itself"),
        pytest.param("./.", id="the-volume-itself-twice"),
        pytest.param("./..data", id="reserved-behind-a-dot"),
        pytest.param("a\0b", id="nul"),
    ],
)
def test_what_upstreams_writer_would_fail_on_is_refused_early(path: str) -> None:
    validate_path(path)
    with pytest.raises(InvalidPath):
        clean_path(path)


@given(st.text(alphabet=st.sampled_from("ab./\0é"), max_size=30))
def test_clean_path_is_a_relative_descending_fixed_point(path: str) -> None:
    try:
        cleaned = clean_path(path)
    except InvalidPath:
        return
    assert clean_path(cleaned) == cleaned
    assert not cleaned.startswith(("/", ".."))
    assert not {"", ".", ".."} & set(cleaned.split("/"))


@given(st.lists(st.from_regex(r"[a-c](/[a-c]){0,3}", fullmatch=True), max_size=6, unique=True))
def test_conflict_is_a_file_that_another_needs_as_a_directory(paths: list[str]) -> None:
    clashes = [(a, b) for a in paths for b in paths if b.startswith(a + "/")]
    found = find_conflict(paths)
    assert (found in clashes) if clashes else found is None
