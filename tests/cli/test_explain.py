"""``kubelet-secrets explain``: output and exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

GOOD = """\
apiVersion: v1
kind: Secret
metadata: {name: db}
data: {password: czNjcjN0, bin: //79}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  automountServiceAccountToken: false
  containers:
  - name: c
    image: i
    env: [{name: PW, valueFrom: {secretKeyRef: {name: db, key: password}}}]
    volumeMounts: [{name: v, mountPath: /etc/v}]
  volumes: [{name: v, secret: {secretName: db, defaultMode: 0400}}]
"""


def run(*arguments: str, stdin: str = "", cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """The real command in a process of its own, as an ordinary user would have it."""
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "kubelet_secrets.cli.main", "explain", *arguments]
    return subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment, cwd=cwd
    )


def test_people_see_files_variables_and_problems_but_no_values() -> None:
    done = run("-f", "-", stdin=GOOD)
    assert done.returncode == 0, done.stderr
    assert "s3cr3t" not in done.stdout + done.stderr
    for part in (
        "Pod default/web   standard input, document 2",
        "/etc/v/password   -r--------   0:0     6      secret/db key password",
        "PW             <6 bytes>     secret/db key password",
        "1 pod, 1 container: 0 problems that stop containers, 0 warnings, 1 note",
    ):
        assert part in done.stdout, done.stdout


def test_values_are_shown_when_asked_for() -> None:
    done = run("-f", "-", "--show-values", stdin=GOOD)
    assert '"s3cr3t"' in done.stdout
    assert r'"\xff\xfe\xfd"' in done.stdout


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_machines_get_the_same_without_values(output: str) -> None:
    done = run("-f", "-", "-o", output, stdin=GOOD)
    plain = json.loads(done.stdout) if output == "json" else yaml.safe_load(done.stdout)
    assert "s3cr3t" not in done.stdout
    assert "czNjcjN0" not in done.stdout
    (container,) = plain["pods"][0]["containers"]
    assert [(file["path"], file["mode"], file["size"], file["from"]) for file in container["files"]] == [
        ("/etc/v/bin", "0400", 3, "secret/db key bin"),
        ("/etc/v/password", "0400", 6, "secret/db key password"),
    ]
    assert plain["blocked"] is False


def test_machines_get_values_when_asked_for() -> None:
    plain = json.loads(run("-f", "-", "-o", "json", "--show-values", stdin=GOOD).stdout)
    files = {file["path"]: file for file in plain["pods"][0]["containers"][0]["files"]}
    assert files["/etc/v/password"]["value"] == "s3cr3t"
    assert files["/etc/v/bin"]["valueBase64"] == "//79"


@pytest.mark.parametrize("is_colourful", [True, False])
def test_colours_on_a_terminal_unless_they_are_not_wanted(tmp_path: Path, is_colourful: bool) -> None:
    (tmp_path / "f.yaml").write_text(GOOD)
    command = f"{sys.executable} -m kubelet_secrets.cli.main explain -f f.yaml"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "NO_COLOR": "" if is_colourful else "1"}
    done = subprocess.run(
        ["script", "-qec", command, "/dev/null"],  # a terminal
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
        env=environment,
        cwd=tmp_path,
    )
    assert ("\x1b[" in done.stdout) is is_colourful


def test_exit_status_tells_what_stops_a_container() -> None:
    done = run("-f", "-", stdin=GOOD.replace("name: db, key", "name: dbx, key"))
    assert done.returncode == 1
    assert 'BLOCKS  secret "dbx" not found' in done.stdout
    assert 'spec.containers[0].env[0].valueFrom.secretKeyRef - did you mean "db"?' in done.stdout


@pytest.mark.parametrize(
    ("arguments", "stdin", "message"),
    [
        pytest.param((), "", "Missing option '-f'", id="no-file"),
        pytest.param(("-f", "/nope.yaml"), "", "kubelet-secrets: /nope.yaml: No such file or directory", id="absent"),
        pytest.param(("-f", "-"), "", "kubelet-secrets: no objects passed to explain", id="nothing"),
        pytest.param(("-f", "-"), "---\n# nothing\n---\n", "no objects passed to explain", id="no-documents"),
        pytest.param(("-f", "-"), "a: b: c", "kubelet-secrets: standard input, line 1, column 5:", id="syntax"),
        pytest.param(
            ("-f", "-"),
            GOOD.replace("czNjcjN0", "'c4n4ry!'"),
            "kubelet-secrets: standard input, document 1: Secret default/db: Secret: Invalid base64-encoded string",
            id="base64",
        ),
    ],
)
def test_unusable_input_is_one_line_and_status_2(arguments: tuple[str, ...], stdin: str, message: str) -> None:
    done = run(*arguments, stdin=stdin)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
    assert "c4n4ry" not in done.stderr


def test_directory_of_manifests(tmp_path: Path) -> None:
    for part, text in enumerate(GOOD.split("---\n")):
        (tmp_path / f"{part}.yaml").write_text(text)
    done = run("-f", ".", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Pod default/web   1.yaml" in done.stdout
