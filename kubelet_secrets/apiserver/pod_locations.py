"""Where a pod's kubelet has what a request for a subresource of the pod wants: container, path and query. Pure.

Used by ``pod_streams.py`` and ``pod_tunnels.py``. Source: pkg/registry/core/pod/strategy.go (LogLocation, streamLocation,
PortForwardLocation, streamParams).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote, urlencode

from kubelet_secrets.api import meta
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.requestinfo import RequestInfo, is_true
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.errors import ApiError

PODS = served(meta.PODS)
COMMANDS = ("exec", "attach")
UPGRADES = (*COMMANDS, "portforward")
_LOG_OPTIONS = ("follow", "previous", "timestamps", "sinceSeconds", "sinceTime", "tailLines", "limitBytes", "stream")
_FLAGS = (("input", "stdin"), ("output", "stdout"), ("error", "stderr"), ("tty", "tty"))

Query = Sequence[tuple[str, str]]


def node_of(pod: Mapping[str, Any]) -> str:
    """The node that a pod is on.

    Raises:
        ApiError: 400, it is on none.
    """
    if not (name := str((pod.get("spec") or {}).get("nodeName") or "")):
        raise statuses.bad_request(f"pod {pod['metadata']['name']} does not have a host assigned")
    return name


def log_target(pod: Mapping[str, Any], container: str, query: Query) -> str:
    """Where the kubelet has a log: path and query."""
    options = [(name, value) for name, value in query if name in _LOG_OPTIONS]
    return f"{_path('containerLogs', pod, container)}?{urlencode(options)}"


def upgrade_target(subresource: str, pod: Mapping[str, Any], query: Query) -> str:
    """Where the kubelet runs a command, or forwards ports: path and query.

    Args:
        subresource: one of :data:`UPGRADES`.

    Raises:
        ApiError: 400, there is no such container.
    """
    if subresource == "portforward":
        path, arguments = _path("portForward", pod), [("port", value) for name, value in query if name == "ports"]
    else:
        given = dict(query)
        path = _path(subresource, pod, choose_container(pod, given.get("container", "")))
        arguments = [(there, "1") for there, here in _FLAGS if is_true(given.get(here, ""))]
        arguments += [("command", value) for name, value in query if name == "command"]
    return f"{path}?{urlencode(arguments)}" if arguments else path


def choose_container(pod: Mapping[str, Any], wanted: str) -> str:
    """Which container is meant.

    Raises:
        ApiError: 400 in upstream's words.
    """
    spec, name = pod.get("spec") or {}, pod["metadata"]["name"]
    regular = [each["name"] for each in spec.get("containers") or ()]
    initial = [each["name"] for each in spec.get("initContainers") or ()]
    ephemeral = [each["name"] for each in spec.get("ephemeralContainers") or ()]
    if wanted:
        if wanted not in (*regular, *initial, *ephemeral):
            raise statuses.bad_request(f"container {wanted} is not valid for pod {name}")
        return wanted
    if len(regular) == 1:
        return str(regular[0])
    message = f"a container name must be specified for pod {name}, choose one of: [{' '.join(regular)}]"
    if initial:
        message += f" or one of the init containers: [{' '.join(initial)}]"
    if ephemeral:
        message += f" or one of the ephemeral containers: [{' '.join(ephemeral)}]"
    raise statuses.bad_request(message)


def kubelet_error(code: int, text: str, info: RequestInfo) -> ApiError:
    """What a kubelet refuses, as a client of the API server sees it. Source: genericrest.GenericHttpResponseChecker."""
    if code == 400:
        return statuses.bad_request(text)
    if code == 500:
        return statuses.internal(text)
    return statuses.generic(code, PODS, info.name, text)


def _path(verb: str, pod: Mapping[str, Any], *rest: str) -> str:
    metadata = pod["metadata"]
    return "/" + "/".join(quote(each, safe="") for each in (verb, metadata["namespace"], metadata["name"], *rest))
