"""What a client should know though its request succeeded, as ``Warning`` header fields; kubectl prints them.

Pure. A warning may name a field of the request's body, so it is foreign text in a header: control characters have no way in.

Source: apimachinery pkg/util/net/http.go, NewWarningHeader; apiserver pkg/endpoints/filters/warning.go.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable

_MOST_OF_ALL, _MOST_OF_ONE = 4 * 1024, 256  # characters; one is cut only when all of them are too many


def warning_headers(warnings: Iterable[str]) -> list[bytes]:
    """One value per warning, each once, in UTF-8. Those that cannot be put into a header are left out, as upstream does."""
    texts = [text for text in dict.fromkeys(warnings) if text and not any(map(_is_control, text))]
    if sum(map(len, texts)) > _MOST_OF_ALL:
        texts = list(dict.fromkeys(text[:_MOST_OF_ONE] for text in texts))
    headers, length = [], 0
    for text in texts:
        length += len(text)
        if length > _MOST_OF_ALL:
            break
        quoted = text.replace("\\", "\\\\").replace('"', '\\"')
        headers.append(f'299 - "{quoted}"'.encode("utf-8", "replace"))
    return headers


def _is_control(character: str) -> bool:
    return unicodedata.category(character) == "Cc"
