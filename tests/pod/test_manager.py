"""Failures that nobody foresaw: they cost one pod a moment, and the others nothing."""

from __future__ import annotations

import logging
from typing import Any

import pytest

import kubelet_secrets.pod.manager as manager
from kubelet_secrets.api.meta import PODS
from tests.pod.cluster import Cluster, container

pytestmark = pytest.mark.runtime


def is_ready(pod: Any) -> bool:
    return any(each.type == "Ready" and each.status == "True" for each in pod.status.conditions)


async def test_pod_goes_on_after_an_unexpected_failure(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Its first container runs already when its second one cannot be made: it is adopted, as a restarted agent would."""
    monkeypatch.setattr(manager, "WORKER_RETRY_S", 0.05)
    async with lab.agent() as agent:
        await lab.create("other", container())
        await lab.wait("other", is_ready)
        runtime = agent.parts.runtime
        create, failures = runtime.create, []

        async def fail_once(settings: Any, image: Any, **keywords: Any) -> Any:
            if settings.container_name == "second" and not failures:
                failures.append(agent.view("web"))
                raise ZeroDivisionError
            return await create(settings, image, **keywords)

        monkeypatch.setattr(runtime, "create", fail_once)
        with caplog.at_level(logging.ERROR):
            await lab.create("web", container(name="first"), container(name="second"))
            await lab.wait("web", is_ready)
        assert "the worker of pod web_default" in caplog.text
        await lab.wait_event("web", "FailedSync", "internal error: ZeroDivisionError: see the log of the node's agent")
        before, after = failures[0].container("first").instance, agent.view("web").container("first").instance
        assert before.container_id == after.container_id
        assert after.is_running
        pod = await lab.get("other")
        assert [each.restart_count for each in pod.status.container_statuses] == [0]


async def test_pod_deleted_while_its_worker_is_being_replaced_goes(
    lab: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manager, "WORKER_RETRY_S", 0.2)
    async with lab.agent() as agent:

        async def fail(*_: Any, **__: Any) -> Any:
            raise ZeroDivisionError

        monkeypatch.setattr(agent.parts.runtime, "create", fail)
        await lab.create("web", container())
        await lab.wait_event("web", "FailedSync")
        await lab.admin.delete(PODS, "default", "web")
        await lab.wait_gone("web")
