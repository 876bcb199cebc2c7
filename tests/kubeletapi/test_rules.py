"""The pure half of the kubelet's API: which log, whose right, how a command's end is told, metrics as text. Semantics §12."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubelet_secrets.api.core import PodStatus
from kubelet_secrets.api.decode import convert
from kubelet_secrets.kubeletapi.authn import UserInfo
from kubelet_secrets.kubeletapi.authz import attributes_of, forbidden_text
from kubelet_secrets.kubeletapi.channels import Channel
from kubelet_secrets.kubeletapi.containerlogs import LogRefused, choose_run, parse_query
from kubelet_secrets.kubeletapi.http1 import HttpRequest
from kubelet_secrets.kubeletapi.metrics import Metric, Sample, certificate_metrics, eviction_metrics, render
from kubelet_secrets.kubeletapi.remotecommand import exit_status, parse_wanted
from kubelet_secrets.runtime.logs import LogOptions

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def request(**query: str) -> HttpRequest:
    return HttpRequest(method="GET", path="/", query={name: [value] for name, value in query.items()}, headers={})


# --- §12.3: the query --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "options"),
    [
        ({}, LogOptions()),
        ({"follow": "true", "timestamps": "1"}, LogOptions(follow=True, timestamps=True)),
        ({"follow": "false"}, LogOptions()),
        ({"tailLines": "0"}, LogOptions(tail_lines=0)),
        ({"tail": "5"}, LogOptions(tail_lines=5)),
        ({"tail": "all"}, LogOptions()),
        ({"limitBytes": "9"}, LogOptions(limit_bytes=9)),
        ({"sinceSeconds": "60"}, LogOptions(since=NOW - timedelta(seconds=60))),
        ({"sinceTime": "2026-11-23T11:00:00Z"}, LogOptions(since=NOW - timedelta(hours=1))),
        ({"stream": "All", "tailLines": "3"}, LogOptions(tail_lines=3)),
        ({"stream": "Stderr"}, LogOptions(streams=frozenset({"stderr"}))),
    ],
)
def test_log_query(query: dict[str, str], options: LogOptions) -> None:
    assert parse_query(request(**query), NOW).options == options


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ({"tailLines": "x"}, 400),
        ({"follow": "maybe"}, 400),
        ({"sinceTime": "yesterday"}, 400),
        ({"tailLines": "-1"}, 422),
        ({"limitBytes": "0"}, 422),
        ({"sinceSeconds": "0"}, 422),
        ({"sinceSeconds": "5", "sinceTime": "2026-11-23T11:00:00Z"}, 422),
        ({"stream": "Stdin"}, 422),
        ({"stream": "Stdout", "tailLines": "5"}, 422),
    ],
)
def test_refused_log_query(query: dict[str, str], code: int) -> None:
    with pytest.raises(LogRefused) as caught:
        parse_query(request(**query), NOW)
    text = {400: '{"message": "Unable to decode query."}', 422: '{"message": "Invalid request."}'}[code]
    assert (caught.value.code, str(caught.value)) == (code, text)


# --- §12.3: which run --------------------------------------------------------------------------------------------------


def status(state: dict[str, Any], last: dict[str, Any] | None = None, *, restarts: int = 0, run: str = "") -> PodStatus:
    container = {"name": "c", "state": state, "lastState": last or {}, "restartCount": restarts}
    if run:
        container["containerID"] = run
    return convert({"containerStatuses": [container]}, PodStatus)


def ended(run: str) -> dict[str, Any]:
    return {"terminated": {"exitCode": 1, "containerID": run}}


RUNNING: dict[str, Any] = {"running": {"startedAt": "2026-11-23T11:00:00Z"}}
CRASHED = {"waiting": {"reason": "CrashLoopBackOff"}}


@pytest.mark.parametrize(
    ("pod_status", "previous", "attempt"),
    [
        (status(RUNNING), False, 0),
        (status(RUNNING, ended("a"), restarts=2, run="b"), False, 2),
        (status(RUNNING, ended("a"), restarts=2, run="b"), True, 1),
        (status(ended("a"), run="a"), False, 0),
        (status(CRASHED, ended("a"), restarts=3, run="a"), False, 3),
        (status(CRASHED, ended("a"), restarts=3, run="a"), True, 3),
    ],
)
def test_which_run(pod_status: PodStatus, previous: bool, attempt: int) -> None:
    assert choose_run(pod_status, "p", "c", previous=previous) == attempt


@pytest.mark.parametrize(
    ("pod_status", "previous", "text"),
    [
        (PodStatus(), False, 'container "c" in pod "p" is not available'),
        (status(RUNNING), True, 'previous terminated container "c" in pod "p" not found'),
        (status({}), False, 'container "c" in pod "p" is waiting to start - no logs yet'),
        (status(ended("")), False, 'container "c" in pod "p" is terminated'),
        (status(CRASHED, ended("")), False, 'container "c" in pod "p" is terminated'),
        (
            status({"waiting": {"reason": "ContainerCreating"}}),
            False,
            'container "c" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            status({"waiting": {"reason": "ErrImagePull"}}),
            False,
            'container "c" in pod "p" is waiting to start: image can\'t be pulled',
        ),
        (
            status({"waiting": {"reason": "ImagePullBackOff"}}),
            False,
            'container "c" in pod "p" is waiting to start: trying and failing to pull image',
        ),
    ],
)
def test_no_run(pod_status: PodStatus, previous: bool, text: str) -> None:
    with pytest.raises(LogRefused) as caught:
        choose_run(pod_status, "p", "c", previous=previous)
    assert (caught.value.code, str(caught.value)) == (400, text)


# --- §12.1: rights -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "path", "verb", "subresources"),
    [
        ("GET", "/stats/summary", "get", ("stats",)),
        ("GET", "/metrics", "get", ("metrics",)),
        ("GET", "/metrics/probes", "get", ("metrics",)),
        ("GET", "/logs/syslog", "get", ("log",)),
        ("POST", "/checkpoint/ns/p/c", "create", ("checkpoint",)),
        ("GET", "/statusz", "get", ("statusz",)),
        ("GET", "/flagz", "get", ("configz",)),
        ("GET", "/pods", "get", ("pods", "proxy")),
        ("GET", "/runningpods/", "get", ("pods", "proxy")),
        ("GET", "/healthz/ping", "get", ("healthz", "proxy")),
        ("GET", "/configz", "get", ("configz", "proxy")),
        ("GET", "/containerLogs/ns/p/c", "get", ("proxy",)),
        ("POST", "/exec/ns/p/c", "create", ("proxy",)),
        ("GET", "/podsandmore", "get", ("proxy",)),
        ("PUT", "/x", "update", ("proxy",)),
        ("DELETE", "/x", "delete", ("proxy",)),
    ],
)
def test_attributes(method: str, path: str, verb: str, subresources: tuple[str, ...]) -> None:
    found = attributes_of(method, path)
    assert (found.verb, found.subresources) == (verb, subresources)


def test_denial() -> None:
    text = forbidden_text(UserInfo("jane"), attributes_of("GET", "/pods"))
    assert text == "Forbidden (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])\n"


# --- §12.2: commands ---------------------------------------------------------------------------------------------------


def test_wanted_streams() -> None:
    wanted = parse_wanted(request(input="1", output="true", error="1", tty="1"))
    assert set(wanted.channels) == {Channel.ERROR, Channel.STDIN, Channel.STDOUT, Channel.RESIZE}
    assert set(parse_wanted(request(output="1", error="0")).channels) == {Channel.ERROR, Channel.STDOUT}


def test_exit_status() -> None:
    assert exit_status(0)["status"] == "Success"
    failed = exit_status(3)
    assert (failed["status"], failed["reason"]) == ("Failure", "NonZeroExitCode")
    assert failed["details"] == {"causes": [{"reason": "ExitCode", "message": "3"}]}


# --- metrics -----------------------------------------------------------------------------------------------------------


def test_metrics_that_alerts_look_at() -> None:
    text = render([*certificate_metrics({"client": 3600.4}, {"client": 2}), *eviction_metrics({"memory.available": 1})])
    for line in (
        "kubelet_certificate_manager_client_ttl_seconds 3600",
        "kubelet_certificate_manager_client_expiration_renew_errors 2",
        "kubelet_certificate_manager_server_ttl_seconds +Inf",
        "kubelet_server_expiration_renew_errors 0",
        'kubelet_evictions{eviction_signal="memory.available"} 1',
    ):
        assert f"\n{line}\n" in text


def test_metrics_as_text() -> None:
    samples = (Sample(2, {"b": 'say "x"\n', "a": "\\"}), Sample(0.5))
    assert render([Metric("m_total", "counter", "What\nit is.", samples)]) == (
        '# HELP m_total What\\nit is.\n# TYPE m_total counter\nm_total{a="\\\\",b="say \\"x\\"\\n"} 2\nm_total 0.5\n'
    )
