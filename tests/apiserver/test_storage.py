"""The store as a model: revisions, history, compaction - in memory and over a journal that is killed."""

from __future__ import annotations

import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from kubelet_secrets.apiserver.encryption import Opened, Transformer, TransformError
from kubelet_secrets.apiserver.encryption_providers import make_transformer
from kubelet_secrets.apiserver.encryptionconfig import Cipher, CipherProvider, Key
from kubelet_secrets.apiserver.journal import FORMAT, open_journal
from kubelet_secrets.apiserver.storage import ABSENT, Change, Compacted, Record, RevisionMismatch, Storage
from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.test_encryption_providers import no_kms

A, B = "/registry/secrets/default/a", "/registry/secrets/default/b"


@asynccontextmanager
async def durable(directory: Path, **options: int) -> AsyncIterator[Storage]:
    journal = open_journal(directory)
    storage = Storage(journal=journal, **options)  # type: ignore[arg-type]
    journal.load_into(storage)
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        yield storage
        nursery.cancel_scope.cancel()
    journal.close()


async def test_write_needs_the_revision_that_was_read() -> None:
    storage = Storage()
    first = await storage.write(A, b"1", expected=ABSENT)
    with pytest.raises(RevisionMismatch):
        await storage.write(A, b"2", expected=ABSENT)
    with pytest.raises(RevisionMismatch):
        await storage.write(A, b"2", expected=first.revision + 1)
    second = await storage.write(A, b"2", expected=first.revision)
    assert (second.revision, second.create_revision) == (first.revision + 1, first.create_revision)


async def test_deleted_key_can_be_created_again_with_a_new_create_revision() -> None:
    storage = Storage()
    first = await storage.write(A, b"1", expected=ABSENT)
    await storage.write(A, None, expected=first.revision)
    assert storage.get(A) is None
    again = await storage.write(A, b"2", expected=ABSENT)
    assert again.create_revision == again.revision == 3


async def test_list_as_of_an_older_revision() -> None:
    storage = Storage()
    await storage.write(A, b"1", expected=ABSENT)
    await storage.write(B, b"1", expected=ABSENT)
    await storage.write(A, b"2", expected=1)
    await storage.write(B, None, expected=2)

    def seen(revision: int) -> dict[str, bytes | None]:
        return {record.key: record.stored for record in storage.records("/registry/secrets/", revision)}

    assert seen(4) == {A: b"2"}
    assert seen(3) == {A: b"2", B: b"1"}
    assert seen(2) == {A: b"1", B: b"1"}
    assert seen(1) == {A: b"1"}


async def test_compacted_history_is_refused_and_state_at_its_edge_is_not() -> None:
    storage = Storage()
    for number in range(5):
        await storage.write(A, b"%d" % number, expected=number and storage.revision)
    storage.compact(3)
    with pytest.raises(Compacted):
        storage.history_since(2)
    assert [record.revision for record, _ in storage.history_since(3)] == [4, 5]
    assert [record.stored for record in storage.records("/registry/secrets/", 3)] == [b"2"]


async def test_history_is_bounded_by_count_and_by_bytes() -> None:
    storage = Storage(history_limit=10)
    for number in range(100):
        await storage.write(A, b"x", expected=number and storage.revision)
    assert storage.revision - storage.compacted <= 10
    storage = Storage(history_limit_bytes=1000)
    for number in range(100):
        await storage.write(A, b"x" * 100, expected=number and storage.revision)
    assert storage.revision - storage.compacted <= 10
    assert storage.compacted < storage.revision


async def test_listeners_hear_every_commit_in_order_with_what_it_replaced() -> None:
    storage = Storage()
    heard: list[Change] = []
    storage.add_listener(heard.append)
    await storage.write(A, b"1", expected=ABSENT)
    await storage.write(A, b"2", expected=1, previous=b"1")
    await storage.write(A, None, expected=2, previous=b"2")
    assert heard == [
        Change(A, 1, b"1", None, 0),
        Change(A, 2, b"2", b"1", 1),
        Change(A, 3, None, b"2", 2),
    ]


async def test_values_pass_the_transformer_with_their_key_as_context() -> None:
    class Reversing:
        async def to_storage(self, value: bytes, *, context: bytes) -> bytes:
            await trio.lowlevel.checkpoint()
            return context + value[::-1]

        async def from_storage(self, stored: bytes, *, context: bytes) -> Opened:
            if not stored.startswith(context):
                raise TransformError("wrong context")
            return Opened(stored[len(context) :][::-1], is_stale=False)

    def choose(plural: str) -> Transformer:
        assert plural == "secrets"
        return Reversing()

    storage = Storage(transformer_for=choose)
    record = await storage.write(A, b"abc", expected=ABSENT)
    assert record.stored == A.encode() + b"cba"
    assert (await storage.open(record)).value == b"abc"


async def test_journal_survives_reopening(tmp_path: Path) -> None:
    async with durable(tmp_path) as storage:
        await storage.write(A, b"1", expected=ABSENT)
        await storage.write(B, b"1", expected=ABSENT)
        await storage.write(A, b"2", expected=1)
        await storage.write(B, None, expected=2)
    async with durable(tmp_path) as storage:
        assert storage.revision == 4
        record = storage.get(A)
        assert record is not None
        assert (record.stored, record.revision, record.create_revision) == (b"2", 3, 1)
        assert storage.get(B) is None
        assert [record.revision for record, _ in storage.history_since(1)] == [2, 3, 4]
        assert (await storage.write(B, b"3", expected=ABSENT)).revision == 5


async def test_compaction_reaches_the_journal_and_keeps_the_state(tmp_path: Path) -> None:
    async with durable(tmp_path, history_limit=4) as storage:
        for number in range(20):
            await storage.write(A, b"%d" % number, expected=number and storage.revision)
        await storage.write(B, b"gone", expected=ABSENT)
        await storage.write(B, None, expected=storage.revision)
        storage.compact(storage.revision)
        compacted = storage.compacted
        await storage.write(A, b"after", expected=20)
    async with durable(tmp_path) as storage:
        assert storage.compacted == compacted
        record = storage.get(A)
        assert record is not None
        assert record.stored == b"after"
        assert storage.get(B) is None
        assert [record.revision for record, _ in storage.history_since(compacted)] == [compacted + 1]
    with sqlite3.connect(tmp_path / "state.db") as connection:
        assert connection.execute("SELECT count(*) FROM kv").fetchone() == (2,)
    connection.close()


async def test_compacting_everything_keeps_the_revision(tmp_path: Path) -> None:
    """Else a restarted server would hand out revisions a second time."""
    async with durable(tmp_path) as storage:
        await storage.write(A, b"1", expected=ABSENT)
        await storage.write(A, None, expected=1)
        storage.compact(2)
        with trio.fail_after(60):
            while storage._compacted_in_journal < 2:  # noqa: ASYNC110 - the store tells nobody
                await trio.sleep(0.005)
    async with durable(tmp_path) as storage:
        assert (storage.revision, storage.compacted) == (2, 2)


async def test_second_server_on_the_same_directory_is_refused(tmp_path: Path) -> None:
    async with durable(tmp_path):
        with pytest.raises(HostError, match="another server uses it"):
            open_journal(tmp_path)


def test_foreign_file_is_refused_in_one_line(tmp_path: Path) -> None:
    (tmp_path / "state.db").write_bytes(b"not a database" * 100)
    with pytest.raises(HostError, match="not a readable store"):
        open_journal(tmp_path)


async def test_a_store_of_the_first_servers_opens(tmp_path: Path) -> None:
    """What they wrote, word for word: a format is what lies on somebody's disk, not what the code says today."""
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(
            """
            CREATE TABLE kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, create_rev INTEGER NOT NULL, value BLOB);
            CREATE INDEX kv_key ON kv (key, rev);
            CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
            INSERT INTO kv VALUES (3, '/registry/secrets/ns/a', 3, x'61'), (4, '/registry/secrets/ns/b', 4, x'62');
            INSERT INTO facts VALUES ('compacted', 2);
            """
        )
    async with durable(tmp_path) as storage:
        assert (storage.revision, storage.compacted) == (4, 2)
        assert [record.stored for record in storage.records("/registry/secrets/")] == [b"a", b"b"]
        await storage.write(A, b"1", expected=ABSENT if storage.get(A) is None else 3)
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        assert connection.execute("PRAGMA user_version").fetchone() == (FORMAT,)


async def test_keys_of_the_first_format_become_kube_apiservers(tmp_path: Path) -> None:
    """Nodes and services had their plurals in them. Their values, encrypted for those, open still, and are stale."""
    gcm = make_transformer([CipherProvider(Cipher.AESGCM, (Key("k", SensitiveBytes(bytes(32))),))], no_kms)
    former = {
        "/registry/nodes/n": "/registry/minions/n",
        "/registry/services/specs/s": "/registry/services/specs/specs/s",
    }
    rows = []
    for revision, key in enumerate([*former, "/registry/secrets/nodes/x"], 1):
        rows.append((revision, key, revision, await gcm.to_storage(key.encode(), context=key.encode())))
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(
            """
            CREATE TABLE kv (rev INTEGER PRIMARY KEY, key TEXT NOT NULL, create_rev INTEGER NOT NULL, value BLOB);
            CREATE TABLE facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
            PRAGMA user_version = 1;
            """
        )
        connection.executemany("INSERT INTO kv VALUES (?, ?, ?, ?)", rows)
        connection.commit()
    for _ in range(2):  # once renamed, they stay
        with closing(open_journal(tmp_path)) as journal:
            storage = Storage(transformer_for=lambda _plural: gcm)
            journal.load_into(storage)
        for old, new in former.items():
            record = storage.get(new)
            assert record is not None, new
            assert await storage.open(record) == (old.encode(), True)
        assert storage.get("/registry/secrets/nodes/x") is not None
    moved = Record("/registry/minions/other", 9, 9, rows[0][3])
    with pytest.raises(TransformError, match="message authentication failed"):
        await storage.open(moved)


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        ("PRAGMA user_version = 7", "has format 7, which a newer version wrote; this one reads up to 2"),
        ("CREATE TABLE users (name TEXT)", "is another program's database"),
    ],
)
def test_a_store_that_is_not_ours_is_refused_and_left_alone(tmp_path: Path, script: str, reason: str) -> None:
    with closing(sqlite3.connect(tmp_path / "state.db")) as connection:
        connection.executescript(script)
    before = (tmp_path / "state.db").read_bytes()
    with pytest.raises(HostError, match=reason):
        open_journal(tmp_path)
    assert (tmp_path / "state.db").read_bytes() == before


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    open_journal(tmp_path / "data").close()
    assert (tmp_path / "data").stat().st_mode & 0o777 == 0o700
    assert (tmp_path / "data" / "state.db").stat().st_mode & 0o777 == 0o600


async def test_concurrent_writers_of_one_key_win_one_at_a_time(tmp_path: Path) -> None:
    async with durable(tmp_path) as storage:
        await storage.write(A, b"0", expected=ABSENT)
        conflicts = 0

        async def increment() -> None:
            nonlocal conflicts
            while True:
                record = storage.get(A)
                assert record is not None
                assert record.stored is not None
                try:
                    await storage.write(A, b"%d" % (int(record.stored) + 1), expected=record.revision)
                    return
                except RevisionMismatch:
                    conflicts += 1

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(increment)
        record = storage.get(A)
        assert record is not None
        assert record.stored == b"10"
        assert conflicts > 0


async def test_failing_journal_fails_the_write_and_changes_nothing(tmp_path: Path) -> None:
    from kubelet_secrets.apiserver.storage import StorageFailed

    class Full:
        def append(self, records: list[Record]) -> None:
            raise OSError("disk full")

        def compact(self, revision: int) -> None:
            raise AssertionError

    storage = Storage(journal=Full())  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        await nursery.start(storage.run)
        with pytest.raises(StorageFailed):
            await storage.write(A, b"1", expected=ABSENT)
        assert storage.get(A) is None
        assert storage.revision == 0
        nursery.cancel_scope.cancel()


async def test_cancelled_write_is_done_wholly_or_not_at_all(tmp_path: Path) -> None:
    async with durable(tmp_path) as storage:
        with trio.CancelScope() as scope:
            scope.cancel()
            await storage.write(A, b"1", expected=ABSENT)
        with trio.fail_after(60):
            while storage.get(A) is None:  # noqa: ASYNC110 - it was queued: the writer finishes it
                await trio.sleep(0.005)
        assert storage.revision == 1
    async with durable(tmp_path) as storage:
        assert storage.get(A) is not None


writes = st.lists(st.tuples(st.sampled_from("abc"), st.one_of(st.none(), st.binary(max_size=3))), max_size=40)


@settings(max_examples=60, deadline=None)
@given(writes, st.integers(0, 40))
async def test_any_sequence_of_writes_is_what_a_dictionary_says(
    steps: list[tuple[str, bytes | None]], compacted: int
) -> None:
    """Model: a dictionary per revision; every retained revision must list as it was, after compaction too."""
    storage = Storage()
    state: dict[str, bytes] = {}
    states = [dict(state)]
    for name, value in steps:
        key = f"/registry/configmaps/ns/{name}"
        record = storage.get(key)
        if value is None and record is None:
            with pytest.raises(RevisionMismatch):
                await storage.write(key, b"", expected=99)
            continue
        await storage.write(key, value, expected=record.revision if record else ABSENT)
        if value is None:
            del state[key]
        else:
            state[key] = value
        states.append(dict(state))
    assert storage.revision == len(states) - 1
    storage.compact(compacted)
    for revision in range(storage.compacted, storage.revision + 1):
        listed = storage.records("/registry/configmaps/", revision)
        assert {record.key: record.stored for record in listed} == states[revision]
