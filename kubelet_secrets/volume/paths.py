"""Which relative paths a volume may show, and how they are cleaned.

Pure. Called by ``payload`` for every file, and by nobody else: what leaves ``payload`` is checked and clean.

Source: pkg/volume/util/atomic_writer.go, validatePath and validatePayload; semantics §3.3. The checks and their order are
upstream's.
"""

from __future__ import annotations

import posixpath

from kubelet_secrets.errors import InvalidPath

MAX_PATH_LENGTH = 4096  # bytes
MAX_NAME_LENGTH = 255  # bytes


def validate_path(path: str) -> None:
    """Check *path* as it stands in the pod's spec.

    Raises:
        InvalidPath: with the kubelet's text.
    """
    if not path:
        raise InvalidPath('invalid path: must not be empty: ""')
    if path.startswith("/"):
        raise InvalidPath(f"invalid path: must be relative path: {path}")
    if _byte_length(path) > MAX_PATH_LENGTH:
        raise InvalidPath(f"invalid path: must be less than or equal to {MAX_PATH_LENGTH} characters")
    elements = path.split("/")
    for element in elements:
        if element == "..":
            raise InvalidPath(f"invalid path: must not contain '..': {path}")
        if _byte_length(element) > MAX_NAME_LENGTH:
            raise InvalidPath(f"invalid path: filenames must be less than or equal to {MAX_NAME_LENGTH} characters")
    if elements[0].startswith("..") and len(elements[0]) > 2:
        raise InvalidPath(f"invalid path: must not start with '..': {path}")


def clean_path(path: str) -> str:
    """Check *path* and bring it to the form in which it is compared and written: ``./foo//bar`` → ``foo/bar``.

    Raises:
        InvalidPath: see :func:`validate_path`. Differs: three names that pass there and fail or do harm in upstream's
            writer are refused here - the directory itself (``.``), a reserved name hidden behind ``./`` (``./..data``), and
            a NUL byte.
    """
    validate_path(path)
    if "\0" in path:
        raise InvalidPath("invalid path: must not contain a NUL byte")
    cleaned = posixpath.normpath(path)
    if cleaned == ".":
        raise InvalidPath(f"invalid path: must name a file, not the volume itself: {path}")
    if cleaned.startswith(".."):
        raise InvalidPath(f"invalid path: must not start with '..': {path}")
    return cleaned


def find_conflict(paths: list[str]) -> tuple[str, str] | None:
    """The first two of *paths* (clean) that cannot both be there, because one is a file where the other needs a directory."""
    present = set(paths)
    for path in sorted(paths):
        parent = posixpath.dirname(path)
        while parent:
            if parent in present:
                return parent, path
            parent = posixpath.dirname(parent)
    return None


def _byte_length(text: str) -> int:
    return len(text.encode("utf-8", "surrogateescape"))
