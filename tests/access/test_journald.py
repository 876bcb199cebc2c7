"""The journal's protocol against the real thing: a journald of its own, in a mount namespace with a ``/run`` of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from kubelet_secrets.access.checking import ChainChecker
from kubelet_secrets.access.journal import MESSAGE_ID

JOURNALD = Path("/lib/systemd/systemd-journald")

pytestmark = [
    pytest.mark.fuse,  # as for that, it needs a root that may mount
    pytest.mark.skipif(not JOURNALD.exists(), reason="systemd is not installed: scripts/setup --tests"),
]

INSIDE = f"""
mount -t tmpfs tmpfs /run
mkdir -p /run/systemd/journal /run/log/journal
{JOURNALD} 2>/dev/null &
trap 'kill $!; wait' EXIT
until [ -S /run/systemd/journal/socket ]; do sleep 0.02; done
"$@"
until [ "$(journalctl -q -D /run/log/journal MESSAGE_ID={MESSAGE_ID} -o cat | grep -c "^audit trail")" = 2 ]; do
    sleep 0.05
done
journalctl -q -D /run/log/journal MESSAGE_ID={MESSAGE_ID} -o json --all
"""

WRITE = """
from datetime import UTC, datetime
from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.journal import Journal
from kubelet_secrets.access.record import AuditRecord
log, now = AuditLog(), datetime.now(UTC)
log.note(AuditRecord(time=now, kind="start", reason="agent started", pid=1))
log.note(AuditRecord(time=now, verdict="denied", reason="host process", pod="web", path="two\\nlines", pid=7, exe="/bin/cat"))
log.note(AuditRecord(time=now, verdict="denied", reason="too large for a datagram", path="directory/" * 60000))
log.note(AuditRecord(time=now, kind="stop", reason="agent stopped", pid=1))
assert Journal().write(log.entries()) == 4
"""


def test_journald_takes_every_record_apart_as_it_was_meant() -> None:
    done = subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "bash", "-c", INSIDE, "-", sys.executable, "-c", WRITE],
        capture_output=True,
        text=True,
        timeout=60,
        env=dict(os.environ, LC_ALL="C.UTF-8"),
    )
    assert done.returncode == 0, done.stderr
    entries = [json.loads(line) for line in done.stdout.splitlines()]
    assert [entry["KUBELET_SECRETS_KIND"] for entry in entries] == ["start", "open", "open", "stop"]
    assert [entry["PRIORITY"] for entry in entries] == ["5"] * 4
    assert {entry["SYSLOG_IDENTIFIER"] for entry in entries} == {"kubelet-secrets"}
    refused, large = entries[1:3]
    assert refused["KUBELET_SECRETS_PATH"] == "two\nlines"
    assert (refused["KUBELET_SECRETS_VERDICT"], refused["KUBELET_SECRETS_EXE"]) == ("denied", "/bin/cat")
    assert large["KUBELET_SECRETS_PATH"] == "directory/" * 60_000
    checker = ChainChecker()
    for entry in entries:
        checker.feed(entry["KUBELET_SECRETS_RECORD"].encode(), "")
    assert checker.finish() == []
