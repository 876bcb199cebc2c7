"""The guard called directly, with this very process as the caller."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest

from kubelet_secrets.access.audit import AuditLog
from kubelet_secrets.access.guard import ContainerGuard
from kubelet_secrets.access.identity import CallerIdentifier
from kubelet_secrets.access.policy import Reason
from kubelet_secrets.access.procfs import mount_namespace
from kubelet_secrets.access.record import AuditRecord
from kubelet_secrets.access.registry import ContainerRegistry
from kubelet_secrets.access.revocations import Revocation, RevocationList

from .test_policy import APP

NOW = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)


class Context(NamedTuple):
    tid: int
    uid: int = 1000
    gid: int = 2000


@pytest.fixture
def audit() -> AuditLog:
    return AuditLog()


@pytest.fixture
def registry() -> ContainerRegistry:
    registry = ContainerRegistry()
    registry.register(APP)
    return registry


@pytest.fixture
def guard(registry: ContainerRegistry, audit: AuditLog) -> Iterator[ContainerGuard]:
    guard = ContainerGuard(registry, audit, now=lambda: NOW)
    yield guard
    guard.close()


def ask(guard: ContainerGuard, tid: int, path: str = "..2026_01_02_15_04_05.1/password") -> bool:
    return guard.may_open("pod-1", "db", path, Context(tid), "open")


def only(audit: AuditLog) -> AuditRecord:
    (record,) = audit.records()
    return record


def test_a_host_process_is_refused_and_named(guard: ContainerGuard, audit: AuditLog) -> None:
    tid = threading.get_native_id()
    assert not ask(guard, tid)
    record = only(audit)
    assert (record.verdict, record.reason) == ("denied", Reason.HOST_PROCESS)
    assert (record.tid, record.pid, record.uid) == (tid, os.getpid(), 1000)
    assert (record.namespace, record.pod, record.container) == ("default", "web", "")
    assert (record.volume, record.path, record.version) == ("db", "password", "..2026_01_02_15_04_05.1")
    assert record.time == NOW
    assert record.exe


def test_a_caller_outside_the_pid_namespace(guard: ContainerGuard, audit: AuditLog) -> None:
    assert not ask(guard, 0)
    assert only(audit).reason == Reason.OUTSIDE_PID_NAMESPACE
    assert only(audit).uid == 1000


def test_a_caller_that_vanished(guard: ContainerGuard, audit: AuditLog) -> None:
    assert not ask(guard, 2**22 + 1)
    assert only(audit).reason == Reason.VANISHED


def test_a_caller_that_may_not_be_looked_at(
    registry: ContainerRegistry, audit: AuditLog, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Looking at another process's namespace may give EACCES even to root."""
    real = os.readlink

    def readlink(path: str) -> str:
        if path.endswith("/ns/mnt"):
            raise PermissionError(13, "Permission denied")
        return real(path)

    monkeypatch.setattr(os, "readlink", readlink)
    guard = ContainerGuard(registry, audit, identifier=CallerIdentifier())
    assert not ask(guard, threading.get_native_id())
    guard.close()
    assert only(audit).reason == Reason.UNREADABLE


def test_repeats_are_counted_in_one_record(registry: ContainerRegistry, audit: AuditLog) -> None:
    moment = NOW
    guard = ContainerGuard(registry, audit, now=lambda: moment)
    tid = threading.get_native_id()
    for _ in range(5):
        assert not ask(guard, tid)
    assert not ask(guard, tid, "..2026_01_02_15_04_05.1/user")
    moment += timedelta(seconds=1)
    for _ in range(2):
        assert not ask(guard, tid)
    guard.close()
    assert [(record.path, record.count) for record in audit.records()] == [
        ("password", 1),
        ("user", 1),
        ("password", 4),
        ("password", 1),
    ]


def test_a_repeat_is_judged_anew_when_a_container_came(
    guard: ContainerGuard, registry: ContainerRegistry, audit: AuditLog
) -> None:
    tid = threading.get_native_id()
    for _ in range(3):
        ask(guard, tid)
    registry.register(replace(APP, mnt_ns=mount_namespace(os.getpid())))
    ask(guard, tid)
    assert [record.reason for record in audit.records()] == [Reason.HOST_PROCESS, Reason.ENTERED]
    registry.unregister(APP.container_id)
    ask(guard, tid)
    audit.expire(NOW + timedelta(seconds=1))
    assert [(record.reason, record.count) for record in audit.records()][2:] == [(Reason.HOST_PROCESS, 3)]


def test_revoked_volume_is_read_no_more_by_whoever_has_it_open(registry: ContainerRegistry, audit: AuditLog) -> None:
    revocations = RevocationList()
    guard = ContainerGuard(registry, audit, revocations=revocations, now=lambda: NOW)

    def read() -> bool:
        return guard.may_read("pod-1", "db", "..v/password", Context(threading.get_native_id()), "read")

    assert read()
    assert audit.records() == []
    revocations.add(Revocation(pod_uid="pod-1", volume="db", since=NOW, cause="test"))
    assert not read()
    record = only(audit)
    assert (record.kind, record.path, record.reason) == ("read", "password", Reason.REVOKED)
    assert (record.allowed, record.pid) == (False, os.getpid())
    assert guard.may_read("pod-1", "tls", "..v/key", Context(threading.get_native_id()), "read")
    revocations.remove("pod-1", "db")
    assert read()
    guard.close()


def test_a_repeat_is_judged_anew_when_something_was_revoked(registry: ContainerRegistry, audit: AuditLog) -> None:
    revocations = RevocationList()
    guard = ContainerGuard(registry, audit, revocations=revocations, now=lambda: NOW)
    tid = threading.get_native_id()
    for _ in range(3):
        ask(guard, tid)
    before = guard._answers.copy()
    revocations.add(Revocation(pod_uid="pod-1", volume="db", since=NOW, cause="test"))
    ask(guard, tid)
    assert guard._answers.keys() == before.keys()
    assert guard._answers != before
    guard.close()


def test_a_look_is_recorded_when_refused(guard: ContainerGuard, audit: AuditLog) -> None:
    assert not guard.may_look("pod-1", "db", "password", Context(threading.get_native_id()))
    record = only(audit)
    assert (record.kind, record.path, record.reason) == ("lookup", "password", Reason.HOST_PROCESS)


def test_names_that_would_steer_a_terminal_are_escaped(guard: ContainerGuard, audit: AuditLog) -> None:
    ask(guard, threading.get_native_id(), "..v/\x1b[2Jpass\nword")
    assert only(audit).path == "\\x1b[2Jpass\\nword"


def test_who_is_in_no_container_may_ask_the_agent(guard: ContainerGuard, audit: AuditLog) -> None:
    assert guard.may_ask(os.getpid())
    assert audit.records() == []


def test_who_has_a_containers_mount_namespace_may_not_ask_the_agent(
    guard: ContainerGuard, registry: ContainerRegistry, audit: AuditLog
) -> None:
    registry.learn_mount_namespace(APP.container_id, mount_namespace(os.getpid()))
    assert not guard.may_ask(os.getpid())
    record = only(audit)
    assert (record.kind, record.verdict, record.reason) == ("ask", "denied", Reason.ASKED)
    assert (record.container, record.pid) == ("default/web/app", os.getpid())


@pytest.mark.parametrize("pid", [0, 2**22 + 1])
def test_who_cannot_be_looked_at_may_not_ask_the_agent(guard: ContainerGuard, audit: AuditLog, pid: int) -> None:
    assert not guard.may_ask(pid)
    assert only(audit).reason == Reason.UNREADABLE
