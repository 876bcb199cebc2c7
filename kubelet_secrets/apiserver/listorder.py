"""The order of a list after two parties have put elements into it; shared by both kinds of patch.

Pure. Source: k8s.io/apimachinery/pkg/util/strategicpatch/patch.go, normalizeElementOrder and mergeSortedSlice.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any


def in_order(
    merged: Sequence[Any], wanted: Sequence[Any], standing: Sequence[Any], identity: Callable[[Any], Any]
) -> list[Any]:
    """Order *merged*: what the patch names follows the patch, the rest keeps its place relative to the server's list.

    Args:
        wanted: identities in the patch's order.
        standing: identities in the server's order before the patch.
        identity: what tells an element from its neighbours.
    """
    named = [entry for entry in merged if identity(entry) in wanted]
    named.sort(key=lambda entry: wanted.index(identity(entry)))
    others = [entry for entry in merged if identity(entry) not in wanted]
    others.sort(key=lambda entry: _position(standing, identity(entry)))
    result = []
    while named and others:
        other = _position(standing, identity(others[0]))
        first = _position(standing, identity(named[0]))
        both_stand = max(other, first) < len(standing)
        result.append(others.pop(0) if both_stand and other < first else named.pop(0))
    return result + named + others


def _position(identities: Sequence[Any], identity: Any) -> int:
    return identities.index(identity) if identity in identities else len(identities)
