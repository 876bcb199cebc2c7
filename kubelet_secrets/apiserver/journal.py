"""The store's file: every revision a row of one SQLite table, in the transformer's stored form.

Write-ahead log with ``synchronous=FULL``: an append that has returned survives a power cut. One process owns the file (an
exclusive lock, held while it is open); calls come from worker threads, one at a time. Deleted rows are overwritten on disk.

Not here: what a row means (``storage.py``).
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

from kubelet_secrets.apiserver.storage import Record, Storage
from kubelet_secrets.apiserver.storagepaths import FORMER_PREFIXES, prefix_of
from kubelet_secrets.errors import HostError

FILE_NAME = "state.db"
FORMAT = 2
"""Of the file, in SQLite's ``user_version``. 0, which the first servers left there, is the same as 1.

2: keys are kube-apiserver's for every resource. What had others before is renamed when the file is opened; under which key its
value was encrypted, ``storagepaths.former_key`` tells."""
_RENAME = "UPDATE kv SET key = ? || substr(key, ?) WHERE substr(key, 1, ?) = ?"
_SCHEMA = """
CREATE TABLE IF NOT EXISTS kv (
    rev INTEGER PRIMARY KEY,
    key TEXT NOT NULL,
    create_rev INTEGER NOT NULL,
    value BLOB
);
CREATE INDEX IF NOT EXISTS kv_key ON kv (key, rev);
CREATE TABLE IF NOT EXISTS facts (name TEXT PRIMARY KEY, value INTEGER NOT NULL);
"""
# What only versions at or before a revision need: deletions, and versions that a later one, still at or before it, replaced.
_COMPACT = """
DELETE FROM kv WHERE rev <= :rev AND (
    value IS NULL OR EXISTS (SELECT 1 FROM kv AS newer WHERE newer.key = kv.key AND newer.rev > kv.rev AND newer.rev <= :rev)
)
"""


class SqliteJournal:
    """See the module's text. Use :func:`open_journal`."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def append(self, records: Sequence[Record]) -> None:
        rows = [(record.revision, record.key, record.create_revision, record.stored) for record in records]
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.executemany("INSERT INTO kv (rev, key, create_rev, value) VALUES (?, ?, ?, ?)", rows)
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise OSError(f"journal: {error.sqlite_errorname}") from None

    def compact(self, revision: int) -> None:
        try:
            self._connection.execute("BEGIN IMMEDIATE")
            self._connection.execute(_COMPACT, {"rev": revision})
            self._connection.execute("INSERT OR REPLACE INTO facts VALUES ('compacted', ?)", (revision,))
            self._connection.execute("COMMIT")
        except sqlite3.Error as error:
            self._roll_back()
            raise OSError(f"journal: {error.sqlite_errorname}") from None

    def _roll_back(self) -> None:
        if self._connection.in_transaction:
            self._connection.execute("ROLLBACK")

    def load_into(self, storage: Storage) -> None:
        """Fill an empty *storage* with what the file holds."""
        fact = self._connection.execute("SELECT value FROM facts WHERE name = 'compacted'").fetchone()
        with closing(self._connection.execute("SELECT key, rev, create_rev, value FROM kv ORDER BY rev")) as rows:
            storage.load([Record(*row) for row in rows], compacted=fact[0] if fact else 0)

    def live_values(self) -> Iterator[tuple[str, bytes]]:
        """(key, stored bytes) of every object there is."""
        newest = "SELECT key, value FROM kv WHERE rev IN (SELECT max(rev) FROM kv GROUP BY key) AND value IS NOT NULL"
        with closing(self._connection.execute(newest)) as rows:
            yield from rows

    def close(self) -> None:
        """Fold the log into the file and release it."""
        self._connection.close()


def open_journal(directory: Path) -> SqliteJournal:
    """Open or create the file in *directory*, both for their owner alone.

    Raises:
        HostError: the directory cannot be used, the file is no journal or a newer one, or another server has it.
    """
    path = directory / FILE_NAME
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    except OSError as error:
        raise HostError(f"data directory {directory}: {error.strerror}") from None
    connection = sqlite3.connect(path, timeout=0, isolation_level=None, check_same_thread=False)
    try:
        connection.execute("PRAGMA locking_mode=EXCLUSIVE")
        if problem := _format_problem(connection):  # before anything changes the file
            connection.close()
            raise HostError(f"data directory {directory}: {problem}")
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")
        connection.executescript(f"BEGIN EXCLUSIVE;{_SCHEMA}")
        if connection.execute("PRAGMA user_version").fetchone()[0] < FORMAT:
            for plural, former in FORMER_PREFIXES.items():
                connection.execute(_RENAME, (prefix_of(plural), len(former) + 1, len(former), former))
        connection.execute(f"PRAGMA user_version={FORMAT}")
        connection.execute("COMMIT")
    except sqlite3.Error as error:
        connection.close()
        is_locked = error.sqlite_errorname.startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
        reason = "another server uses it" if is_locked else f"not a readable store ({error.sqlite_errorname})"
        raise HostError(f"data directory {directory}: {reason}") from None
    return SqliteJournal(connection)


def _format_problem(connection: sqlite3.Connection) -> str:
    """Why this program must not touch the file; empty when it is new, or of a format that it reads."""
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > FORMAT:
        return (
            f"{FILE_NAME} has format {found}, which a newer version wrote; this one reads up to {FORMAT}: start the newer "
            "version, or use another directory"
        )
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    if tables and not {"kv", "facts"} <= tables:
        return f"{FILE_NAME} is another program's database"
    return ""
