"""``Admission``: which pods the node has taken, and the question put for each new one.

Made by the composition root; asked by ``pod/worker.py`` before anything of a pod is made. The rules are ``pod/admission.py``'s;
here the Node object is read for them: its labels and taints are others' to change. Source: pkg/kubelet/kubelet.go, canAdmitPod,
getNodeAnyWay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection

import trio

from kubelet_secrets.api.core import Node, Pod
from kubelet_secrets.api.meta import NODES, PodUID
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable
from kubelet_secrets.pod.admission import NodeTerms, Rejection, Share, judge, judge_resize, share_of
from kubelet_secrets.pod.resize import Refusal

logger = logging.getLogger(__name__)

MAX_AGE_S = 10.0  # the kubelet's nodeStatusUpdateFrequency
READ_S = 2.0


class Admission:
    """The pods of one node.

    Args:
        known: the Node as far as this node knows it by itself; asked while the API server does not answer.
        info: name and allocatable resources, which are the node's own word.
        allowed_sysctls: unsafe ones that pods may set all the same; ``net.core.*`` for many.
        pressures: conditions of the Node that keep new pods away.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        known: Callable[[], Node],
        info: Callable[[], NodeInfo],
        allowed_sysctls: Collection[str] = (),
        pressures: Callable[[], Collection[str]] = tuple,
    ) -> None:
        self._client = client
        self._known = known
        self._info = info
        self._allowed_sysctls = tuple(allowed_sysctls)
        self._pressures = pressures
        self._taken: dict[PodUID, Share] = {}
        self._node: Node | None = None
        self._read_at = float("-inf")
        self._reading = trio.Lock()

    def __repr__(self) -> str:
        return f"<Admission {len(self._taken)} pods>"

    async def admit(self, pod: Pod) -> Rejection | None:
        """Take *pod*, or say why not.

        Raises:
            InvalidQuantity: a request of a static pod is none.

        Cancellation: it is not taken.
        """
        await self._refresh(MAX_AGE_S)
        verdict = self._judge(pod)
        if verdict is not None and verdict.depends_on_labels:
            await self._refresh(0.0)
            verdict = self._judge(pod)
        # No await since the question: two pods must not both be given the last place.
        if verdict is None:
            self.note(pod)
        return verdict

    def resize(self, pod: Pod) -> Refusal | None:
        """Let *pod*, which is here, have what it asks for now, or say why not."""
        others = [each for uid, each in self._taken.items() if uid != pod.metadata.uid]
        refusal = judge_resize(pod, self._info().allocatable, others)
        if refusal is None:
            self.note(pod)
        return refusal

    def note(self, pod: Pod) -> None:
        """*pod* is here: an earlier agent took it."""
        self._taken[PodUID(pod.metadata.uid)] = share_of(pod)

    def forget(self, uid: PodUID) -> None:
        """What the pod had is free again: nothing of it runs any more."""
        self._taken.pop(uid, None)

    def _judge(self, pod: Pod) -> Rejection | None:
        node, info = self._node or self._known(), self._info()
        terms = NodeTerms(
            name=info.name,
            labels=node.metadata.labels,
            taints=node.spec.taints,
            allocatable=info.allocatable,
            allowed_sysctls=self._allowed_sysctls,
            pressures=self._pressures(),
        )
        others = [each for uid, each in self._taken.items() if uid != pod.metadata.uid]
        return judge(pod, terms, others, was_started=pod.status.start_time is not None)

    async def _refresh(self, max_age_s: float) -> None:
        async with self._reading:
            if trio.current_time() - self._read_at <= max_age_s:
                return
            with trio.move_on_after(READ_S):
                try:
                    self._node = await self._client.get(NODES, "", self._info().name, Node)
                except (ApiError, ApiUnavailable) as error:
                    logger.debug("the Node object cannot be read: %s", error)
            self._read_at = trio.current_time()
