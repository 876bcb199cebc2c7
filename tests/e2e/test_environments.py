"""Environments of real containers, and what the agent says about them."""

from __future__ import annotations

import json

import pytest
import trio

from kubelet_secrets.control.protocol import EnvView
from tests.e2e.stacks import COMMAND, Cluster, container, environment, secret_env, waiting

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


async def test_variables_of_every_kind(cluster: Cluster) -> None:
    await cluster.put_secret("env-db", {"user": "shop", "password": "p$(X)w", "1-odd.key": "odd"})
    await cluster.put_config_map("env-conf", {"MODE": "fast", "RETRIES": "3"})
    env = [
        secret_env("DB_USER", "env-db", "user"),
        secret_env("DB_PASSWORD", "env-db", "password"),
        {"name": "URL", "value": "db://$(DB_USER):$(DB_PASSWORD)@host/$(MODE)/$$(DB_USER)/$(NOPE)"},
        {"name": "CONF", "valueFrom": {"configMapKeyRef": {"name": "env-conf", "key": "MODE"}}},
        {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
        {"name": "LIMIT", "valueFrom": {"resourceFieldRef": {"resource": "limits.memory", "divisor": "1Mi"}}},
        secret_env("ABSENT", "env-db", "nope", optional=True),
        {"name": "RETRIES", "value": "9"},
    ]
    env_from = [
        {"configMapRef": {"name": "env-conf"}},
        {"prefix": "P_", "secretRef": {"name": "env-db"}},
        {"secretRef": {"name": "env-none", "optional": True}},
    ]
    app = container(
        env=env,
        envFrom=env_from,
        resources={"limits": {"memory": "64Mi"}},
    )
    app["args"] = ["$(DB_USER)"]
    await cluster.run_pod("env-all", app)
    raw = await cluster.exec("env-all", "cat /proc/1/environ")
    variables = dict(line.split("=", 1) for line in raw.split("\0") if line)
    expected = {
        "DB_USER": "shop",
        "DB_PASSWORD": "p$(X)w",
        "URL": "db://shop:p$(X)w@host/fast/$(DB_USER)/$(NOPE)",
        "CONF": "fast",
        "MODE": "fast",
        "RETRIES": "9",
        "NAME": "env-all",
        "LIMIT": "64",
        "P_user": "shop",
        "P_1-odd.key": "odd",
    }
    assert {name: variables.get(name) for name in expected} == expected
    assert "ABSENT" not in variables
    assert variables["KUBERNETES_SERVICE_HOST"]
    assert (await cluster.exec("env-all", "tr '\\0' '\\n' < /proc/1/cmdline | tail -n 1")).strip() == "shop"


async def test_value_with_several_lines(cluster: Cluster) -> None:
    await cluster.put_secret("env-raw", {"lines": "a\nb=c\n"})
    await cluster.run_pod("env-raw", container(env=[secret_env("LINES_", "env-raw", "lines")]))
    variables = (await cluster.exec("env-raw", "cat /proc/1/environ")).split("\0")
    assert "LINES_=a\nb=c\n" in variables


async def test_value_with_a_nul_byte_cannot_be_a_variable(cluster: Cluster) -> None:
    """Once the Secret is mended the container starts. Bytes that are merely not UTF-8 do not stop it: ``tests/faithful``."""
    await cluster.put_secret("env-bytes", {"k": b"\xff\0ok"})
    await cluster.create_pod("env-bytes", container(env=[secret_env("BYTES", "env-bytes", "k")]))
    pod = await cluster.wait_waiting("env-bytes", "CreateContainerError")
    assert waiting(pod)[1] == 'environment variable "BYTES" contains a NUL byte'
    await cluster.put_secret("env-bytes", {"k": "text"})
    await cluster.wait_ready("env-bytes")


async def test_missing_key_names_secret_and_key_and_recovers_at_once(cluster: Cluster) -> None:
    await cluster.put_secret("env-part", {"user": "u"})
    await cluster.create_pod(
        "env-part",
        container(env=[secret_env("PASSWORD", "env-part", "password")]),
        container("healthy"),
    )
    pod = await cluster.wait_waiting("env-part", "CreateContainerConfigError", "app")
    assert waiting(pod, "app")[1] == "couldn't find key password in Secret default/env-part"
    event = await cluster.wait_event("env-part", "Failed")
    assert event.message == "Error: couldn't find key password in Secret default/env-part"
    assert event.involved_object.field_path == "spec.containers{app}"
    await cluster.wait(
        "env-part", lambda pod: any(each.name == "healthy" and each.ready for each in pod.status.container_statuses)
    )
    await cluster.put_secret("env-part", {"password": "now"})
    pod = await cluster.wait_ready("env-part")
    assert [each.restart_count for each in pod.status.container_statuses] == [0, 0]
    assert await cluster.exec("env-part", "echo $PASSWORD", "app") == "now\n"


async def test_missing_secret_and_config_map_for_variables(cluster: Cluster) -> None:
    await cluster.create_pod("env-none", container(envFrom=[{"secretRef": {"name": "env-absent"}}]))
    await cluster.create_pod(
        "env-none-map",
        container(env=[{"name": "X", "valueFrom": {"configMapKeyRef": {"name": "env-absent-map", "key": "x"}}}]),
    )
    pod = await cluster.wait_waiting("env-none", "CreateContainerConfigError")
    assert waiting(pod)[1] == 'secret "env-absent" not found'
    pod = await cluster.wait_waiting("env-none-map", "CreateContainerConfigError")
    assert waiting(pod)[1] == 'configmap "env-absent-map" not found'
    await cluster.put_secret("env-absent", {"A": "1"})
    await cluster.put_config_map("env-absent-map", {"x": "2"})
    await cluster.wait_ready("env-none")
    await cluster.wait_ready("env-none-map")
    assert await cluster.exec("env-none", "echo $A") == "1\n"
    assert await cluster.exec("env-none-map", "echo $X") == "2\n"


async def test_versions_started_and_current(cluster: Cluster) -> None:
    """A process keeps what it was started with; the agent says what a restart would change, and then it has changed."""
    await cluster.put_secret("env-ver", {"a": "a1", "b": "b1"})
    await cluster.run_pod("env-ver", container(envFrom=[{"secretRef": {"name": "env-ver"}}]))
    params = {"namespace": "default", "pod": "env-ver", "container": "app", "show_values": True, "watch": False}
    (view,) = cluster.stack.ask("env", EnvView, **params)
    assert (view.started_version, view.current_version) == (1, 1)
    assert {row.name: (row.value, row.stale, row.missing) for row in view.rows if len(row.name) == 1} == {
        "a": ("a1", False, False),
        "b": ("b1", False, False),
    }

    await cluster.put_secret("env-ver", {"a": "a2", "b": None, "c": "c2"})
    view = await _wait_env(cluster, params, lambda view: view.current_version == 2)
    assert view.started_version == 1
    rows = {row.name: row for row in view.rows if len(row.name) == 1}
    assert (rows["a"].value, rows["a"].current_value, rows["a"].stale) == ("a1", "a2", True)
    assert (rows["b"].value, rows["b"].missing) == ("b1", True)
    assert rows["c"].value == "c2"
    assert await cluster.exec("env-ver", "tr '\\0' '\\n' < /proc/1/environ | grep '^[abc]=' | sort") == "a=a1\nb=b1\n"

    await cluster.delete_secret("env-ver")
    view = await _wait_env(cluster, params, lambda view: bool(view.problem))
    assert view.problem == 'secret "env-ver" not found'
    assert {row.value for row in view.rows if row.name in "ab"} == {"a1", "b1"}
    await cluster.put_secret("env-ver", {"a": "a2", "c": "c2"})
    await _wait_env(cluster, params, lambda view: not view.problem)

    await cluster.restart("env-ver")
    assert await cluster.exec("env-ver", "tr '\\0' '\\n' < /proc/1/environ | grep '^[abc]=' | sort") == "a=a2\nc=c2\n"
    view = await _wait_env(cluster, params, lambda view: view.started_version == view.current_version)
    assert not any(row.stale or row.missing for row in view.rows)


async def _wait_env(cluster: Cluster, params: dict[str, object], wanted: object) -> EnvView:
    assert callable(wanted)
    with trio.fail_after(60):
        while True:
            (view,) = cluster.stack.ask("env", EnvView, **params)
            if wanted(view):
                return view
            await trio.sleep(0.02)


async def test_env_command_watches(cluster: Cluster) -> None:
    await cluster.put_secret("env-watch", {"a": "1"})
    await cluster.run_pod("env-watch", container(env=[secret_env("A", "env-watch", "a")]))
    command = [*COMMAND, "env", "env-watch", "--watch", "-o", "json", "--socket", str(cluster.stack.socket)]
    process = await trio.lowlevel.open_process(command, stdout=-1, env=environment())
    assert process.stdout is not None
    seen = []
    decoder = json.JSONDecoder()
    text = ""
    with trio.fail_after(60):
        async for chunk in process.stdout:
            text += chunk.decode()
            while text.strip():
                try:
                    view, end = decoder.raw_decode(text.lstrip())
                except json.JSONDecodeError:
                    break
                text = text.lstrip()[end:]
                seen.append(view)
                if len(seen) == 1:
                    await cluster.put_secret("env-watch", {"a": "2"})
            if any(row["stale"] for view in seen for row in view["rows"]):
                break
    process.terminate()
    await process.wait()
    await process.stdout.aclose()
    row = next(row for row in seen[-1]["rows"] if row["name"] == "A")
    assert row == {**row, "size": 1, "value": None, "stale": True, "origin": "secret/env-watch key a"}


async def test_services_of_the_namespace(cluster: Cluster) -> None:
    await cluster.create(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "my-db", "namespace": "default"},
            "spec": {"clusterIP": "10.96.7.7", "ports": [{"name": "sql", "port": 5432, "protocol": "TCP"}]},
        }
    )
    await cluster.run_pod("env-svc", container())
    text = await cluster.exec("env-svc", "tr '\\0' '\\n' < /proc/1/environ | grep ^MY_DB | sort")
    assert "MY_DB_SERVICE_HOST=10.96.7.7" in text
    assert "MY_DB_PORT_5432_TCP_ADDR=10.96.7.7" in text
    await cluster.run_pod("env-nosvc", container(), enableServiceLinks=False)
    text = await cluster.exec("env-nosvc", "tr '\\0' '\\n' < /proc/1/environ")
    assert "MY_DB" not in text
    assert "KUBERNETES_SERVICE_HOST" in text
