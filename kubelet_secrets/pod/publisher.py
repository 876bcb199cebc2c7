"""``StatusPublisher``: bring one pod's status to the API server, the latest one, and know which one it has.

One per pod, made and run by ``pod/worker.py``. Only what differs is sent (``pod.status.make_status_patch``). Source:
pkg/kubelet/status/status_manager.go, syncPod; semantics §8.8 (3).
"""

from __future__ import annotations

import logging

import msgspec
import trio

from kubelet_secrets.api.core import Pod, PodStatus
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable, Conflict, NotFound
from kubelet_secrets.pod.conditions import OWN_CONDITIONS
from kubelet_secrets.pod.status import make_status_patch
from kubelet_secrets.pod.turns import Turns
from kubelet_secrets.pod.wake import Wake

logger = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LAST_PAUSE_S = 10.0


class StatusPublisher:
    """The status of one pod.

    Args:
        has_mirror: *pod* is a static one: its status goes to its mirror, once :meth:`address` has named it.
        turns: of the node; its volumes come first.
        lane: how many may send at once, of all pods together.

    Attributes:
        wanted: what the API server shall have.
        published: what it has, as far as is known: at first what the pod came with.
        is_gone: the API server has no such pod (any more): there is nothing left to publish to.
    """

    def __init__(
        self,
        client: ApiClient,
        pod: Pod,
        *,
        has_mirror: bool = False,
        turns: Turns | None = None,
        lane: trio.Semaphore | None = None,
    ) -> None:
        self.wanted = self.published = pod.status
        self.is_gone = False
        self._client = client
        self._turns = turns if turns is not None else Turns()
        self._lane = lane if lane is not None else trio.Semaphore(1)
        self._has_mirror = has_mirror
        self._pod: Pod | None = None if has_mirror else pod
        self._version = ""  # the pod's resourceVersion after what was sent last: what is older says nothing about it
        self._wake = Wake()
        self._done = Wake()

    def publish(self, status: PodStatus) -> None:
        """Make *status* the wanted one. Does not wait; of several in a row only the last may be sent."""
        if status != self.wanted:
            self.wanted = status
            self._wake.ring()

    def seen(self, pod: Pod) -> None:
        """The API server has *pod* like this now. What somebody else has made of the node's own conditions is put right.

        A node that was out of reach has its pods declared not ready (MarkPodsNotReady), and nothing of them may have changed.
        Source: pkg/kubelet/status/status_manager.go, needsReconcile.
        """
        if self._pod is None or pod.metadata.uid != self._pod.metadata.uid or _is_older(pod, self._version):
            return
        if _essence(pod.status) != _essence(self.published):
            self.published = pod.status
            self._wake.ring()

    def address(self, mirror: Pod | None) -> None:
        """The static pod's mirror is *mirror* now; None: there is none, and whatever is published waits for the next one."""
        if mirror is not None and mirror.status.start_time:  # an earlier agent has started the pod
            start_time = min(mirror.status.start_time, self.wanted.start_time or mirror.status.start_time)
            self.wanted = msgspec.structs.replace(self.wanted, start_time=start_time)
        if mirror is not None and (self._pod is None or self._pod.metadata.uid != mirror.metadata.uid):
            self.published = mirror.status
        self._pod = mirror
        self._wake.ring()
        self._done.ring()

    def nudge(self) -> None:
        """Try again now: there is reason to think that the API server answers."""
        self._wake.ring()

    async def wait_published(self) -> None:
        """Wait until the API server has :attr:`wanted`, or the pod is gone, or there is no mirror to tell."""
        while self.published != self.wanted and not self.is_gone and self._pod is not None:
            self._done.clear()
            await self._done.wait()

    async def run(self) -> None:
        """Send what is wanted until cancelled; retried with a pause of 0.5 s doubling to 10 s."""
        pause_s = FIRST_PAUSE_S
        while not self.is_gone:
            self._wake.clear()
            if self._pod is None or self.published == self.wanted:
                await self._wake.wait()
            elif await self._send_in_turn():
                pause_s = FIRST_PAUSE_S
                self._done.ring()
            else:
                await self._wake.wait(timeout_s=pause_s)
                pause_s = min(2 * pause_s, LAST_PAUSE_S)
        self._done.ring()

    async def _send_in_turn(self) -> bool:
        """While this waits the status may change; what is sent is the latest one."""
        await self._turns.wait_volumes()
        async with self._lane:
            return self._pod is None or await self._send(self._pod)

    async def _send(self, pod: Pod) -> bool:
        wanted, meta = self.wanted, pod.metadata
        patch = make_status_patch(pod, self.published, wanted)
        if patch is not None:
            try:
                answer = await self._client.patch(PODS, meta.namespace, meta.name, patch, Pod, subresource="status")
                self._version = answer.metadata.resource_version
            except NotFound as error:
                logger.info("status of pod %s/%s has no addressee: %s", meta.namespace, meta.name, error)
                if self._has_mirror:
                    self._pod = None if self._pod is pod else self._pod  # the next one will be named to us
                else:
                    self.is_gone = True
                return True
            except (ApiError, ApiUnavailable) as error:
                # 409 does not say whose it is: the name may belong to another pod by now (the patch carries the uid), which the
                # watch will tell; or so many wrote at once that the server has given up, which it does after five tries.
                logger.info("failed to update status of pod %s/%s: %s", meta.namespace, meta.name, error)
                return False
        if self._pod is not None and self._pod.metadata.uid == meta.uid:
            self.published = wanted
        return True

    async def delete(self) -> None:
        """The last step of a deletion: DELETE with grace 0, for this very pod. Retried until the server has answered.

        Not for static pods: their mirrors are not theirs to delete.
        """
        pause_s = FIRST_PAUSE_S
        while not self.is_gone:
            assert self._pod is not None, "is_gone says so of a static pod"
            meta = self._pod.metadata
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


def _essence(status: PodStatus) -> tuple[str, dict[str, str]]:
    """What others, controllers foremost, may write though it is the node's to say."""
    return status.phase, {each.type: each.status for each in status.conditions if each.type in OWN_CONDITIONS}


def _is_older(pod: Pod, version: str) -> bool:
    """Whether *pod* comes from before *version*. Versions of one resource grow (KEP-5504)."""
    mine = pod.metadata.resource_version
    return mine.isdecimal() and version.isdecimal() and int(mine) < int(version)
