"""The end of a node: every container stopped, every sandbox and volume gone. What a restart of the agent is not.

Called by the composition root after the pods' workers have been cancelled. The API objects stay: a node that comes back
finds its pods bound to it and starts their containers anew.
"""

from __future__ import annotations

import logging

import trio

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.runtime.oci import ContainerHandle

logger = logging.getLogger(__name__)


async def stop_everything(parts: NodeParts, *, grace_s: float) -> None:
    """Stop all containers at once, then remove containers, volumes and sandboxes, whatever can be removed.

    Args:
        grace_s: how long a container may take after SIGTERM; SIGKILL after that.

    Cancellation: what has not been removed stays; the keeper unmounts it.
    """
    handles = parts.runtime.list()
    async with trio.open_nursery() as nursery:
        for handle in handles:
            nursery.start_soon(_stop, parts, handle, grace_s)
    volumes = await parts.volumes.adopt()
    for uid in sorted({ref.pod_uid for ref in volumes} | {handle.record.pod_uid for handle in handles}):
        try:
            await parts.volumes.tear_down_pod(uid)
        except OSError as error:
            logger.warning("volumes of pod %s stay: %s", uid, error)
    for sandbox in parts.sandboxes.list():
        await parts.sandboxes.remove(sandbox.pod_uid)


async def _stop(parts: NodeParts, handle: ContainerHandle, grace_s: float) -> None:
    try:
        await parts.runtime.stop(handle.id, grace_s=grace_s)
        parts.registry.unregister(handle.id)
        await parts.runtime.delete(handle.id)
    except ContainerRunError as error:
        logger.warning("container %s: %s", handle.id, error)
