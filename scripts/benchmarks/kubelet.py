"""A kubelet where one is at hand: the hundred pods of ``density`` and a change of Secrets, on the same machine.

``KUBELET_ASSETS`` names its programs (``kubelet_secrets/testing/kubelet.py``). The API server is the embedded one, so that the
node makes the difference: a kubelet with containerd here, the agent there. It has the defaults of 1.36 for its requests to the
API server, whatever its version.
"""

from __future__ import annotations

import statistics
import time
from contextlib import suppress
from pathlib import Path

import trio
from apiserver import ours
from density import MANY, SECRETS_PER_POD
from harness import IMAGE, Place, pod, rss_mb, secret

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import NotFound
from kubelet_secrets.testing.clusterobjects import make_bootstrap_token, wait_node_ready
from kubelet_secrets.testing.controlplane import program_version
from kubelet_secrets.testing.images import build_busybox_image
from kubelet_secrets.testing.kubelet import PAUSE_IMAGE, Kubelet, KubeletAssets, find_kubelet

CHANGED = 20
LIMIT_S = 900


async def run(place: Place) -> None:
    assets = find_kubelet()
    if assets is None:
        print("\nno kubelet beside the agent: KUBELET_ASSETS is not set")
        return
    print(f"\n## A kubelet {program_version(assets.program('kubelet'))} with containerd, for comparison\n")
    with trio.fail_after(LIMIT_S):
        async with ours(place.directory, place.directory / "data") as server:
            await measure(assets, place, server.kubeconfig)


async def measure(assets: KubeletAssets, place: Place, kubeconfig: Path) -> None:
    bootstrap = place.directory / "bootstrap.kubeconfig"
    await make_bootstrap_token(kubeconfig, bootstrap)
    config = load_kubeconfig(kubeconfig)
    assert config.ca_pem is not None
    kubelet = Kubelet(
        assets,
        place.directory,
        node_name=place.options.node_name,
        bootstrap_kubeconfig=bootstrap,
        authority=config.ca_pem,
    )
    images = {
        IMAGE: build_image(place.directory / "busybox"),
        PAUSE_IMAGE: build_image(place.directory / "pause", pause=True),
    }
    async with open_client(config) as client:
        try:
            await trio.to_thread.run_sync(kubelet.start, images)
            await wait_node_ready(client, place.options.node_name)
            await density(kubelet, client, place.probe_dir)
        finally:
            with trio.CancelScope(shield=True):
                with trio.move_on_after(120):
                    await remove_all(client)
                await trio.to_thread.run_sync(kubelet.stop)


def build_image(directory: Path, *, pause: bool = False) -> str:
    directory.mkdir()
    return build_busybox_image(directory, cmd=["sleep", "1000000"] if pause else ["sh"])


async def density(kubelet: Kubelet, client: ApiClient, probe_dir: Path) -> None:
    print(f"RSS with no pod: {rss_mb(kubelet.pid):.0f} MB; containerd {rss_mb(kubelet.containerd_pid):.0f} MB")
    for index in range(MANY):
        for number in range(SECRETS_PER_POD):
            await client.create(SECRETS, "default", secret(f"d{index}-{number}", f"value {index} {number}"))
    started = time.monotonic()
    for index in range(MANY):
        own = [f"d{index}-{number}" for number in range(SECRETS_PER_POD)]
        await client.create(PODS, "default", pod(f"dense{index}", ["sleep", "1000000"], own, probe_dir))
    pods = {item.metadata.name: item for item in await client.list(PODS, "default", Pod)}
    missing = [
        value_file(kubelet, pods[f"dense{index}"], number) for index in range(MANY) for number in range(SECRETS_PER_POD)
    ]
    while missing:
        if missing[-1].exists():
            missing.pop()
        else:
            await trio.sleep(0.05)
    print(
        f"all files of {MANY} pods with {SECRETS_PER_POD} Secrets each in place after {time.monotonic() - started:.1f} s"
    )
    while not all(item.status.phase == "Running" for item in await client.list(PODS, "default", Pod)):
        await trio.sleep(0.5)
    print(f"all pods Running in the API after {time.monotonic() - started:.1f} s")
    await trio.sleep(5)
    print(f"RSS with {MANY} pods: {rss_mb(kubelet.pid):.0f} MB; containerd {rss_mb(kubelet.containerd_pid):.0f} MB")
    files = {f"d{index}-0": value_file(kubelet, pods[f"dense{index}"], 0) for index in range(CHANGED)}
    delays = await change(client, files)
    span = f"after {min(delays):.0f} to {max(delays):.0f} s, median {statistics.median(delays):.0f} s"
    print(f"{CHANGED} Secrets changed: in the files {span}")


def value_file(kubelet: Kubelet, item: Pod, number: int) -> Path:
    return kubelet.pods_dir / item.metadata.uid / "volumes/kubernetes.io~secret" / f"s{number}" / "value"


async def change(client: ApiClient, files: dict[str, Path]) -> list[float]:
    """Seconds from the change of each Secret until its file has the new value."""
    delays: list[float] = []

    async def one(name: str, file: Path) -> None:
        new = f"changed {name}"
        await client.patch(SECRETS, "default", name, {"stringData": {"value": new}})
        changed = time.monotonic()
        while file.read_text() != new:
            await trio.sleep(0.1)
        delays.append(time.monotonic() - changed)

    async with trio.open_nursery() as nursery:
        for name, file in files.items():
            nursery.start_soon(one, name, file)
    return delays


async def remove_all(client: ApiClient) -> None:
    for item in await client.list(PODS, "default", Pod):
        with suppress(NotFound):
            await client.delete(PODS, "default", item.metadata.name, grace_period_s=1)
    while await client.list(PODS, "default", Pod):
        await trio.sleep(0.5)
