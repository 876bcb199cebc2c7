"""What ``kubelet-secrets verify`` says when it cannot begin; what it finds is in tests/e2e/test_verify.py."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.cli.verify import conclude
from kubelet_secrets.verify.grades import Grade
from kubelet_secrets.verify.report import (
    AreaReport,
    Control,
    Feature,
    Leak,
    MachineFact,
    MountReport,
    ProcessReport,
    Report,
    Step,
)
from tests.cli.command import run_cli, the_line

KUBECONFIG = """\
apiVersion: v1
kind: Config
current-context: c
contexts: [{name: c, context: {cluster: c, user: u}}]
clusters: [{name: c, cluster: {server: "https://127.0.0.1:1"}}]
users: [{name: u, user: {token: t}}]
"""


def test_without_root_it_says_so() -> None:
    done = run_cli("verify", "--dir", "/", prefix=["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"])
    assert done.returncode == 1
    assert "needs root" in the_line(done)


def test_running_node_that_does_not_run(tmp_path: Path) -> None:
    (tmp_path / "kubeconfig").write_text(KUBECONFIG)
    options = ["--kubeconfig", tmp_path / "kubeconfig", "--socket", tmp_path / "none", "--dir", tmp_path]
    done = run_cli("verify", *options)
    assert done.returncode == 1
    assert f"no agent at {tmp_path}/none" in the_line(done)
    assert [path.name for path in tmp_path.iterdir()] == ["kubeconfig"], "nothing is left of the decoys"


@pytest.mark.fuse
@pytest.mark.runtime
def test_node_that_does_not_start_is_told_of(tmp_path: Path) -> None:
    """Its own words go to the log that is searched later; here a path that is too long for a socket."""
    directory = tmp_path / ("d" * 100)
    directory.mkdir()
    done = run_cli("verify", "--dir", directory)
    assert done.returncode == 1
    assert "AF_UNIX path too long" in the_line(done)
    assert list(directory.iterdir()) == []


@pytest.mark.parametrize("option", ["--device", "--path", "--dir", "--kubeconfig", "--place"])
def test_path_that_does_not_exist(option: str, tmp_path: Path) -> None:
    done = run_cli("verify", option, tmp_path / "none")
    assert done.returncode == 2
    assert f"'{tmp_path}/none' does not exist" in the_line(done)


def report(*, grade: Grade) -> Report:
    return Report(
        node="n",
        kernel="6.18",
        canaries=("volume file",),
        steps=(Step(what="it ran", held=True),),
        mounts=(MountReport(holds="files", path="", filesystem="tmpfs", grade=grade, why="because"),),
        processes=(
            ProcessReport(role="agent", pid=7, grade=Grade.SECURE, why="locked", resident_bytes=1, copies_running=3),
            ProcessReport(
                role="conmon", pid=8, grade=Grade.WEAK, why="x", resident_bytes=1, copies_running=None, promised=False
            ),
        ),
        controls=(Control(what="a decoy", found=True),),
        areas=(
            AreaReport(
                name="swap",
                when="afterwards",
                files=1,
                size_bytes=3_000_000,
                took_s=1.0,
                leaks=(Leak(where="swap", canary="decoy", form="hex", count=5),),
            ),
        ),
        features=(Feature(name="tmpfs noswap", available=False, effect="ramfs instead"),),
        machine=(MachineFact(name="swap", state="none"),),
    )


def test_report_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    conclude(report(grade=Grade.SECURE), "table")
    printed = capsys.readouterr()
    assert printed.err == ""
    lines = [" ".join(line.split()) for line in printed.out.splitlines()]
    for line in (
        "secure files (no path) tmpfs because",
        "secure agent 7 1 B 3 ended locked",
        "weak* conmon 8 1 B - ended x",
        "* not among the promises",
        "swap afterwards 1 3.0 MB 3 MB/s nothing",
        "The search can find: 1 of 1 decoys were found.",
        "tmpfs noswap no ramfs instead",
    ):
        assert line in lines, printed.out
    assert "✓ Every promise holds on this machine." in printed.out


@pytest.mark.parametrize("output", ["table", "json", "yaml"])
def test_report_that_does_not_hold(capsys: pytest.CaptureFixture[str], output: str) -> None:
    with pytest.raises(SystemExit) as caught:
        conclude(report(grade=Grade.WEAK), output)
    assert caught.value.code == 1
    printed = capsys.readouterr()
    assert "✗ files: weak, because" in printed.err
    assert "Every promise holds" not in printed.out
