"""Speak with the supervisor that started us, as systemd does: ``sd_notify`` datagrams, and descriptors that it keeps for us.

Used by the keeper and by the API server towards systemd (``Type=notify``), and by ``kubelet-secrets up`` and ``demo``, which
are the supervisor themselves (:class:`NotifySocket`). Source: sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds(3),
sd_watchdog_enabled(3).
"""

from __future__ import annotations

import fcntl
import os
import socket
from collections.abc import Mapping, MutableMapping, Sequence

_PATIENCE_S = 2.0  # a supervisor that stopped reading must not stop us
FIRST_DESCRIPTOR = 3
"""SD_LISTEN_FDS_START."""


def notify(
    state: str,
    environ: Mapping[str, str] = os.environ,
    *,
    descriptors: Sequence[int] = (),
    may_be_lost: bool = False,
) -> bool:
    """Send *state* (for example ``READY=1``) to ``$NOTIFY_SOCKET``.

    Args:
        descriptors: go along (SCM_RIGHTS); stay the caller's as well.
        may_be_lost: do not wait at all when the supervisor does not read: for what is said again, or is only for eyes.

    Returns:
        Whether somebody was there to be told. A supervisor that went away is not an error of ours.
    """
    address = environ.get("NOTIFY_SOCKET", "")
    if not address:
        return False
    if address.startswith("@"):
        address = "\0" + address[1:]
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
        sender.settimeout(0 if may_be_lost else _PATIENCE_S)
        try:
            sender.connect(address)
            socket.send_fds(sender, [state.encode()], list(descriptors))
        except OSError:
            return False
    return True


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often the supervisor wants ``WATCHDOG=1`` at least, in seconds; None when it does not ask this process for it."""
    try:
        interval_us = int(environ.get("WATCHDOG_USEC", "0"))
        pid = int(environ.get("WATCHDOG_PID", os.getpid()))
    except ValueError:
        return None
    return interval_us / 1e6 if interval_us > 0 and pid == os.getpid() else None


def store_descriptors(descriptors: Mapping[str, int], environ: Mapping[str, str] = os.environ) -> bool:
    """Have the supervisor keep *descriptors*, each under its name; it gives them to whoever it starts after us.

    A name replaces nothing: forget it before it is stored anew. Unpolled, so that the supervisor neither drops a
    descriptor when its other end goes, nor refuses those that cannot be polled.

    Returns:
        Whether all could be sent; systemd says nothing about what it took.
    """
    return all(
        notify(f"FDSTORE=1\nFDNAME={name}\nFDPOLL=0", environ, descriptors=[fd]) for name, fd in descriptors.items()
    )


def forget_descriptors(names: Sequence[str], environ: Mapping[str, str] = os.environ) -> None:
    """Have the supervisor close what it keeps under these names; unknown ones are fine."""
    for name in names:
        notify(f"FDSTOREREMOVE=1\nFDNAME={name}", environ)


def take_descriptors(environ: MutableMapping[str, str] = os.environ) -> dict[str, int]:
    """What a supervisor kept for us, by name; ours from now on, close-on-exec. Of several of one name, the last.

    Takes the variables out of *environ*: they are about this process and no child of it.
    """
    count, pid = environ.pop("LISTEN_FDS", ""), environ.pop("LISTEN_PID", "")
    names = environ.pop("LISTEN_FDNAMES", "").split(":")
    if not count.isdigit() or pid != str(os.getpid()):
        return {}
    taken: dict[str, int] = {}
    for descriptor in range(FIRST_DESCRIPTOR, FIRST_DESCRIPTOR + int(count)):
        try:
            os.set_inheritable(descriptor, False)
        except OSError:
            continue  # never ours
        name = names.pop(0) if names else ""
        if name in taken:
            os.close(taken[name])
        taken[name] = descriptor
    return taken


def put_descriptors(descriptors: Mapping[str, int], environ: MutableMapping[str, str]) -> None:
    """Arrange *descriptors* for an exec by this very process, so that ``take_descriptors`` finds them after it.

    No return from here: numbers from 3 on are overwritten, whatever they were.
    """
    # Out of the way of each other first.
    above = FIRST_DESCRIPTOR + len(descriptors)
    copies = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for fd in descriptors.values()]
    for number, copy in enumerate(copies, start=FIRST_DESCRIPTOR):
        os.dup2(copy, number, inheritable=True)
    environ["LISTEN_PID"] = str(os.getpid())
    environ["LISTEN_FDS"] = str(len(descriptors))
    environ["LISTEN_FDNAMES"] = ":".join(descriptors)


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
