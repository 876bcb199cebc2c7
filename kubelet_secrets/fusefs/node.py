"""What the kernel holds numbers of: nodes, their levels, and whose they are. Data only; ``tree`` keeps them.

Levels: the root, a pod's directory, a volume, and what lies in it.
"""

from __future__ import annotations

from dataclasses import dataclass

ROOT_NUMBER = 1
NUMBER_BASE = 1000
"""Added to inode numbers: 1 belongs to the root, and the store's own root inode must not collide with it."""

POD_DEPTH = 1
VOLUME_DEPTH = 2


class UnknownNode(Exception):
    """The kernel names a node whose file is no longer in the store."""


class Node:
    """One file, directory or link. *parent* is None for the root only; *lookups* is what the kernel owes us in FORGETs.

    After a restart *lookups* starts at zero again, so it may go below zero.
    """

    __slots__ = ("lookups", "name", "number", "parent")

    def __init__(self, number: int, parent: Node | None, name: bytes) -> None:
        self.number = number
        self.parent = parent
        self.name = name
        self.lookups = 0

    def __repr__(self) -> str:
        return f"<Node {self.number} {self.name!r}>"


@dataclass(frozen=True, slots=True)
class Identity:
    """Whose file a node is. Empty strings above the volume's level."""

    pod_uid: str
    volume: str
    path: str  # within the volume, "" for its root; buried nodes keep the path they had
