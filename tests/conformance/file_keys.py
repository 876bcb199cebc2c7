"""[sig-node] FileKeyRef [FeatureGate:EnvFiles].

Source: kubernetes test/e2e/common/node/file_key.go; semantics §14.11, §6.5.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from kubelet_secrets.api.meta import PODS
from tests.conformance.framework import Case, Framework, Json, mount, pod_body, shell, statuses, unique, waiting

VOLUME = {"name": "config", "emptyDir": {}}
DATA = [mount("config", "/data")]


def _env(name: str, *, key: str = "", volume: str = "config", **fields: Any) -> Json:
    reference = {"volumeName": volume, "path": "config.env", "key": key or name, **fields}
    return {"name": name, "valueFrom": {"fileKeyRef": reference}}


def _writer(**values: str) -> Json:
    """The init container that makes the file, with every value in the single quotes that its format wants."""
    lines = [f"{key}='\\''{value}'\\''" for key, value in values.items()]
    commands = [f"echo '{line}' {'>>' if at else '>'} /data/config.env" for at, line in enumerate(lines)]
    return shell("setup-envfile", " && ".join(commands), DATA)


def _pod(writer: Json, *containers: Json, volume: Json = VOLUME, inits: tuple[Json, ...] = (), **spec: Any) -> Json:
    name = unique("filekeyref-")
    return pod_body(name, containers, initContainers=[writer, *inits], volumes=[volume], **spec)


async def _consume(f: Framework) -> None:
    env = [_env("CONFIG_1"), _env("CONFIG_2")]
    reader = shell("use-envfile", "env | grep -E '(CONFIG_1|CONFIG_2)' | sort", env=env)
    written = _writer(CONFIG_1="value1", CONFIG_2="value2")
    await f.check_output(_pod(written, reader), "CONFIG_1=value1", "CONFIG_2=value2")


async def _several(f: Framework) -> None:
    """Three times the same pod, for one container's output each."""
    readers = [shell(f"container-{n}", f"echo $CONFIG_{n}", env=[_env(f"CONFIG_{n}")]) for n in (1, 2, 3)]
    pod = _pod(_writer(**{f"CONFIG_{n}": f"value{n}" for n in (1, 2, 3)}), *readers)
    for index in range(3):
        await f.check_output(pod, f"value{index + 1}", index=index)


async def _optional(f: Framework, *, missing: str, value: str) -> None:
    env = [_env("EXISTING_KEY"), _env(missing, optional=True)]
    reader = shell("use-envfile", f"env | grep -E '(EXISTING_KEY|{missing})' | sort", env=env)
    await f.check_output(_pod(_writer(EXISTING_KEY=value), reader), f"EXISTING_KEY={value}")


async def _post_start(f: Framework) -> None:
    hook = {"exec": {"command": ["sh", "-c", "echo PostStart: $HOOK_CONFIG > /tmp/config.env"]}}
    reader = shell(
        "main-container", "sleep 3 && cat /tmp/config.env", env=[_env("HOOK_CONFIG")], lifecycle={"postStart": hook}
    )
    await f.check_output(_pod(_writer(HOOK_CONFIG="hook_value"), reader), "PostStart: hook_value")


async def _pre_stop(f: Framework) -> None:
    """Its log can be read while the pod is being deleted."""
    hook = {"exec": {"command": ["sh", "-c", "echo PreStop: $HOOK_CONFIG >> /proc/1/fd/1 && sleep 10"]}}
    main = shell(
        "main-container",
        "trap 'sleep 30' TERM; while true; do sleep 1; done",
        env=[_env("HOOK_CONFIG")],
        lifecycle={"preStop": hook},
    )
    writer = _writer(HOOK_CONFIG="hook_value")
    pod = await f.create_sync(_pod(writer, main, terminationGracePeriodSeconds=60))
    await f.client.delete(PODS, f.namespace, pod)
    await f.wait_log(pod, "", "PreStop: hook_value")
    await f.client.delete(PODS, f.namespace, pod, grace_period_s=0)  # ours: nobody has to wait for the rest


async def _invalid(f: Framework, *, volume: Json = VOLUME, name: str = "config", in_init: bool = False) -> None:
    consumer = shell("use-envfile", "echo $CONFIG_1", env=[_env("CONFIG_1", volume=name)])
    main = shell("main", "sleep 1")
    writer = _writer(CONFIG_1="value1")
    pod = _pod(writer, main, volume=volume, inits=(consumer,)) if in_init else _pod(writer, consumer, volume=volume)
    await f.refused(f.create_pod(pod), 422)


async def _missing(f: Framework) -> None:
    reader = shell("use-envfile", "echo $MISSING_KEY", env=[_env("MISSING_KEY")])
    pod = await f.create_pod(_pod(_writer(EXISTING_KEY="value"), reader))
    await f.wait_waiting(pod, "CreateContainerConfigError", "use-envfile")


async def _init(f: Framework) -> None:
    consumer = shell("use-envfile1", "env | grep CONFIG_1", DATA, env=[_env("CONFIG_1", optional=False)])
    pod = await f.create_pod(_pod(_writer(CONFIG_1="value1"), shell("main", "sleep 1"), inits=(consumer,)))
    await f.wait_success(pod)
    assert "CONFIG_1=value1" in await f.logs(pod, "use-envfile1")


async def _ephemeral(f: Framework) -> None:
    pod = await f.create_sync(_pod(_writer(CONFIG_EPH="ephemeral"), shell("main", "sleep 1000")))
    env = [_env("CONFIG_EPH_MAIN", key="CONFIG_EPH", optional=False)]
    debugger = shell("debugger", "env | grep CONFIG_EPH_MAIN && sleep 10", DATA, env=env)
    body = {"spec": {"ephemeralContainers": [debugger]}}
    await f.client.patch(PODS, f.namespace, pod, body, subresource="ephemeralcontainers")

    def has_started(found: Json) -> bool:
        """It runs for 10 s: on a busy machine that may be over before it is told."""
        assert waiting(found, "debugger").get("reason") != "CreateContainerConfigError", found["status"]
        states = [each["state"] for each in statuses(found) if each["name"] == "debugger"]
        return any("running" in each or "terminated" in each for each in states)

    await f.wait(pod, has_started)
    await f.wait_log(pod, "debugger", "CONFIG_EPH_MAIN=ephemeral")


SECRET_VOLUME = {"name": "config", "secret": {"secretName": "any"}}
HOST_VOLUME = {"name": "config", "hostPath": {"path": "/tmp"}}
CASES = [
    Case(f"FileKeyRef {text}", run)
    for text, run in (
        ("should be consumable via FileKeyRef", _consume),
        ("should be consumable by multiple containers", _several),
        ("should handle optional keys", partial(_optional, missing="MISSING_KEY", value="existing_value")),
        ("should be consumable in postStart lifecycle hooks", _post_start),
        ("should be consumable in preStop lifecycle hooks", _pre_stop),
        ("should fail when volumeName does not exist", partial(_invalid, name="nonexistent-volume")),
        ("should fail when volume is not emptyDir", partial(_invalid, volume=SECRET_VOLUME)),
        ("should fail when file or key does not exist", _missing),
        (
            "should handle optional missing file or key",
            partial(_optional, missing="OPTIONAL_MISSING_KEY", value="value"),
        ),
        ("should allow initContainer to consume fileKeyRef", _init),
        (
            "should fail when initContainer consumes fileKeyRef from non-emptyDir volume",
            partial(_invalid, volume=HOST_VOLUME, in_init=True),
        ),
        ("should allow ephemeralContainer to consume fileKeyRef", _ephemeral),
    )
]
