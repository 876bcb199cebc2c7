"""Pods and observed states for the tests of the pure half of ``pod/``."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from kubelet_secrets.api.core import Container, Pod, PodSpec
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.pod.state import Instance, InstanceState

T0 = datetime(2026, 11, 23, 19, 40, 0, tzinfo=UTC)


def after(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def make_pod(
    *containers: str | Container,
    init: tuple[str | Container, ...] = (),
    policy: str = "Always",
    deleted: bool = False,
    **spec: Any,
) -> Pod:
    """A pod ``default/web`` with containers by name; an init container named ``side…`` is a sidecar."""

    def build(each: str | Container, *, is_init: bool) -> Container:
        if isinstance(each, Container):
            return each
        restart_policy = "Always" if is_init and each.startswith("side") else None
        return Container(name=each, image="busybox:1", restart_policy=restart_policy)

    return Pod(
        metadata=ObjectMeta(
            name="web",
            namespace="default",
            uid="uid-1",
            generation=3,
            deletion_timestamp="2026-11-23T19:40:30Z" if deleted else None,
        ),
        spec=PodSpec(
            containers=tuple(build(each, is_init=False) for each in (containers or ("app",))),
            init_containers=tuple(build(each, is_init=True) for each in init),
            restart_policy=policy,
            **spec,
        ),
    )


def pod_from(manifest: dict[str, Any]) -> Pod:
    return convert(manifest, Pod)


def running(name: str, attempt: int = 0, *, since: float = -60) -> Instance:
    return Instance(
        name=name,
        container_id=f"{name}-{attempt}",
        attempt=attempt,
        state=InstanceState.RUNNING,
        image="busybox:1",
        image_id="sha256:1",
        started_at=after(since),
    )


def exited(name: str, code: int = 0, attempt: int = 0, *, at: float = 0, message: str = "") -> Instance:
    return Instance(
        name=name,
        container_id=f"{name}-{attempt}",
        attempt=attempt,
        state=InstanceState.EXITED,
        image="busybox:1",
        image_id="sha256:1",
        started_at=after(at - 5),
        finished_at=after(at),
        exit_code=code,
        message=message,
    )
