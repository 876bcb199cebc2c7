"""The API server with 10,000 Secrets: writes, lists, a thousand watches, memory, and how long a start takes.

Beside it, when ``KUBEBUILDER_ASSETS`` names a directory with both programs, a real kube-apiserver with etcd, asked the same by
the same client. Both keep their data on disk and encrypt nothing.
"""

from __future__ import annotations

import secrets
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio
from harness import Place, percentile, rss_mb, secret

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import SECRETS
from kubelet_secrets.client.kubeconfig import load_kubeconfig
from kubelet_secrets.client.rest import ApiClient, open_client
from kubelet_secrets.errors import ApiError, ApiUnavailable, UsageError
from kubelet_secrets.testing.controlplane import Assets, ControlPlane, find_assets

MANY = 10_000
WRITERS = 50
WATCHERS = 1_000
ROUNDS = 20
PATH = "/api/v1/namespaces/default/secrets"
NO_ENCRYPTION = """
apiVersion: apiserver.config.k8s.io/v1
kind: EncryptionConfiguration
resources: [{resources: [secrets], providers: [{identity: {}}]}]
"""


@dataclass(frozen=True, slots=True)
class Running:
    """A server to measure."""

    name: str
    kubeconfig: Path
    pids: tuple[int, ...]  # whose memory is its


async def run(place: Place) -> None:
    print(f"\n## The API server with {MANY:,} Secrets\n")
    data = place.directory / "ours"
    async with ours(place.directory, data) as server:
        await measure(server)
    started = time.perf_counter()
    async with ours(place.directory, data):
        print(
            f"kubelet-secrets apiserver: ready {time.perf_counter() - started:.1f} s after its start with what it had stored"
        )
    assets = find_assets()
    if assets is None:
        print("no kube-apiserver beside it: KUBEBUILDER_ASSETS is not set")
        return
    async with upstream(assets, place.directory) as server:
        await measure(server)


async def measure(server: Running) -> None:
    async with open_client(load_kubeconfig(server.kubeconfig)) as client:
        print(f"{server.name}: {memory(server)} before")
        await measure_writes(server, client)
        print(f"{server.name}: {memory(server)} with {MANY:,} Secrets")
        await measure_lists(server, client)
        await measure_watches(server, client)
        print(f"{server.name}: {memory(server)} at the end")


def memory(server: Running) -> str:
    return f"{sum(map(rss_mb, server.pids)):.0f} MB resident"


async def measure_writes(server: Running, client: ApiClient) -> None:
    took_ms: list[float] = []
    names = iter(range(MANY))

    async def write() -> None:
        for number in names:
            began = time.perf_counter()
            await client.create(SECRETS, "default", secret(f"bench-{number:05}", secrets.token_urlsafe(64)))
            took_ms.append((time.perf_counter() - began) * 1000)

    began = time.perf_counter()
    async with trio.open_nursery() as nursery:
        for _ in range(WRITERS):
            nursery.start_soon(write)
    per_s = MANY / (time.perf_counter() - began)
    p50, p99 = statistics.median(took_ms), percentile(took_ms, 0.99)
    print(f"{server.name}: {per_s:.0f} creations a second by {WRITERS} writers, p50 {p50:.1f} ms, p99 {p99:.1f} ms")


async def measure_lists(server: Running, client: ApiClient) -> None:
    for what, path, params in (
        (f"list of all {MANY:,}", PATH, {}),
        ("page of 500", PATH, {"limit": "500"}),
        ("list by a field", PATH, {"fieldSelector": "type=kubernetes.io/tls"}),
        ("one Secret", f"{PATH}/bench-00042", {}),
    ):
        took_ms = []
        for _ in range(5):
            began = time.perf_counter()
            await client.request_json("GET", path, params=params)
            took_ms.append((time.perf_counter() - began) * 1000)
        print(f"{server.name}: {what}: {statistics.median(took_ms):.1f} ms, decoded")


async def measure_watches(server: Running, client: ApiClient) -> None:
    """A thousand watches of single objects, as nodes have them, then fifty of the whole collection."""
    await fan_out(server, client, WATCHERS, "metadata.name=bench-00007", "of one Secret")
    await fan_out(server, client, 50, "", "of the whole namespace")


async def fan_out(server: Running, client: ApiClient, count: int, selector: str, what: str) -> None:
    now = await client.request_json("GET", PATH, params={"limit": "1"})
    version = now["metadata"]["resourceVersion"]
    send, receive = trio.open_memory_channel[float](count)

    async def follow(*, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        watch = client.watch(
            *(SECRETS, "default", Secret), field_selector=selector, resource_version=version, allow_bookmarks=False
        )
        async with watch as events:
            task_status.started()
            async for _ in events:
                send.send_nowait(time.perf_counter())

    opened = time.perf_counter()
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(count):
                starting.start_soon(nursery.start, follow)
        print(f"{server.name}: {count} watches {what} opened in {time.perf_counter() - opened:.2f} s")
        first_ms, last_ms = [], []
        for _ in range(ROUNDS):
            began = time.perf_counter()
            patch = {"stringData": {"value": secrets.token_hex(8)}}
            await client.patch(SECRETS, "default", "bench-00007", patch)
            seen = [(await receive.receive() - began) * 1000 for _ in range(count)]
            first_ms.append(min(seen))
            last_ms.append(max(seen))
        first, last = statistics.median(first_ms), statistics.median(last_ms)
        print(
            f"{server.name}: a change reaches the first of {count} after {first:.1f} ms, the last after {last:.1f} ms"
        )
        nursery.cancel_scope.cancel()


# --- the servers -----------------------------------------------------------------------------------------------------


@asynccontextmanager
async def ours(directory: Path, data: Path) -> AsyncIterator[Running]:
    config = directory / "encryption.yaml"
    config.write_text(NO_ENCRYPTION)
    kubeconfig = directory / "ours.kubeconfig"
    kubeconfig.unlink(missing_ok=True)
    command = [
        *(
            str(Path(sys.executable).with_name("kubelet-secrets")),
            "apiserver",
            "--port=0",
            f"--data-dir={data}",
            f"--kubeconfig={kubeconfig}",
        ),
        f"--encryption-provider-config={config}",
    ]
    async with running(command) as process:
        while not kubeconfig.exists():
            await trio.sleep(0.05)
        server = Running("kubelet-secrets apiserver", kubeconfig, (process.pid,))
        await wait_ready(server)
        yield server


@asynccontextmanager
async def upstream(assets: Assets, directory: Path) -> AsyncIterator[Running]:
    """A kube-apiserver with etcd, as the tests run them; nothing else, and as many streams for a client as ours allows."""
    place = directory / "upstream"
    place.mkdir(mode=0o700)
    extra = ["--http2-max-streams-per-connection=998", "--disable-admission-plugins=ServiceAccount"]
    plane = ControlPlane(assets, place, extra=extra, only_apiserver=True)
    try:
        await trio.to_thread.run_sync(plane.start)
        yield Running("kube-apiserver and etcd", plane.kubeconfig, plane.pids)
    finally:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(plane.stop)


@asynccontextmanager
async def running(command: list[str]) -> AsyncIterator[trio.Process]:
    """A program, its output thrown away; told to end with the block."""
    start = partial(trio.run_process, command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    async with trio.open_nursery() as nursery:
        process: trio.Process = await nursery.start(start)
        try:
            yield process
        finally:
            process.terminate()
            with trio.move_on_after(20, shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


async def wait_ready(server: Running) -> None:
    with trio.fail_after(120):
        while True:
            try:
                async with open_client(load_kubeconfig(server.kubeconfig)) as client:
                    if await client.request_text("/readyz") == "ok":
                        return
            except (
                ApiError,
                ApiUnavailable,
                UsageError,
            ):  # not listening yet, or not ready: which of the two does not matter here
                pass
            await trio.sleep(0.1)
