"""``/containerLogs``: which run of a container is meant, and which part of its log. Pure; reading is ``runtime/logs.py``.

Source: pkg/kubelet/server/server.go (getContainerLogs), pkg/kubelet/kubelet_pods.go (validateContainerLogStatus);
semantics §12.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

import msgspec

from kubelet_secrets.api.core import ContainerStatus, PodStatus
from kubelet_secrets.api.times import parse_rfc3339
from kubelet_secrets.kubeletapi.http1 import HttpRequest
from kubelet_secrets.runtime.logs import LogOptions, since_seconds

_TRUE = ("1", "t", "T", "true", "TRUE", "True")
_FALSE = ("0", "f", "F", "false", "FALSE", "False", "")
_BOTH = frozenset({"stdout", "stderr"})
_STREAMS = {"All": _BOTH, "Stdout": frozenset({"stdout"}), "Stderr": frozenset({"stderr"})}


class LogRefused(Exception):
    """There is no such log to show. ``code`` is the HTTP status, the text the answer's body."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


@dataclass(frozen=True, slots=True)
class LogQuery:
    """What is asked for.

    Attributes:
        previous: the run before the present one.
    """

    options: LogOptions
    previous: bool


def parse_query(request: HttpRequest, now: datetime) -> LogQuery:
    """Read ``PodLogOptions`` from a query.

    Raises:
        LogRefused: 400 for what cannot be read, 422 for values that make no sense.
    """
    try:
        tail = _number(request.first("tailLines"))
        limit = _number(request.first("limitBytes"))
        seconds = _number(request.first("sinceSeconds"))
        stamp = request.first("sinceTime")
        since = parse_rfc3339(stamp or None)
        if stamp and since is None:
            raise ValueError(stamp)
        flags = {name: _flag(request.first(name)) for name in ("follow", "previous", "timestamps")}
        legacy = request.first("tail")
        if tail is None and legacy not in (None, "", "all"):
            tail = _number(legacy)
    except ValueError:
        raise LogRefused(400, '{"message": "Unable to decode query."}') from None
    streams = _STREAMS.get(request.first("stream") or "All")
    is_wrong = (
        (tail is not None and tail < 0)
        or (limit is not None and limit < 1)
        or (seconds is not None and (seconds < 1 or since is not None))
        or streams is None
        or (tail is not None and streams != _BOTH)  # upstream: tailLines and one stream exclude each other
    )
    if is_wrong:
        raise LogRefused(422, '{"message": "Invalid request."}')
    assert streams is not None
    options = LogOptions(
        follow=flags["follow"],
        tail_lines=tail,
        since=since_seconds(seconds, now) if seconds is not None else since,
        timestamps=flags["timestamps"],
        limit_bytes=limit,
        streams=streams,
    )
    return LogQuery(options, flags["previous"])


def choose_run(status: PodStatus, pod_name: str, container_name: str, *, previous: bool) -> int:
    """The attempt whose log is meant: the number in its file's name.

    Raises:
        LogRefused: 400 with upstream's words.
    """
    container = _find(status, container_name)
    who = f'container "{container_name}" in pod "{pod_name}"'
    if container is None:
        raise LogRefused(400, f"{who} is not available")
    last, state = container.last_state.terminated, container.state
    if previous:
        if last is None or not last.container_id:
            raise LogRefused(400, f'previous terminated container "{container_name}" in pod "{pod_name}" not found')
        return _attempt(container, last.container_id)
    if state.running is not None:
        return container.restart_count
    if state.terminated is not None:
        if not state.terminated.container_id:
            raise LogRefused(400, f"{who} is terminated")
        return container.restart_count
    if last is not None:
        if not last.container_id:
            raise LogRefused(400, f"{who} is terminated")
        return _attempt(container, last.container_id)
    if state.waiting is not None:
        match state.waiting.reason:
            case "ErrImagePull":
                raise LogRefused(400, f"{who} is waiting to start: image can't be pulled")
            case "ImagePullBackOff":
                raise LogRefused(400, f"{who} is waiting to start: trying and failing to pull image")
            case reason:
                raise LogRefused(400, f"{who} is waiting to start: {reason}")
    raise LogRefused(400, f"{who} is waiting to start - no logs yet")


def _find(status: PodStatus, name: str) -> ContainerStatus | None:
    groups = (status.container_statuses, status.init_container_statuses, status.ephemeral_container_statuses)
    return next((each for group in groups for each in group if each.name == name), None)


def _attempt(container: ContainerStatus, container_id: str) -> int:
    """A waiting container's id is still that of the run that ended last; else the run before the present one is meant."""
    is_latest = container.container_id is not msgspec.UNSET and container.container_id == container_id
    return container.restart_count if is_latest else max(0, container.restart_count - 1)


def _number(text: str | None) -> int | None:
    return None if text in (None, "") else int(text or "")


def _flag(text: str | None) -> bool:
    if text is None or text in _FALSE:
        return False
    if text in _TRUE:
        return True
    raise ValueError(text)
