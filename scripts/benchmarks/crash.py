"""The crash soak: a pod reads its Secret in every way there is while the Secret changes and agent and writer are killed.

Raises ``SystemExit`` at the end when a read failed, a view was mixed, an update was lost, a container was restarted, or a
process hangs in the kernel. Run alone for other amounts: ``.venv/bin/python scripts/benchmarks/crash.py --help``.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import os
import random
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import trio
from harness import IMAGE, IMAGE_DIR, Place, summary, wait_running

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.meta import PODS, SECRETS
from kubelet_secrets.errors import HostError
from kubelet_secrets.stack import Stack, StackOptions, run_stack

AGENT_KILLS = 100
WRITER_KILLS = 50
READERS = {
    "fresh": "fresh",
    "user": "fresh",  # the same as uid 1000, which is let in by the volume's fsGroup
    "file": "file",
    "map": "map",
    "directory": "directory",
    "cwd": "cwd",
    "inotify": "inotify",
}
LINES = 2048  # of 8 bytes
LIFE_S = (2.0, 3.0)  # an agent's, from its answer to its end: longer than what the keeper takes for a crash loop
SPARE_UNREADY_EVERY = (
    4  # of so many kills all but one wait until the next agent stands ready, as it does after some seconds
)
SPARE_TIMEOUT_S = 30
FREE_DEATHS_EVERY = 8  # among so many kills, one hits the next agent while it starts
END_TIMEOUT_S = 120
RIGHT_AFTER_NS = 5_000_000  # readers begin something every millisecond
FORGIVEN_MS = 10  # what readers do not report, crash_reader.c


@dataclass
class Course:
    """What was done so far."""

    version: int = 0  # the last one that the API server took
    kills_ns: list[int] = field(default_factory=list)  # of agents, CLOCK_MONOTONIC
    had_spare: list[bool] = field(default_factory=list)  # of each kill: whether the next agent stood ready
    kills_at_start: int = 0  # of those, agents that had not answered yet
    writer_kills: int = 0
    problems: list[str] = field(default_factory=list)


async def run(place: Place) -> None:
    await soak(place, agent_kills=AGENT_KILLS, writer_kills=WRITER_KILLS)


async def soak(place: Place, *, agent_kills: int, writer_kills: int) -> None:
    source = Path(__file__).with_name("crash_reader.c")
    reader = place.probe_dir / "reader"
    await trio.run_process(["gcc", "-O2", "-static", str(source), "-o", str(reader)])
    print("\n## Readers while agent and writer are killed\n")
    async with run_stack(place.options) as stack:
        course = Course()
        await stack.client.create(SECRETS, "default", secret(0))
        await stack.client.create(PODS, "default", pod(place.probe_dir))
        before = (await wait_running(stack, {"soak"}))["soak"]
        logs = find_logs(stack, before)
        while not all("ready" in read_log(log) for log in logs.values()):
            await trio.sleep(0.05)
        pids = await container_pids(stack)
        started = time.monotonic()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(rotate, stack, course)
            async with trio.open_nursery() as killing:
                killing.start_soon(kill_agents, stack, course, agent_kills)
                killing.start_soon(kill_writers, stack, course, agent_kills, writer_kills)
            nursery.cancel_scope.cancel()
        duration_s = time.monotonic() - started
        if await container_pids(stack) != pids:
            course.problems.append("containers are other processes than before")
        course.version += 1
        await put(stack, course.version)
        (place.probe_dir / "stop").write_text(f"{course.version}\n")
        after = await wait_end(stack, course)
        for status in after.status.container_statuses:
            if status.restart_count or status.state.terminated is None or status.state.terminated.exit_code:
                course.problems.append(f"container {status.name} did not end by itself: {status.state}")
        ends = {name: read_end(read_log(log), name, course) for name, log in logs.items()}
        course.problems += [f"{pid} hangs in the kernel: {where}" for pid, where in await find_stuck()]
        print(f"{course.version} rotations in {duration_s:.0f} s; killed {len(course.kills_ns)} agents", end="")
        print(f" ({course.kills_at_start} of them while they started) and {course.writer_kills} writers\n")
        report(ends)
        report_pauses(course, [line for log in logs.values() for line in read_log(log)])
    if course.problems:
        sys.exit("bench: " + "\n       ".join(course.problems))


# --- the pod --------------------------------------------------------------------------------------------------------


def secret(version: int) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "soak", "namespace": "default"},
        "data": data(version),
    }


def data(version: int) -> dict[str, str]:
    content = base64.b64encode(f"{version:07d}\n".encode() * LINES).decode()
    return {"a": content, "b": content}


def pod(probe_dir: Path) -> dict[str, Any]:
    mounts = [
        {"name": "probe", "mountPath": "/probe", "readOnly": True},
        {"name": "v", "mountPath": "/v", "readOnly": True},
    ]
    containers = [
        {
            "name": name,
            "image": IMAGE,
            "command": ["/probe/reader", kind, "/v", "/probe/stop"],
            "volumeMounts": mounts,
            "securityContext": {"runAsUser": 1000 if name == "user" else 0},
        }
        for name, kind in READERS.items()
    ]
    spec = {
        "automountServiceAccountToken": False,
        "restartPolicy": "Never",
        "terminationGracePeriodSeconds": 0,
        "securityContext": {"fsGroup": 2000},
        "containers": containers,
        "volumes": [
            {"name": "probe", "hostPath": {"path": str(probe_dir)}},
            {"name": "v", "secret": {"secretName": "soak", "defaultMode": 0o440}},
        ],
    }
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "soak", "namespace": "default"}, "spec": spec}


def find_logs(stack: Stack, item: Pod) -> dict[str, Path]:
    logs = stack.options.root_dir / "run" / "logs" / f"default_soak_{item.metadata.uid}"
    return {name: logs / name / "0.log" for name in READERS}


def read_log(path: Path) -> list[str]:
    """What the container printed, line by line: without CRI's time, stream and tag."""
    try:
        return [line.split(" ", 3)[-1] for line in path.read_text().splitlines()]
    except FileNotFoundError:
        return []


async def container_pids(stack: Stack) -> dict[str, int]:
    """First processes, by the container's id. Of those that run."""
    root = stack.options.root_dir / "run" / stack.options.runtime
    command = [stack.options.runtime, "--root", str(root), "list", "--format", "json"]
    listed = json.loads((await trio.run_process(command, capture_stdout=True)).stdout) or []
    return {each["id"]: each["pid"] for each in listed}


# --- what happens to it ---------------------------------------------------------------------------------------------


async def put(stack: Stack, version: int) -> None:
    await stack.client.patch(SECRETS, "default", "soak", {"data": data(version)})


async def rotate(stack: Stack, course: Course) -> None:
    while True:
        with trio.CancelScope(shield=True):  # so that what the API server has is what we know
            await put(stack, course.version + 1)
            course.version += 1
        await trio.sleep(random.uniform(0, 0.06))


def children(stack: Stack, module: str) -> Iterator[int]:
    keeper = stack.keeper.pid
    for pid in Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split():
        with contextlib.suppress(OSError):
            if module in Path(f"/proc/{pid}/cmdline").read_text():
                yield int(pid)


async def agent_pid(stack: Stack, *, other_than: int) -> int:
    """Wait for an agent that answers."""
    while True:
        with contextlib.suppress(HostError, OSError):
            pid = (await summary(stack)).agent_pid
            if pid != other_than:
                return pid
        await trio.sleep(0.02)


async def kill_agents(stack: Stack, course: Course, count: int) -> None:
    pid = await agent_pid(stack, other_than=0)
    while len(course.kills_ns) < count:
        await trio.sleep(random.uniform(*LIFE_S))
        if random.randrange(SPARE_UNREADY_EVERY):
            await wait_spare(stack, pid)
        spares = [each for each in children(stack, "agent_process") if each != pid]
        kill(pid, course, had_spare=any(waits_for_its_turn(each) for each in spares))
        if spares and random.randrange(FREE_DEATHS_EVERY) == 0 and len(course.kills_ns) < count:
            await trio.sleep(random.uniform(0, 0.05))
            kill(spares[0], course, had_spare=False)
            course.kills_at_start += 1
        pid = await agent_pid(stack, other_than=pid)


async def wait_spare(stack: Stack, serving: int) -> None:
    """Until the spare agent stands ready, and a random instant longer."""
    with trio.move_on_after(SPARE_TIMEOUT_S):
        while not any(waits_for_its_turn(each) for each in children(stack, "agent_process") if each != serving):
            await trio.sleep(0.05)
    await trio.sleep(random.uniform(0, 0.2))


def waits_for_its_turn(pid: int) -> bool:
    """Whether a spare agent has imported everything and sleeps until the keeper tells it to go."""
    with contextlib.suppress(OSError):
        return "pipe" in Path(f"/proc/{pid}/wchan").read_text()
    return False


def kill(pid: int, course: Course, *, had_spare: bool) -> None:
    at_ns = time.monotonic_ns()
    os.kill(pid, signal.SIGKILL)
    course.kills_ns.append(at_ns)
    course.had_spare.append(had_spare)


async def kill_writers(stack: Stack, course: Course, agent_kills: int, count: int) -> None:
    """At random instants, of which there are as many as agents get time to live; some hit both at once."""
    mean_s = agent_kills * sum(LIFE_S) / 2 / count
    while course.writer_kills < count:
        await trio.sleep(random.uniform(0, 2 * mean_s))
        for pid in children(stack, "fusefs.writer"):
            os.kill(pid, signal.SIGKILL)
            course.writer_kills += 1


async def wait_end(stack: Stack, course: Course) -> Pod:
    with trio.move_on_after(END_TIMEOUT_S):
        while True:
            found = await stack.client.get(PODS, "default", "soak", Pod)
            if found.status.phase in ("Succeeded", "Failed"):
                return found
            await trio.sleep(0.1)
    course.problems.append(f"the pod is still {found.status.phase} after {END_TIMEOUT_S} s")
    return found


async def find_stuck() -> list[tuple[int, str]]:
    """Processes that wait for the filesystem without end, uninterruptibly: seen so twice, a second apart."""
    seen = set(stuck())
    await trio.sleep(1)
    return sorted(seen & set(stuck()))


def stuck() -> Iterator[tuple[int, str]]:
    for stat in Path("/proc").glob("[0-9]*/task/[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if stat.read_text().rpartition(")")[2].split()[0] == "D":
                where = stat.with_name("wchan").read_text()
                if "request_wait" in where or "fuse" in where:
                    yield int(stat.parent.name), where


# --- what came of it ------------------------------------------------------------------------------------------------


def read_end(lines: list[str], name: str, course: Course) -> dict[str, str]:
    last = lines[-1] if lines else ""
    if not last.startswith("end "):
        course.problems.append(f"reader {name} said nothing at its end, but: {last!r}")
        return {}
    end = dict(word.partition("=")[::2] for word in last.split()[1:])
    problems = {each: end[each] for each in ("failed", "mixed", "lost") if end[each] != "0"}
    if problems or end["reads"] == "0":
        failures = [line for line in lines if line.startswith("failed")][:3]
        course.problems.append(f"reader {name}: {end['reads']} reads, {problems} {failures}")
    return end


def report(ends: dict[str, dict[str, str]]) -> None:
    columns = ("reads", "failed", "mixed", "lost", "raced", "slowest_us")
    print("| reader | reads | failed | mixed | last version missed | raced (as on tmpfs) | slowest |")
    print("|---|---|---|---|---|---|---|")
    for name, end in ends.items():
        if end:
            *counts, slowest = (int(end[column]) for column in columns)
            print(f"| {name} | {' | '.join(map(str, counts))} | {slowest / 1000:.0f} ms |")


def report_pauses(course: Course, lines: list[str]) -> None:
    """From each kill to the end of the last operation that was under way then, or began right after it."""
    slow = [(int(line.split()[1]), int(line.split()[2])) for line in lines if line.startswith("slow ")]
    pauses = []
    for kill_ns in course.kills_ns:
        ends = [start + long for start, long in slow if start < kill_ns + RIGHT_AFTER_NS and start + long > kill_ns]
        pauses.append((max(ends) - kill_ns) / 1e6 if ends else 0.0)
    ready = [pause for pause, had_spare in zip(pauses, course.had_spare, strict=True) if had_spare]
    rest = [pause for pause, had_spare in zip(pauses, course.had_spare, strict=True) if not had_spare]
    print(f"\npause of readers per kill of an agent (load average of the last minute {os.getloadavg()[0]:.1f}):")
    for label, some in (("all", pauses), ("a spare agent stood ready", ready), ("it was still starting", rest)):
        if some:
            shown = f"p50 {statistics.median(some):.0f} ms, max {max(some):.0f} ms"
            none = sum(1 for pause in some if pause == 0.0)
            print(f"- {label} ({len(some)}): {shown}; under {FORGIVEN_MS} ms: {none}")


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--agent-kills", type=int, default=AGENT_KILLS)
    parser.add_argument("--writer-kills", type=int, default=WRITER_KILLS)
    parser.add_argument("--image-dir", type=Path, default=IMAGE_DIR, help=f"an image store with {IMAGE} in it")
    return parser.parse_args()


if __name__ == "__main__":
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory(prefix="kubelet-secrets-crash-") as name:
        directory = Path(name)
        (directory / "probe").mkdir()
        options = StackOptions(
            node_name=f"crash-{os.urandom(3).hex()}",
            root_dir=directory / "node",
            image_dir=arguments.image_dir,
            socket=directory / "agent.sock",
            port=0,
        )
        place = Place(directory=directory, probe_dir=directory / "probe", options=options)
        amounts = {"agent_kills": arguments.agent_kills, "writer_kills": arguments.writer_kills}
        trio.run(partial(soak, place, **amounts))
