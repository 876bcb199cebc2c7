"""The audit trail of a whole node: kept in a file and told to a journal, through a crash of the agent, and checked."""

from __future__ import annotations

import gzip
import os
import shutil
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import trio

from kubelet_secrets.access.record import AuditRecord, read_line
from tests.cli.command import run_cli, the_line
from tests.e2e.stacks import Cluster, Node, container, mount, open_cluster, secret_volume

PROCESSES = 80

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def journal(place: Path) -> Iterator[list[bytes]]:
    """What a journald would have received so far."""
    entries: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listener:
        listener.bind(str(place / "journal"))

        def receive() -> None:
            while entry := listener.recv(1 << 20):
                entries.append(entry)

        thread = threading.Thread(target=receive, daemon=True)
        thread.start()
        yield entries
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as last:
            last.sendto(b"", str(place / "journal"))
        thread.join(30)


@pytest.fixture(scope="module")
def node(place: Path, journal: list[bytes], make_stack: Callable[..., Node]) -> Node:
    return make_stack("--audit-file", str(place / "audit.log"), "--audit-journal", str(place / "journal"))


def records(file: Path) -> list[AuditRecord]:
    # A line that is being written is none yet.
    *lines, _ = file.read_bytes().split(b"\n")
    return [read_line(line).record for line in lines]


async def wait_recorded(file: Path, wanted: Callable[[AuditRecord], bool]) -> None:
    with trio.fail_after(60):
        while not any(wanted(record) for record in records(file)):  # noqa: ASYNC110
            await trio.sleep(0.05)


def opens(file: Path, behind: int) -> int:
    """How many opens of the key by the container are recorded behind a record."""
    mine = [each for each in records(file) if each.seq > behind and each.allowed and each.path == "key"]
    return sum(each.count for each in mine if each.container == "default/audited/app")


async def read_and_be_refused(cluster: Cluster, pod: str) -> None:
    assert await cluster.exec(pod, "cat /v/key") == "value-of-the-audit-test"
    path = cluster.volume_dir(await cluster.pod(pod), "v") / "key"
    done = await trio.run_process(["cat", str(path)], check=False, capture_stderr=True)
    assert b"Permission denied" in done.stderr


async def test_the_trail_is_kept_told_and_checked(node: Node, place: Path, journal: list[bytes]) -> None:
    file = place / "audit.log"
    async with open_cluster(node) as cluster:
        await cluster.put_secret("audited", {"key": "value-of-the-audit-test"})
        await cluster.run_pod(
            "audited", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "audited")]
        )
        await read_and_be_refused(cluster, "audited")
        await wait_recorded(file, lambda record: record.is_denied and record.exe.endswith("/cat"))
        before = node.status()
        assert before.audit is not None
        assert [copy.name for copy in before.audit.copies] == ["file", "journal"]

        # A crash: the next agent goes on where this one was, and says that it does.
        os.kill(before.agent_pid, signal.SIGKILL)
        after = await node.wait_agent(other_than=before.agent_pid)
        assert after.audit is not None
        assert after.audit.head > before.audit.head
        shown = node.cli("audit")
        assert "agent took over: the one before ended without a word" in shown.stdout
        assert shown.stdout.index("/cat") < shown.stdout.index("took over"), "what the first one saw is still shown"
        assert "no record dropped" in shown.stdout.splitlines()[-3]
        await read_and_be_refused(cluster, "audited")
        await wait_recorded(file, lambda record: record.seq > after.audit.head and record.is_denied)
        # A process for each open: every one is counted, however they are folded.
        await cluster.exec("audited", f"for i in $(seq {PROCESSES}); do cat /v/key >/dev/null; done")
        with trio.fail_after(60):
            while opens(file, after.audit.head) != PROCESSES + 1:  # noqa: ASYNC110
                await trio.sleep(0.05)
        live = node.cli("audit", "--check")
        assert (live.returncode, live.stderr) == (0, "")
        assert "2 starts of an agent, 1 of them after one that was killed" in live.stdout
        assert "the chain is whole" in live.stdout

        kept = node.cli("audit", "--check", str(file))
        assert kept.returncode == 0, kept.stdout + kept.stderr
        assert "the end is what the running agent has" in kept.stdout
        status = node.cli("status").stdout
        assert "audit trail: " in status
        assert f"audit file {file}: has record " in status

        # Rotated, and cut: with the agent's word for the end also the last line is missed.
        file.rename(place / "audit.log.1")
        await read_and_be_refused(cluster, "audited")
        await wait_recorded_anew(file)
        both = node.cli("audit", "--check", str(file), str(place / "audit.log.1"))
        assert both.returncode == 0, both.stdout + both.stderr
        cut = place / "kept"
        shutil.copy(file, cut)
        os.truncate(file, 0)
        missing = node.cli("audit", "--check", str(file), str(place / "audit.log.1"))
        assert missing.returncode == 1
        assert "are missing at the end, says the agent" in missing.stdout
        file.write_bytes(cut.read_bytes())
        with trio.fail_after(60):
            while sum(b"KUBELET_SECRETS_KIND=start" in entry for entry in journal) < 2:  # noqa: ASYNC110
                await trio.sleep(0.05)
    told = b"".join(journal)
    assert b"KUBELET_SECRETS_POD=audited" in told
    everything = told + b"".join(path.read_bytes() for path in place.glob("audit.log*"))
    assert b"value-of-the-audit-test" not in everything


async def wait_recorded_anew(file: Path) -> None:
    with trio.fail_after(60):
        while not file.exists() or not any(record.is_denied for record in records(file)):  # noqa: ASYNC110
            await trio.sleep(0.05)


def test_files_are_checked_without_an_agent(node: Node, place: Path, tmp_path: Path) -> None:
    whole = tmp_path / "audit.log"
    lines = (place / "audit.log.1").read_bytes().splitlines(keepends=True)
    whole.write_bytes(b"".join(lines))
    socket_option = ("--socket", tmp_path / "nobody")
    done = run_cli("audit", "--check", whole, *socket_option)
    assert done.returncode == 0
    assert "nothing vouches for the end: no running agent writes this file" in done.stdout
    zipped = tmp_path / "audit.log.1.gz"
    zipped.write_bytes(gzip.compress(b"".join(lines[:3])))
    whole.write_bytes(b"".join(lines[3:]))
    assert run_cli("audit", "--check", whole, zipped, *socket_option).returncode == 0
    whole.write_bytes(b"".join(lines[4:]))
    done = run_cli("audit", "--check", whole, zipped, *socket_option)
    assert done.returncode == 1
    assert "record 4 is missing before this line" in done.stdout
    assert done.stdout.splitlines()[-1] == "the chain is BROKEN"
    done = run_cli("audit", whole, "--denied", "-o", "json", *socket_option)
    assert {read_line(line.encode()).record.verdict for line in done.stdout.splitlines()} == {"denied"}
    done = run_cli("audit", "--check", "-", *socket_option, stdin=b"".join(lines).decode())
    assert done.returncode == 0


def test_what_cannot_be_checked(tmp_path: Path) -> None:
    (tmp_path / "empty").touch()
    done = run_cli("audit", "--check", tmp_path / "empty")
    assert (done.returncode, the_line(done)) == (2, "kubelet-secrets: there is no audit record")
    done = run_cli("audit", "--check", tmp_path / "absent")
    assert done.returncode == 2
    assert the_line(done) == f"kubelet-secrets: cannot read {tmp_path}/absent: No such file or directory"
    done = run_cli("audit", "--check", "--socket", tmp_path / "nobody")
    assert done.returncode == 2, "that nobody answers says nothing about the chain"
    assert "no agent at" in the_line(done)
    (tmp_path / "bad.gz").write_bytes(b"\x1f\x8b\x08")
    assert run_cli("audit", tmp_path / "bad.gz").returncode == 2
    for words in (("--follow", "--check"), ("--check", "--denied"), ("--follow", "file")):
        assert run_cli("audit", *words).returncode == 2
