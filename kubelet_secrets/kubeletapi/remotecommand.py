"""``/exec`` and ``/attach``: a command in a running container, or its own first process, its streams joined to the client's.

How each ends is logged, without the command: words of it may be values. That it was asked for is in the audit trail
(``routes.py``). Source: pkg/kubelet/server/server.go (getExec), k8s.io/cri-streaming remotecommand/exec.go;
semantics §12.2.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.kubeletapi import spdychannels, websocket
from kubelet_secrets.kubeletapi.authn import UserInfo
from kubelet_secrets.kubeletapi.channels import Channel, Channels, TerminalSize, Wanted
from kubelet_secrets.kubeletapi.http1 import Exchange, HttpRequest
from kubelet_secrets.pod.views import PodView
from kubelet_secrets.runtime.attach import STDERR, STDOUT, Attachment
from kubelet_secrets.runtime.exec import ExecSession
from kubelet_secrets.runtime.oci import OciRuntime

logger = logging.getLogger(__name__)

_CHUNK_BYTES = 32 * 1024
FINISH_S = 5.0  # for the last words to a client that does not read
IDLE_S = 4 * 3600.0  # streamingConnectionIdleTimeout

Status = Mapping[str, Any]


def parse_wanted(request: HttpRequest) -> Wanted:
    """The streams that a query asks for; each parameter counts when it is ``1`` or ``true``."""

    def is_on(name: str) -> bool:
        return request.first(name) in ("1", "true")

    return Wanted(stdin=is_on("input"), stdout=is_on("output"), stderr=is_on("error"), tty=is_on("tty"))


def exit_status(code: int) -> Status:
    """How a command ended, as a ``metav1.Status``. kubectl takes its own exit code from the cause."""
    if code == 0:
        return {"metadata": {}, "status": "Success"}
    return {
        "metadata": {},
        "status": "Failure",
        "message": f"command terminated with non-zero exit code: exit status {code}",
        "reason": "NonZeroExitCode",
        "details": {"causes": [{"reason": "ExitCode", "message": str(code)}]},
    }


def failure_status(text: str) -> Status:
    """That a command could not be run."""
    message = f"Internal error occurred: error executing command in container: {text}"
    return {
        "metadata": {},
        "status": "Failure",
        "message": message,
        "reason": "InternalError",
        "details": {"causes": [{"message": f"error executing command in container: {text}"}]},
        "code": 500,
    }


async def answer_exec(
    exchange: Exchange, runtime: OciRuntime, view: PodView, container_name: str, user: UserInfo
) -> None:
    """Answer one exec request, to the command's end or the client's."""
    command = list(exchange.request.query.get("command", ()))

    async def serve(channels: Channels, container_id: str, wanted: Wanted) -> Status:
        return await _run(channels, runtime, container_id, command, wanted)

    await _answer(exchange, view, container_name, user, "exec", serve)


async def answer_attach(
    exchange: Exchange, runtime: OciRuntime, view: PodView, container_name: str, user: UserInfo
) -> None:
    """Answer one attach request, to the container's end or the client's."""

    async def serve(channels: Channels, container_id: str, wanted: Wanted) -> Status:
        return await _attach(channels, runtime, container_id, wanted)

    await _answer(exchange, view, container_name, user, "attach", serve)


async def _answer(
    exchange: Exchange,
    view: PodView,
    container_name: str,
    user: UserInfo,
    what: str,
    serve: Callable[[Channels, str, Wanted], Awaitable[Status]],
) -> None:
    request = exchange.request
    wanted = parse_wanted(request)
    if not (wanted.stdin or wanted.stdout or wanted.stderr):
        await exchange.respond(400, "you must specify at least 1 of stdin, stdout, stderr\n")
        return
    container = view.container(container_name)
    if container is None or container.instance is None or not container.instance.is_running:
        await exchange.respond(500, f'container not found ("{container_name}")\n')
        return
    async with trio.open_nursery() as nursery:
        channels = await _accept(exchange, wanted, nursery)
        if channels is None:
            nursery.cancel_scope.cancel()
            return
        nursery.start_soon(_end_when_idle, exchange, nursery.cancel_scope)
        status = await serve(channels, container.instance.container_id, wanted)
        meta = view.pod.metadata
        how = status.get("reason", "Success")
        logger.info(
            "%s in pod %s/%s container %s by %s: %s", what, meta.namespace, meta.name, container_name, user.name, how
        )
        with trio.move_on_after(FINISH_S):
            try:
                await channels.finish(status)
            except trio.BrokenResourceError:
                pass  # the client did not wait for the end
        nursery.cancel_scope.cancel()


async def _accept(exchange: Exchange, wanted: Wanted, nursery: trio.Nursery) -> Channels | None:
    request = exchange.request
    if request.is_upgrade_to("websocket"):
        protocol = websocket.choose_protocol(request)
        if protocol is None:
            await exchange.respond(403, "unsupported WebSocket subprotocol\n")
            return None
        socket = await websocket.accept(exchange, protocol, wanted)
        if socket is not None:
            nursery.start_soon(_take_in, socket, nursery.cancel_scope)
        return socket
    if not request.is_upgrade_to("SPDY/3.1"):
        await exchange.respond(400, "unable to upgrade: missing upgrade headers in request\n")
        return None
    if not spdychannels.offers_protocol(request):
        await exchange.respond(403, f"unable to negotiate protocol: server supports [{spdychannels.V4}]\n")
        return None
    streams = await spdychannels.accept(exchange)
    nursery.start_soon(_take_in, streams, nursery.cancel_scope)
    try:
        await streams.wait_open(wanted)
    except spdychannels.StreamsMissing:
        return None
    return streams


async def _take_in(channels: Channels, scope: trio.CancelScope) -> None:
    """Read from the client; when it has gone, the command goes too."""
    await channels.run()
    scope.cancel()


async def _end_when_idle(exchange: Exchange, scope: trio.CancelScope) -> None:
    """A client that vanished without a word, or was forgotten in a window, does not hold its command for ever."""
    await exchange.wait_idle(IDLE_S)
    logger.info("a command in a container is ended: nothing was said for %d s", IDLE_S)
    scope.cancel()


async def _attach(channels: Channels, runtime: OciRuntime, container_id: str, wanted: Wanted) -> Status:
    try:
        async with runtime.attach(container_id) as attachment, trio.open_nursery() as nursery:
            if wanted.stdin and attachment.has_stdin:
                nursery.start_soon(_pump_in, channels, attachment)
            nursery.start_soon(_pump_console_sizes, channels, attachment)
            is_wanted = {STDOUT: wanted.stdout, STDERR: wanted.stderr}
            while (piece := await attachment.receive()) is not None:
                stream, data = piece
                if is_wanted.get(stream):
                    try:
                        await channels.send(Channel.STDOUT if stream == STDOUT else Channel.STDERR, data)
                    except trio.BrokenResourceError:
                        break  # the client has gone
            nursery.cancel_scope.cancel()
    except ContainerRunError as error:
        return failure_status(str(error))
    return exit_status(0)


async def _run(
    channels: Channels, runtime: OciRuntime, container_id: str, command: Sequence[str], wanted: Wanted
) -> Status:
    try:
        session = await runtime.open_exec(container_id, list(command), tty=wanted.tty, stdin=wanted.stdin)
    except (ContainerRunError, OSError) as error:
        return failure_status(str(error) if isinstance(error, ContainerRunError) else "it cannot be started")
    async with session:
        async with trio.open_nursery() as nursery:
            if session.stdin is not None:
                nursery.start_soon(_pump_in, channels, session.stdin)
            nursery.start_soon(_pump_sizes, channels, session)
            async with trio.open_nursery() as outputs:
                outputs.start_soon(_pump_out, session.stdout, channels, Channel.STDOUT, wanted.stdout)
                if session.stderr is not None:
                    outputs.start_soon(_pump_out, session.stderr, channels, Channel.STDERR, wanted.stderr)
            nursery.cancel_scope.cancel()
        try:
            return exit_status(await session.wait())
        except ContainerRunError as error:
            return failure_status(str(error))


async def _pump_in(channels: Channels, target: trio.abc.SendStream) -> None:
    try:
        while data := await channels.receive_stdin():
            await target.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # it reads no more
    await target.aclose()


async def _pump_out(source: trio.abc.ReceiveStream, channels: Channels, channel: Channel, is_wanted: bool) -> None:
    """To the end of the command's output. When the client is gone the command is ended, as the kubelet ends it."""
    while True:
        try:
            data = await source.receive_some(_CHUNK_BYTES)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # a terminal ends like this
        if not data:
            return
        if is_wanted:
            try:
                await channels.send(channel, bytes(data))
            except trio.BrokenResourceError:
                is_wanted = False  # _take_in is about to notice, too


async def _pump_sizes(channels: Channels, session: ExecSession) -> None:
    async for size in channels.sizes:
        if _is_sane(size):
            session.resize(columns=size.width, rows=size.height)


async def _pump_console_sizes(channels: Channels, attachment: Attachment) -> None:
    async for size in channels.sizes:
        if _is_sane(size):
            await attachment.resize(columns=size.width, rows=size.height)


def _is_sane(size: TerminalSize) -> bool:
    return 0 < size.width < 1 << 16 and 0 < size.height < 1 << 16
