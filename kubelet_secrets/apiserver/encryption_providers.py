"""The providers that encrypt with keys from the configuration, in kube-apiserver's own stored formats.

A stored value is a prefix (``k8s:enc:aesgcm:v1:key1:``) and a payload; :class:`Prefixed` tries what fits a prefix, in order,
once over the providers of a resource and once more over the keys of a provider. The layouts are those of kube-apiserver;
the value inside is JSON or protobuf, as ``--storage-media-type`` says.

Not here: the key management service (``kms.py``), which composes :class:`AesGcm` too. Pure but for the system's randomness.

Source: k8s.io/apiserver pkg/storage/value/transformer.go and value/encrypt/{aes,secretbox,identity}.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence

import nacl.exceptions
import nacl.secret
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.padding import PKCS7

from kubelet_secrets.apiserver import encryptionconfig
from kubelet_secrets.apiserver.encryption import Identity, Opened, Transformer, TransformError
from kubelet_secrets.apiserver.encryptionconfig import CipherProvider, IdentityProvider, ProviderConfig
from kubelet_secrets.errors import aggregate_message
from kubelet_secrets.sensitive import SensitiveBytes

NONCE_BYTES, TAG_BYTES = 12, 16
_BLOCK_BYTES = 16
_SECRETBOX_NONCE_BYTES = nacl.secret.SecretBox.NONCE_SIZE
TOO_SHORT = "the stored data was shorter than the required size"
NO_PREFIX = "no matching prefix found"

Random = Callable[[int], bytes]
"""Where nonces come from; the system, but for known-answer tests."""


class AesGcm:
    """``nonce (12) || ciphertext || tag (16)``; authenticates the key's path. Source: encrypt/aes/aes.go."""

    def __init__(self, key: SensitiveBytes, random: Random = os.urandom) -> None:
        self._cipher = AESGCM(key.reveal())
        self._random = random

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        nonce = self._random(NONCE_BYTES)
        return nonce + self._cipher.encrypt(nonce, value, context)

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        if len(stored) < NONCE_BYTES:
            raise TransformError(TOO_SHORT)
        try:
            value = self._cipher.decrypt(stored[:NONCE_BYTES], stored[NONCE_BYTES:], context)
        except InvalidTag:
            raise TransformError("cipher: message authentication failed") from None
        return Opened(value, is_stale=False)


class AesCbc:
    """``IV (16) || AES-CBC of the value padded by PKCS#7``. Nothing is authenticated: upstream advises against it."""

    def __init__(self, key: SensitiveBytes, random: Random = os.urandom) -> None:
        self._algorithm = algorithms.AES(key.reveal())
        self._random = random

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        iv = self._random(_BLOCK_BYTES)
        padder = PKCS7(_BLOCK_BYTES * 8).padder()
        encryptor = Cipher(self._algorithm, modes.CBC(iv)).encryptor()
        return iv + encryptor.update(padder.update(value) + padder.finalize()) + encryptor.finalize()

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        if len(stored) < _BLOCK_BYTES:
            raise TransformError(TOO_SHORT)
        iv, content = stored[:_BLOCK_BYTES], stored[_BLOCK_BYTES:]
        if len(content) % _BLOCK_BYTES:
            raise TransformError("the stored data is not a multiple of the block size")
        decryptor = Cipher(self._algorithm, modes.CBC(iv)).decryptor()
        padded = decryptor.update(content) + decryptor.finalize()
        return Opened(_without_padding(padded), is_stale=False)


def _without_padding(padded: bytes) -> bytes:
    # By hand: the library has one error for what upstream tells apart. As upstream, up to 255 bytes are taken for padding.
    size = padded[-1] if padded else 0
    if size == 0 or size > len(padded):
        raise TransformError("invalid PKCS7 data (empty or not padded)")
    if padded[-size:] != bytes([size]) * size:
        raise TransformError("invalid padding on input")
    return padded[:-size]


class SecretBox:
    """``nonce (24) || Poly1305 tag (16) || XSalsa20 ciphertext``. The key's path is not authenticated."""

    def __init__(self, key: SensitiveBytes, random: Random = os.urandom) -> None:
        self._box = nacl.secret.SecretBox(key.reveal())
        self._random = random

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        return bytes(self._box.encrypt(value, self._random(_SECRETBOX_NONCE_BYTES)))

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        if len(stored) < _SECRETBOX_NONCE_BYTES + TAG_BYTES:
            raise TransformError(TOO_SHORT)
        try:
            value = self._box.decrypt(stored[_SECRETBOX_NONCE_BYTES:], stored[:_SECRETBOX_NONCE_BYTES])
        except nacl.exceptions.CryptoError:
            raise TransformError("output array was not large enough for encryption") from None  # upstream's words
        return Opened(value, is_stale=False)


class Prefixed:
    """Several transformers, each with its prefix: the first one writes, those whose prefix fits are tried for reading.

    Args:
        choices: prefix and transformer, in order; 1..n. The empty prefix fits everything.
        none_fits: the error when no prefix does.

    Source: value/transformer.go, prefixTransformers.
    """

    def __init__(self, choices: Sequence[tuple[bytes, Transformer]], none_fits: str = NO_PREFIX) -> None:
        self._choices = tuple(choices)
        self._none_fits = none_fits

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        prefix, transformer = self._choices[0]
        return prefix + await transformer.to_storage(value, context=context)

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        errors: list[str] = []
        for index, (prefix, transformer) in enumerate(self._choices):
            if not stored.startswith(prefix):
                continue
            try:
                opened = await transformer.from_storage(stored[len(prefix) :], context=context)
            except TransformError as error:
                # Identity in front of others, on the way out of encryption, refuses what the others can read.
                if prefix:
                    errors.append(str(error))
                continue
            return Opened(opened.value, is_stale=opened.is_stale or index != 0)
        raise TransformError(aggregate_message(errors) if errors else self._none_fits)


_CIPHERS: dict[encryptionconfig.Cipher, tuple[Callable[[SensitiveBytes, Random], Transformer], str]] = {
    encryptionconfig.Cipher.AESGCM: (AesGcm, "AES"),
    encryptionconfig.Cipher.AESCBC: (AesCbc, "AES"),
    encryptionconfig.Cipher.SECRETBOX: (SecretBox, "Secretbox"),
}


def make_transformer(
    providers: Sequence[ProviderConfig],
    make_kms: Callable[[encryptionconfig.KmsProvider], Transformer],
    random: Random = os.urandom,
) -> Transformer:
    """A resource's way to the store and back.

    Args:
        providers: as configured, 1..n; the first one writes.
        make_kms: gives the transformer of a key management service.
    """
    choices: list[tuple[bytes, Transformer]] = []
    for provider in providers:
        if isinstance(provider, IdentityProvider):
            choices.append((b"", Identity()))
        elif isinstance(provider, CipherProvider):
            choices.append((f"k8s:enc:{provider.cipher.value}:v1:".encode(), _by_key(provider, random)))
        else:
            choices.append((f"k8s:enc:kms:v2:{provider.name}:".encode(), make_kms(provider)))
    return Prefixed(choices)


def _by_key(provider: CipherProvider, random: Random) -> Transformer:
    make, called = _CIPHERS[provider.cipher]
    keys = [(f"{key.name}:".encode(), make(key.secret, random)) for key in provider.keys]
    return Prefixed(keys, f"no matching key was found for the provided {called} transformer")
