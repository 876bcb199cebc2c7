"""The service file as a user gets it, in systemd's own eyes."""

from __future__ import annotations

import configparser
import subprocess
import sys
from pathlib import Path

import pytest

from kubelet_secrets.cli.systemd_unit import quote
from kubelet_secrets.fusefs.kept import NAMES
from kubelet_secrets.supervisor import Supervisor
from tests.cli.command import run_cli, the_line


@pytest.fixture
def kubeconfig(tmp_path: Path) -> Path:
    path = tmp_path / "kube config"
    path.touch()
    return path


def read(unit: str) -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(unit)
    return parser


def test_unit_runs_this_installation_with_the_options_given(kubeconfig: Path) -> None:
    done = run_cli("systemd-unit", "--kubeconfig", kubeconfig, "--node-name", "n1", "--emulate-kubelet-delays")
    assert (done.returncode, done.stderr) == (0, "")
    service = read(done.stdout)["Service"]
    script = Path(sys.executable).with_name("kubelet-secrets")
    assert service["ExecStart"] == f'{script} agent --kubeconfig "{kubeconfig}" --node-name n1 --emulate-kubelet-delays'


def test_systemd_finds_nothing_to_complain_about(kubeconfig: Path, tmp_path: Path) -> None:
    path = tmp_path / "kubelet-secrets.service"
    path.write_text(run_cli("systemd-unit", "--kubeconfig", kubeconfig).stdout)
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", path], check=False, capture_output=True, text=True, timeout=60
    )
    complaints = [line for line in done.stderr.splitlines() if path.name in line]
    assert (done.returncode, complaints) == (0, [])


def test_unit_promises_what_the_keeper_counts_on(kubeconfig: Path) -> None:
    service = read(run_cli("systemd-unit", "--kubeconfig", kubeconfig).stdout)["Service"]
    environ = dict([service["Environment"].split("=")])
    assert Supervisor({**environ, "NOTIFY_SOCKET": "@x"}).keeps_descriptors
    assert int(service["FileDescriptorStoreMax"]) >= len(NAMES)
    assert (service["Type"], service["NotifyAccess"], service["KillMode"]) == ("notify", "main", "process")


def test_unit_has_no_mount_namespace_of_its_own(kubeconfig: Path) -> None:
    """Each start would get a new one, without the mounts that the start before left. Source: systemd.exec(5)."""
    service = read(run_cli("systemd-unit", "--kubeconfig", kubeconfig).stdout)["Service"]
    prefixes = ("Private", "Protect", "ReadWrite", "ReadOnly", "Inaccessible", "Temporary", "Bind", "Root", "Mount")
    assert [key for key in service if key.startswith(prefixes)] == []


def test_options_that_the_agent_would_refuse_are_refused(kubeconfig: Path) -> None:
    done = run_cli("systemd-unit", "--kubeconfig", kubeconfig, "--store-size", "nonsense")
    assert done.returncode == 2
    assert "--store-size" in the_line(done)
    done = run_cli("systemd-unit", "--kubeconfig", kubeconfig, "--no-such-option")
    assert done.returncode == 2
    assert "--no-such-option" in the_line(done)
    done = run_cli("systemd-unit")
    assert done.returncode == 2
    assert "--kubeconfig" in the_line(done)


@pytest.mark.parametrize(
    ("word", "quoted"),
    [
        pytest.param("/usr/bin/kubelet-secrets", "/usr/bin/kubelet-secrets", id="plain"),
        pytest.param("a b", '"a b"', id="blank"),
        pytest.param("50%", '"50%%"', id="specifier"),
        pytest.param("$HOME", '"$$HOME"', id="variable"),
        pytest.param('say "\\"', '"say \\"\\\\\\""', id="quotes-and-backslash"),
        pytest.param("", '""', id="empty"),
        pytest.param(";", '";"', id="separator"),
    ],
)
def test_words_mean_themselves_to_systemd(word: str, quoted: str) -> None:
    assert quote(word) == quoted
