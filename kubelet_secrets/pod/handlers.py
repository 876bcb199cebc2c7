"""Run one handler of a container: exec, httpGet, tcpSocket, grpc or sleep. What hooks and probes are made of.

Called by ``pod/termination.py`` (preStop), ``pod/containers.py`` (postStart) and ``pod/probes.py``. Source:
pkg/kubelet/lifecycle/handlers.go, pkg/kubelet/prober/prober.go, pkg/probe.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import trio

from kubelet_secrets.api.core import (
    Container,
    ExecAction,
    GRPCAction,
    HTTPGetAction,
    IntOrString,
    LifecycleHandler,
    Probe,
    TCPSocketAction,
)
from kubelet_secrets.api.times import go_duration
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.grpchealth import Unhealthy, check_health
from kubelet_secrets.pod.httpget import Answer, GetFailed, dial_error, get, join_host_port
from kubelet_secrets.pod.podnet import connect
from kubelet_secrets.runtime.oci import OciRuntime

MAX_OUTPUT_BYTES = 10 * 1024


class HookFailed(Exception):
    """A hook ran and failed, or could not run. The text quotes no output of the container."""


class ProbeFailed(Exception):
    """A probe said no.

    Attributes:
        quotes_container: the text is what a command has printed. It goes into an event, as the kubelet's does, and nowhere
            else.
    """

    def __init__(self, text: str, *, quotes_container: bool = False) -> None:
        super().__init__(text)
        self.quotes_container = quotes_container


class ProbeErrored(Exception):
    """A probe could not be carried out: that says nothing about the container."""


class ProbeWarned(Exception):
    """A probe went well, but somebody should look at it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The running container that a handler is about."""

    container: Container
    container_id: str
    pod: str  # as ``format_pod`` prints it
    pod_ip: str
    network: Path | None  # its network namespace; None: the host's


# --- hooks -------------------------------------------------------------------------------------------------------------


async def run_hook(runtime: OciRuntime, handler: LifecycleHandler, target: Target) -> None:
    """Run *handler* to its end.

    Raises:
        HookFailed: it failed. An HTTP hook has not when it was answered, whatever the answer.

    Cancellation: a command under way is killed, a connection closed.
    """
    where = f'for Container "{target.container.name}" in Pod "{target.pod}" failed - error'
    if handler.exec is not None:
        command = f"[{' '.join(handler.exec.command)}]"
        try:
            code, _ = await _run_command(runtime, handler.exec, target)
        except ContainerRunError as error:
            raise HookFailed(f'Exec lifecycle hook ({command}) {where}: {error}, message: ""') from error
        if code:
            # Differs: the kubelet quotes the output here, though it keeps it from its event: it may be a secret.
            cause = f"command '{' '.join(handler.exec.command)}' exited with {code}: "
            raise HookFailed(f'Exec lifecycle hook ({command}) {where}: {cause}, message: ""')
    elif handler.http_get is not None:
        try:
            await _get(handler.http_get, target, "kube-lifecycle/1.36")
        except (GetFailed, _BadPort) as error:
            raise HookFailed(f"HTTP lifecycle hook ({handler.http_get.path}) {where}: {error}") from error
    elif handler.sleep is not None:
        await trio.sleep(handler.sleep.seconds)
    else:  # tcpSocket among others: the API allows it for old objects' sake
        raise HookFailed("Cannot run handler: invalid handler")


# --- probes ------------------------------------------------------------------------------------------------------------


async def run_probe(runtime: OciRuntime, probe: Probe, target: Target) -> None:
    """Run *probe* once, for as long as its timeout at most; returns when all is well.

    Raises:
        ProbeFailed, ProbeErrored, ProbeWarned: see there; the texts are the kubelet's.
    """
    timeout_s = max(1, probe.timeout_seconds)
    try:
        if probe.exec is not None:
            await _probe_command(runtime, probe.exec, target, timeout_s)
        elif probe.http_get is not None:
            await _probe_http(probe.http_get, target, timeout_s)
        elif probe.tcp_socket is not None:
            await _probe_tcp(probe.tcp_socket, target, timeout_s)
        elif probe.grpc is not None:
            await _probe_grpc(probe.grpc, target, timeout_s)
        else:
            raise ProbeErrored("missing probe handler for " + target.pod)
    except _BadPort as error:
        raise ProbeErrored(str(error)) from error


async def _probe_command(runtime: OciRuntime, action: ExecAction, target: Target, timeout_s: float) -> None:
    with trio.move_on_after(timeout_s):
        try:
            code, output = await _run_command(runtime, action, target)
        except ContainerRunError as error:
            raise ProbeErrored(str(error)) from error
        if code:
            raise ProbeFailed(output, quotes_container=True)
        return
    raise ProbeFailed(f'command timed out: "{" ".join(action.command)}" timed out after {go_duration(timeout_s)}')


async def _probe_http(action: HTTPGetAction, target: Target, timeout_s: float) -> None:
    with trio.move_on_after(timeout_s):
        try:
            answer = await _get(action, target, "kube-probe/1.36")
        except GetFailed as error:
            raise ProbeFailed(str(error)) from error
        if answer.leads_away:
            raise ProbeWarned("Probe terminated redirects, Response body: ")
        if not 200 <= answer.code < 400:
            raise ProbeFailed(f"HTTP probe failed with statuscode: {answer.code}")
        return
    host, _ = _address(action.host, target)
    path = action.path if action.path.startswith("/") else f"/{action.path}"
    url = f"{action.scheme.lower() or 'http'}://{join_host_port(host, find_port(target.container, action.port))}{path}"
    raise ProbeFailed(f'Get "{url}": context deadline exceeded (Client.Timeout exceeded while awaiting headers)')


async def _probe_tcp(action: TCPSocketAction, target: Target, timeout_s: float) -> None:
    host, network = _address(action.host, target)
    port = find_port(target.container, action.port)
    with trio.move_on_after(timeout_s):
        try:
            stream = await connect(network, host, port)
        except OSError as error:
            raise ProbeFailed(dial_error(host, port, error)) from error
        await stream.aclose()
        return
    raise ProbeFailed(f"dial tcp {join_host_port(host, port)}: i/o timeout")


async def _probe_grpc(action: GRPCAction, target: Target, timeout_s: float) -> None:
    try:
        await check_health(
            network=target.network, host=target.pod_ip, port=action.port, service=action.service, timeout_s=timeout_s
        )
    except Unhealthy as error:
        raise ProbeFailed(str(error)) from error


# --- inside ------------------------------------------------------------------------------------------------------------


class _BadPort(Exception):
    pass


async def _run_command(runtime: OciRuntime, action: ExecAction, target: Target) -> tuple[int, str]:
    """The exit code, and what was printed: first to standard output, then to standard error, as the CRI hands it on."""
    result = await runtime.exec(target.container_id, list(action.command), max_output_bytes=MAX_OUTPUT_BYTES)
    return result.code, (result.stdout + result.stderr)[:MAX_OUTPUT_BYTES].decode(errors="replace")


async def _get(action: HTTPGetAction, target: Target, user_agent: str) -> Answer:
    host, network = _address(action.host, target)
    port = find_port(target.container, action.port)
    return await get(action, network=network, host=host, port=port, user_agent=user_agent)


def _address(host: str, target: Target) -> tuple[str, Path | None]:
    """Where a handler connects to, and from where: to the pod from within it (its address may exist there only), to any
    other host from the node, as the kubelet does.
    """
    return (target.pod_ip, target.network) if host in ("", target.pod_ip) else (host, None)


def find_port(container: Container, port: IntOrString) -> int:
    """A port by number or by the name that the container's spec gives it. Source: pkg/probe, ResolveContainerPort."""
    if isinstance(port, str) and not port.isdecimal():
        named = next((each.container_port for each in container.ports if each.name == port), None)
        if named is None:
            raise _BadPort(f'strconv.Atoi: parsing "{port}": invalid syntax')
        return named
    number = int(port)
    if not 0 < number < 65536:
        raise _BadPort(f"invalid port number: {number}")
    return number
