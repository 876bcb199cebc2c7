"""Eight needles must find each value in each of its forms, and tell which value and which form it is."""

from __future__ import annotations

import base64
import json
import urllib.parse
from collections.abc import Callable

import pytest

from kubelet_secrets.leakscan import StreamSearch, spellings
from kubelet_secrets.verify.canaries import ALPHABET, CONTEXT_BYTES, DECOY, MARKER_LENGTH, Canaries
from kubelet_secrets.verify.objects import Planted

MARKER = "Pr3A0i9y5xStDg2"


@pytest.fixture
def canaries() -> Canaries:
    return Canaries(MARKER)


def found(canaries: Canaries, data: bytes) -> list[tuple[str, str]]:
    search = StreamSearch(canaries.needles, context=CONTEXT_BYTES)
    return sorted({canaries.identify(hit) for hit in search.feed(data) + search.finish()})


FORMS = {
    "plain": lambda value: value,
    "in-base64": base64.b64encode,
    "in-base64-after-one-byte": lambda value: base64.b64encode(b"x" + value),
    "in-base64-after-two-bytes": lambda value: base64.b64encode(b"u:" + value),
    "base64-for-urls": base64.urlsafe_b64encode,
    "hex": lambda value: value.hex().encode(),
    "hex-in-capitals": lambda value: value.hex().upper().encode(),
    "url": lambda value: urllib.parse.quote_from_bytes(value, safe="").encode(),
    "form": lambda value: urllib.parse.quote_plus(value).encode(),
    "json": lambda value: json.dumps(value.decode()).encode(),
    "json-in-json": lambda value: json.dumps(json.dumps(value.decode())).encode(),
    "json-in-base64": lambda value: base64.b64encode(json.dumps({"auth": value.decode()}).encode()),
    "url-in-base64": lambda value: base64.b64encode(urllib.parse.quote_from_bytes(value, safe="").encode()),
    "base64-in-json": lambda value: json.dumps({"data": base64.b64encode(value).decode()}).encode(),
    "utf-16le": lambda value: value.decode().encode("utf-16-le"),
    "utf-16be": lambda value: value.decode().encode("utf-16-be"),
    "reversed": lambda value: value[::-1],
}
NAMES = {"form": "URL-encoded", "url": "URL-encoded", "json": "JSON-escaped", "json-in-json": "JSON-escaped"}


def name_of(form: str) -> str:
    if "base64" in form:
        return "base64"
    return NAMES.get(form, form.replace("utf-16le", "UTF-16").replace("utf-16be", "UTF-16").split("-in-")[0])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("around", [b"", b"some text before"], ids=["alone", "in-text"])
def test_each_form_of_each_value_is_told_apart(canaries: Canaries, form: str, around: bytes) -> None:
    encode: Callable[[bytes], bytes] = FORMS[form]
    planted = Planted.make(canaries)
    for canary in planted.all:
        assert found(canaries, around + encode(canary.value) + around) == [(canary.name, name_of(form))]


def test_every_spelling_that_files_are_searched_for_is_found(canaries: Canaries) -> None:
    canary = canaries.make("one")
    for form in spellings(canary.value).values():
        assert [name for name, _ in found(canaries, form)] == ["one"]


def test_a_value_that_is_cut_off_is_still_something(canaries: Canaries) -> None:
    canary = canaries.make("one")
    assert found(canaries, canary.value[: MARKER_LENGTH + 1]) == [("", "plain")]


def test_no_piece_of_the_decoy_in_memory_is_taken_for_a_piece_of_a_value(canaries: Canaries) -> None:
    """Swap has pages in any order: what is left of a copy at the end of a page is followed by whatever comes next."""
    canaries.make("one")
    copies = canaries.memory_decoy * 9
    found_in_pieces = {
        name for end in range(len(copies)) for name, _ in found(canaries, copies[:end] + b"\0" * 64 + copies[end:])
    }
    assert found_in_pieces == {DECOY}


def test_other_text_is_nothing(canaries: Canaries) -> None:
    assert found(canaries, Canaries(MARKER[1:] + "1").make("other").value) == []


def test_no_page_of_a_large_value_is_without_the_marker(canaries: Canaries) -> None:
    large = canaries.make("large", size_bytes=20_000).value
    assert len(large) >= 20_000
    assert all(MARKER.encode() in large[start : start + 512] for start in range(0, len(large) - 512, 256))


def test_values_are_not_printed(canaries: Canaries) -> None:
    canary = canaries.make("one")
    assert MARKER not in repr(canary) + repr(canaries) + str(Planted.make(canaries))


@pytest.mark.parametrize("marker", ["", MARKER[1:], MARKER[1:] + "z", MARKER[1:] + "é", "a" * MARKER_LENGTH])
def test_a_marker_that_could_be_missed_or_mistaken_is_refused(marker: str) -> None:
    with pytest.raises(ValueError, match="not a marker"):
        Canaries(marker)


def test_the_alphabet_is_written_in_hex_with_digits_alone() -> None:
    assert ALPHABET.encode().hex().isdigit()
    assert ALPHABET.isalnum()
    assert len(set(ALPHABET)) == len(ALPHABET) >= 40
