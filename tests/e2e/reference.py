"""A real kubelet in the agent's place, as a node of the embedded API server: ``KUBELET_ASSETS`` names its programs.

What the tests say of it is what they should say: they are held against it, and it is what the agent is to be like.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.errors import NotFound
from kubelet_secrets.testing.clusterobjects import make_bootstrap_token, wait_node_ready
from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.testing.kubelet import PAUSE_IMAGE, Kubelet, KubeletAssets
from tests.e2e.stacks import Pair

READY_TIMEOUT_S = 120
GONE_TIMEOUT_S = 120


@dataclass
class ReferenceNode(Pair):
    """Started by :meth:`start_reference`; options for the agent have no meaning.

    Attributes:
        layouts: image name with tag → where skopeo finds it.
    """

    assets: KubeletAssets | None = None
    layouts: Mapping[str, str] = field(default_factory=dict)
    kubelet: Kubelet = field(init=False)

    @property
    def runtime_root(self) -> Path:
        return self.kubelet.runc_root

    def start_agent(self) -> None:
        assert self.assets is not None
        bootstrap = self.directory / "bootstrap.kubeconfig"
        trio.run(make_bootstrap_token, self.kubeconfig, bootstrap)
        authority = load_kubeconfig(self.kubeconfig).ca_pem
        assert authority is not None
        self.kubelet = Kubelet(
            self.assets,
            self.directory,
            node_name=self.node_name,
            bootstrap_kubeconfig=bootstrap,
            authority=authority,
        )
        pause = self.directory / "pause"
        pause.mkdir()
        images = {PAUSE_IMAGE: build_busybox_image(pause, entrypoint=["sleep", "1000000"], cmd=[]), **self.layouts}
        self.kubelet.start(images)
        trio.run(self._wait_ready)

    async def _wait_ready(self) -> None:
        async with open_client(load_kubeconfig(self.kubeconfig)) as client:
            with trio.fail_after(READY_TIMEOUT_S):
                await wait_node_ready(client, self.node_name)

    def stop(self) -> None:
        try:
            trio.run(self._remove_pods)
        finally:
            self.kubelet.stop()
            assert self.server.stop() == 0, self.server.stderr[-3000:]

    async def _remove_pods(self) -> None:
        """So that the kubelet takes their networks and mounts away."""
        async with open_client(load_kubeconfig(self.kubeconfig)) as client:
            with trio.move_on_after(GONE_TIMEOUT_S):
                while pods := await client.list(PODS, "", Pod):
                    for pod in pods:
                        if pod.metadata.deletion_timestamp is None:
                            try:
                                await client.delete(PODS, pod.metadata.namespace, pod.metadata.name, grace_period_s=1)
                            except NotFound:
                                pass
                    await trio.sleep(0.5)
