"""Go's ``%q``: how the kubelet and the API server quote names in their messages, and the downward API its values.

Pure, and imports nothing of ours.
"""

from __future__ import annotations

_GO_ESCAPES = {
    "\a": r"\a",
    "\b": r"\b",
    "\f": r"\f",
    "\n": r"\n",
    "\r": r"\r",
    "\t": r"\t",
    "\v": r"\v",
    "\\": r"\\",
    '"': r"\"",
}


def go_quote(text: str) -> str:
    r"""*text* as Go's ``strconv.Quote`` writes it: printable characters stay, others become ``\n``, ``\x07``, ``\u200b``.

    Python's ``isprintable`` and Go's ``IsPrint`` both follow the Unicode categories L, M, N, P, S and the ASCII space.
    """
    return '"' + "".join(map(_go_quote_character, text)) + '"'


def _go_quote_character(character: str) -> str:
    if character in _GO_ESCAPES:
        return _GO_ESCAPES[character]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # a byte that is not UTF-8, as surrogateescape keeps it
        return f"\\x{code - 0xDC00:02x}"
    if character.isprintable():
        return character
    if code < 0x20 or code == 0x7F:
        return f"\\x{code:02x}"
    return f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
