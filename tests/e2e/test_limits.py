"""What one pod may take from the others of its node: memory for its volumes, room for its output. Little, and it is told."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from tests.e2e.stacks import Cluster, Node, container, eventually, mount, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

POD_BYTES = 512 << 10
POD_FILES = 200


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Node]) -> Node:
    return make_stack(
        *("--store-size", "8Mi", "--logs-size", "64Ki"),
        *("--pod-store-size", str(POD_BYTES), "--pod-store-files", str(POD_FILES)),
    )


async def test_pod_over_its_quota_is_told_and_keeps_what_it_has(cluster: Cluster) -> None:
    half = os.urandom(POD_BYTES // 2)
    await cluster.put_secret("half", {"blob": half, "number": "1"})
    await cluster.put_secret("small", {"key": "1"})
    volumes = [secret_volume("large", "half"), secret_volume("small", "small")]
    both = container(volumeMounts=[mount("large", "/large"), mount("small", "/small")])
    await cluster.run_pod("quota", both, volumes=volumes)

    await cluster.put_secret("half", {"more": half, "number": "2"})
    event = await cluster.wait_event("quota", "FailedMount")
    taken = POD_BYTES + 2 * 4096  # a page for "number", and one for the other volume's "key"
    assert event.message == (
        'MountVolume.SetUp failed for volume "large" : secret volumes of pod default/quota would take '
        f"{taken} bytes of memory, {POD_BYTES} are allowed"
    )
    assert await cluster.exec("quota", "cat /large/number; ls /large | wc -l; wc -c < /large/blob") == (
        f"12\n{POD_BYTES // 2}\n"
    )
    await cluster.put_secret("small", {"key": "2"})  # its other volume is not held up
    await cluster.exec("quota", "until grep -q 2 /small/key; do sleep 0.05; done")

    # Another pod is not concerned; a Secret of many empty keys is counted by its files.
    await cluster.put_secret("many", {f"key-{number}": "" for number in range(POD_FILES)})
    await cluster.create_pod("many", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "many")])
    event = await cluster.wait_event("many", "FailedMount")
    assert event.message == (
        'MountVolume.SetUp failed for volume "v" : secret volumes of pod default/many would take '
        f"{2 * POD_FILES + 2} files, {POD_FILES} are allowed"
    )
    await cluster.put_secret("many", {f"key-{number}": None for number in range(10, POD_FILES)})
    await cluster.wait_ready("many")
    await cluster.put_secret("half", {"more": None})
    await cluster.exec("quota", "until grep -q 2 /large/number; do sleep 0.05; done")
    await cluster.delete_pod("quota", grace_s=0)
    await cluster.delete_pod("many", grace_s=0)


async def test_container_that_fills_log_and_memory_volume_holds_up_no_secret(cluster: Cluster) -> None:
    await cluster.put_secret("loud", {"key": "1"})
    await cluster.run_pod("quiet", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "loud")])
    await cluster.run_pod(
        "loud",
        container(script="while :; do echo a line of output; done"),
        container("filled", volumeMounts=[{"name": "memory", "mountPath": "/memory"}]),
        volumes=[{"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    )
    done = await cluster.try_exec("loud", "dd if=/dev/zero of=/memory/big bs=64k", "filled")
    assert b"No space left on device" in done.stderr
    logs = cluster.stack.root_dir / "run" / "logs"
    await eventually(lambda: os.statvfs(logs).f_bavail == 0)
    await cluster.put_secret("loud", {"key": "2"})
    await cluster.exec("quiet", "until grep -q 2 /v/key; do sleep 0.05; done")
    await cluster.create_pod("late", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "loud")])
    await cluster.wait_event("late", "Started")
    assert await cluster.exec("late", "cat /v/key") == "2"
    for name in ("loud", "late", "quiet"):
        await cluster.delete_pod(name, grace_s=0)
    await cluster.wait_gone("loud")
    await eventually(lambda: os.statvfs(logs).f_bavail > 0)


async def test_hostile_container_holds_up_neither_opens_nor_rotations_of_others(cluster: Cluster) -> None:
    """Its processes open in a loop, ask for names that do not exist, and list; the others read on and get their news."""
    await cluster.put_secret("kept", {"key": "1"})
    await cluster.put_secret("stormed", {f"key-{number}": "" for number in range(40)})
    await cluster.run_pod("victim", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "kept")])
    storm = (
        "for n in $(seq 4); do while :; do cat /v/key-1; done & while :; do ls -lL /v; done >/dev/null & "
        "(i=0; while :; do i=$((i + 1)); [ -e /v/absent-$n-$i ]; done) & done; touch /raging; wait"
    )
    await cluster.run_pod(
        "hostile", container(script=storm, volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "stormed")]
    )
    await cluster.exec("hostile", "until [ -e /raging ]; do sleep 0.05; done")
    for number in range(2, 4):
        await cluster.put_secret("kept", {"key": str(number)})
        await cluster.exec("victim", f"until grep -q {number} /v/key; do :; done")
        assert await cluster.exec("victim", "cat /v/key; ls /v") == f"{number}key\n"
    await cluster.put_secret("stormed", {"key-1": "news"})  # nor does it itself go without
    await cluster.exec("hostile", "until grep -q news /v/key-1; do :; done")
    await cluster.delete_pod("hostile", grace_s=0)
    await cluster.wait_gone("hostile")
    await cluster.delete_pod("victim", grace_s=0)
