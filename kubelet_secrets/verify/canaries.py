"""What is planted and looked for: values that exist nowhere else, made so that few needles find all of them. Pure.

A canary's value is ``<marker><number><awkward characters>``. The marker is random, the same for all canaries of one run, and
consists of letters and digits that no escaping touches: one needle finds the plain, the JSON-escaped and the URL-encoded
value, and what follows it tells which. All its characters are written in hexadecimal with digits alone, so capitals do not
matter there. Seven needles in all, however many canaries; searching costs some 2 ms per MB.

An eighth is for the decoy in the memory of processes, which has a marker of its own: swap and core dumps take memory page by
page, and a piece of that decoy must not be taken for a piece of a value.

Out of scope, and said so in the report: compressed and encrypted copies, and base64 of base64.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from kubelet_secrets.leakscan import Hit, base64_core

ALPHABET = "".join(chr(code) for code in range(0x30, 0x7B) if code & 0xF < 10 and chr(code).isalnum())
"""What a marker is made of: 0-9 A-I P-Y a-i p-y."""
MARKER_LENGTH = 15  # of 46 characters: 82 bits; a multiple of three, as base64 likes it
CONTEXT_BYTES = 64
AWKWARD = 'x"/\\+&%<é '
"""What follows the number: a letter that no escaping touches, so that base64 has all bits of the number; then the rest."""
DECOY = "decoy"
"""The canary that is planted where it must be found, to show that it would be."""
_MEMORY_DECOY = "memory decoy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Canary:
    """One value.

    Attributes:
        name: what the report calls it, for example ``volume file``.
        number: three digits that follow the marker.
        value: UTF-8, without newlines unless it is a large one.
    """

    name: str
    number: str
    value: bytes = field(repr=False)

    @property
    def text(self) -> str:
        return self.value.decode()


class Canaries:
    """The canaries of one run.

    Args:
        marker: ``MARKER_LENGTH`` random characters of ``ALPHABET``.
    """

    def __init__(self, marker: str) -> None:
        turned = marker[7:] + marker[:7]
        if len(marker) != MARKER_LENGTH or not set(marker) <= set(ALPHABET) or marker in (marker[::-1], turned):
            raise ValueError("not a marker")
        self._marker = marker.encode()
        self._decoy_marker = turned.encode()
        self._by_number: dict[str, Canary] = {}
        self._forms: dict[str, dict[str, bytes]] = {}

    def make(self, name: str, *, size_bytes: int = 0) -> Canary:
        """One more canary.

        Args:
            size_bytes: for a large one, so many bytes of lines with the marker in each: no page of it can hide.
        """
        number = str(101 + len(self._by_number))
        head = self._marker.decode() + number
        value = (head + AWKWARD + number[::-1]).encode()
        if size_bytes:
            value = (value + b"\n") * (-(-size_bytes // (len(value) + 1)))
        canary = Canary(name=name, number=number, value=value)
        self._by_number[number] = canary
        forms = _forms(head.encode())
        # Some bits of a base64 text's last byte are in a character that depends on what follows: one byte more.
        longer = _forms((head + AWKWARD[0]).encode())
        self._forms[number] = {form: longer[form] if form.startswith("base64") else forms[form] for form in forms}
        return canary

    @property
    def memory_decoy(self) -> bytes:
        """What a process holds in order to be found, in whatever pieces: no part of it is a part of a canary's value."""
        return self._decoy_marker + b"\n"  # which keeps two of them in a row from being the other marker

    @property
    def needles(self) -> Mapping[str, bytes]:
        """What to give to :class:`~kubelet_secrets.leakscan.StreamSearch`, with a context of ``CONTEXT_BYTES``."""
        return {**_forms(self._marker), _MEMORY_DECOY: self._decoy_marker}

    def identify(self, hit: Hit) -> tuple[str, str]:
        """Which canary a hit is of and in which form: names. The canary is ``""`` when the value was cut off there."""
        if hit.needle == _MEMORY_DECOY:
            return DECOY, "plain"
        for number, canary in self._by_number.items():
            form = self._forms[number][hit.needle]
            marker = self.needles[hit.needle]
            if hit.needle == "reversed":
                if (hit.before + marker).endswith(form):
                    return canary.name, hit.needle
            elif (marker + hit.after).startswith(form):
                return canary.name, _form(hit)
        return "", _family(hit.needle)


def _form(hit: Hit) -> str:
    if hit.needle != "plain":
        return _family(hit.needle)
    follows = hit.after[4:].lower()  # after the number and its letter
    if follows.startswith(b"%22"):
        return "URL-encoded"
    if follows.startswith(b"\\"):  # \" or \u0022, and once more for each layer of JSON
        return "JSON-escaped"
    return "plain"


def _family(needle: str) -> str:
    """Which of the three alignments it was is nobody's concern."""
    return "base64" if needle.startswith("base64") else needle


def _forms(text: bytes) -> dict[str, bytes]:
    """The needles for *text*, by name. UTF-16 of either byte order holds the same bytes, but for the first or the last."""
    return {
        "plain": text,
        "reversed": text[::-1],
        "UTF-16": b"\0".join(bytes([byte]) for byte in text),
        "hex": text.hex().encode(),
        **{f"base64 {shift}": base64_core(text, shift) for shift in range(3)},
    }
