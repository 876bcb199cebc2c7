"""The cluster's trust bundles, watched: what ``clusterTrustBundle`` projections are made from on this node.

Only where the projection is switched on, as in the kubelet (gate ClusterTrustBundleProjection). Run by the composition root.
Source: pkg/kubelet/clustertrustbundle/clustertrustbundle_manager.go; semantics §4.1. Differs: upstream starts its informer when
the first pod asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from kubelet_secrets.api.core import ClusterTrustBundle
from kubelet_secrets.api.meta import CLUSTER_TRUST_BUNDLES
from kubelet_secrets.cache.reflector import ListWatcher, Reflector, Target
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.volume.trustbundles import TrustBundles, make_trust_bundle

logger = logging.getLogger(__name__)


class TrustBundleCache:
    """A ``TrustBundleSource`` that keeps up with the API server.

    Args:
        changed: called after each change; must not wait.
    """

    def __init__(self, client: ListWatcher, *, changed: Callable[[], None]) -> None:
        target = Target(resource=CLUSTER_TRUST_BUNDLES, kind=ClusterTrustBundle)
        self._reflector = Reflector(client, target, self)
        self._changed = changed
        self._bundles: dict[str, ClusterTrustBundle] | None = None

    async def run(self) -> None:
        """Keep up until cancelled."""
        await self._reflector.run()

    def nudge(self) -> None:
        """The API server is back after an outage: look now."""
        self._reflector.nudge(after_outage=True)

    def by_name(self, name: str, *, optional: bool) -> bytes:
        return self._source().by_name(name, optional=optional)

    def by_signer(self, signer_name: str, label_selector: dict[str, Any] | None, *, optional: bool) -> bytes:
        return self._source().by_signer(signer_name, label_selector, optional=optional)

    def _source(self) -> TrustBundles:
        if self._bundles is None:
            raise SetUpError("ClusterTrustBundle informer has not yet synced")
        return TrustBundles(make_trust_bundle(each) for each in self._bundles.values())

    # What the reflector calls.

    def replace(self, objects: Sequence[ClusterTrustBundle]) -> None:
        self._bundles = {each.metadata.name: each for each in objects}
        self._changed()

    def upsert(self, obj: ClusterTrustBundle) -> None:
        assert self._bundles is not None, "the list comes first"
        self._bundles[obj.metadata.name] = obj
        self._changed()

    def remove(self, obj: ClusterTrustBundle) -> None:
        assert self._bundles is not None, "the list comes first"
        self._bundles.pop(obj.metadata.name, None)
        self._changed()

    def report(self, error: Exception | None) -> None:
        if error is not None:
            logger.warning("cannot watch ClusterTrustBundles: %s", error)
