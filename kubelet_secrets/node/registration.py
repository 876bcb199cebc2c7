"""Keep the Node object there and up to date: register or reconcile, then report the status.

Started by the composition root as one service. Everything it sends is made in ``node/status.py``. Source:
pkg/kubelet/kubelet_node_status.go; semantics §10.4.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

import trio

from kubelet_secrets.api.core import Node, NodeStatus, Quantity, Taint
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import AlreadyExists, ApiError, ApiUnavailable
from kubelet_secrets.node.facts import NodeFacts
from kubelet_secrets.node.flags import ALLOWED_LABELS
from kubelet_secrets.node.status import (
    ANNOTATIONS,
    Observations,
    default_labels,
    is_changed,
    make_allocatable,
    make_node,
    make_node_status,
    transitions,
)

logger = logging.getLogger(__name__)

UPDATE_S = 10.0  # nodeStatusUpdateFrequency: how often the status is computed
REPORT = timedelta(minutes=5)  # nodeStatusReportFrequency: how often it is sent though nothing changed
UPDATE_TRIES = 5
REGISTER_FIRST_PAUSE_S = 0.1
REGISTER_LAST_PAUSE_S = 7.0


class NodeReporter:
    """This node's object.

    Args:
        observe: asked each time the status is computed.
        clock: wall time, aware.
        labels, taints: of the object when it is registered; of an object that is there already, only labels of Kubernetes's
            own that are the node's to set are brought up to date, as upstream.
        record: told reason and message of each event about the node; must not wait.

    Attributes:
        node: the object as the API server had it at the last look; None until registered.
    """

    def __init__(
        self,
        client: ApiClient,
        facts: NodeFacts,
        *,
        clock: Callable[[], datetime],
        observe: Callable[[], Observations] = Observations,
        labels: Mapping[str, str] = {},
        taints: Sequence[Taint] = (),
        record: Callable[[str, str], None] = lambda reason, message: None,
    ) -> None:
        self.node: Node | None = None
        self._client = client
        self._facts = facts
        self._clock = clock
        self._observe = observe
        self._labels = labels
        self._taints = taints
        self._record = record
        self._nudged = trio.Event()
        self._sent_at: datetime | None = None

    @property
    def allocatable(self) -> Mapping[str, Quantity]:
        """What ``resourceFieldRef`` falls back to."""
        return make_allocatable(self._facts)

    async def run(self, *, task_status: trio.TaskStatus[Node] = trio.TASK_STATUS_IGNORED) -> None:
        """Register, then report, until cancelled.

        Started with the Node as soon as the API server has it. An API server that is away is waited for.
        """
        self._record("Starting", "Starting kubelet.")
        self.node = await self._register()
        task_status.started(self.node)
        await self.report()  # an object found from earlier has an old status
        while True:
            with trio.move_on_after(UPDATE_S):
                await self._nudged.wait()
            self._nudged = trio.Event()  # first: who nudges during a report, which may take long, gets another
            await self.report()

    def nudge(self) -> None:
        """Compute the status now: something of it has changed, or the API server answers again."""
        self._nudged.set()

    async def report(self) -> bool:
        """Compute the status, and send it if the API server has another or was last sent one :data:`REPORT` ago.

        What it has is read each time: the control plane may have declared this node lost while it was out of reach.

        Returns:
            Whether it was sent. Failures are tried :data:`UPDATE_TRIES` times, then left to the next call.

        Source: tryUpdateNodeStatus.
        """
        for attempt in range(1, UPDATE_TRIES + 1):
            try:
                # The first look may be at the API server's cache: this is asked for all the time.
                version = "0" if attempt == 1 else ""
                node = await self._client.get(NODES, "", self._facts.name, Node, resource_version=version)
                return await self._report(node)
            except (ApiError, ApiUnavailable) as error:
                logger.info("node status, try %d of %d: %s", attempt, UPDATE_TRIES, error)
        logger.warning("unable to update node status: update node status exceeds retry count")
        return False

    async def _report(self, node: Node) -> bool:
        self.node = node
        now = self._clock()
        status = make_node_status(self._facts, previous=node.status, seen=self._observe(), now=now)
        is_due = self._sent_at is None or now - self._sent_at >= REPORT
        if not is_due and not is_changed(node.status, status):
            return False
        await self._client.patch(NODES, "", self._facts.name, _status_patch(node.status, status), subresource="status")
        self._tell(node.status, status)
        self._sent_at = now
        return True

    def _tell(self, old: NodeStatus, new: NodeStatus) -> None:
        for reason in transitions(old, new):
            self._record(reason, f"Node {self._facts.name} status is now: {reason}")

    async def _register(self) -> Node:
        pause_s = REGISTER_FIRST_PAUSE_S
        while True:
            try:
                return await self._register_once()
            except (ApiError, ApiUnavailable) as error:
                logger.warning("unable to register node %s with the API server: %s", self._facts.name, error)
            await trio.sleep(pause_s)
            pause_s = min(2 * pause_s, REGISTER_LAST_PAUSE_S)

    async def _register_once(self) -> Node:
        name = self._facts.name
        try:
            wanted = make_node(
                self._facts, now=self._clock(), labels=self._labels, taints=self._taints, seen=self._observe()
            )
            node = await self._client.create(NODES, "", wanted)
            logger.info("registered node %s", name)
            self._tell(NodeStatus(), wanted.status)
            return node
        except AlreadyExists:
            existing = await self._client.get(NODES, "", name, Node)
        labels = {**default_labels(self._facts), **self._labels}
        if patch := _reconciliation(existing, {key: value for key, value in labels.items() if key in ALLOWED_LABELS}):
            await self._client.patch(NODES, "", name, patch)
        logger.info("node %s was registered before", name)
        return existing


def _reconciliation(existing: Node, labels: Mapping[str, str]) -> dict[str, Any]:
    """What an object from earlier lacks of *labels* and annotations. Source: tryRegisterWithAPIServer."""
    meta = existing.metadata
    wanted = {"labels": (labels, meta.labels), "annotations": (ANNOTATIONS, meta.annotations)}
    stale = {
        field: {key: value for key, value in own.items() if found.get(key) != value}
        for field, (own, found) in wanted.items()
    }
    stale = {field: entries for field, entries in stale.items() if entries}
    return {"metadata": stale} if stale else {}


def _status_patch(old: NodeStatus, new: NodeStatus) -> dict[str, Any]:
    """Strategic merge: conditions merge by type. Addresses do too, which would keep old ones of a type: they replace."""
    status = to_builtins(new)
    if old.addresses != new.addresses:
        # Source: fixupPatchForNodeStatusAddresses.
        status["addresses"] = [*status["addresses"], {"$patch": "replace"}]
    else:
        del status["addresses"]
    return {"status": status}
