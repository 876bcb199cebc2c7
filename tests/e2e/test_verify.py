"""``kubelet-secrets verify`` on real nodes: what holds is shown as such; what does not is found, named, and exit status 1."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.control.protocol import NodeSummary
from kubelet_secrets.leakscan import spellings
from tests.cli.command import COMMAND, environment
from tests.e2e.stacks import Node, find_leftovers

pytestmark = [
    pytest.mark.fuse,
    pytest.mark.runtime,
    pytest.mark.timeout(600),
]  # each is a whole node, on a loaded machine

TIMEOUT_S = 560


@pytest.fixture
def directory() -> Iterator[Path]:
    """On a disk, as far as this machine has one, and with a short name."""
    with tempfile.TemporaryDirectory(prefix="ks-verify-", dir="/var/tmp") as name:
        yield Path(name)
        assert os.listdir(name) == [], "the node's directory is still there"
        assert find_leftovers(Path(name), name) == []


def run(command: list[str], **kwargs: Any) -> tuple[int, dict[str, Any], str]:
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=TIMEOUT_S, env=environment(), check=False, **kwargs
    )
    assert "Traceback" not in done.stderr, done.stderr
    assert done.stdout, done.stderr
    return done.returncode, json.loads(done.stdout), done.stderr


def test_every_promise_holds_here(directory: Path) -> None:
    image = directory.parent / f"{directory.name}.img"
    image.write_bytes(bytes(1 << 20) + b"an old disk" * 100_000)
    options = ["--dir", str(directory), "--place", str(directory), "--device", str(image), "-o", "json"]
    try:
        status, said, errors = run([*COMMAND, "verify", *options])
    finally:
        image.unlink()
    assert (status, said["broken"], said["holds"]) == (0, [], True), errors
    report = said["report"]
    assert len(report["steps"]) == 9
    assert {mount["grade"] for mount in report["mounts"]} == {"secure"}
    assert {"files of Secrets", "volume in the container"} <= {mount["holds"] for mount in report["mounts"]}
    graded = {each["role"]: each for each in report["processes"]}
    assert {"keeper", "agent", "spare agent", "writer", "API server", "conmon"} <= set(graded)
    assert {each["grade"] for each in graded.values() if each["promised"]} == {"secure"}
    # Counted honestly: the numbers are those of processes that did hold values, and of one that never does.
    assert graded["agent"]["copiesRunning"] > 0
    assert graded["API server"]["copiesRunning"] > 0
    assert graded["keeper"]["copiesRunning"] == graded["keeper"]["copiesAfter"] == 0
    areas = {(area["name"], area["when"]): area for area in report["areas"]}
    assert all(area["complete"] for area in areas.values())
    assert areas[str(image), "afterwards"]["sizeBytes"] >= 1_100_000
    assert areas["files that changed meanwhile", "in use"]["files"] > len(report["controls"])
    assert areas["log of agent and API server (-vv)", "afterwards"]["sizeBytes"] > 1000
    assert len(report["controls"]) >= 10


# What the command does, with somebody beside it who lets the values out in every form and every place.
LEAKY = """
import sys
from pathlib import Path
import trio
from kubelet_secrets.cli.main import main
from kubelet_secrets.cli import verify
from kubelet_secrets.leakscan import spellings
from kubelet_secrets.verify import run

base = Path(sys.argv.pop(1))

def leak(planted):
    for number, form in enumerate(spellings(planted.variable.value).values()):
        (base / "leaks" / f"form-{number}").write_bytes(b"." * number + form)
    with (base / "swap").open("wb") as file:
        file.truncate(8 << 20)
        file.seek((5 << 20) + 77)
        file.write(planted.password.value.hex().encode())
    (base / "old" / "file").write_bytes(planted.large.value[5000:])

inner = run.run_verification
async def leaky(options, progress):
    return await inner(options, progress, delivered=leak)
run.run_verification = leaky
main()
"""
NUMBER_OF_FORMS = len(spellings('x"é/'.encode()))


def test_what_does_not_hold_is_named_and_the_exit_status_is_1(directory: Path) -> None:
    """Leaks of every form in files, a leak in a fake swap file, and processes that may not lock their memory."""
    with tempfile.TemporaryDirectory(prefix="ks-verify-leaks-", dir="/var/tmp") as name:
        base = Path(name)
        (base / "leaks").mkdir()
        (base / "old").mkdir()
        (base / "swap").touch()
        unlocked = ["prlimit", "--memlock=65536:65536", "setpriv", "--bounding-set=-ipc_lock", "--inh-caps=-ipc_lock"]
        options = ["--dir", str(directory), "--place", str(base / "leaks"), "--no-crash", "-o", "json"]
        options += ["--device", str(base / "swap"), "--path", str(base / "old")]
        status, said, errors = run([*unlocked, sys.executable, "-c", LEAKY, name, "verify", *options])
    assert (status, said["holds"]) == (1, False)
    broken = said["broken"]
    leaked = [sentence for sentence in broken if " is in " in sentence]
    in_files = {
        s.split(" is in ")[1].split(":")[0] for s in leaked if s.startswith("the value of the environment variable")
    }
    assert in_files == {f"{base}/leaks/form-{number}" for number in range(NUMBER_OF_FORMS)}
    assert f"the value of the registry password is in {base}/swap: hex, 1 times (afterwards)" in leaked
    assert any(s.startswith(f"the value of the large file is in {base}/old/file: plain, ") for s in leaked)
    weak = [sentence for sentence in broken if sentence.startswith("memory of the ")]
    for role in ("keeper", "agent", "spare agent", "writer", "API server"):
        assert any(s.startswith(f"memory of the {role} (pid ") and ": weak, " in s for s in weak), broken
    assert {*leaked, *weak} == set(broken), "nothing else is wrong"
    assert f"{len(broken)} of the promises of docs/threat-model.md do not hold on this machine." in errors
    assert all(sentence in errors for sentence in broken)


def test_running_node(stack: Node, directory: Path) -> None:
    """Through the API server of a node that is there already: it goes on as it was."""
    options = [
        "--kubeconfig",
        str(stack.kubeconfig),
        "--socket",
        str(stack.socket),
        "--image-dir",
        str(stack.image_dir),
    ]
    before = stack.status()
    status, said, errors = run(
        [*COMMAND, "verify", *options, "--dir", str(directory), "--place", str(stack.directory), "-o", "json"]
    )
    assert (status, said["broken"]) == (0, []), errors
    assert said["report"]["node"] == stack.node_name
    assert len(said["report"]["steps"]) == 7, "nothing was killed"
    after: NodeSummary = stack.status()
    assert after.agent_pid == before.agent_pid
    assert not [pod for pod in after.pods if "verify" in pod.namespace]
    listed = stack.cli("image", "list", "--image-dir", str(stack.image_dir), "-o", "name").stdout
    assert "verify" not in listed
