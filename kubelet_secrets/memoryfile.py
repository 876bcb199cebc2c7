"""A path for a few secret bytes, for libraries that read keys from files only. Ground: imports nothing of ours.

Not a place to keep anything: the file lives as long as one ``with`` block. Used for OpenSSL, by ``client.tls`` and the API
server.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def memory_file(content: bytes) -> Iterator[str]:
    """Give *content* a path that only this process can open; zeroed and gone after the block.

    A memfd is on no disk, but its pages can be swapped like any other. So they are filled through a mapping, which
    ``mlockall(MCL_FUTURE)`` locks as it is touched (``fusefs.hardening``), and which lasts as long as the path does.

    Args:
        content: at least one byte. Not a ``SensitiveBytes``: whoever unwraps it should be visible to a reader.
    """
    descriptor = os.memfd_create("tls", os.MFD_CLOEXEC)
    try:
        os.ftruncate(descriptor, len(content))
        with mmap.mmap(descriptor, len(content)) as mapping:
            mapping[:] = content
            try:
                yield f"/proc/self/fd/{descriptor}"
            finally:
                mapping[:] = bytes(len(content))
    finally:
        os.close(descriptor)
