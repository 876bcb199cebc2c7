"""``kubelet-secrets why -f``: output and exit status, as an ordinary user has them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

MANIFESTS = """\
apiVersion: v1
kind: Secret
metadata: {name: db}
stringData: {password: s3cr3t-value}
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


def run(*arguments: str, stdin: str = MANIFESTS) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    command = [sys.executable, "-m", "kubelet_secrets.cli.main", "why", *arguments]
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=60, check=False, env=environment
    )
    assert "s3cr3t" not in done.stdout + done.stderr
    return done


def test_people_get_the_chain_line_by_line() -> None:
    done = run("web", "--path", "/etc/v/password", "-f", "-")
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == """\
default/web container c: /etc/v/password
  spec.containers[0].volumeMounts[0]   volume v at /etc/v
  spec.volumes[0].secret               every key of secret/db under its own name
  secret default/db                    key password, 12 bytes
  the file password                    mode 0400, owner 0:0
  who may read it
    container c             yes   the container mounts the volume; mode 0400 0:0: if its image runs as root, uid 0 or group 0
    a process of the host   no    host process, also as root
"""
    )


def test_rule_that_stops_it_gives_exit_status_1() -> None:
    done = run("web", "--env", "PASS", "-f", "-")
    assert done.returncode == 1
    assert (
        done.stdout
        == """\
default/web container c: variable PASS
  nothing sets PASS in container c; only the image's own ENV could
    it has PW
"""
    )


@pytest.mark.parametrize("output", ["json", "yaml"])
def test_machines_get_the_same(output: str) -> None:
    done = run("web", "--env", "PW", "-f", "-", "-o", output)
    assert done.returncode == 0, done.stderr
    if output == "json":
        answer = json.loads(done.stdout)
    else:
        import yaml

        answer = yaml.safe_load(done.stdout)
    assert (answer["kind"], answer["target"], answer["origin"]) == ("variable", "PW", "secret/db key password")
    assert answer["steps"][0]["where"] == "spec.containers[0].env[0].valueFrom.secretKeyRef"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("web", "-f", "-"), "one of --env and --path is needed"),
        (("web", "-f", "-", "--env", "A", "--path", "/x"), "one of --env and --path is needed"),
        (("nope", "-f", "-", "--env", "A"), "no pod or workload nope among the manifests; there are [pod/web]"),
        (("web", "-f", "/nonexistent.yaml", "--env", "A"), "/nonexistent.yaml"),
    ],
)
def test_questions_that_cannot_be_answered(arguments: tuple[str, ...], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert message in done.stderr
    assert "Traceback" not in done.stderr
