"""A container's image made ready: pull secrets, policy, events, back-off.

One per pod, made by ``pod/worker.py``, used by ``pod/containers.py`` before each start. Fetching and unpacking is
``runtime.images``'s, what a pull secret says ``runtime.keyring``'s. Source: pkg/kubelet/images/image_manager.go
EnsureImageExists, pkg/kubelet/kubelet_pods.go getPullSecretsForPod; semantics §9.1, §9.4.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import trio

from kubelet_secrets.api.core import Container, Pod, Secret
from kubelet_secrets.api.times import go_duration
from kubelet_secrets.errors import ImageError, SetUpError
from kubelet_secrets.pod.backoff import BackOff
from kubelet_secrets.pod.events import NORMAL, WARNING
from kubelet_secrets.pod.objects import ObjectGetter
from kubelet_secrets.pod.state import StartFailure
from kubelet_secrets.pod.tokenbucket import TokenBucket
from kubelet_secrets.runtime.images import Image, ImageStore
from kubelet_secrets.runtime.keyring import KeyringError, RegistryCredentials, lookup, make_keyring
from kubelet_secrets.runtime.pullprogress import PullProgress
from kubelet_secrets.runtime.reference import parse_reference

RETRY_INTO_BACK_OFF_S = 1.5  # after a failed pull the next look finds the back-off and says so
RETRY_S = 10.0  # any other image error

Report = Callable[[str, str, str], None]
"""(type, reason, message) of an event about the container."""


class ImageRefused(Exception):
    """The image is not ready; *failure* is what the container waits with."""

    def __init__(self, failure: StartFailure) -> None:
        super().__init__(f"{failure.reason}: {failure.message}")
        self.failure = failure


class ImagePuller:
    """The images of one pod.

    Args:
        back_off: pulls by ``<pod uid>_<image>``; shared by the node's pods.
        rate: how often registries may be asked; shared by the node's pods.
    """

    def __init__(
        self,
        store: ImageStore,
        secrets: ObjectGetter[Secret],
        *,
        back_off: BackOff,
        rate: TokenBucket,
        clock: Callable[[], datetime],
    ) -> None:
        self._store = store
        self._secrets = secrets
        self._back_off = back_off
        self._rate = rate
        self._clock = clock
        self._last_errors: dict[str, str] = {}  # by image

    async def pull_secrets(self, pod: Pod) -> tuple[list[Secret], list[str]]:
        """The pod's pull secrets, and the names of those that cannot be had; those do not stop anything (§9.1)."""
        found, missing = [], []
        for reference in pod.spec.image_pull_secrets:
            if not reference.name:
                continue
            try:
                found.append(await self._secrets.get(pod.metadata.namespace, reference.name))
            except SetUpError:
                missing.append(reference.name)
        return found, missing

    async def ensure(self, pod: Pod, container: Container, secrets: Sequence[Secret], report: Report) -> Image:
        """The image of *container*, pulled if its policy says so.

        Raises:
            ImageRefused: there is none; events have been reported.

        Cancellation: the store is as before.
        """
        try:
            image = await self._ensure(pod, container, secrets, report)
        except ImageError as error:
            retry_at = self._clock() + timedelta(seconds=RETRY_S)
            if error.reason == "InvalidImageName":
                report(WARNING, "InspectFailed", str(error))
            elif error.reason in ("ErrImageNeverPull", "ErrImagePull"):
                pass  # reported where it was decided
            else:
                report(WARNING, "InspectFailed", str(error))
            if error.reason == "ErrImagePull":
                retry_at = self._clock() + timedelta(seconds=RETRY_INTO_BACK_OFF_S)
            report(WARNING, "Failed", f"Error: {error.reason}")
            raise ImageRefused(StartFailure(reason=error.reason, message=str(error), retry_at=retry_at)) from error
        self._store.note_use(image)
        return image

    async def _ensure(self, pod: Pod, container: Container, secrets: Sequence[Secret], report: Report) -> Image:
        name, policy = container.image, container.image_pull_policy or default_pull_policy(container.image)
        present = self._store.resolve(name)
        if present is not None and policy != "Always" and self._may_use(present, name, secrets):
            report(
                NORMAL,
                "Pulled",
                f'Container image "{name}" already present on machine and can be accessed by the pod',
            )
            return present
        if policy == "Never":
            message = f'Container image "{name}" is not present with pull policy of Never'
            report(WARNING, "ErrImageNeverPull", message)
            raise ImageError("ErrImageNeverPull", message)
        key = f"{pod.metadata.uid}_{name}"
        held_until = self._back_off.retry_at_since_update(key, self._clock())
        if held_until is not None:
            message = f'Back-off pulling image "{name}"'
            report(NORMAL, "BackOff", message)
            report(WARNING, "Failed", "Error: ImagePullBackOff")
            waiting = f"{message}: ErrImagePull: {self._last_errors.get(name, '')}"
            raise ImageRefused(StartFailure(reason="ImagePullBackOff", message=waiting, retry_at=held_until))
        report(NORMAL, "Pulling", f'Pulling image "{name}"')

        def tell(progress: PullProgress) -> None:
            report(NORMAL, "Pulling", f'Pulling image "{name}": {progress}')

        started = trio.current_time()
        try:
            if not self._rate.try_take(started):
                raise ImageError("ErrImagePull", "pull QPS exceeded")
            ensured = await self._store.ensure(name, policy, self._credentials(name, secrets), tell=tell)
        except ImageError as error:
            report(WARNING, "Failed", f'Failed to pull image "{name}": {error}')
            now = self._clock()
            self._back_off.advance(key, now, now)
            self._last_errors[name] = str(error)
            raise
        took, waited = (_milliseconds(seconds) for seconds in (ensured.pull_s, trio.current_time() - started))
        report(
            NORMAL,
            "Pulled",
            f'Successfully pulled image "{name}" in {took} ({waited} including waiting). '
            f"Image size: {ensured.image.size_bytes} bytes.",
        )
        return ensured.image

    def _may_use(self, present: Image, name: str, secrets: Sequence[Secret]) -> bool:
        """Whether the pod may use an image that is here (KEP-2535). The secrets are looked into only if that decides it."""
        return self._store.is_accessible(present, name, ()) or self._store.is_accessible(
            present, name, self._credentials(name, secrets)
        )

    def _credentials(self, name: str, secrets: Sequence[Secret]) -> tuple[RegistryCredentials, ...]:
        try:
            return lookup(make_keyring(secrets), parse_reference(name).repository)
        except KeyringError as error:
            raise ImageError("ErrImagePull", str(error)) from error


def _milliseconds(seconds: float) -> str:
    return go_duration(int(seconds * 1000) / 1000)


def default_pull_policy(image: str) -> str:
    """What the API server would have filled in: Always for ``latest``, else IfNotPresent."""
    try:
        reference = parse_reference(image)
    except ImageError:
        return "IfNotPresent"
    return "Always" if reference.tag == "latest" and not reference.digest else "IfNotPresent"
