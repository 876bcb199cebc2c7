"""How long this node caches objects in the Cache strategy: what the Node's annotation says, read as often as the kubelet does.

Run by the composition root, only with that strategy. Source: pkg/kubelet/util/manager/cache_based_manager.go,
GetObjectTTLFromNodeFunc; semantics §7.2.
"""

from __future__ import annotations

import logging

import trio

from kubelet_secrets.api.core import Node
from kubelet_secrets.api.meta import NODES
from kubelet_secrets.cache.polled import ttl_from_annotations
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError, ApiUnavailable

logger = logging.getLogger(__name__)

READ_S = 10.0  # nodeStatusUpdateFrequency: with each status the kubelet reads its Node


class NodeTtl:
    """Attributes: *ttl_s*, seconds; None while the Node says nothing usable."""

    def __init__(self, client: ApiClient, node_name: str) -> None:
        self._client = client
        self._node_name = node_name
        self.ttl_s: float | None = None

    async def run(self) -> None:
        """Keep :attr:`ttl_s` up to date until cancelled."""
        while True:
            try:
                node = await self._client.get(NODES, "", self._node_name, Node)
                self.ttl_s = ttl_from_annotations(node.metadata.annotations)
            except (ApiError, ApiUnavailable) as error:
                logger.debug("node %s: %s", self._node_name, error)  # it keeps what it said last
            await trio.sleep(READ_S)
