"""Tell the supervisor that started us how we are: systemd's ``sd_notify`` protocol, one datagram.

Used by the keeper and by the API server towards systemd (``Type=notify``), and by ``kubelet-secrets up`` and ``demo``, which
are the supervisor themselves (:class:`NotifySocket`). Source: sd_notify(3).
"""

from __future__ import annotations

import os
import socket


def notify(state: str, environ: dict[str, str] | os._Environ[str] = os.environ) -> bool:
    """Send *state* (for example ``READY=1``) to ``$NOTIFY_SOCKET``.

    Returns:
        Whether somebody was there to be told. A supervisor that went away is not an error of ours.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        try:
            sender.sendto(state.encode(), address)
        except OSError:
            return False
    return True


class NotifySocket:
    """The supervisor's end: a bound datagram socket in the abstract namespace.

    Attributes:
        address: what to put into a child's ``NOTIFY_SOCKET``.
        socket: readable when a child has said something; one datagram per message, ``KEY=VALUE`` lines.
    """

    def __init__(self) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        # An empty name asks the kernel for an unused abstract address: unix(7), "Autobind feature".
        self.socket.bind("")
        name = self.socket.getsockname()
        raw = name if isinstance(name, bytes) else name.encode()
        self.address = "@" + raw[1:].decode()

    def close(self) -> None:
        self.socket.close()


def parse_notification(datagram: bytes) -> dict[str, str]:
    """Split one datagram into its assignments; lines without ``=`` are ignored, as systemd does."""
    pairs = (line.partition("=") for line in datagram.decode(errors="replace").splitlines())
    return {key: value for key, separator, value in pairs if separator}
