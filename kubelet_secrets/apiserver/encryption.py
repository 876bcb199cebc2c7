"""What stands between an object's bytes and the store: the transformer a resource is written and read with.

Here are the border (:class:`Transformer`) and the plain case, :class:`Identity`. The providers that encrypt, and the reading of
an ``EncryptionConfiguration``, are modules of their own that implement the same border. Called by ``storage.py`` alone.

Source: k8s.io/apiserver pkg/storage/value/transformer.go.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

from kubelet_secrets.errors import KubeletSecretsError

ENCRYPTED_PREFIX = b"k8s:enc:"


class TransformError(KubeletSecretsError):
    """Stored bytes cannot be read, or a value cannot be protected. The message holds no data; clients get it as HTTP 500."""


class Opened(NamedTuple):
    """A value read back."""

    value: bytes
    is_stale: bool  # not written the way the current configuration would: the next write must happen, even a no-op


class Transformer(Protocol):
    """One resource's way to the store and back.

    *context* authenticates where the bytes are stored (the key's path), so that they cannot be moved to another key.
    Both may wait for a key management service; a cancelled call has changed nothing.
    """

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes: ...

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        """Raises: TransformError."""
        ...


class Identity:
    """Stores values as they are; refuses to serve what looks encrypted. Source: encrypt/identity/identity.go."""

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        return value

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        if stored.startswith(ENCRYPTED_PREFIX):
            raise TransformError("identity transformer tried to read encrypted data")
        return Opened(stored, is_stale=False)


TransformerFor = Callable[[str], Transformer]
"""Plural of a resource → its transformer. Asked at every read and write, so a reloaded configuration counts at once."""

_IDENTITY = Identity()


def plain(_plural: str) -> Transformer:
    """The default configuration: nothing is encrypted."""
    return _IDENTITY
