"""The audit trail in journald: each record as a journal entry with fields of its own.

The native protocol: one datagram per entry to the journal's socket, ``NAME=value`` lines; an entry that is too large for a
datagram travels as a sealed memfd. Source: systemd's docs/JOURNAL_NATIVE_PROTOCOL.md; systemd.journal-fields(7).

::

    journalctl MESSAGE_ID=a5dd6ca1e6c24df1a2ea2b29a6cc2b43 KUBELET_SECRETS_VERDICT=denied
    journalctl MESSAGE_ID=a5dd6ca1e6c24df1a2ea2b29a6cc2b43 -o json --all | jq -r .KUBELET_SECRETS_RECORD |
        kubelet-secrets audit --check -

Blocking, for at most ``_SEND_TIMEOUT_S``. Called by ``outlets`` in a worker thread.
"""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

from kubelet_secrets.access.record import AuditRecord, Entry, Kind

SOCKET = Path("/run/systemd/journal/socket")
MESSAGE_ID = "a5dd6ca1e6c24df1a2ea2b29a6cc2b43"
_SEND_TIMEOUT_S = 5.0
_NOTICE, _INFO = 5, 6  # syslog priorities
_FIELDS = (
    *("seq", "kind", "verdict", "reason", "namespace", "pod", "pod_uid", "volume", "path", "version", "container"),
    *("container_id", "tid", "pid", "uid", "exe", "user", "count", "merged", "outlet", "first", "last", "chain"),
)
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


def is_logged_to_journal(environ: Mapping[str, str], stderr_fd: int = 2) -> bool:
    """Whether this process's standard error is the journal: a unit of systemd's, not a shell that one started.

    Source: systemd.exec(5), $JOURNAL_STREAM.
    """
    try:
        status = os.fstat(stderr_fd)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def journal_socket(wanted: str, environ: Mapping[str, str]) -> Path | None:
    """Where the journal is to be told.

    Args:
        wanted: ``auto``, ``off``, or the path of a socket.
    """
    if wanted == "auto":
        return SOCKET if is_logged_to_journal(environ) else None
    return None if wanted == "off" else Path(wanted)


class Journal:
    """The journal's socket; connected anew for each batch, so that a restart of journald does not matter."""

    name = "journal"

    def __init__(self, path: Path = SOCKET) -> None:
        self.path = path

    def write(self, entries: Sequence[Entry]) -> int:
        """Hand over *entries* in order.

        Returns:
            How many the journal took: fewer than all, if it stopped taking them.

        Raises:
            OSError: it took none.
        """
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
            sender.settimeout(_SEND_TIMEOUT_S)
            sender.connect(os.fspath(self.path))
            for number, entry in enumerate(entries):
                try:
                    _send(sender, encode_fields(journal_fields(entry)))
                except OSError:
                    if number:
                        return number
                    raise
        return len(entries)

    def close(self) -> None:
        """Nothing is held."""


def journal_fields(entry: Entry) -> dict[str, str]:
    """What one record is in the journal; fields that a record does not use are left out."""
    record = entry.record
    fields = {
        "MESSAGE": _message(record),
        "MESSAGE_ID": MESSAGE_ID,
        "PRIORITY": str(_NOTICE if record.is_denied or not record.verdict else _INFO),
        "SYSLOG_IDENTIFIER": "kubelet-secrets",
        "SYSLOG_TIMESTAMP": record.time.isoformat(),
    }
    for name in _FIELDS:
        value = getattr(record, name)
        if value not in ("", 0) or name == "uid":
            fields[f"KUBELET_SECRETS_{name.upper()}"] = str(value)
    fields["KUBELET_SECRETS_RECORD"] = entry.line.decode()
    return fields


def encode_fields(fields: Mapping[str, str]) -> bytes:
    """One entry as journald reads it: a value with a newline goes behind its length."""
    parts = []
    for name, value in fields.items():
        data = value.encode("utf-8", "backslashreplace")
        if b"\n" in data:
            parts.append(name.encode() + b"\n" + struct.pack("<Q", len(data)) + data + b"\n")
        else:
            parts.append(name.encode() + b"=" + data + b"\n")
    return b"".join(parts)


def _message(record: AuditRecord) -> str:
    if not record.verdict:
        return f"audit trail: {record.reason}"
    if record.kind == Kind.EXEC:
        return f"{record.verdict} exec in {record.container} by user {record.user}: {record.reason}"
    if record.kind == Kind.ASK:
        return (
            f"{record.verdict} question to the agent by {record.container or f'process {record.pid}'}: {record.reason}"
        )
    who = record.container or f"host process {record.pid} ({record.exe or 'unknown'})"
    if record.merged and not record.container:
        who += " and others"
    times = f", {record.count} times" if record.count > 1 else ""
    file = "/".join(part for part in (record.namespace, record.pod, record.volume, record.path) if part) or "/"
    return f"{record.verdict} {record.kind} of {file} by {who}{times}: {record.reason}"


def _send(sender: socket.socket, datagram: bytes) -> None:
    try:
        sender.send(datagram)
    except OSError as error:
        if error.errno not in (errno.EMSGSIZE, errno.ENOBUFS):
            raise
        _send_file(sender, datagram)


def _send_file(sender: socket.socket, entry: bytes) -> None:
    descriptor = os.memfd_create("journal-entry", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        os.write(descriptor, entry)
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, _SEALS)
        socket.send_fds(sender, [b""], [descriptor])
    finally:
        os.close(descriptor)
