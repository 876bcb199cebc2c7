"""``kubelet-secrets who-can``: the command against a running API server."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.harness import PODS, SECRETS, http_client, pod, secret
from tests.apiserver.test_rbac_server import ROLE_BINDINGS, ROLES, binding, role

CANARY = "canary-s3cr3t-value"


@pytest.fixture
async def server() -> AsyncIterator[ServerHandle]:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            handle: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            async with http_client(handle, handle.authority.issue_admin()) as admin:
                volume = {"name": "v", "secret": {"secretName": "db"}}
                for path, body in (
                    (SECRETS, secret("db", password=CANARY)),
                    (PODS, pod("web", node="n1", volumes=[volume])),
                    (ROLES, role("read-db", ["get"], ["secrets"], ["db"])),
                    (ROLES, role("enter", ["create"], ["pods/exec"])),
                    (ROLE_BINDINGS, binding("b1", "Role/read-db")),
                    (ROLE_BINDINGS, binding("b2", "ClusterRole/edit", user="june")),
                    (ROLE_BINDINGS, binding("b3", "Role/enter", user="joan")),
                    (ROLE_BINDINGS, binding("b4", "ClusterRole/gone", user="jim")),
                ):
                    answer = await admin.post(path, body)
                    assert answer.status == 201, answer.body
            yield handle
            handle.shut_down()


async def _run(kubeconfig: SensitiveBytes, *arguments: str) -> tuple[int, str, str]:
    descriptor = os.memfd_create("kubeconfig", 0)
    try:
        os.write(descriptor, kubeconfig.reveal())
        command = [sys.executable, "-m", "kubelet_secrets.cli.main", "who-can", *arguments]
        done = await trio.run_process(
            [*command, "--kubeconfig", f"/proc/self/fd/{descriptor}"],
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            pass_fds=(descriptor,),
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
        )
    finally:
        os.close(descriptor)
    out, err = done.stdout.decode(), done.stderr.decode()
    assert CANARY not in out + err
    return done.returncode, out, err


async def test_every_way_with_its_binding(server: ServerHandle) -> None:
    code, out, err = await _run(server.admin_kubeconfig(), "read", "secret", "db", "-n", "default")
    assert code == 0, err
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "BY KIND WHO MAY FROM"
    assert "read Group system:masters * built in: passes every authorizer" in lines
    assert "read User jane get RoleBinding default/b1 of Role read-db" in lines
    assert "exec User joan create pods/exec RoleBinding default/b3 of Role enter: pod web" in lines
    assert "node Node n1 get, list, watch the Node authorizer: pod web" in lines
    assert any(line.startswith("create pods User june create pods, create daemonsets") for line in lines)
    assert 'leads nowhere: RoleBinding b4: clusterrole.rbac.authorization.k8s.io "gone" not found' in err
    assert "can mount every Secret" in err


@pytest.mark.parametrize("output", ["json", "yaml"])
async def test_output_for_programs(server: ServerHandle, output: str) -> None:
    code, out, err = await _run(server.admin_kubeconfig(), "read", "secret", "db", "-o", output)
    assert (code, err) == (0, "")
    import yaml

    answer: Any = json.loads(out) if output == "json" else yaml.safe_load(out)
    assert answer["secret"] == {"namespace": "default", "name": "db"}
    assert {
        "by": "exec",
        "subject": {"kind": "User", "name": "joan"},
        "verbs": ["create pods/exec"],
        "pods": ["web"],
        "binding": {"kind": "RoleBinding", "name": "b3", "namespace": "default"},
        "role": {"kind": "Role", "name": "enter"},
    } in answer["access"]


async def test_asking_needs_rights_of_its_own(server: ServerHandle) -> None:
    code, out, err = await _run(server.client_kubeconfig("jane"), "read", "secret", "db")
    assert (code, out) == (1, "")
    assert 'User "jane" cannot list resource "clusterroles"' in err
