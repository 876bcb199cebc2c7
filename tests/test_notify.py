"""sd_notify, both ends."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import textwrap

import pytest

from kubelet_secrets.notify import (
    NotifySocket,
    forget_descriptors,
    notify,
    parse_notification,
    store_descriptors,
    take_descriptors,
    watchdog_interval_s,
)


def test_message_arrives() -> None:
    supervisor = NotifySocket()
    try:
        assert notify("READY=1\nSTATUS=fine", {"NOTIFY_SOCKET": supervisor.address})
        assert parse_notification(supervisor.socket.recv(4096)) == {"READY": "1", "STATUS": "fine"}
    finally:
        supervisor.close()


def test_without_a_supervisor_nothing_is_said() -> None:
    assert not notify("READY=1", {})


def test_a_supervisor_that_went_away_is_no_error() -> None:
    supervisor = NotifySocket()
    supervisor.close()
    assert not notify("READY=1", {"NOTIFY_SOCKET": supervisor.address})


def test_lines_without_assignment_are_ignored() -> None:
    assert parse_notification(b"READY=1\nnoise\n") == {"READY": "1"}


def test_supervisor_that_does_not_read_holds_nobody_up() -> None:
    supervisor = NotifySocket()
    try:
        environ = {"NOTIFY_SOCKET": supervisor.address}
        told = [notify("STATUS=again", environ, may_be_lost=True) for _ in range(1000)]
        assert told[0]
        assert not told[-1]
    finally:
        supervisor.close()


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        pytest.param({}, None, id="not-asked"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 30.0, id="asked"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="another-process-is-asked"),
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="off"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="nonsense"),
    ],
)
def test_watchdog_interval(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ) == interval_s


def test_descriptors_go_to_the_supervisor_by_name() -> None:
    supervisor = NotifySocket()
    read_fd, write_fd = os.pipe()
    try:
        assert store_descriptors({"pipe": write_fd}, {"NOTIFY_SOCKET": supervisor.address})
        data, (received,), _, _ = socket.recv_fds(supervisor.socket, 4096, 2)
        assert parse_notification(data) == {"FDSTORE": "1", "FDNAME": "pipe", "FDPOLL": "0"}
        os.write(received, b"through")
        os.close(received)
        assert os.read(read_fd, 100) == b"through"
        forget_descriptors(["pipe"], {"NOTIFY_SOCKET": supervisor.address})
        assert parse_notification(supervisor.socket.recv(4096)) == {"FDSTOREREMOVE": "1", "FDNAME": "pipe"}
    finally:
        supervisor.close()
        os.close(read_fd)
        os.close(write_fd)


def test_descriptors_survive_an_exec_under_their_names() -> None:
    """In a process of their own: numbers from 3 on are overwritten."""
    script = """
        import os, sys
        from kubelet_secrets.notify import put_descriptors, take_descriptors
        if len(sys.argv) > 1:
            taken = take_descriptors()
            assert not [name for name in os.environ if name.startswith("LISTEN_")]
            assert not any(os.get_inheritable(fd) for fd in taken.values())
            print({name: os.pread(fd, 100, 0).decode() for name, fd in taken.items()}, take_descriptors())
        else:
            descriptors = {}
            for name in ("a", "b", "c"):
                descriptors[name] = os.memfd_create(name)
                os.write(descriptors[name], name.encode())
            environ = dict(os.environ)
            put_descriptors(dict(reversed(descriptors.items())), environ)
            os.execve(sys.executable, [sys.executable, "-c", sys.orig_argv[2], "again"], environ)
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, capture_output=True, text=True)
    assert done.stdout == "{'c': 'c', 'b': 'b', 'a': 'a'} {}\n"


def test_descriptors_for_another_process_are_not_ours() -> None:
    environ = {"LISTEN_PID": "1", "LISTEN_FDS": "1", "LISTEN_FDNAMES": "x", "OTHER": "stays"}
    assert take_descriptors(environ) == {}
    assert environ == {"OTHER": "stays"}
