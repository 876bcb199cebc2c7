"""``SensitiveBytes``: a secret value that does not show itself.

A value is wrapped when it is decoded (``api/decode.py``) and unwrapped by :meth:`SensitiveBytes.reveal` only where it is
written for the last time: ``volume/atomicwriter.py``, ``runtime/bundle.py``, ``runtime/keyring.py``, and in
``envvars/environment.py``, where bytes become the text of a variable. ``grep -rn '\\.reveal('`` is the review.

Python cannot wipe an immutable value; the threat model (docs/threat-model.md) says what that leaves.
"""

from __future__ import annotations

import hmac
from typing import NoReturn, final


@final
class SensitiveBytes:
    """Immutable bytes whose ``repr``, ``str`` and ``format`` show the length and nothing else.

    Equality compares in constant time. Hashing and pickling are refused: a hash would put the value's fingerprint in
    dictionaries and debug output, a pickle would put the value itself on whatever the stream leads to.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = bytes(value)

    def reveal(self) -> bytes:
        """Return the value itself. Call it in the statement that writes it."""
        return self._value

    def __len__(self) -> int:
        return len(self._value)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, SensitiveBytes):
            return NotImplemented
        return hmac.compare_digest(self._value, other._value)

    __hash__ = None  # type: ignore[assignment]  # unhashable on purpose, see the class docstring

    def __repr__(self) -> str:
        return f"<{len(self._value)} bytes>"

    __str__ = __repr__

    def __format__(self, spec: str) -> str:
        return format(repr(self), spec)

    def __reduce__(self) -> NoReturn:
        raise TypeError("a sensitive value cannot be pickled")
