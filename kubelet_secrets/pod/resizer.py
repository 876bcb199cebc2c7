"""``Resizer``: gives running containers other resources, by way of their cgroups.

The pod's own cgroup is widened first and narrowed last, so that no container's limit is ever above it. A memory limit is not
set below what is in use: the kernel would kill for it. Used by ``pod/actuator.py`` alone.

Source: pkg/kubelet/kuberuntime/kuberuntime_manager.go, doPodResizeAction, validateMemoryResizeAction; KEP-1287.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import encode
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.events import WARNING
from kubelet_secrets.pod.instances import Instances
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.plan import ResizeContainer
from kubelet_secrets.pod.podlimits import pod_resources
from kubelet_secrets.pod.podsandbox import PodSandbox
from kubelet_secrets.pod.resize import resize_message
from kubelet_secrets.pod.settings import RESOURCES_LABEL, container_resources
from kubelet_secrets.pod.state import format_pod
from kubelet_secrets.runtime.usage import read_usage

logger = logging.getLogger(__name__)

RETRY_S = 10.0  # up to half more at random: pod_workers.go, backOffPeriod


class Resizer:
    """Of one pod.

    Attributes:
        problem: why the last attempt failed; "" when it did not.
    """

    def __init__(
        self,
        parts: NodeParts,
        instances: Instances,
        sandbox: PodSandbox,
        *,
        report: Callable[[str, str, str], None],
    ) -> None:
        self.problem = ""
        self._parts = parts
        self._instances = instances
        self._sandbox = sandbox
        self._report = report

    async def resize(self, pod: Pod, actions: Sequence[ResizeContainer]) -> datetime | None:
        """Do all of *actions*.

        Args:
            pod: with what it is allocated.

        Returns:
            When to try again; None: it is done.

        Cancellation: some may be done; the next plan shows what is left.
        """
        try:
            self._check_memory(pod, actions)
            await self._sandbox.widen_resources(pod)
            for action in actions:
                await self._resize_container(pod, action)
            await self._sandbox.follow_resources(pod)
        except (OSError, ContainerRunError) as error:
            text = (error.strerror or "failed") if isinstance(error, OSError) else str(error)
            if text != self.problem:
                logger.warning("pod %s cannot be resized: %s", format_pod(pod), text)
                self._report(WARNING, "ResizeError", resize_message("error", pod, text))
            self.problem = text
            return self._parts.clock() + timedelta(seconds=RETRY_S * random.uniform(1.0, 1.5))
        self.problem = ""
        return None

    def settled(self) -> None:
        """Nothing is to be resized any more."""
        self.problem = ""

    def _check_memory(self, pod: Pod, actions: Sequence[ResizeContainer]) -> None:
        """Raises: ContainerRunError: a limit would be below what is in use."""
        cgroups = self._parts.cgroups
        wanted = [("pod", cgroups.pod_path(pod.metadata.uid), pod_resources(pod).memory_limit_bytes)]
        for action in actions:
            path = cgroups.container_path(pod.metadata.uid, action.instance.container_id)
            limit = container_resources(pod, action.container).memory_limit_bytes
            wanted.append((f'container "{action.container.name}"', path, limit))
        errors = []
        for what, path, limit in wanted:
            usage = read_usage(cgroups.layout, path) if limit is not None else None
            if usage is None or limit is None or usage.memory_limit_bytes is None or limit >= usage.memory_limit_bytes:
                continue
            if limit < usage.memory_bytes:
                text = f"attempting to set {what} memory limit ({limit}) below current usage ({usage.memory_bytes})"
                errors.append(text)
        if errors:
            listed = errors[0] if len(errors) == 1 else f"[{', '.join(errors)}]"
            raise ContainerRunError(f"cannot decrease memory limits: {listed}")

    async def _resize_container(self, pod: Pod, action: ResizeContainer) -> None:
        container, instance = action.container, action.instance
        path = self._parts.cgroups.container_path(pod.metadata.uid, instance.container_id)
        resources = container_resources(pod, container)
        await trio.to_thread.run_sync(self._parts.cgroups.limit, path, resources)
        # No await until the table knows: what is written down is what the next agent believes.
        self._parts.runtime.label(instance.container_id, RESOURCES_LABEL, encode(container.resources).decode())
        self._instances.resized(instance.container_id, container.resources)
