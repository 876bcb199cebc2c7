"""The image manager's cases, against a real store. Source: pkg/kubelet/images/image_manager_test.go; semantics §9.4."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Container, Pod, Secret
from kubelet_secrets.api.meta import ObjectMeta, PodUID
from kubelet_secrets.pod.backoff import IMAGE_CAP_S, IMAGE_INITIAL_S, BackOff
from kubelet_secrets.pod.imagepull import ImagePuller, ImageRefused
from kubelet_secrets.pod.tokenbucket import TokenBucket
from kubelet_secrets.runtime.images import ImageStore
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.tools import find_tools
from kubelet_secrets.testing.images import build_busybox_image

pytestmark = pytest.mark.runtime

NOBODY_LISTENS = "127.0.0.1:1/app:1"


class NoSecrets:
    async def get(self, namespace: str, name: str) -> Secret:
        raise AssertionError(f"asked for {namespace}/{name}")


@dataclass
class Attempts:
    """A pod that tries again and again."""

    store: ImageStore
    image: str
    policy: str
    rate: TokenBucket = field(default_factory=lambda: TokenBucket(0, 1))
    now: datetime = datetime(2026, 1, 1, tzinfo=UTC)
    events: list[tuple[str, str, str]] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.puller = ImagePuller(
            self.store,
            NoSecrets(),
            back_off=BackOff(initial_s=IMAGE_INITIAL_S, cap_s=IMAGE_CAP_S),
            rate=self.rate,
            clock=lambda: self.now,
        )

    async def attempt(self) -> str:
        """``Running``, or the reason to wait."""
        return (await self.attempt_with_message())[0]

    async def attempt_with_message(self) -> tuple[str, str]:
        pod = Pod(metadata=ObjectMeta(name="web", namespace="ns", uid=PodUID("u")))
        container = Container(name="c", image=self.image, image_pull_policy=self.policy)

        def report(*event: str) -> None:
            assert len(event) == 3
            self.events.append(event)

        try:
            with trio.fail_after(60):
                await self.puller.ensure(pod, container, [], report)
        except ImageRefused as refused:
            return refused.failure.reason, refused.failure.message
        return "Running", ""


@pytest.fixture
def store(tmp_path: Path) -> ImageStore:
    tools = find_tools()
    return ImageStore(
        tmp_path / "store", tools=tools, registry=Registry(tools, auth_dir=tmp_path, scratch_dir=tmp_path / "store/tmp")
    )


async def test_pulls_that_fail_back_off(store: ImageStore) -> None:
    web = Attempts(store, NOBODY_LISTENS, "IfNotPresent")
    reasons = []
    for _ in range(6):
        reasons.append(await web.attempt())
        web.now += timedelta(seconds=IMAGE_INITIAL_S)
    assert reasons == [
        "ErrImagePull", "ErrImagePull", "ImagePullBackOff", "ErrImagePull", "ImagePullBackOff", "ImagePullBackOff"
    ]  # fmt: skip
    web.now += timedelta(seconds=IMAGE_INITIAL_S)
    reason, message = await web.attempt_with_message()
    assert reason == "ErrImagePull", "40 s after the third failure"
    _, held = await web.attempt_with_message()
    assert held == f'Back-off pulling image "{NOBODY_LISTENS}": ErrImagePull: {message}'
    assert web.events[:3] == [
        ("Normal", "Pulling", f'Pulling image "{NOBODY_LISTENS}"'),
        ("Warning", "Failed", f'Failed to pull image "{NOBODY_LISTENS}": {message}'),
        ("Warning", "Failed", "Error: ErrImagePull"),
    ]
    assert web.events[-2:] == [
        ("Normal", "BackOff", f'Back-off pulling image "{NOBODY_LISTENS}"'),
        ("Warning", "Failed", "Error: ImagePullBackOff"),
    ]


async def test_pulls_beyond_the_rate_are_refused_and_back_off(store: ImageStore) -> None:
    rate = TokenBucket(0.001, 1)
    assert rate.try_take(trio.current_time())
    web = Attempts(store, NOBODY_LISTENS, "Always", rate=rate)
    assert await web.attempt_with_message() == ("ErrImagePull", "pull QPS exceeded")
    web.now += timedelta(seconds=1)
    reason, message = await web.attempt_with_message()
    assert reason == "ImagePullBackOff"
    assert message == f'Back-off pulling image "{NOBODY_LISTENS}": ErrImagePull: pull QPS exceeded'


@pytest.mark.parametrize(
    "name", ["FAILED_IMAGE", "http://url", "0" * 64, "a b"], ids=["upper-case", "url", "bare-id", "space"]
)
async def test_names_that_are_none(store: ImageStore, name: str) -> None:
    web = Attempts(store, name, "IfNotPresent")
    reason, message = await web.attempt_with_message()
    assert reason == "InvalidImageName"
    assert message.startswith(f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": ')
    assert web.events == [("Warning", "InspectFailed", message), ("Warning", "Failed", "Error: InvalidImageName")]


async def test_present_image(store: ImageStore, tmp_path: Path) -> None:
    await store.import_image(build_busybox_image(tmp_path / "layout"), NOBODY_LISTENS)
    present = f'Container image "{NOBODY_LISTENS}" already present on machine and can be accessed by the pod'
    for policy in ("IfNotPresent", "Never"):
        web = Attempts(store, NOBODY_LISTENS, policy)
        assert await web.attempt() == "Running"
        assert web.events == [("Normal", "Pulled", present)]
    assert await Attempts(store, NOBODY_LISTENS, "Always").attempt() == "ErrImagePull", "asks the registry each time"


async def test_absent_image_that_is_never_pulled(store: ImageStore) -> None:
    web = Attempts(store, NOBODY_LISTENS, "Never")
    message = f'Container image "{NOBODY_LISTENS}" is not present with pull policy of Never'
    assert await web.attempt_with_message() == ("ErrImageNeverPull", message)
    assert web.events == [
        ("Warning", "ErrImageNeverPull", message),
        ("Warning", "Failed", "Error: ErrImageNeverPull"),
    ]
