"""The end of a volume's readability, as who has it open meets it, while agents and writers are killed."""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fusefs.running_node import RunningNode, running_node, wait_end

pytestmark = pytest.mark.fuse

UID = "0a1b2c3d-0000-4000-8000-000000000001"
PAGES = 64
ROUNDS = 12


@pytest.fixture
def node(tmp_path: Path) -> Iterator[RunningNode]:
    with running_node(tmp_path / "root") as node:
        node.call("create", pod=UID, volume="v", files={"a": "one", "b": "B" * 4096 * PAGES})
        yield node


@pytest.fixture
def volume(node: RunningNode) -> Path:
    target = node.root / "pods" / "v"
    target.mkdir(parents=True)
    node.call("attach", pod=UID, volume="v", target=str(target))
    return target


@contextlib.contextmanager
def opened(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    fd = os.open(path, flags)
    try:
        yield fd
    finally:
        os.close(fd)


def outcome(fd: int, offset: int = 0) -> str:
    """What a read gives: its first byte, or an errno's name."""
    try:
        return os.pread(fd, 1, offset).decode()
    except OSError as error:
        return errno.errorcode[error.errno or 0]


def test_reads_listings_and_opens_end_and_come_back(node: RunningNode, volume: Path) -> None:
    with opened(volume / "a") as file, opened(volume, os.O_RDONLY | os.O_DIRECTORY) as directory:
        assert outcome(file) == "o"
        assert "a" in os.listdir(directory)
        assert node.call("revoke", pod=UID, volume="v") >= 2
        assert outcome(file) == "EACCES"
        with pytest.raises(PermissionError):
            os.listdir(directory)
        with pytest.raises(PermissionError):
            (volume / "a").read_bytes()
        assert node.call("restore", pod=UID, volume="v")
        assert outcome(file) == "o"
        assert "a" in os.listdir(directory)
        assert (volume / "a").read_text() == "one"


def test_what_a_pipe_has_of_it_stays_and_does_not_keep_the_page(node: RunningNode, volume: Path) -> None:
    """A page that is in use elsewhere is a copy of its holder's. The next reader does not find it."""
    read_end, write_end = os.pipe()
    with opened(volume / "a") as file:
        assert os.splice(file, write_end, 3) == 3
        node.call("revoke", pod=UID, volume="v")
        assert outcome(file) == "EACCES"
    assert os.read(read_end, 3) == b"one"
    os.close(read_end)
    os.close(write_end)


def test_old_version_that_is_still_open_ends_as_well(node: RunningNode, volume: Path) -> None:
    with opened(volume / "a") as old:
        node.call("update", pod=UID, volume="v", files={"a": "two"})
        assert outcome(old) == "o"
        node.call("revoke", pod=UID, volume="v")
        assert outcome(old) == "EACCES"
        # The writer compares the version there is with the next one: it brings nothing back.
        node.call("update", pod=UID, volume="v", files={"a": "three"})
        assert outcome(old) == "EACCES"


def test_volume_that_goes_takes_what_is_open_with_it(node: RunningNode, volume: Path) -> None:
    with opened(volume / "a") as file:
        assert outcome(file) == "o"
        node.call("withdraw_and_remove", pod=UID, volume="v")
        assert outcome(file) == "EIO"
        with pytest.raises(OSError, match="Stale file handle"):
            os.fstat(file)


def test_next_agent_finishes_a_revocation(node: RunningNode, volume: Path) -> None:
    """The pages were not dropped yet when the agent was killed: the kernel would have served them on."""
    with opened(volume / "a") as file:
        assert outcome(file) == "o"
        agent = node.call("pids")["agent"]
        with pytest.raises(ConnectionResetError):
            node.call("die_over_revocation", pod=UID, volume="v")
        wait_end(agent)
        assert node.call("pids")["resume"]
        assert outcome(file) == "EACCES"


def test_writer_that_is_killed_over_it_is_replaced(node: RunningNode, volume: Path) -> None:
    with opened(volume / "a") as file:
        assert outcome(file) == "o"
        os.kill(node.call("pids")["writer"], signal.SIGKILL)
        node.call("revoke", pod=UID, volume="v")
        assert outcome(file) == "EACCES"


def test_nothing_hangs_when_agents_die_over_pages_that_are_being_read(node: RunningNode, volume: Path) -> None:
    """Whoever drops a page waits while it is being read, thus for an agent. That must end, whoever is killed meanwhile."""
    stopping = threading.Event()

    def read(path: Path) -> None:
        with opened(path) as fd, mmap.mmap(fd, 0, prot=mmap.PROT_READ):
            while not stopping.is_set():
                os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)  # so that each read is a request
                for page in range(0, PAGES, 8):
                    outcome(fd, page * 4096)

    readers = [threading.Thread(target=read, args=(volume / "b",), daemon=True) for _ in range(2)]
    with opened(volume / "b") as file:
        for reader in readers:
            reader.start()
        for number in range(ROUNDS):
            agent = node.call("pids")["agent"]
            killer = threading.Timer(0.002 * number, os.kill, (agent, signal.SIGKILL))
            if number % 2:
                killer.start()
            with contextlib.suppress(ConnectionResetError):
                node.call("revoke", pod=UID, volume="v")
            if number % 2:
                killer.join()
                wait_end(agent)
            node.call("revoke", pod=UID, volume="v")
            assert outcome(file) == "EACCES"
            assert node.call("restore", pod=UID, volume="v")
            assert outcome(file) == "B"
        stopping.set()
        for reader in readers:
            reader.join(20)
            assert not reader.is_alive()
    assert node.stop() == 0
