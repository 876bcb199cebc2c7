"""The scanner must find what is there, or its silence proves nothing."""

from __future__ import annotations

import base64
import urllib.parse
from pathlib import Path

import pytest

from kubelet_secrets.leakscan import CHUNK_BYTES, scan, spellings

VALUE = b'p\xc3\xa4ss/word+with=odd&"chars'


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(VALUE, id="plain"),
        pytest.param(b"x" + base64.b64encode(VALUE), id="base64"),
        pytest.param(base64.b64encode(b"u:" + VALUE + b":more"), id="inside-base64-at-offset-2"),
        pytest.param(base64.b64encode(b"a" + VALUE + b":more"), id="inside-base64-at-offset-1"),
        pytest.param(VALUE.hex().encode(), id="hex"),
        pytest.param(urllib.parse.quote_from_bytes(VALUE, safe="").encode(), id="url"),
        pytest.param(VALUE.decode().encode("utf-16-le"), id="utf-16"),
        pytest.param(b"." * (CHUNK_BYTES - 5) + VALUE, id="across-a-chunk-border"),
    ],
)
def test_value_is_found(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "file").write_bytes(b"before " + content + b" after")
    result = scan([tmp_path], [VALUE])
    assert [finding.path.name for finding in result.findings] == ["file"]
    assert result.files == 1


def test_absent_value_is_not_found(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"nothing of it")
    assert scan([tmp_path, tmp_path / "no-such"], [VALUE]).findings == ()


def test_spellings_are_distinct() -> None:
    forms = spellings(b"plainword")
    assert len(set(forms.values())) == len(forms)
