"""KMS v2: values encrypted with keys that a key management service has wrapped.

The server makes a seed, lets the plugin wrap it, and encrypts every value with a key of its own derived from the seed; the
wrapped seed is stored with the value. The plugin is asked again when the id of its key changes, and for seeds this
process has not seen. :class:`KmsTransformer` is the provider; :meth:`KmsTransformer.refresh` is called on a schedule by
``encryption_source.py``.

Source: k8s.io/apiserver storage/value/encrypt/envelope/kmsv2/envelope.go; pkg/server/options/encryptionconfig/config.go,
kmsv2PluginProbe. Differs: what is written is always of the seed type, upstream's default; both types are read.
"""

from __future__ import annotations

import hashlib
import os
import uuid
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Protocol

import trio
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand

from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation.fields import Path, invalid, required
from kubelet_secrets.api.validation.names import dns1123_subdomain_errors
from kubelet_secrets.apiserver import kms_messages
from kubelet_secrets.apiserver.encryption import Opened, Transformer, TransformError
from kubelet_secrets.apiserver.encryption_providers import AesGcm, Random
from kubelet_secrets.apiserver.kms_messages import (
    AES_GCM_KEY,
    HKDF_SHA256_XNONCE_AES_GCM_SEED,
    EncryptedObject,
    PluginStatus,
    WrappedKey,
)
from kubelet_secrets.errors import aggregate_message
from kubelet_secrets.sensitive import SensitiveBytes

KEY_ID_MAX_BYTES = 1024
DEK_SOURCE_MAX_BYTES = 1024
ANNOTATIONS_MAX_BYTES = 32 * 1024
WRITE_VALIDITY_S = 180.0
CACHE_TTL_S, CACHE_SIZE = 3600.0, 1000
_SEED_BYTES = _INFO_BYTES = 32
_AES_KEY_SIZES = (16, 24, 32)
_VERSIONS = ("v2", "v2beta1")


class KmsPlugin(Protocol):
    """What is needed of ``kms_client.KmsClient``. Every call may raise TransformError."""

    async def status(self) -> PluginStatus: ...
    async def encrypt(self, plaintext: SensitiveBytes, uid: str) -> WrappedKey: ...
    async def decrypt(self, wrapped: WrappedKey, uid: str) -> SensitiveBytes: ...


class SeedGcm:
    """``info (32) || AES-GCM`` under HKDF-Expand-SHA256(seed, info). Source: encrypt/aes/aes_extended_nonce.go."""

    def __init__(self, seed: SensitiveBytes, random: Random = os.urandom) -> None:
        if len(seed) < _SEED_BYTES:
            raise TransformError(f"invalid seed length {len(seed)} used for key generation")
        self._seed = seed
        self._random = random

    def _derive(self, info: bytes) -> AesGcm:
        key = HKDFExpand(SHA256(), 32, info).derive(self._seed.reveal())
        return AesGcm(SensitiveBytes(key), self._random)

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        info = self._random(_INFO_BYTES)
        return info + await self._derive(info).to_storage(value, context=context)

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        if len(stored) < _INFO_BYTES:
            raise TransformError("the stored data is missing the required info prefix")
        return await self._derive(stored[:_INFO_BYTES]).from_storage(stored[_INFO_BYTES:], context=context)


@dataclass(frozen=True, slots=True)
class _State:
    """What values are written with now."""

    source: WrappedKey
    transformer: Transformer
    expires_at: float  # trio's clock


_CacheKey = tuple[int, bytes, str, tuple[tuple[str, bytes], ...]]


class KmsTransformer:
    """One configured provider.

    Args:
        name: the provider's, for messages.
        plugin: its service.
        random: where seeds and nonces come from.
    """

    def __init__(self, name: str, plugin: KmsPlugin, random: Random = os.urandom) -> None:
        self.name = name
        self._plugin = plugin
        self._random = random
        self._state: _State | None = None
        self._cache: OrderedDict[_CacheKey, tuple[float, Transformer]] = OrderedDict()

    # --- values ------------------------------------------------------------------------------------------------------

    async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
        state = self._current()
        if trio.current_time() > state.expires_at:
            raise TransformError(_expired(state))
        self._remember(_cache_key(HKDF_SHA256_XNONCE_AES_GCM_SEED, state.source), state.transformer)
        data = await state.transformer.to_storage(value, context=context)
        return kms_messages.encode_object(EncryptedObject(data, state.source, HKDF_SHA256_XNONCE_AES_GCM_SEED))

    async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
        try:
            obj = kms_messages.decode_object(stored)
        except ValueError as error:
            raise TransformError(str(error)) from None
        check_object(obj)
        state = self._current()  # expired or not: reading goes on while the service is away
        transformer = await self._transformer_of(obj)
        opened = await transformer.from_storage(obj.data, context=context)
        is_current = obj.source.key_id == state.source.key_id and obj.source_type == HKDF_SHA256_XNONCE_AES_GCM_SEED
        return Opened(opened.value, is_stale=opened.is_stale or not is_current)

    async def _transformer_of(self, obj: EncryptedObject) -> Transformer:
        key = _cache_key(obj.source_type, obj.source)
        found = self._cache.get(key)
        if found is not None and trio.current_time() < found[0]:
            self._cache.move_to_end(key)
            return found[1]
        try:
            source = await self._plugin.decrypt(obj.source, str(uuid.uuid4()))
        except TransformError as error:
            raise TransformError(f"failed to decrypt DEK, error: {error}") from None
        transformer: Transformer
        if obj.source_type == HKDF_SHA256_XNONCE_AES_GCM_SEED:
            transformer = SeedGcm(source, self._random)
        elif len(source) in _AES_KEY_SIZES:
            transformer = AesGcm(source, self._random)
        else:
            raise TransformError(f"crypto/aes: invalid key size {len(source)}")
        self._remember(key, transformer)
        return transformer

    def _remember(self, key: _CacheKey, transformer: Transformer) -> None:
        self._cache[key] = (trio.current_time() + CACHE_TTL_S, transformer)
        self._cache.move_to_end(key)
        if len(self._cache) > CACHE_SIZE:
            self._cache.popitem(last=False)

    def _current(self) -> _State:
        if self._state is None:
            raise TransformError("got unexpected nil transformer")  # upstream's words for: never healthy so far
        return self._state

    # --- the service -------------------------------------------------------------------------------------------------

    async def refresh(self) -> None:
        """Ask how the service is; make a new seed when the id of its key has changed, else prolong the one in use.

        Raises:
            TransformError: it is not healthy. Values can be read, and written for three minutes after the last success.

        Cancellation: the state is the old one or the new one.
        """
        try:
            status = await self._plugin.status()
            _check_status(status)
            await self._rotate(status.key_id)
        except TransformError as error:
            raise TransformError(f"kmsv2 Provider {self.name} is not healthy, error: {error}") from None

    async def _rotate(self, key_id: str) -> None:
        # Before the call: the validity is an upper bound.
        expires_at = trio.current_time() + WRITE_VALIDITY_S
        state = self._state
        if state is not None and state.source.key_id == key_id:
            self._state = replace(state, expires_at=expires_at)
            return
        seed = SensitiveBytes(self._random(_SEED_BYTES))
        uid = str(uuid.uuid4())
        try:
            source = await self._plugin.encrypt(seed, uid)
        except TransformError as error:
            raise TransformError(
                f'failed to rotate DEK uid="{uid}", errGen=failed to encrypt DEK, error: {error}'
            ) from None
        check_object(EncryptedObject(b"\0", source, HKDF_SHA256_XNONCE_AES_GCM_SEED))
        if source.key_id != key_id:
            hashes = f'statusKeyIDHash="{_hash(key_id)}", encryptKeyIDHash="{_hash(source.key_id)}"'
            raise TransformError(f'failed to rotate DEK uid="{uid}", {hashes}')
        self._state = _State(source, SeedGcm(seed, self._random), expires_at)


# --- rules -----------------------------------------------------------------------------------------------------------


def check_object(obj: EncryptedObject) -> None:
    """Raises: TransformError: a limit of KMS v2 is broken. Source: kmsv2/envelope.go, validateEncryptedObject."""
    if obj.source_type not in (AES_GCM_KEY, HKDF_SHA256_XNONCE_AES_GCM_SEED):
        raise TransformError(f"unknown encryptedDEKSourceType: {obj.source_type}")
    if not obj.data:
        raise TransformError("encrypted data is empty")
    if problem := _source_problem(obj.source.ciphertext):
        raise TransformError(f"failed to validate encrypted DEK source: {problem}")
    if problem := key_id_problem(obj.source.key_id):
        raise TransformError(f"failed to validate key id: {problem}")
    if problem := _annotations_problem(obj.source):
        raise TransformError(f"failed to validate annotations: {problem}")


def _source_problem(source: bytes) -> str:
    if not source:
        return "encrypted DEK source is empty"
    if len(source) > DEK_SOURCE_MAX_BYTES:
        return f"encrypted DEK source is {len(source)} bytes, which exceeds the max size of {DEK_SOURCE_MAX_BYTES}"
    return ""


def key_id_problem(key_id: str) -> str:
    """What is wrong with the id of a key; empty for nothing."""
    size = len(key_id.encode())
    if not size:
        return "keyID is empty"
    return f"keyID is {size} bytes, which exceeds the max size of {KEY_ID_MAX_BYTES}" if size > KEY_ID_MAX_BYTES else ""


def _annotations_problem(source: WrappedKey) -> str:
    problems = [problem for name in source.annotations if (problem := _domain_problem(name))]
    size = sum(len(name.encode()) + len(value) for name, value in source.annotations.items())
    if size > ANNOTATIONS_MAX_BYTES:
        problems.append(f"total size of annotations is {size}, which exceeds the max size of {ANNOTATIONS_MAX_BYTES}")
    return aggregate_message(problems) if problems else ""


def _domain_problem(name: str) -> str:
    """Source: apimachinery util/validation, IsFullyQualifiedDomainName."""
    path = Path("annotations")
    if not name:
        return str(required(path))
    name = name.removesuffix(".")
    if errors := dns1123_subdomain_errors(name):
        return str(invalid(path, name, ",".join(errors)))
    if "." not in name:
        return str(invalid(path, name, "should be a domain with at least two segments separated by dots"))
    return ""


def _check_status(status: PluginStatus) -> None:
    problems = []
    if status.healthz != "ok":
        problems.append(f"got unexpected healthz status: {status.healthz}")
    if status.version not in _VERSIONS:
        problems.append(f"expected KMSv2 API version v2, got {status.version}")
    if problem := key_id_problem(status.key_id):
        problems.append(f"expected KMSv2 KeyID to be set, got {problem}")
    if problems:
        raise TransformError(aggregate_message(problems))


def _cache_key(source_type: int, source: WrappedKey) -> _CacheKey:
    return source_type, source.ciphertext, source.key_id, tuple(sorted(source.annotations.items()))


def _hash(key_id: str) -> str:
    return f"sha256:{hashlib.sha256(key_id.encode()).hexdigest()}" if key_id else ""


def _expired(state: _State) -> str:
    now = datetime.now(UTC)
    then = now - timedelta(seconds=trio.current_time() - state.expires_at)
    hashed = go_quote(_hash(state.source.key_id))
    return (
        f"encryptedDEKSource with keyID hash {hashed} expired at {then:%Y-%m-%dT%H:%M:%SZ} "
        f"(current time is {now:%Y-%m-%dT%H:%M:%SZ})"
    )
