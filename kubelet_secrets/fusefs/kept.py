"""What a keeper leaves to its successor: the descriptors by name, and what they do not say of themselves.

A keeper may end without its mounts: killed while systemd holds its descriptors (FDSTORE), or replaced by newer code in the
same process (exec). The one after it finds the same names, and takes over only what it understands and what is still mounted.
No secret is in any of it; the store descriptor *leads* to secrets, docs/threat-model.md.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

NAMES = ("lock", "store", "fuse", "state")
"""The root directory's lock, the detached store, the mounted /dev/fuse, and a memfd with :class:`KeptState`."""

FORMAT = 1
"""Of what is kept, its meaning included. Another number is another keeper's business: see ``NotAdoptable``."""


class NotAdoptable(Exception):
    """What was kept cannot be carried on with; the text says why."""


class KeptState(msgspec.Struct, frozen=True, kw_only=True):
    """Facts about the descriptors."""

    format: int = FORMAT
    root_dir: str  # absolute
    made_root: bool  # whether the directory is ours to remove
    mounts_before: int  # on the root directory, before ours
    fuse_device: str  # as in mountinfo, "0:57"
    fuse_init: str  # the kernel's FUSE_INIT, hexadecimal
    store_kind: str  # a mounts.StoreKind value

    def to_memfd(self) -> int:
        """A descriptor to keep; owned by the caller."""
        fd = os.memfd_create("kubelet-secrets-keeper", os.MFD_CLOEXEC)
        os.write(fd, msgspec.json.encode(self))
        return fd

    @classmethod
    def from_memfd(cls, fd: int) -> KeptState:
        """Read it, from whatever position.

        Raises:
            NotAdoptable: written by a program that meant something else.
        """
        raw = os.pread(fd, os.fstat(fd).st_size, 0)
        try:
            found = msgspec.json.decode(raw, type=_Format).format
            if found != FORMAT:
                raise NotAdoptable(f"it was left in format {found}, this program knows format {FORMAT}")
            return msgspec.json.decode(raw, type=cls)
        except msgspec.MsgspecError as error:
            raise NotAdoptable(f"its state cannot be read: {error}") from None

    @property
    def root(self) -> Path:
        return Path(self.root_dir)


class _Format(msgspec.Struct):
    format: int
