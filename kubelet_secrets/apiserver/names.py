"""Names made up by the server: ``web-x7k2p``.

Source: k8s.io/apiserver pkg/storage/names; k8s.io/apimachinery pkg/util/rand.
"""

from __future__ import annotations

import random

_ALPHABET = "bcdfghjklmnpqrstvwxz2456789"  # no vowels: no words
_SUFFIX_LENGTH = 5
_MAX_BASE = 63 - _SUFFIX_LENGTH


def generate_name(base: str) -> str:
    """*base*, cut to fit a label, and five characters. Unique by chance only, and no secret."""
    return base[:_MAX_BASE] + "".join(random.choices(_ALPHABET, k=_SUFFIX_LENGTH))
