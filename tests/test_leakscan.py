"""The scanner must find what is there, or its silence proves nothing."""

from __future__ import annotations

import base64
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets import linux
from kubelet_secrets.leakscan import CHUNK_BYTES, Hit, StreamSearch, scan, spellings

VALUE = b'p\xc3\xa4ss/word+with=odd&"chars'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(VALUE, id="plain"),
        pytest.param(VALUE[::-1], id="reversed"),
        pytest.param(b"x" + base64.b64encode(VALUE), id="base64"),
        pytest.param(base64.b64encode(b"u:" + VALUE + b":more"), id="inside-base64-at-offset-2"),
        pytest.param(base64.b64encode(b"a" + VALUE + b":more"), id="inside-base64-at-offset-1"),
        pytest.param(VALUE.hex().encode(), id="hex"),
        pytest.param(VALUE.hex().upper().encode(), id="hex-in-capitals"),
        pytest.param(urllib.parse.quote_from_bytes(VALUE, safe="").encode(), id="url"),
        pytest.param(b"p%c3%a4ss%2fword%2bwith%3dodd%26%22chars", id="url-in-small-letters"),
        pytest.param(rb"p\u00e4ss/word+with=odd&\"chars", id="json"),
        pytest.param('{"k":"päss/word+with=odd\\u0026\\"chars"}'.encode(), id="json-as-go-writes-it"),
        pytest.param(VALUE.decode().encode("utf-16-le"), id="utf-16"),
        pytest.param(bytes(2 * CHUNK_BYTES - 40) + VALUE.decode().encode("utf-16-be"), id="utf-16be-after-zeros"),
        pytest.param(b"." * (CHUNK_BYTES - 5) + VALUE, id="across-a-chunk-border"),
        pytest.param(bytes(CHUNK_BYTES) + VALUE, id="after-zeros"),
    ],
)
def test_value_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(content)
    (tmp_path / "sub" / "before").write_bytes(b"innocent" + content[:3])
    (tmp_path / "sub" / "surrounded").write_bytes(b"before " + content + b" after")
    result = scan([tmp_path], [VALUE])
    assert {finding.path.name for finding in result.findings} == {"file", "surrounded"}
    assert result.files == 3


def test_absent_value_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nothing of it")
    assert scan([tmp_path, tmp_path / "no-such"], [VALUE]).findings == ()


def test_file_named_itself(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(VALUE)
    (tmp_path / "neighbour").write_bytes(VALUE)
    assert [finding.path.name for finding in scan([tmp_path / "file"], [VALUE]).findings] == ["file"]


def test_spellings_are_distinct() -> None:
    forms = spellings(b"plainword")
    assert len(set(forms.values())) == len(forms)


@pytest.fixture(params=["size=1m", "size=1m,noswap"])
def memory(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[Path, bool]]:
    """A tmpfs below ``tmp_path``, and whether it may be swapped out."""
    directory = tmp_path / "memory"
    directory.mkdir()
    try:
        linux.mount("none", directory, "tmpfs", 0, request.param)
    except OSError as error:
        pytest.skip(f"cannot mount a tmpfs with {request.param}: {error}")
    yield directory, "noswap" not in request.param
    linux.unmount(directory)


def test_memory_that_may_be_swapped_out_is_looked_into(memory: tuple[Path, bool]) -> None:
    directory, is_swappable = memory
    (directory / "file").write_bytes(VALUE)
    assert bool(scan([directory.parent], [VALUE]).findings) is is_swappable


NEEDLES = {"short": b"ab", "long": b"aba\0b", "zero": b"\0ab"}


def _occurrences(data: bytes) -> set[tuple[str, int]]:
    return {
        (name, offset)
        for name, needle in NEEDLES.items()
        for offset in range(len(data))
        if data.startswith(needle, offset)
    }


@given(st.lists(st.text("ab\0", max_size=9).map(str.encode), max_size=8), st.integers(0, 4))
def test_each_occurrence_is_found_once_wherever_chunks_end(chunks: list[bytes], context: int) -> None:
    search = StreamSearch(NEEDLES, context=context)
    data = b"".join(chunks)
    for _ in range(2):  # the second time: nothing of the first stream is left
        hits = [hit for chunk in chunks for hit in search.feed(chunk)] + search.finish()
        assert len(hits) == len({(hit.needle, hit.offset) for hit in hits})
        assert {(hit.needle, hit.offset) for hit in hits} == _occurrences(data)
        for hit in hits:
            end = hit.offset + len(NEEDLES[hit.needle])
            assert hit.after == data[end : end + context]
            assert data[: hit.offset].endswith(hit.before)


def test_a_hit_does_not_print_its_surroundings() -> None:
    assert repr(Hit("plain", 7, b"before", b"after")) == "<Hit plain at 7>"
