"""The command's end of the control socket: plain blocking sockets, so that a command starts fast (no trio import)."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import Any, TypeVar

import msgspec

from kubelet_secrets.control.protocol import Answer, Request
from kubelet_secrets.errors import HostError, UsageError

T = TypeVar("T")


def ask(path: str, method: str, kind: type[T], **params: Any) -> Iterator[T]:
    """Send one request; its answer items come as *kind*, until the agent ends the answer.

    Args:
        path: the control socket, usually :data:`~kubelet_secrets.control.protocol.DEFAULT_SOCKET`.

    Raises:
        HostError: nobody listens there, or it may not be opened.
        UsageError: while iterating: the agent refused the request: an unknown pod, container or method.
        HostError: while iterating: the agent ended before it had answered.
    """
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        _send(connection, path, msgspec.json.encode(Request(method, params)) + b"\n")
    except BaseException:
        connection.close()
        raise
    return _answers(connection, path, kind)


def _send(connection: socket.socket, path: str, request: bytes) -> None:
    try:
        connection.connect(path)
    except FileNotFoundError:
        raise HostError(
            f"no agent at {path}: is `kubelet-secrets up` or `agent` running? (--socket names another)"
        ) from None
    except PermissionError:
        raise HostError(f"{path} is for root only: try again with sudo") from None
    except ConnectionRefusedError:
        raise HostError(f"the agent that listened at {path} is gone") from None
    except OSError as error:
        raise HostError(f"cannot ask the agent at {path}: {error.strerror or error}") from None
    connection.sendall(request)


def _answers(connection: socket.socket, path: str, kind: type[T]) -> Iterator[T]:
    with connection, connection.makefile("rb") as lines:
        while True:
            try:
                line = lines.readline()
            except ConnectionError:
                line = b""
            if not line.endswith(b"\n"):
                raise HostError(f"the agent at {path} ended before it had answered: ask again in a moment")
            answer = msgspec.json.decode(line, type=Answer)
            if answer.error:
                raise UsageError(answer.error)
            if answer.end:
                return
            yield msgspec.convert(answer.item, kind)


def ask_one(path: str, method: str, kind: type[T], **params: Any) -> T:
    """Like :func:`ask` for a request with exactly one answer item."""
    for item in ask(path, method, kind, **params):
        return item
    raise HostError(f"the agent at {path} ended the connection without an answer")
