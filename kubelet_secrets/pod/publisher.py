"""``StatusPublisher``: bring one pod's status to the API server, the latest one, and know which one it has.

One per pod, made and run by ``pod/worker.py``. Only what differs is sent (``pod.status.make_status_patch``). Source:
pkg/kubelet/status/status_manager.go, syncPod; semantics §8.8 (3).
"""

from __future__ import annotations

import logging

from kubelet_secrets.api.core import Pod, PodStatus
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable, Conflict, NotFound
from kubelet_secrets.pod.status import make_status_patch
from kubelet_secrets.pod.wake import Wake

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0


class StatusPublisher:
    """The status of one pod.

    Attributes:
        wanted: what the API server shall have.
        published: what it has, as far as is known: at first what the pod came with.
        is_gone: the API server has no such pod (any more): there is nothing left to publish to.
    """

    def __init__(self, client: ApiClient, pod: Pod) -> None:
        self.wanted = self.published = pod.status
        self.is_gone = False
        self._client = client
        self._pod = pod
        self._wake = Wake()
        self._done = Wake()

    def publish(self, status: PodStatus) -> None:
        """Make *status* the wanted one. Does not wait; of several in a row only the last may be sent."""
        if status != self.wanted:
            self.wanted = status
            self._wake.ring()

    def nudge(self) -> None:
        """Try again now: there is reason to think that the API server answers."""
        self._wake.ring()

    async def wait_published(self) -> None:
        """Wait until the API server has :attr:`wanted`, or the pod is gone."""
        while self.published != self.wanted and not self.is_gone:
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Send what is wanted until cancelled; retried with a pause of 0.5 s doubling to 10 s."""
        pause_s = FIRST_PAUSE_S
        while not self.is_gone:
            self._wake.clear()
            if self.published == self.wanted:
                await self._wake.wait()
            elif await self._send():
                pause_s = FIRST_PAUSE_S
                self._done.ring()
            else:
                await self._wake.wait(timeout_s=pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._done.ring()

    async def _send(self) -> bool:
        wanted, meta = self.wanted, self._pod.metadata
        patch = make_status_patch(self._pod, self.published, wanted)
        if patch is not None:
            try:
                await self._client.patch(PODS, meta.namespace, meta.name, patch, subresource="status")
            except (NotFound, Conflict) as error:
                # 409: the name belongs to another pod by now (the patch carries the uid).
                logger.info("status of pod %s/%s has no addressee: %s", meta.namespace, meta.name, error)
                self.is_gone = True
                return True
            except (ApiError, ApiUnavailable) as error:
                logger.info("failed to update status of pod %s/%s: %s", meta.namespace, meta.name, error)
                return False
        self.published = wanted
        return True

    async def delete(self) -> None:
        """The last step of a deletion: DELETE with grace 0, for this very pod. Retried until the server has answered."""
        meta = self._pod.metadata
        pause_s = FIRST_PAUSE_S
        while not self.is_gone:
            try:
                await self._client.delete(PODS, meta.namespace, meta.name, grace_period_s=0, uid=meta.uid)
                self.is_gone = True
            except (NotFound, Conflict):
                self.is_gone = True
            except (ApiError, ApiUnavailable) as error:
                logger.info("failed to delete pod %s/%s: %s", meta.namespace, meta.name, error)
                self._wake.clear()
                await self._wake.wait(timeout_s=pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
