"""``PodSandbox``: one pod's sandbox over its life, and the cgroup above its containers.

It is made, held back after a failure, made anew, removed. What it consists of is ``runtime.sandbox``'s, what it shall be like
``sandboxes``' and ``podlimits``'. Used by ``actuator`` alone.
Source: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go, createPodSandbox.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.pod.events import NORMAL, WARNING, node_reference
from kubelet_secrets.pod.parts import NodeParts
from kubelet_secrets.pod.podlimits import pod_resources, widest
from kubelet_secrets.pod.sandboxes import (
    MISSING_CLUSTER_DNS,
    make_sandbox_settings,
    sandbox_refusal,
    wants_cluster_dns,
)
from kubelet_secrets.pod.state import format_pod
from kubelet_secrets.runtime.sandbox import Sandbox
from kubelet_secrets.runtime.settings import Resources

logger = logging.getLogger(__name__)

RETRY_S = 10.0

Report = Callable[[str, str, str], None]
"""(type, reason, message) of an event about the pod."""


class PodSandbox:
    """The sandbox of one pod; that of an earlier agent, if it left one.

    Attributes:
        current: None: there is none.
        attempts: how many there have been.
        retry_at: when to try again, after a failure.
    """

    def __init__(self, parts: NodeParts, pod: Pod, *, report: Report) -> None:
        self.current: Sandbox | None = parts.sandboxes.get(pod.metadata.uid)
        self.attempts = 1 if self.current is not None else 0
        self.retry_at: datetime | None = None
        self._parts = parts
        self._report = report
        self._resources = pod_resources(pod)  # of the pod's cgroup

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses, primary first."""
        return self.current.ips if self.current is not None else ()

    @property
    def ip(self) -> str:
        """Where probes and hooks find the pod."""
        return self.ips[0] if self.ips else "127.0.0.1"

    @property
    def network(self) -> Path | None:
        """The network namespace that they ask from; None: the node's."""
        return self.current.namespaces.net if self.current is not None else None

    async def create(self, pod: Pod) -> bool:
        """Make one, unless the last failure is too recent.

        Returns:
            Whether there is one now; events tell why not, and :attr:`retry_at` until when.
        """
        parts = self._parts
        if self.retry_at is not None and parts.clock() < self.retry_at:
            return False
        if self.attempts:
            self._report(NORMAL, "SandboxChanged", "Pod sandbox changed, it will be killed and re-created.")
        refusal = sandbox_refusal(pod, cluster_domain=parts.cluster_domain)
        if refusal:
            return self._failed(refusal)
        if parts.is_cluster_dns_missing and wants_cluster_dns(pod):
            self._report(WARNING, "MissingClusterDNS", f'pod: "{format_pod(pod)}". {MISSING_CLUSTER_DNS}')
            node = node_reference(parts.node().name)
            parts.events.record(node, WARNING, "MissingClusterDNS", MISSING_CLUSTER_DNS)
        settings = make_sandbox_settings(
            pod,
            host_ips=parts.host_ips,
            node_resolv_conf=_read_text(parts.resolv_conf),
            cluster_domain=parts.cluster_domain,
            cluster_dns=parts.cluster_dns,
        )
        try:
            async with parts.turns.turn(is_begun=False):
                self.current = await parts.sandboxes.create(settings)
        except ContainerRunError as error:
            return self._failed(str(error).removeprefix("failed to create pod sandbox: "))
        self.attempts += 1
        self.retry_at = None
        return True

    async def follow_resources(self, pod: Pod) -> None:
        """A container that is about to start takes on what the spec says now: so must the cgroup above it."""
        await self._limit(pod, pod_resources(pod))

    async def widen_resources(self, pod: Pod) -> None:
        """Containers are about to be resized: the cgroup above them has room for what they have and for what they get."""
        await self._limit(pod, widest(self._resources, pod_resources(pod)))

    async def _limit(self, pod: Pod, wanted: Resources) -> None:
        if wanted == self._resources:
            return
        path = self._parts.cgroups.pod_path(pod.metadata.uid)
        try:
            await trio.to_thread.run_sync(self._parts.cgroups.limit, path, wanted)
        except OSError as error:
            logger.warning("pod %s keeps its old limits: %s", format_pod(pod), error.strerror)
        self._resources = wanted

    async def remove(self, pod: Pod) -> None:
        """Nothing runs in it any more; one that is not there is no error."""
        await self._parts.sandboxes.remove(pod.metadata.uid)
        self.current = None

    def _failed(self, cause: str) -> bool:
        self._report(WARNING, "FailedCreatePodSandBox", f"Failed to create pod sandbox: {cause}")
        self.retry_at = self._parts.clock() + timedelta(seconds=RETRY_S)
        return False


def _read_text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
