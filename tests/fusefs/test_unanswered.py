"""Crashes on kernels that do not deliver a request again: the agent keeps the one at hand where its successor finds it."""

from __future__ import annotations

import contextlib
import os
import struct
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.fusefs.unanswered import NAME, Unanswered
from kubelet_secrets.fusefs.wire import IN_HEADER, Opcode
from tests.fusefs import test_mounted
from tests.fusefs.running_node import RunningNode, running_node, wait_end

pytestmark = pytest.mark.fuse

SIZE_BYTES = 1 << 16


def request(opcode: Opcode, body: bytes) -> bytes:
    length = IN_HEADER.size + len(body)
    return IN_HEADER.pack(length, opcode, 7, 1, 0, 0, 1, 0, 0) + body


def receive(unanswered: Unanswered, data: bytes) -> None:
    """As the kernel fills the buffer: from its start, whatever is behind it stays."""
    read_fd, write_fd = os.pipe()
    os.write(write_fd, data)
    assert os.readv(read_fd, [unanswered.buffer]) == len(data)
    os.close(read_fd)
    os.close(write_fd)


def test_request_that_was_not_answered_is_found_by_the_next(store: int) -> None:
    first = Unanswered(store, size_bytes=SIZE_BYTES)
    assert first.left_behind() == 0
    lookup = request(Opcode.OPEN, b"flags---")
    receive(first, lookup)
    second = Unanswered(store, size_bytes=SIZE_BYTES)
    assert second.buffer[: second.left_behind()] == lookup
    second.done()
    assert Unanswered(store, size_bytes=SIZE_BYTES).left_behind() == 0


@pytest.mark.parametrize("opcode", [Opcode.FORGET, Opcode.BATCH_FORGET, Opcode.INTERRUPT])
def test_request_that_nobody_waits_for_is_not_done_twice(store: int, opcode: Opcode) -> None:
    receive(Unanswered(store, size_bytes=SIZE_BYTES), request(opcode, struct.pack("<Q", 1)))
    assert Unanswered(store, size_bytes=SIZE_BYTES).left_behind() == 0


def test_content_of_a_secret_does_not_stay(store: int) -> None:
    unanswered = Unanswered(store, size_bytes=SIZE_BYTES)
    receive(unanswered, request(Opcode.WRITE, b"canary-value " * 100))
    unanswered.done()
    file_fd = os.open(NAME, os.O_RDONLY, dir_fd=store)
    assert os.pread(file_fd, SIZE_BYTES, 4) == bytes(SIZE_BYTES - 4)
    assert os.fstat(file_fd).st_mode & 0o777 == 0o600
    os.close(file_fd)


# --- real mounts ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """A node that does on every kernel as it must on an old one."""
    with running_node(tmp_path_factory.mktemp("unanswered") / "root", keeps_unanswered=True) as node:
        yield node


# The same promises, kept in the other way.
node = test_mounted.node
volume = test_mounted.volume
test_readers_survive_kills_under_updates = test_mounted.test_readers_survive_kills_under_updates
test_update_ends_whole_wherever_the_agent_dies = test_mounted.test_update_ends_whole_wherever_the_agent_dies
test_open_file_reads_on_after_its_version_is_gone = test_mounted.test_open_file_reads_on_after_its_version_is_gone


def test_open_that_an_agent_died_over_is_answered_by_the_next(node: RunningNode, volume: Path) -> None:
    agent = node.call("pids")["agent"]
    with contextlib.suppress(ConnectionResetError):
        node.call("die_over_open")
    opens = "import sys; print(open(sys.argv[1]).read(), end='')"
    with subprocess.Popen(
        [sys.executable, "-c", opens, str(volume / "a")], stdout=subprocess.PIPE, text=True
    ) as reader:
        wait_end(agent)
        assert reader.communicate(timeout=120)[0] == "one"
    assert reader.returncode == 0
    assert node.call("pids")["resume"] is True


def test_file_of_the_request_is_not_in_the_filesystem(node: RunningNode, volume: Path) -> None:
    assert NAME in os.listdir(os.fsencode(f"/proc/{node.keeper.pid}/fd/{store_fd(node)}"))
    for _ in range(2):
        assert os.fsencode(NAME) not in os.listdir(os.fsencode(node.fuse))
        with pytest.raises(FileNotFoundError):
            os.stat(os.fsencode(node.fuse) + b"/" + NAME)
        node.kill_agent()


def store_fd(node: RunningNode) -> int:
    """The keeper's descriptor of the store."""
    for entry in Path(f"/proc/{node.keeper.pid}/fd").iterdir():
        with contextlib.suppress(OSError):
            if (entry / ".grave").is_dir():
                return int(entry.name)
    raise AssertionError("the keeper holds no store")
