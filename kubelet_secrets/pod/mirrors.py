"""``MirrorPods``: what the API server shows of the node's static pods.

For each static pod that runs, one pod in the API whose ``kubernetes.io/config.mirror`` annotation names the manifest it stands
for. Deleting it stops nothing: it is made again. Run by the composition root; told of static pods and of mirrors by
``pod/manager.py``, and tells it which mirror a static pod's status belongs to.

Source: pkg/kubelet/pod/mirror_client.go; pkg/kubelet/kubelet.go, tryReconcileMirrorPods; semantics §13.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, PodUID
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.api.staticpod import CONFIG_MIRROR
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import AlreadyExists, ApiError, ApiUnavailable, Conflict, NotFound
from kubelet_secrets.pod.staticpods import StaticPod, make_mirror
from kubelet_secrets.pod.wake import Wake

logger = logging.getLogger(__name__)

RETRY_S = 2.0


class MirrorPods:
    """The mirror pods of one node.

    Args:
        node_uid: of the Node object; empty while it is not known, and no mirror is made before.
        mirrored: told the mirror of a static pod by the latter's uid, or None when it has none; must not wait.
    """

    def __init__(
        self,
        client: ApiClient,
        *,
        node: Callable[[], NodeInfo],
        node_uid: Callable[[], str],
        mirrored: Callable[[PodUID, Pod | None], None],
    ) -> None:
        self._client = client
        self._node = node
        self._node_uid = node_uid
        self._mirrored = mirrored
        self._static: dict[tuple[str, str], StaticPod] = {}
        self._mirrors: dict[tuple[str, str], Pod] = {}
        self._is_synced = False
        self._wake = Wake()

    def __repr__(self) -> str:
        return f"<MirrorPods {len(self._mirrors)} of {len(self._static)}>"

    def __contains__(self, uid: object) -> bool:
        return any(mirror.metadata.uid == uid for mirror in self._mirrors.values())

    # --- news; nothing here waits ---------------------------------------------------------------------------------------

    def replace(self, running: Sequence[StaticPod]) -> None:
        """The static pods that run now."""
        self._static = {each.full_name: each for each in running}
        for name in self._static:
            self._tell(name)
        self._wake.ring()

    def mirror_changed(self, mirror: Pod) -> None:
        """The API has this mirror pod."""
        name = (mirror.metadata.namespace, mirror.metadata.name)
        self._mirrors[name] = mirror
        self._tell(name)
        self._wake.ring()

    def mirror_removed(self, uid: PodUID) -> None:
        """The API has no such mirror pod any more."""
        for name, mirror in list(self._mirrors.items()):
            if mirror.metadata.uid == uid:
                del self._mirrors[name]
                self._tell(name)
        self._wake.ring()

    def synced(self) -> None:
        """Every mirror that there is has been told; or the API server answers again."""
        self._is_synced = True
        self._wake.ring()

    # --- work -----------------------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Create and delete mirrors until cancelled; what fails is tried again after two seconds."""
        while True:
            self._wake.clear()
            failed = self._is_synced and not await self._reconcile()
            await self._wake.wait(timeout_s=RETRY_S if failed else None)

    async def _reconcile(self) -> bool:
        """Returns: whether nothing is left to do, as far as is known."""
        is_done = True
        for name, mirror in list(self._mirrors.items()):
            if not self._is_good(mirror, self._static.get(name)):
                is_done = await self._delete(mirror) and is_done
        for name, static in list(self._static.items()):
            if name not in self._mirrors:
                is_done = await self._create(static) and is_done
        return is_done

    async def _create(self, static: StaticPod) -> bool:
        if not self._node_uid():
            return False
        try:
            mirror = make_mirror(static, self._node().name, self._node_uid())
            await self._client.create(PODS, static.pod.metadata.namespace, mirror)
        except (AlreadyExists, Conflict):
            return False  # the watch will show which pod has the name
        except (ApiError, ApiUnavailable) as error:
            logger.warning("failed to create a mirror of pod %s/%s: %s", *static.full_name, error)
            return False
        return True

    async def _delete(self, mirror: Pod) -> bool:
        meta = mirror.metadata
        try:
            await self._client.delete(PODS, meta.namespace, meta.name, grace_period_s=0, uid=meta.uid)
        except (NotFound, Conflict):
            pass
        except (ApiError, ApiUnavailable) as error:
            logger.warning("failed to delete mirror pod %s/%s: %s", meta.namespace, meta.name, error)
            return False
        return True

    def _tell(self, name: tuple[str, str]) -> None:
        static, mirror = self._static.get(name), self._mirrors.get(name)
        if static is not None:
            good = mirror if mirror is not None and self._is_good(mirror, static) else None
            self._mirrored(static.uid, good)

    def _is_good(self, mirror: Pod, static: StaticPod | None) -> bool:
        meta = mirror.metadata
        return static is not None and meta.deletion_timestamp is None and meta.annotations[CONFIG_MIRROR] == static.hash
