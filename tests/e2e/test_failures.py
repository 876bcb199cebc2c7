"""What goes wrong in a cluster, and how it shows: a clear event or status, the last good version kept, recovery by itself."""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import Pod
from kubelet_secrets.errors import ApiUnavailable, Invalid
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.testing.images import build_busybox_image
from tests.e2e.stacks import (
    Cluster,
    Pair,
    container,
    container_id,
    eventually,
    in_thread,
    is_ready,
    is_running,
    mount,
    run_cli,
    secret_env,
    secret_volume,
    waiting,
)

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

STORE_BYTES = 4 << 20
SCRATCH_BYTES = 16 << 20


@pytest.fixture(scope="module")
def stack(make_stack: Callable[..., Pair]) -> Pair:
    """A node with a small store, and a server that can be taken away from it."""
    return make_stack("--store-size", str(STORE_BYTES), "--scratch-size", str(SCRATCH_BYTES), kind=Pair)


# --- objects --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("volume", "message"),
    [
        pytest.param(
            secret_volume("v", "nope"),
            'MountVolume.SetUp failed for volume "v" : secret "nope" not found',
            id="secret",
        ),
        pytest.param(
            {"name": "v", "configMap": {"name": "nope"}},
            'MountVolume.SetUp failed for volume "v" : configmap "nope" not found',
            id="config-map",
        ),
        pytest.param(
            secret_volume("v", "there", items=[{"key": "nokey", "path": "p"}]),
            'MountVolume.SetUp failed for volume "v" : references non-existent secret key: nokey',
            id="secret-key",
        ),
        pytest.param(
            {"name": "v", "configMap": {"name": "there", "items": [{"key": "nokey", "path": "p"}]}},
            'MountVolume.SetUp failed for volume "v" : configmap references non-existent config key: nokey',
            id="config-map-key",
        ),
        pytest.param(
            {"name": "v", "projected": {"sources": [{"secret": {"name": "a"}}, {"configMap": {"name": "b"}}]}},
            'MountVolume.SetUp failed for volume "v" : [secret "a" not found, configmap "b" not found]',
            id="projected",
        ),
    ],
)
async def test_what_a_volume_lacks_is_named_in_an_event(
    cluster: Cluster, volume: dict[str, object], message: str
) -> None:
    await cluster.put_secret("there", {"k": "v"})
    await cluster.put_config_map("there", {"k": "v"})
    name = f"lacks-{secrets.token_hex(4)}"
    await cluster.create_pod(name, container(volumeMounts=[mount("v", "/v")]), volumes=[volume])
    event = await cluster.wait_event(name, "FailedMount")
    assert (event.type, event.message, event.source.component) == ("Warning", message, "kubelet")
    assert event.source.host == cluster.stack.node_name
    pod = await cluster.wait(name, lambda pod: bool(pod.status.container_statuses))
    assert waiting(pod) == ("ContainerCreating", "")
    await cluster.delete_pod(name, grace_s=0)


async def test_invalid_objects_are_refused_with_the_field(cluster: Cluster) -> None:
    with pytest.raises(Invalid) as caught:
        await cluster.put_secret("bad", {"a b": "1"})
    assert str(caught.value).startswith('Secret "bad" is invalid: data[a b]: Invalid value: "a b": a valid config key')
    with pytest.raises(Invalid) as caught:
        await cluster.create_pod("bad", container(volumeMounts=[mount("v", "/v")]))
    assert str(caught.value) == 'Pod "bad" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "v"'


# --- store ----------------------------------------------------------------------------------------------------------


async def test_full_store(cluster: Cluster) -> None:
    """What fits stays; what does not is refused in one line, whole; and when room appears it arrives."""
    blob = os.urandom(900_000)
    for number in range(4):
        await cluster.put_secret(f"full-{number}", {"blob": blob, "number": str(number)})
        await cluster.create_pod(
            f"full-{number}",
            container(volumeMounts=[mount("v", "/v")]),
            volumes=[secret_volume("v", f"full-{number}")],
        )
        if number < 3:
            await cluster.wait_ready(f"full-{number}")
    await cluster.wait_ready("full-3")  # 3.6 of 4 MiB
    await cluster.put_secret("full-4", {"blob": blob})
    await cluster.create_pod(
        "full-4", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "full-4")]
    )
    event = await cluster.wait_event("full-4", "FailedMount")
    assert event.message.startswith('MountVolume.SetUp failed for volume "v" : secret store of the node is full: '), (
        event.message
    )
    assert event.message.endswith("more needed")
    assert f"of {STORE_BYTES} bytes in use" in event.message

    # A rotation needs room for two versions: it is put off, and the old version stays, whole.
    await cluster.put_secret("full-0", {"blob": os.urandom(900_000), "number": "new"})
    await cluster.wait_event("full-0", "FailedMount", "secret store of the node is full")
    assert await cluster.exec("full-0", "cat /v/number; ls -A /v | wc -l; wc -c < /v/blob") == "04\n900000\n"
    assert (await cluster.pod("full-0")).status.phase == "Running"

    for name in ("full-1", "full-2"):
        await cluster.delete_pod(name)
    for name in ("full-1", "full-2"):
        await cluster.wait_gone(name)
    await cluster.wait_ready("full-4", timeout_s=120)
    await cluster.exec("full-0", "until grep -q new /v/number; do sleep 0.05; done")
    for number in (0, 3, 4):
        await cluster.delete_pod(f"full-{number}")


async def test_container_that_fills_its_root_filesystem(cluster: Cluster) -> None:
    """It harms those who write, and not the node: secrets are read and rotated, and even another agent takes over."""
    await cluster.put_secret("filled", {"key": "1"})
    await cluster.run_pod("reader", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "filled")])
    await cluster.run_pod("filler", container())
    done = await cluster.try_exec(
        "filler", "for f in /big /dev/termination-log /etc/hosts; do dd if=/dev/zero of=$f bs=64k count=1000; done"
    )
    assert done.stderr.count(b"No space left on device") == 3
    await cluster.put_secret("filled", {"key": "2"})
    await cluster.exec("reader", "until grep -q 2 /v/key; do :; done")

    await cluster.create_pod("late", container())
    event = await cluster.wait_event("late", "FailedCreatePodSandBox")
    assert event.message == "Failed to create pod sandbox: No space left on device"
    agent = cluster.stack.status().agent_pid
    os.kill(agent, signal.SIGKILL)
    await cluster.stack.wait_agent(other_than=agent)
    assert await cluster.exec("reader", "cat /v/key") == "2"

    await cluster.delete_pod("late", grace_s=0)
    await cluster.delete_pod("filler", grace_s=0)
    await cluster.wait_gone("filler")
    await eventually(lambda: "filler" not in [pod.name for pod in cluster.stack.status().pods])
    await cluster.run_pod("roomy", container())
    assert await cluster.exec("roomy", "dd if=/dev/zero of=/big bs=64k count=100 2>/dev/null; wc -c < /big") == (
        "6553600\n"
    )


# --- images ---------------------------------------------------------------------------------------------------------


async def test_image_that_is_not_there_and_may_not_be_pulled(cluster: Cluster) -> None:
    await cluster.create_pod("never", {**container(), "image": "localhost/none:1", "imagePullPolicy": "Never"})
    pod = await cluster.wait_waiting("never", "ErrImageNeverPull")
    assert waiting(pod)[1] == 'Container image "localhost/none:1" is not present with pull policy of Never'
    await cluster.wait_event("never", "ErrImageNeverPull")
    await cluster.delete_pod("never", grace_s=0)


async def test_image_name_that_is_none(cluster: Cluster) -> None:
    await cluster.create_pod("noname", {**container(), "image": "UPPER/Case::x"})
    pod = await cluster.wait_waiting("noname", "InvalidImageName")
    assert "UPPER/Case::x" in waiting(pod)[1]
    await cluster.delete_pod("noname", grace_s=0)


async def test_image_that_cannot_be_pulled_is_used_once_it_is_there(
    cluster: Cluster, tmp_path: Path, image_dir: Path
) -> None:
    name = f"127.0.0.1:1/late-{secrets.token_hex(3)}:1"  # nobody listens on port 1
    await cluster.create_pod("pull", {**container(), "image": name})
    event = await cluster.wait_event("pull", "Failed", "Failed to pull image")
    assert event.message.startswith(f'Failed to pull image "{name}": ')
    assert "\n" not in event.message
    pod = await cluster.wait("pull", lambda pod: waiting(pod)[0] in ("ErrImagePull", "ImagePullBackOff"))
    assert pod.status.phase == "Pending"
    source = build_busybox_image(tmp_path / "late")
    done = await in_thread(run_cli, "image", "import", source, name, "--image-dir", image_dir)
    assert done.returncode == 0, done.stderr
    await cluster.wait_ready("pull", timeout_s=120)
    await cluster.delete_pod("pull", grace_s=0)


async def test_program_that_the_image_lacks(cluster: Cluster) -> None:
    await cluster.create_pod("noprog", {**container(), "command": ["/no/such/program"]}, restartPolicy="Never")
    pod = await cluster.wait("noprog", has_outcome)
    (status,) = pod.status.container_statuses
    text = (status.state.terminated or status.state.waiting).message  # type: ignore[union-attr]
    assert "/no/such/program" in text
    assert "no such file or directory" in text
    assert "\n" not in text.strip()
    await cluster.delete_pod("noprog", grace_s=0)


async def test_image_whose_files_were_removed(cluster: Cluster, tmp_path: Path, image_dir: Path) -> None:
    """Somebody cleared the disk: the image counts as absent, and importing it again is enough."""
    name = f"127.0.0.1:1/broken-{secrets.token_hex(3)}:1"
    source = build_busybox_image(tmp_path / "broken", env={"UNIQUE": name})
    import_again = ("image", "import", source, name, "--image-dir", image_dir)
    assert (await in_thread(run_cli, *import_again)).returncode == 0
    listed = json.loads((await in_thread(run_cli, "image", "list", "-o", "json", "--image-dir", image_dir)).stdout)
    (image_id,) = (each["id"] for each in listed if name in each["names"])
    shutil.rmtree(image_dir / "images" / image_id.removeprefix("sha256:") / "rootfs")

    agent = cluster.stack.status().agent_pid
    await cluster.create_pod("broken", {**container(), "image": name})
    pod = await cluster.wait("broken", has_outcome)
    assert waiting(pod)[0] in ("ErrImagePull", "ImagePullBackOff")
    assert (await in_thread(run_cli, *import_again)).returncode == 0
    await cluster.wait_ready("broken", timeout_s=120)
    assert cluster.stack.status().agent_pid == agent
    await cluster.delete_pod("broken")
    await cluster.wait_gone("broken")
    done = await in_thread(run_cli, "image", "rm", name, "--image-dir", image_dir)
    assert done.stdout == f"{name} removed\n", done.stderr


def has_outcome(pod: Pod) -> bool:
    """Whether the container has been started, or refused."""
    return pod.status.phase != "Pending" or waiting(pod)[0] not in ("", "ContainerCreating")


# --- API server -----------------------------------------------------------------------------------------------------


async def test_api_server_goes_away_and_comes_back(cluster: Cluster, stack: Pair) -> None:
    """Killed, and started again on its data. Meanwhile the node does what a node does alone; afterwards it catches up."""
    await cluster.put_secret("outage", {"key": "before"})
    await cluster.run_pod(
        "outage",
        container(volumeMounts=[mount("v", "/v")], env=[secret_env("KEY", "outage", "key")]),
        volumes=[secret_volume("v", "outage")],
    )
    await cluster.create_pod(
        "waits", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "outage-late")]
    )
    await cluster.wait_event("waits", "FailedMount")
    inside = await cluster.exec_command("outage", "cat /v/key; echo $KEY")
    end = await cluster.exec_command("outage", "kill -TERM 1")

    stack.server.process.kill()
    stack.server.process.wait()
    with pytest.raises(ApiUnavailable):
        await cluster.pod("outage")
    done = await trio.run_process(inside, capture_stdout=True)
    assert done.stdout == b"beforebefore\n"
    # A container that ends is started again without the API server: its Secret is in the node's cache.
    await trio.run_process(end, check=False)  # the shell may be killed with the container it ends

    def restarted() -> bool:
        return any(
            each.restarts == 1 and each.state == "Running" for pod in stack.status().pods for each in pod.containers
        )

    await eventually(restarted)

    stack.start_server(port=stack.port)
    await cluster.put_secret("outage", {"key": "after"})
    await cluster.put_secret("outage-late", {"key": "late"})
    await cluster.wait_ready("waits", timeout_s=120)
    pod = await cluster.wait("outage", lambda pod: pod.status.container_statuses[0].restart_count == 1, timeout_s=120)
    assert pod.status.phase == "Running"
    await cluster.wait_ready("outage")
    await cluster.exec("outage", "until grep -q after /v/key; do sleep 0.05; done")
    await cluster.delete_pod("waits")
    await cluster.wait_gone("waits")


async def test_api_server_that_hangs(cluster: Cluster, stack: Pair) -> None:
    """It keeps its connections and answers nothing. When it goes on, so does everything else."""
    await cluster.put_secret("hangs", {"key": "before"})
    await cluster.run_pod("hangs", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "hangs")])
    inside = await cluster.exec_command("hangs", "cat /v/key")
    stack.server.process.send_signal(signal.SIGSTOP)
    try:
        for _ in range(3):
            done = await trio.run_process(inside, capture_stdout=True)
            assert done.stdout == b"before"
        assert stack.status().pods
    finally:
        stack.server.process.send_signal(signal.SIGCONT)
    await cluster.put_secret("hangs", {"key": "after"})
    await cluster.exec("hangs", "until grep -q after /v/key; do sleep 0.05; done")


async def test_agent_started_while_the_api_server_is_away(cluster: Cluster, stack: Pair) -> None:
    """Killed during the outage: the next agent serves what there is, and guards it, before it can ask anybody."""
    await cluster.put_secret("orphaned", {"key": "k"})
    await cluster.run_pod(
        "orphaned", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "orphaned")]
    )
    inside = await cluster.exec_command("orphaned", "cat /v/key")
    pid = await cluster.pid("orphaned")
    before = stack.status().agent_pid
    stack.server.process.kill()
    stack.server.process.wait()
    os.kill(before, signal.SIGKILL)
    done = await trio.run_process(inside, capture_stdout=True)
    assert done.stdout == b"k"

    def taken_over() -> bool:
        try:
            return stack.status().agent_pid != before
        except Exception:  # not listening yet
            return False

    await eventually(taken_over)
    stack.start_server(port=stack.port)
    await cluster.put_secret("orphaned", {"key": "rotated"})
    await stack.wait_agent(other_than=before)
    await cluster.exec("orphaned", "until grep -q rotated /v/key; do sleep 0.05; done")
    assert await cluster.pid("orphaned") == pid


# --- the keeper -----------------------------------------------------------------------------------------------------


async def test_keeper_that_was_killed_is_cleaned_up_after(cluster: Cluster, stack: Pair) -> None:
    """Nobody keeps its descriptors here: its agent stops the containers in order, its caretaker takes the mounts away."""
    await cluster.put_secret("survivor", {"key": "k"})
    await cluster.run_pod(
        "survivor",
        container(
            script="trap 'cat /v/key; exit 0' TERM; while :; do sleep 0.1; done", volumeMounts=[mount("v", "/v")]
        ),
        volumes=[secret_volume("v", "survivor")],
    )
    pid = await cluster.pid("survivor")
    stack.agent.process.kill()
    stack.agent.process.wait()
    await eventually(lambda: not is_running(pid))
    await eventually(lambda: not mounts.mounts_below(stack.root_dir))
    await in_thread(stack.start_agent)
    assert "died: stopping its containers, taking its mounts away" in stack.agent.stderr
    assert "the keeper before was killed" in stack.agent.stderr
    await cluster.wait("survivor", lambda pod: is_ready(pod) and container_id(pod) in current_ids(stack))
    assert await cluster.exec("survivor", "cat /v/key") == "k"
    assert await cluster.pid("survivor") != pid


async def test_containers_of_an_agent_that_cannot_stop_them_are_killed(cluster: Cluster, stack: Pair) -> None:
    await cluster.run_pod("stuck", container())
    pid = await cluster.pid("stuck")
    os.kill(stack.status().agent_pid, signal.SIGSTOP)
    stack.agent.process.terminate()
    await eventually(lambda: not is_pending(stack.agent.process.pid, signal.SIGTERM))  # two that are pending are one
    stack.agent.process.terminate()  # the second one says: at once
    assert await in_thread(stack.agent.process.wait, 30) == 0
    assert not is_running(pid)
    assert list(stack.root_dir.iterdir()) == []
    assert "of containers that no agent had stopped" in stack.agent.stderr
    await in_thread(stack.start_agent)
    await cluster.wait("stuck", lambda pod: is_ready(pod) and container_id(pod) in current_ids(stack))


def is_pending(pid: int, number: signal.Signals) -> bool:
    """Whether a signal that was sent to the process has not been taken by it yet."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    mask = next(line for line in lines if line.startswith("ShdPnd:")).split()[1]
    return bool(int(mask, 16) >> (number - 1) & 1)


def current_ids(stack: Pair) -> set[str]:
    return {each.container_id for pod in stack.status().pods for each in pod.containers}


def test_nothing_but_lines_was_logged(stack: Pair) -> None:
    """After everything above: no traceback, and the failures of the API server told in single lines, not in floods."""
    log = stack.agent.stderr
    assert "Traceback" not in log, log[log.index("Traceback") - 2000 :][:6000]
    assert "Traceback" not in stack.server.stderr
