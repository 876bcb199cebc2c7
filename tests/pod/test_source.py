"""What the node adds to a pod of the API. Source: pkg/kubelet/config/config.go; seen of kubelet 1.20.2 in a container."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.fieldpath import extract_field
from kubelet_secrets.api.meta import ObjectMeta, PodUID
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.api.times import rfc3339_nano
from kubelet_secrets.pod.source import PodSource

NOON = datetime(2026, 11, 30, 12, tzinfo=UTC)


class Sink:
    def __init__(self) -> None:
        self.pods: list[Pod] = []
        self.removed: list[PodUID] = []

    def pod_changed(self, pod: Pod) -> None:
        self.pods.append(pod)

    def pod_removed(self, uid: PodUID) -> None:
        self.removed.append(uid)

    def pods_synced(self) -> None: ...

    def api_reached(self) -> None: ...


@pytest.fixture
def sink() -> Sink:
    return Sink()


@pytest.fixture
def source(sink: Sink) -> PodSource:
    clock: Iterator[datetime] = (NOON + timedelta(seconds=number) for number in range(100))
    client: Any = None  # nobody asks it
    return PodSource(client, "n1", sink, now=lambda: next(clock))


def pod(uid: str, **annotations: str) -> Pod:
    return Pod(metadata=ObjectMeta(name="p", uid=uid, annotations={**annotations}))


def test_a_pod_says_where_it_comes_from_and_since_when(source: PodSource, sink: Sink) -> None:
    source.replace([pod("u1", a="1")])
    source.upsert(pod("u1", a="2"))
    source.upsert(pod("u2"))
    source.replace([pod("u1", a="3"), pod("u2")])
    texts = [extract_field(each, "metadata.annotations").splitlines() for each in sink.pods]
    seen = 'kubernetes.io/config.seen="2026-11-30T12:00:00Z"'
    assert texts[0] == ['a="1"', seen, 'kubernetes.io/config.source="api"']
    assert [each[:2] for each in (texts[1], texts[3])] == [['a="2"', seen], ['a="3"', seen]]
    assert texts[2] == texts[4] != texts[0][1:]


def test_a_pod_that_comes_again_is_seen_anew(source: PodSource, sink: Sink) -> None:
    source.upsert(pod("u1"))
    source.remove(pod("u1"))
    source.replace([pod("u1")])
    source.replace([])
    assert sink.pods[0] != sink.pods[1]
    assert sink.removed == ["u1", "u1"]


def test_no_pod_of_the_api_passes_for_a_static_one(source: PodSource, sink: Sink) -> None:
    source.upsert(pod("u1", **{"kubernetes.io/config.source": "file", "kubernetes.io/config.seen": "never"}))
    assert not is_static_pod(sink.pods[0])
    assert extract_field(sink.pods[0], "metadata.annotations['kubernetes.io/config.source']") == "api"


@pytest.mark.parametrize(
    ("instant", "text"),
    [
        (NOON, "2026-11-30T12:00:00Z"),
        (NOON.replace(microsecond=120_000), "2026-11-30T12:00:00.12Z"),
        (
            NOON.replace(microsecond=1).astimezone(timezone(timedelta(hours=-3, minutes=-30))),
            "2026-11-30T08:30:00.000001-03:30",
        ),
    ],
)
def test_times_as_go_writes_them(instant: datetime, text: str) -> None:
    assert rfc3339_nano(instant) == text
