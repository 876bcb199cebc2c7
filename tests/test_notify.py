"""sd_notify, both ends."""

from __future__ import annotations

from kubelet_secrets.notify import NotifySocket, notify, parse_notification


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
