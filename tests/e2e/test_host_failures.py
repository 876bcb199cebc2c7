"""What a machine, a command line or a manifest can lack: each is one line that says what to do, and nothing stays behind."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kubelet_secrets.cli.main import COMMANDS
from tests.cli.command import COMMAND, environment, run_cli, the_line
from tests.e2e.stacks import Stack, find_leftovers, is_running, scrub

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]

AS_NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


def without_program(path: str) -> list[str]:
    """A mount namespace in which a program is no program."""
    return ["unshare", "-m", "sh", "-c", f'mount --bind /dev/null "$(realpath {path})" && exec "$@"', "sh"]


WITHOUT_FUSE = [
    *("unshare", "-m", "sh", "-c"),
    "d=$(mktemp -d) && mount -t tmpfs dev $d && for n in null zero full random urandom tty; do"
    " touch $d/$n; mount --bind /dev/$n $d/$n; done && mkdir $d/shm && mount --move $d /dev && rmdir $d"
    ' && exec "$@"',
    "sh",
]
BROKEN_FUSE = ["unshare", "-m", "sh", "-c", 'mount --bind /dev/null /dev/fuse && exec "$@"', "sh"]


@pytest.fixture
def stack(image_dir: Path) -> Iterator[Stack]:
    """Names and directories for a stack that a test tries to start; whatever it did, nothing may be left."""
    with tempfile.TemporaryDirectory(prefix="ks-e2e-") as directory:
        stack = Stack(Path(directory), image_dir)
        yield stack
        left = find_leftovers(stack.directory, stack.node_name)
        scrub(stack.directory, stack.node_name)
        assert left == []


def up(stack: Stack, *options: str, prefix: list[str] | None = None) -> subprocess.CompletedProcess[str]:
    return run_cli("up", "--port", "0", *stack.node_options, *options, prefix=prefix or [])


def said(done: subprocess.CompletedProcess[str], status: int = 1) -> str:
    """The one line on standard error. ``up`` tells on standard output what it has done before."""
    assert "Traceback" not in done.stderr, done.stderr
    lines = [line for line in done.stderr.splitlines() if not line.startswith("stopping: ")]
    assert len(lines) == 1, done.stderr
    assert done.returncode == status
    assert lines[0].startswith("kubelet-secrets: ")
    return lines[0].removeprefix("kubelet-secrets: ")


# --- the machine ------------------------------------------------------------------------------------------------------


def test_no_root(stack: Stack) -> None:
    line = "running containers and mounting their secrets needs root: try again with sudo"
    assert said(up(stack, prefix=AS_NOBODY)) == line
    assert said(run_cli("demo", prefix=AS_NOBODY)) == line
    line = "mounting secrets for containers needs root: try again with sudo"
    assert said(run_cli("agent", "--kubeconfig", "/dev/null", *stack.node_options, prefix=AS_NOBODY)) == line


def test_no_fuse_device(stack: Stack) -> None:
    line = said(up(stack, prefix=WITHOUT_FUSE))
    assert line == "/dev/fuse is missing: `modprobe fuse`, or give this machine or container the device"


def test_fuse_device_that_is_none(stack: Stack) -> None:
    line = said(up(stack, prefix=BROKEN_FUSE))
    assert line.startswith("cannot mount a FUSE filesystem with /dev/fuse: Invalid argument: is it the real device")


@pytest.mark.parametrize("name", ["runc", "conmon", "skopeo", "umoci"])
def test_program_that_is_not_installed(stack: Stack, name: str) -> None:
    path = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
    assert said(up(stack, prefix=without_program(path))) == f"{name} not found: install the Debian package {name}"


def test_port_in_use(stack: Stack) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = said(up(stack, "--port", str(port)))
        assert str(port) in line
        assert "in use" in line
        kubeconfig = stack.directory / "kubeconfig"
        line = the_line(run_cli("apiserver", "--port", str(port), "--kubeconfig", kubeconfig))
        assert str(port) in line
        assert not kubeconfig.exists()


@pytest.mark.parametrize("option", ["--root-dir", "--image-dir", "--data-dir", "--socket"])
def test_directory_that_cannot_be_made(stack: Stack, option: str) -> None:
    file = stack.directory / "file"
    file.write_text("")
    line = said(up(stack, option, str(file / "below")))
    assert str(file) in line
    assert line.endswith(("Not a directory", "File exists"))


def test_socket_path_that_is_too_long(stack: Stack) -> None:
    line = said(up(stack, "--socket", str(stack.directory / ("s" * 120))))
    assert "too long" in line


# --- the command line -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "status", "line"),
    [
        pytest.param(
            "a: b: c\n", 2, "{file}, line 1, column 5: mapping values are not allowed in this context", id="yaml"
        ),
        pytest.param("kind: Pod\n", 2, "{file}: apiVersion is missing", id="no-api-version"),
        pytest.param(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstringData: {'a b': c4n4ry}\n",
            1,
            'Secret "bad" is invalid: data[a b]: Invalid value: "a b": a valid config key must consist of',
            id="key",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: bad}\nspec: {containers: [{name: c, image: i, "
            "volumeMounts: [{name: v, mountPath: /v}]}]}\n",
            1,
            'Pod "bad" is invalid: spec.containers[0].volumeMounts[0].name: Not found: "v"',
            id="volume",
        ),
    ],
)
def test_invalid_manifest(stack: Stack, text: str, status: int, line: str) -> None:
    file = stack.directory / "bad.yaml"
    file.write_text(text)
    done = up(stack, "-f", str(file))
    assert said(done, status).startswith(line.format(file=file)), done.stderr
    assert "c4n4ry" not in done.stdout + done.stderr


def test_manifest_that_does_not_exist(stack: Stack) -> None:
    assert said(up(stack, "-f", "/nonexistent.yaml"), 2) == "/nonexistent.yaml: No such file or directory"


@pytest.mark.parametrize(
    "text",
    ["", "not: a kubeconfig\n", "a: b: c\n", "apiVersion: v1\nkind: Config\ncurrent-context: x\n"],
    ids=["empty", "other", "syntax", "context"],
)
def test_kubeconfig_that_is_none(stack: Stack, text: str) -> None:
    file = stack.directory / "kubeconfig"
    file.write_text(text)
    done = run_cli("agent", "--kubeconfig", file, *stack.node_options)
    assert str(file) in said(done, 2)


def test_node_name_that_is_none(stack: Stack) -> None:
    done = up(stack, "--node-name", "Not_A/Name")
    assert "Not_A/Name" in said(done, done.returncode)


# --- other runs -------------------------------------------------------------------------------------------------------


def test_second_run_of_the_same_node_disturbs_nothing(stack: Stack) -> None:
    stack.start()
    try:
        line = said(up(stack))
        assert line == f"a node named {stack.node_name} runs on this machine: give this one another --node-name"
        agent = ("agent", "--kubeconfig", stack.kubeconfig, *stack.node_options)
        assert said(run_cli(*agent)) == (
            f"another kubelet-secrets agent uses {stack.root_dir}: stop it, or give this one another --root-dir"
        )
        line = said(run_cli(*agent, "--root-dir", stack.directory / "other"))
        assert line == f"another agent listens on {stack.socket}: give this one another --socket"
        assert stack.kubeconfig.exists()
        assert stack.status().node == stack.node_name
    finally:
        stack.stop()


def test_run_that_was_killed_is_cleaned_up_after(stack: Stack) -> None:
    """SIGKILL of ``up``: its children notice and go; the next run takes away what they could not."""
    stack.start()
    children = []
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # somebody else's, which ended while we looked
            if is_running(pid) and stack.node_name.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                children.append(pid)
    assert len(children) >= 3
    stack.command.process.kill()
    stack.command.process.wait()
    deadline = time.monotonic() + 30
    while any(map(is_running, children)):
        assert time.monotonic() < deadline, "children of a killed parent end by themselves"
        time.sleep(0.02)
    stack.directory.joinpath("up.log").unlink()
    stack.start()
    stack.stop()


@pytest.mark.parametrize(("child", "name"), [("apiserver", "API server"), ("agent", "node")])
def test_child_that_ends_takes_everything_down(stack: Stack, child: str, name: str) -> None:
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", *stack.node_options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    while process.stdout.readline() != "ready\n":
        assert process.poll() is None
    (pid,) = (
        int(pid)
        for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        if f"\0{child}\0" in Path(f"/proc/{pid}/cmdline").read_text()
    )
    os.kill(pid, signal.SIGKILL)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert "Traceback" not in errors
    assert errors.splitlines()[-1] == f"kubelet-secrets: the {name} stopped by itself (exit status -9)"


def test_second_signal_does_not_cut_the_clean_up_short(stack: Stack) -> None:
    manifest = stack.directory / "deaf.yaml"
    manifest.write_text(
        "{apiVersion: v1, kind: Pod, metadata: {name: deaf}, spec: {containers: [{name: c, image: localhost/busybox:1, "
        "command: [sh, -c, \"trap '' TERM; while :; do sleep 1; done\"]}]}}"
    )
    process = subprocess.Popen(
        [*COMMAND, "up", "--port", "0", *stack.node_options, "-f", str(manifest)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    assert process.stderr is not None
    while "Running" not in process.stdout.readline():
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    assert process.stderr.readline() == "stopping: containers, mounts, server\n"
    process.send_signal(signal.SIGINT)
    process.send_signal(signal.SIGTERM)
    output, errors = process.communicate(timeout=60)
    assert (process.returncode, errors) == (0, "")
    assert output.endswith("stopped; nothing is left behind\n")


def test_commands_are_known_to_these_tests() -> None:
    """Each command appears here, in tests/cli, or in another test of this directory: a new one needs its own failures."""
    texts = [path.read_text() for room in ("cli", "e2e", "explain") for path in Path("tests", room).glob("test_*.py")]
    assert [name for name in COMMANDS if not any(f'"{name}"' in text for text in texts)] == []
