"""Stored bytes, in both directions: known answers made from the bare primitives, then the reading rules."""

from __future__ import annotations

import base64

import nacl.bindings
import pytest
from cryptography.hazmat.primitives.ciphers import Cipher as RawCipher
from cryptography.hazmat.primitives.ciphers import algorithms, modes

from kubelet_secrets.apiserver.encryption import Opened, Transformer, TransformError
from kubelet_secrets.apiserver.encryption_providers import make_transformer
from kubelet_secrets.apiserver.encryptionconfig import (
    Cipher,
    CipherProvider,
    IdentityProvider,
    Key,
    KmsProvider,
    ProviderConfig,
)
from kubelet_secrets.sensitive import SensitiveBytes

PATH = b"/registry/secrets/default/db"
VALUE = b'{"kind":"Secret","data":{"k":"djE="}}'
K1, K2 = bytes(range(32)), bytes(range(100, 132))


def no_kms(_: KmsProvider) -> Transformer:
    raise AssertionError("no key management service here")


def counting(size: int) -> bytes:
    """A nonce that tests can know."""
    return bytes(range(1, size + 1))


def keys(cipher: Cipher, **named: bytes) -> CipherProvider:
    return CipherProvider(cipher, tuple(Key(name, SensitiveBytes(secret)) for name, secret in named.items()))


def transformer(*providers: ProviderConfig) -> Transformer:
    return make_transformer(providers, no_kms, counting)


async def error_of(subject: Transformer, stored: bytes, path: bytes = PATH) -> str:
    with pytest.raises(TransformError) as caught:
        await subject.from_storage(stored, context=path)
    return str(caught.value)


# --- known answers ---------------------------------------------------------------------------------------------------


def gcm_by_hand(key: bytes, nonce: bytes, value: bytes, aad: bytes) -> bytes:
    encryptor = RawCipher(algorithms.AES(key), modes.GCM(nonce)).encryptor()
    encryptor.authenticate_additional_data(aad)
    ciphertext = encryptor.update(value) + encryptor.finalize()
    return nonce + ciphertext + encryptor.tag


def cbc_by_hand(key: bytes, iv: bytes, value: bytes) -> bytes:
    pad = 16 - len(value) % 16
    encryptor = RawCipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + encryptor.update(value + bytes([pad]) * pad) + encryptor.finalize()


def cbc_unpadded(key: bytes, iv: bytes, padded: bytes) -> bytes:
    encryptor = RawCipher(algorithms.AES(key), modes.CBC(iv)).encryptor()
    return iv + encryptor.update(padded) + encryptor.finalize()


def box_by_hand(key: bytes, nonce: bytes, value: bytes) -> bytes:
    return nonce + nacl.bindings.crypto_secretbox(value, nonce, key)


@pytest.mark.parametrize("size", [16, 24, 32])
async def test_aesgcm_known_answer(size: int) -> None:
    subject = transformer(keys(Cipher.AESGCM, key1=K1[:size]))
    expected = b"k8s:enc:aesgcm:v1:key1:" + gcm_by_hand(K1[:size], counting(12), VALUE, PATH)
    assert await subject.to_storage(VALUE, context=PATH) == expected
    assert await subject.from_storage(expected, context=PATH) == Opened(VALUE, is_stale=False)


@pytest.mark.parametrize("size", [16, 24, 32])
@pytest.mark.parametrize("length", [0, 1, 15, 16, 17])
async def test_aescbc_known_answer(size: int, length: int) -> None:
    subject = transformer(keys(Cipher.AESCBC, key1=K1[:size]))
    value = VALUE[:length]
    expected = b"k8s:enc:aescbc:v1:key1:" + cbc_by_hand(K1[:size], counting(16), value)
    assert await subject.to_storage(value, context=PATH) == expected
    assert await subject.from_storage(expected, context=b"elsewhere") == Opened(value, is_stale=False)


async def test_secretbox_known_answer() -> None:
    subject = transformer(keys(Cipher.SECRETBOX, key1=K1))
    expected = b"k8s:enc:secretbox:v1:key1:" + box_by_hand(K1, counting(24), VALUE)
    assert await subject.to_storage(VALUE, context=PATH) == expected
    assert await subject.from_storage(expected, context=b"elsewhere") == Opened(VALUE, is_stale=False)


async def test_identity_is_the_value_itself() -> None:
    subject = transformer(IdentityProvider())
    assert await subject.to_storage(VALUE, context=PATH) == VALUE
    assert await subject.from_storage(VALUE, context=PATH) == Opened(VALUE, is_stale=False)


async def test_published_vectors() -> None:
    """From the papers: NIST GCM test case 14, NaCl's own secretbox example. The primitives are what they are called."""
    zeros = CipherProvider(Cipher.AESGCM, (Key("k", SensitiveBytes(bytes(32))),))
    stored = bytes(12) + bytes.fromhex("cea7403d4d606b6e074ec5d3baf39d18d0d1c8a799996bf0265b98b5d48ab919")
    subject = make_transformer([zeros], no_kms, bytes)
    assert await subject.to_storage(bytes(16), context=b"") == b"k8s:enc:aesgcm:v1:k:" + stored
    first_key = bytes.fromhex("1b27556473e985d462cd51197a9a46c76009549eac6474f206c4ee0844f68389")
    nonce = bytes.fromhex("69696ee955b62b73cd62bda875fc73d68219e0036b7a0b37")
    box = CipherProvider(Cipher.SECRETBOX, (Key("k", SensitiveBytes(first_key)),))
    message = bytes.fromhex(
        "be075fc53c81f2d5cf141316ebeb0c7b5228c52a4c62cbd44b66849b64244ffce5ecbaaf33bd751a1ac728d45e6c61296cdc3c01233561f4"
        "1db66cce314adb310e3be8250c46f06dceea3a7fa1348057e2f6556ad6b1318a024a838f21af1fde048977eb48f59ffd4924ca1c60902e52"
        "f0a089bc76897040e082f937763848645e0705"
    )
    answer = await make_transformer([box], no_kms, lambda _: nonce).to_storage(message, context=b"")
    tag = bytes.fromhex("f3ffc7703f9400e52a7dfb4b3d3305d9")
    assert answer.startswith(
        b"k8s:enc:secretbox:v1:k:" + nonce + tag + bytes.fromhex("8e993b9f48681273c29650ba32fc76ce")
    )


async def test_nonces_are_never_repeated() -> None:
    subject = make_transformer([keys(Cipher.AESGCM, k=K1)], no_kms)
    stored = {await subject.to_storage(VALUE, context=PATH) for _ in range(200)}
    assert len({value[len(b"k8s:enc:aesgcm:v1:k:") :][:12] for value in stored}) == 200


# --- damage ----------------------------------------------------------------------------------------------------------

SHORT = "the stored data was shorter than the required size"


@pytest.mark.parametrize(
    ("provider", "payload", "message"),
    [
        pytest.param(Cipher.AESGCM, b"x" * 11, SHORT, id="gcm-short"),
        pytest.param(Cipher.AESGCM, b"x" * 12, "cipher: message authentication failed", id="gcm-nonce-alone"),
        pytest.param(Cipher.AESGCM, b"x" * 60, "cipher: message authentication failed", id="gcm-forged"),
        pytest.param(Cipher.AESCBC, b"x" * 15, SHORT, id="cbc-short"),
        pytest.param(Cipher.AESCBC, b"x" * 20, "the stored data is not a multiple of the block size", id="cbc-ragged"),
        pytest.param(Cipher.AESCBC, b"x" * 16, "invalid PKCS7 data (empty or not padded)", id="cbc-empty"),
        pytest.param(
            Cipher.AESCBC,
            cbc_unpadded(K1, b"i" * 16, b"v" * 15 + b"\0"),
            "invalid PKCS7 data (empty or not padded)",
            id="cbc-zero-padding",
        ),
        pytest.param(
            Cipher.AESCBC,
            cbc_unpadded(K1, b"i" * 16, b"v" * 15 + b"\x11"),
            "invalid PKCS7 data (empty or not padded)",
            id="cbc-padding-longer-than-data",
        ),
        pytest.param(
            Cipher.AESCBC,
            cbc_unpadded(K1, b"i" * 16, b"v" * 14 + b"\x01\x02"),
            "invalid padding on input",
            id="cbc-mixed",
        ),
        pytest.param(Cipher.SECRETBOX, b"x" * 39, SHORT, id="box-short"),
        pytest.param(Cipher.SECRETBOX, b"x" * 60, "output array was not large enough for encryption", id="box-forged"),
    ],
)
async def test_damaged_payload(provider: Cipher, payload: bytes, message: str) -> None:
    subject = transformer(keys(provider, key1=K1))
    assert await error_of(subject, f"k8s:enc:{provider.value}:v1:key1:".encode() + payload) == message


async def test_gcm_value_cannot_be_moved_to_another_key() -> None:
    subject = transformer(keys(Cipher.AESGCM, key1=K1))
    stored = await subject.to_storage(VALUE, context=PATH)
    assert await error_of(subject, stored, b"/registry/secrets/other/db") == "cipher: message authentication failed"


# --- which provider reads --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("cipher", "called"), [("aesgcm", "AES"), ("aescbc", "AES"), ("secretbox", "Secretbox")])
async def test_key_that_is_not_there(cipher: str, called: str) -> None:
    stored = await transformer(keys(Cipher(cipher), key1=K1)).to_storage(VALUE, context=PATH)
    message = await error_of(transformer(keys(Cipher(cipher), key2=K1)), stored)
    assert message == f"no matching key was found for the provided {called} transformer"


async def test_every_key_reads_and_only_the_first_is_current() -> None:
    before = transformer(keys(Cipher.AESGCM, old=K1))
    after = transformer(keys(Cipher.AESGCM, new=K2, old=K1))
    stored = await before.to_storage(VALUE, context=PATH)
    assert await after.from_storage(stored, context=PATH) == Opened(VALUE, is_stale=True)
    rewritten = await after.to_storage(VALUE, context=PATH)
    assert rewritten.startswith(b"k8s:enc:aesgcm:v1:new:")
    assert await after.from_storage(rewritten, context=PATH) == Opened(VALUE, is_stale=False)


async def test_key_names_are_compared_with_their_colon() -> None:
    subject = transformer(keys(Cipher.AESGCM, key1=K1, key10=K2))
    only_ten = await transformer(keys(Cipher.AESGCM, key10=K2)).to_storage(VALUE, context=PATH)
    assert await subject.from_storage(only_ten, context=PATH) == Opened(VALUE, is_stale=True)


async def test_two_keys_of_one_name_are_both_tried() -> None:
    twice = CipherProvider(Cipher.AESGCM, (Key("k", SensitiveBytes(K2)), Key("k", SensitiveBytes(K1))))
    stored = await transformer(keys(Cipher.AESGCM, k=K1)).to_storage(VALUE, context=PATH)
    assert await transformer(twice).from_storage(stored, context=PATH) == Opened(VALUE, is_stale=True)
    neither = await transformer(keys(Cipher.AESGCM, k=b"z" * 32)).to_storage(VALUE, context=PATH)
    assert await error_of(transformer(twice), neither) == "cipher: message authentication failed"  # told once


async def test_second_provider_reads_and_calls_it_stale() -> None:
    old = await transformer(keys(Cipher.AESCBC, k=K1)).to_storage(VALUE, context=PATH)
    subject = transformer(keys(Cipher.SECRETBOX, k=K2), keys(Cipher.AESCBC, k=K1))
    assert await subject.from_storage(old, context=PATH) == Opened(VALUE, is_stale=True)


async def test_same_provider_twice_reads_with_either() -> None:
    stored = await transformer(keys(Cipher.AESGCM, one=K1)).to_storage(VALUE, context=PATH)
    subject = transformer(keys(Cipher.AESGCM, two=K2), keys(Cipher.AESGCM, one=K1))
    assert await subject.from_storage(stored, context=PATH) == Opened(VALUE, is_stale=True)


async def test_errors_of_several_providers_are_told_together() -> None:
    subject = transformer(keys(Cipher.AESGCM, two=K2), keys(Cipher.AESGCM, one=K2), IdentityProvider())
    stored = await transformer(keys(Cipher.AESGCM, one=K1)).to_storage(VALUE, context=PATH)
    no_key, failed = (
        "no matching key was found for the provided AES transformer",
        "cipher: message authentication failed",
    )
    assert await error_of(subject, stored) == f"[{no_key}, {failed}]"


async def test_plain_value_after_switching_encryption_on_is_read_and_stale() -> None:
    subject = transformer(keys(Cipher.AESGCM, k=K1), IdentityProvider())
    assert await subject.from_storage(VALUE, context=PATH) == Opened(VALUE, is_stale=True)


async def test_plain_value_without_identity_is_not_served() -> None:
    assert await error_of(transformer(keys(Cipher.AESGCM, k=K1)), VALUE) == "no matching prefix found"


async def test_identity_in_front_leaves_what_is_encrypted_to_the_others() -> None:
    """The way out of encryption."""
    stored = await transformer(keys(Cipher.AESGCM, k=K1)).to_storage(VALUE, context=PATH)
    assert await error_of(transformer(IdentityProvider()), stored) == "no matching prefix found"
    subject = transformer(IdentityProvider(), keys(Cipher.AESGCM, k=K1))
    assert await subject.from_storage(stored, context=PATH) == Opened(VALUE, is_stale=True)
    assert await subject.to_storage(VALUE, context=PATH) == VALUE


async def test_no_key_and_no_value_shows_itself() -> None:
    provider = keys(Cipher.AESGCM, k=K1)
    subject = transformer(provider)
    shown = f"{provider!r} {subject!r} {await error_of(subject, b'k8s:enc:aesgcm:v1:k:' + VALUE)}"
    assert "djE=" not in shown
    assert K1.hex() not in shown
    assert repr(K1) not in shown
    assert base64.b64encode(K1).decode() not in shown
