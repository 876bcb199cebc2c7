"""[sig-storage] Subpath: atomic writer volumes, and a container that restarts on a changed ConfigMap.

Source: kubernetes test/e2e/storage/subpath.go, testsuites/subpath.go; semantics §14.6.
"""

from __future__ import annotations

from functools import partial

import trio

from kubelet_secrets.api.meta import CONFIG_MAPS
from tests.conformance.downward_volumes import field
from tests.conformance.framework import (
    POLL_S,
    Case,
    Framework,
    Json,
    agnhost,
    is_running_and_ready,
    mount,
    pod_body,
    shell,
    unique,
)

VOLUME = "/test-volume"
PROBE_FILE = "/probe-volume/probe-file"
SLEEP_ON = "while true; do sleep 100000; done"
PRIVILEGED = {"privileged": False}
SELINUX = {"securityContext": {"seLinuxOptions": {"level": "s0:c0,c1"}}}
CONFIG_MAP = {"configMap": {"name": "my-configmap"}}


async def _read(f: Framework, sub_path: str, source: Json, wanted: str, *, path: str = VOLUME) -> None:
    """mounttest reads a file that is mounted by itself.

    It has agnhost's default, --break_on_expected_content=true, and never sees what that means: it ends when its time is up.
    """
    await f.create_secret("my-secret", {"secret-key": "secret-value"})
    await f.create_config_map("my-configmap", {"configmap-key": "configmap-value"})
    name = unique("pod-subpath-test-")
    mounts = [mount("test-volume", path, subPath=sub_path), mount("liveness-probe-volume", "/probe-volume")]
    reader = agnhost(
        "test-container-subpath",
        "mounttest",
        f"--file_content_in_loop={path}",
        f"--retry_time={max(2, int(f.cluster.patience_s))}",  # upstream: 20
        mounts=mounts,
        securityContext=PRIVILEGED,
    )
    volumes = [{"name": "test-volume", **source}, {"name": "liveness-probe-volume", "emptyDir": {}}]
    pod = pod_body(name, [reader], volumes=volumes, terminationGracePeriodSeconds=1, **SELINUX)
    await f.check_output(pod, wanted or name)


async def _restarts(f: Framework) -> None:
    """A liveness probe that fails until the ConfigMap changes: only a restarted container sees the new file."""
    await f.create_config_map("my-configmap-to-modify", {"configmap-key": "configmap-value"})
    probe = f"cat {PROBE_FILE} || test `cat {VOLUME}` = 'configmap-modified-value'"
    probed = {
        "exec": {"command": ["sh", "-c", probe]},
        "initialDelaySeconds": 1,
        "failureThreshold": 1,
        "periodSeconds": 2,
    }
    by_sub_path = mount("test-volume", VOLUME, subPath="configmap-key")
    probe_volume = mount("liveness-probe-volume", "/probe-volume")
    whole = mount("test-volume", VOLUME)
    init = shell("init-volume", f"touch {PROBE_FILE}", [whole, probe_volume], securityContext=PRIVILEGED)
    main = shell("main", SLEEP_ON, [by_sub_path, probe_volume], securityContext=PRIVILEGED, livenessProbe=probed)
    beside = shell("beside", SLEEP_ON, [whole, probe_volume], securityContext=PRIVILEGED)
    source = {"name": "test-volume", "configMap": {"name": "my-configmap-to-modify"}}
    pod = await f.create_pod(
        pod_body(
            unique("pod-subpath-test-"),
            [main, beside],
            initContainers=[init],
            volumes=[source, {"name": "liveness-probe-volume", "emptyDir": {}}],
            restartPolicy="OnFailure",
            terminationGracePeriodSeconds=1,
            **SELINUX,
        )
    )
    await f.wait(pod, is_running_and_ready)
    await f.exec(pod, "beside", f"rm {PROBE_FILE}")
    await f.wait(pod, lambda found: _restart_count(found) > 0)
    await f.replace(CONFIG_MAPS, "my-configmap-to-modify", {"data": {"configmap-key": "configmap-modified-value"}})
    await f.eventually(partial(_is_stable, f, pod))
    await f.delete_pod(pod)


def _restart_count(pod: Json) -> int:
    status = next((each for each in pod["status"].get("containerStatuses", ()) if each["name"] == "main"), None)
    return 0 if status is None else int(status["restartCount"])


async def _is_stable(f: Framework, pod: str) -> bool:
    """Whether the container runs on what it was started with last for as long as we watch."""
    before = await f.get(pod)
    if not is_running_and_ready(before):
        return False
    with trio.move_on_after(max(5.0, f.cluster.patience_s)):
        while _restart_count(await f.get(pod)) == _restart_count(before):  # noqa: ASYNC110
            await trio.sleep(POLL_S)
    after = await f.get(pod)
    return is_running_and_ready(after) and _restart_count(after) == _restart_count(before)


def _cases() -> list[Case]:
    downward = {"downwardAPI": {"items": [field("downward/podname", "metadata.name")]}}
    projection = {"name": "my-configmap", "items": [{"key": "configmap-key", "path": "projected/configmap-key"}]}
    projected = {"projected": {"sources": [{"configMap": projection}]}}
    secret = {"secret": {"secretName": "my-secret"}}
    rows = (
        ("secret pod", partial(_read, sub_path="secret-key", source=secret, wanted="secret-value")),
        ("configmap pod", partial(_read, sub_path="configmap-key", source=CONFIG_MAP, wanted="configmap-value")),
        (
            "configmap pod with mountPath of existing file",
            partial(
                _read, sub_path="configmap-key", source=CONFIG_MAP, wanted="configmap-value", path="/etc/resolv.conf"
            ),
        ),
        ("downward pod", partial(_read, sub_path="downward/podname", source=downward, wanted="")),
        (
            "projected pod",
            partial(_read, sub_path="projected/configmap-key", source=projected, wanted="configmap-value"),
        ),
    )
    cases = [Case(f"Subpath Atomic writer volumes should support subpaths with {text}", run, "C") for text, run in rows]
    text = "should verify that container can restart successfully after configmaps modified"
    return [*cases, Case(f"Subpath Container restart {text}", _restarts)]


CASES = _cases()
