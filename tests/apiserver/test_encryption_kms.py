"""KMS v2: calls to a real plugin over its socket, the stored object, and what happens when the service fails."""

from __future__ import annotations

import hashlib
import hmac
import os
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from kubelet_secrets.apiserver.encryption import Opened, TransformError
from kubelet_secrets.apiserver.kms import KmsTransformer, SeedGcm, check_object
from kubelet_secrets.apiserver.kms_client import KmsClient, RpcError
from kubelet_secrets.apiserver.kms_messages import EncryptedObject, PluginStatus, WrappedKey
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.kms_plugin import Plugin, annotations, field, fields

PATH = b"/registry/secrets/default/db"
VALUE = b'{"kind":"Secret"}'


@pytest.fixture
async def plugin(tmp_path: Path) -> AsyncIterator[Plugin]:
    with trio.fail_after(60):
        found = Plugin(tmp_path / "kms.sock")
        async with found.running():
            yield found


async def ready(plugin: Plugin) -> KmsTransformer:
    transformer = KmsTransformer("test", KmsClient(plugin.endpoint, 2))
    await transformer.refresh()
    return transformer


# --- calls -----------------------------------------------------------------------------------------------------------


async def test_three_calls_reach_a_plugin(plugin: Plugin) -> None:
    client = KmsClient(plugin.endpoint, 2)
    assert await client.status() == PluginStatus("v2", "ok", "key-1")
    key = SensitiveBytes(b"k" * 32)
    wrapped = await client.encrypt(key, "uid-1")
    assert wrapped.key_id == "key-1"
    assert wrapped.annotations == plugin.annotations
    assert b"k" * 32 not in wrapped.ciphertext
    assert await client.decrypt(wrapped, "uid-2") == key
    assert (plugin.calls, plugin.uids) == (["Status", "Encrypt", "Decrypt"], ["uid-1", "uid-2"])


async def test_request_of_many_frames_arrives_whole(plugin: Plugin) -> None:
    plugin.annotations = {f"a{number}.example.com": b"x" * 1000 for number in range(31)}
    client = KmsClient(plugin.endpoint, 2)
    wrapped = await client.encrypt(SensitiveBytes(b"k" * 32), "u")
    assert await client.decrypt(wrapped, "u") == SensitiveBytes(b"k" * 32)


async def test_error_of_a_plugin_is_told_in_grpcs_words(plugin: Plugin) -> None:
    plugin.error = (7, "no%20access: 100%25%0Aline")
    with pytest.raises(RpcError) as caught:
        await KmsClient(plugin.endpoint, 2).status()
    assert str(caught.value) == "rpc error: code = PermissionDenied desc = no access: 100% line"


async def test_missing_plugin_is_unavailable(tmp_path: Path) -> None:
    path = tmp_path / "none.sock"
    with pytest.raises(RpcError) as caught:
        await KmsClient(f"unix://{path}", 2).status()
    assert str(caught.value) == (
        'rpc error: code = Unavailable desc = connection error: desc = "transport: Error while dialing: '
        f'dial unix {path}: connect: no such file or directory"'
    )


async def test_silent_plugin_is_given_up_on(plugin: Plugin) -> None:
    plugin.is_silent = True
    with pytest.raises(RpcError, match="code = DeadlineExceeded desc = context deadline exceeded"):
        await KmsClient(plugin.endpoint, 0.05).status()


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        pytest.param(b"", "code = Internal desc = cardinality violation", id="nothing"),
        pytest.param(b"\1\0\0\0\0", "code = Internal desc = grpc: the response is compressed", id="compressed"),
        pytest.param(b"\0\0\0\0\2x", "code = Internal desc = grpc: the response is compressed or", id="cut"),
        pytest.param(b"\0\0\0\0\2\x0a\x7f", "code = Internal desc = grpc: failed to unmarshal", id="no-protobuf"),
    ],
)
async def test_broken_answer(plugin: Plugin, raw: bytes, message: str) -> None:
    plugin.raw_answer = raw
    with pytest.raises(RpcError, match=message):
        await KmsClient(plugin.endpoint, 2).status()


async def test_answer_of_something_else_than_grpc(plugin: Plugin) -> None:
    plugin.http_status = "404"
    with pytest.raises(RpcError, match="unexpected HTTP status code received from server: 404"):
        await KmsClient(plugin.endpoint, 2).status()


@pytest.mark.parametrize("said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
async def test_socket_of_somebody_else(tmp_path: Path, said: bytes) -> None:
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind(str(tmp_path / "s"))
    listener.listen()

    async def hang_up(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if said:
            await stream.send_all(said)
        await stream.aclose()

    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, hang_up, [trio.SocketListener(listener)])
            with pytest.raises(RpcError, match="code = Unavailable desc = error reading from server"):
                await KmsClient(f"unix://{tmp_path / 's'}", 2).status()
            nursery.cancel_scope.cancel()


async def test_socket_in_the_abstract_namespace(tmp_path: Path) -> None:
    name = f"ks-test-{os.getpid()}-{tmp_path.name}"
    plugin = Plugin(tmp_path / "unused")
    listener = trio.socket.socket(trio.socket.AF_UNIX)
    await listener.bind("\0" + name)
    listener.listen()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(trio.serve_listeners, plugin._serve, [trio.SocketListener(listener)])
            assert (await KmsClient(f"unix:///@{name}", 2).status()).key_id == "key-1"
            nursery.cancel_scope.cancel()


# --- the stored object -----------------------------------------------------------------------------------------------


def hkdf_expand(seed: bytes, info: bytes) -> bytes:
    """RFC 5869, one block."""
    return hmac.digest(seed, info + b"\1", hashlib.sha256)


async def test_stored_object_opens_by_hand(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    stored = fields(await transformer.to_storage(VALUE, context=PATH))
    assert stored[2] == [b"key-1"]
    assert stored[5] == [1]
    [annotation] = stored[4]
    assert fields(annotation) == {1: [b"version.encryption.example.com"], 2: [b"1"]}
    [source], [data] = stored[3], stored[1]
    seed = AESGCM(plugin.keys["key-1"]).decrypt(source[:12], source[12:], None)
    key = hkdf_expand(seed, data[:32])
    assert AESGCM(key).decrypt(data[32:44], data[44:], PATH) == VALUE


def by_hand(plugin: Plugin, source_type: int, key: bytes, data: bytes, key_id: str = "key-1") -> bytes:
    wrapped = b"n" * 12 + plugin._cipher(key_id).encrypt(b"n" * 12, key, None)
    head = field(1, data) + field(2, key_id.encode()) + field(3, wrapped) + annotations(4, plugin.annotations)
    return head + (field(5, source_type) if source_type else b"")


async def test_object_made_by_hand_opens(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    seed, info, nonce = b"s" * 32, b"i" * 32, b"o" * 12
    data = info + nonce + AESGCM(hkdf_expand(seed, info)).encrypt(nonce, VALUE, PATH)
    opened = await transformer.from_storage(by_hand(plugin, 1, seed, data), context=PATH)
    assert opened == Opened(VALUE, is_stale=False)


async def test_object_of_the_older_type_opens_and_is_stale(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    key, nonce = b"d" * 32, b"o" * 12
    stored = by_hand(plugin, 0, key, nonce + AESGCM(key).encrypt(nonce, VALUE, PATH))
    assert await transformer.from_storage(stored, context=PATH) == Opened(VALUE, is_stale=True)


async def test_known_answer_of_the_seed() -> None:
    subject = SeedGcm(SensitiveBytes(b"s" * 32), lambda size: b"r" * size)
    expected = b"r" * 44 + AESGCM(hkdf_expand(b"s" * 32, b"r" * 32)).encrypt(b"r" * 12, VALUE, PATH)
    assert await subject.to_storage(VALUE, context=PATH) == expected
    with pytest.raises(TransformError, match="the stored data is missing the required info prefix"):
        await subject.from_storage(b"r" * 31, context=PATH)
    with pytest.raises(TransformError, match="cipher: message authentication failed"):
        await subject.from_storage(expected, context=b"/registry/secrets/other/db")
    with pytest.raises(TransformError, match="invalid seed length 16 used for key generation"):
        SeedGcm(SensitiveBytes(b"s" * 16))


@pytest.mark.parametrize("source_type", [0, 1])
async def test_wrapped_key_of_a_wrong_size(plugin: Plugin, source_type: int) -> None:
    transformer = await ready(plugin)
    with pytest.raises(TransformError, match=r"invalid (seed length|key size) 5"):
        await transformer.from_storage(by_hand(plugin, source_type, b"short", b"x" * 60), context=PATH)


GOOD = WrappedKey(b"c", "k", {"a.b": b""})


@pytest.mark.parametrize(
    ("obj", "message"),
    [
        pytest.param(EncryptedObject(b"x", GOOD, 2), "unknown encryptedDEKSourceType: 2", id="type"),
        pytest.param(EncryptedObject(b"", GOOD, 1), "encrypted data is empty", id="data"),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"c", ""), 1), "failed to validate key id: keyID is empty", id="no-id"
        ),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"c", "k" * 1025), 1),
            "failed to validate key id: keyID is 1025 bytes, which exceeds the max size of 1024",
            id="long-id",
        ),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"", "k"), 1),
            "failed to validate encrypted DEK source: encrypted DEK source is empty",
            id="no-source",
        ),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"c" * 1025, "k"), 1),
            "failed to validate encrypted DEK source: encrypted DEK source is 1025 bytes, which exceeds the max size of 1024",
            id="long-source",
        ),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"c", "k", {"plain": b""}), 1),
            'failed to validate annotations: annotations: Invalid value: "plain": should be a domain with at least two '
            "segments separated by dots",
            id="annotation-name",
        ),
        pytest.param(
            EncryptedObject(b"x", WrappedKey(b"c", "k", {"a.b": b"x" * 32768}), 1),
            "failed to validate annotations: total size of annotations is 32771, which exceeds the max size of 32768",
            id="annotation-size",
        ),
    ],
)
def test_limits_of_a_stored_object(obj: EncryptedObject, message: str) -> None:
    with pytest.raises(TransformError) as caught:
        check_object(obj)
    assert str(caught.value) == message


async def test_bytes_that_are_no_object(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    with pytest.raises(TransformError, match="proto: cannot parse"):
        await transformer.from_storage(b"\x0a\x7f", context=PATH)
    with pytest.raises(TransformError, match="encrypted data is empty"):
        await transformer.from_storage(b"", context=PATH)


# --- the life of a key -----------------------------------------------------------------------------------------------


async def test_plugin_is_asked_once_for_many_values(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    stored = [await transformer.to_storage(VALUE, context=PATH) for _ in range(20)]
    assert len({fields(value)[1][0][:32] for value in stored}) == 20  # a key each, derived
    assert all([(await transformer.from_storage(value, context=PATH)).value == VALUE for value in stored])
    assert plugin.calls == ["Status", "Encrypt"]
    restarted = await ready(plugin)
    assert all([(await restarted.from_storage(value, context=PATH)).value == VALUE for value in stored])
    assert plugin.calls.count("Decrypt") == 1


async def test_new_key_id_makes_old_values_stale(plugin: Plugin) -> None:
    transformer = await ready(plugin)
    old = await transformer.to_storage(VALUE, context=PATH)
    await transformer.refresh()
    assert plugin.calls.count("Encrypt") == 1
    plugin.key_id = "key-2"
    await transformer.refresh()
    assert plugin.calls.count("Encrypt") == 2
    assert await transformer.from_storage(old, context=PATH) == Opened(VALUE, is_stale=True)
    new = await transformer.to_storage(VALUE, context=PATH)
    assert fields(new)[2] == [b"key-2"]
    assert await transformer.from_storage(new, context=PATH) == Opened(VALUE, is_stale=False)


async def test_failing_decrypt_is_told(plugin: Plugin) -> None:
    stored = await (await ready(plugin)).to_storage(VALUE, context=PATH)
    restarted = await ready(plugin)
    plugin.error = (14, "away")
    with pytest.raises(TransformError) as caught:
        await restarted.from_storage(stored, context=PATH)
    assert str(caught.value) == "failed to decrypt DEK, error: rpc error: code = Unavailable desc = away"


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("healthz", "ill", "got unexpected healthz status: ill"),
        ("version", "v1", "expected KMSv2 API version v2, got v1"),
        ("key_id", "", "expected KMSv2 KeyID to be set, got keyID is empty"),
    ],
)
async def test_unhealthy_plugin(plugin: Plugin, attribute: str, value: str, message: str) -> None:
    setattr(plugin, attribute, value)
    transformer = KmsTransformer("test", KmsClient(plugin.endpoint, 2))
    with pytest.raises(TransformError) as caught:
        await transformer.refresh()
    assert str(caught.value) == f"kmsv2 Provider test is not healthy, error: {message}"
    with pytest.raises(TransformError, match="got unexpected nil transformer"):
        await transformer.to_storage(VALUE, context=PATH)


class InMemory:
    """A service without a socket, so that the clock can be moved."""

    def __init__(self) -> None:
        self.is_away = False
        self.answers_with = "k"

    async def status(self) -> PluginStatus:
        await trio.lowlevel.checkpoint()
        if self.is_away:
            raise RpcError("Unavailable", "away")
        return PluginStatus("v2", "ok", "k")

    async def encrypt(self, plaintext: SensitiveBytes, uid: str) -> WrappedKey:
        await trio.lowlevel.checkpoint()
        return WrappedKey(bytes(byte ^ 0xFF for byte in plaintext.reveal()), self.answers_with)

    async def decrypt(self, wrapped: WrappedKey, uid: str) -> SensitiveBytes:
        await trio.lowlevel.checkpoint()
        return SensitiveBytes(bytes(byte ^ 0xFF for byte in wrapped.ciphertext))


async def test_values_are_written_for_three_minutes_after_the_last_success_and_read_for_ever(
    autojump_clock: trio.testing.MockClock,
) -> None:
    service = InMemory()
    transformer = KmsTransformer("test", service)
    await transformer.refresh()
    stored = await transformer.to_storage(VALUE, context=PATH)
    service.is_away = True
    await trio.sleep(179)
    with pytest.raises(TransformError, match="is not healthy"):
        await transformer.refresh()
    await transformer.to_storage(VALUE, context=PATH)
    await trio.sleep(2)
    digest = hashlib.sha256(b"k").hexdigest()
    with pytest.raises(TransformError, match=f'^encryptedDEKSource with keyID hash "sha256:{digest}" expired at '):
        await transformer.to_storage(VALUE, context=PATH)
    await trio.sleep(7200)  # the cached key too has been forgotten
    assert await transformer.from_storage(stored, context=PATH) == Opened(VALUE, is_stale=False)
    service.is_away = False
    await transformer.refresh()
    await transformer.to_storage(VALUE, context=PATH)


async def test_service_that_wraps_with_another_key_than_it_says() -> None:
    service = InMemory()
    service.answers_with = "other"
    with pytest.raises(TransformError, match="failed to rotate DEK uid="):
        await KmsTransformer("test", service).refresh()


async def test_cancelled_refresh_leaves_the_state_whole() -> None:
    service = InMemory()
    transformer = KmsTransformer("test", service)
    for _ in range(3):
        with trio.CancelScope() as scope:
            scope.cancel()
            await transformer.refresh()
    await transformer.refresh()
    stored = await transformer.to_storage(VALUE, context=PATH)
    assert (await transformer.from_storage(stored, context=PATH)).value == VALUE
