"""[sig-storage] EmptyDir volumes, EmptyDir wrapper volumes.

Source: kubernetes test/e2e/common/storage/empty_dir.go, test/e2e/storage/empty_dir_wrapper.go,
test/e2e_node/emptydir_bidirectional_teardown_linux_test.go; semantics §14.5.
Not here: the wrapper test for git_repo volumes, which are gone.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import trio

from kubelet_secrets.api.meta import CONFIG_MAPS
from tests.conformance.framework import (
    INFINITE_SLEEP,
    PAUSE,
    Case,
    Framework,
    Json,
    agnhost,
    busybox,
    content_line,
    mount,
    pod_body,
    statuses,
    unique,
)

VOLUME = "/test-volume"
FILE = f"{VOLUME}/test-file"
TMPFS, DEFAULT = "Memory", ""
UPSTREAMS_PATIENCE_S = 300


async def _look(
    f: Framework, medium: str, flags: list[str], *expected: str, user: int = 0, fs_group: int = 0, sub_path: str = ""
) -> None:
    """mounttest in a pod whose only volume is an emptyDir."""
    context: Json = {"seLinuxOptions": {"level": "s0"}}
    if user:
        context["runAsUser"] = user
    if fs_group:
        context["fsGroup"] = fs_group
    mounted = mount("test-volume", VOLUME, **({"subPath": sub_path} if sub_path else {}))
    volume = {"name": "test-volume", "emptyDir": {"medium": medium} if medium else {}}
    looker = agnhost("test-container", "mounttest", f"--fs_type={VOLUME}", *flags, mounts=[mounted])
    pod = pod_body(unique("pod-"), [looker], volumes=[volume], securityContext=context)
    tmpfs = [f'mount type of "{VOLUME}": tmpfs'] if medium == TMPFS else []
    await f.check_output(pod, *expected, *tmpfs)


def _new_file(mode: str, perms: str) -> tuple[list[str], list[str]]:
    """The flags that make a file with *mode*, and what is to be seen of it."""
    return [f"--new_file_{mode}={FILE}", f"--file_perm={FILE}"], [
        f'perms of file "{FILE}": {perms}',
        content_line(FILE, "mount-tester new file"),
    ]


async def _shared(f: Framework) -> None:
    message = "Hello from the busy-box sub-container"
    pod = await f.create_pod(
        pod_body(
            unique("pod-sharedvolume-"),
            [
                busybox("busybox-main-container", "/bin/sh", args=["-c", INFINITE_SLEEP],
                        mounts=[mount("shared-data", "/usr/share/volumeshare")]),
                busybox("busybox-sub-container", "/bin/sh", args=["-c", f"echo {message} > /pod-data/shareddata.txt"],
                        mounts=[mount("shared-data", "/pod-data")]),
            ],
            volumes=[{"name": "shared-data", "emptyDir": {}}],
            terminationGracePeriodSeconds=0,
        )
    )  # fmt: skip
    await f.wait_running(pod)
    # Upstream reads at once: the pod is Running, but its second container may not have come to write yet.
    await f.wait(pod, lambda found: any("terminated" in each["state"] for each in statuses(found)))
    assert await f.exec(pod, "busybox-main-container", "cat /usr/share/volumeshare/shareddata.txt") == message


async def _sized(f: Framework) -> None:
    path = "/usr/share/volumeshare"
    pod = await f.create_sync(
        pod_body(
            unique("pod-size-memory-volume-"),
            [
                busybox(
                    "busybox-main-container",
                    "/bin/sh",
                    args=["-c", INFINITE_SLEEP],
                    mounts=[mount("shared-data", path)],
                )
            ],
            volumes=[{"name": "shared-data", "emptyDir": {"medium": "Memory", "sizeLimit": "10Mi"}}],
            terminationGracePeriodSeconds=0,
        )
    )
    assert await f.exec(pod, "busybox-main-container", f"df | grep {path} | awk '{{print $2}}'") == "10240"


async def _no_conflict(f: Framework) -> None:
    name = unique("emptydir-wrapper-test-")
    await f.create_secret(name, {"data-1": "value-1\n"})
    await f.create(CONFIG_MAPS, name, {"binaryData": {"data-1": "dmFsdWUtMQo="}})
    mounts = [
        mount("secret-volume", "/etc/secret-volume", readOnly=True),
        mount("configmap-volume", "/etc/configmap-volume"),
    ]
    volumes = [
        {"name": "secret-volume", "secret": {"secretName": name}},
        {"name": "configmap-volume", "configMap": {"name": name}},
    ]
    server = agnhost("secret-test", "test-webserver", mounts=mounts)
    await f.create_sync(pod_body(unique("pod-secrets-"), [server], volumes=volumes, restartPolicy="Always"))


async def _no_race(f: Framework) -> None:
    """Fifty ConfigMap volumes in each of five pods, upstream three times. A ReplicationController makes the pods there."""
    names = [await f.create_config_map(f"racey-configmap-{n}", {"data-1": "value-1"}) for n in range(50)]
    volumes = [
        {"name": name, "configMap": {"name": name, "items": [{"key": "data-1", "path": "data-1"}]}} for name in names
    ]
    mounts = [mount(name, f"/etc/config-{n}") for n, name in enumerate(names)]
    for _ in range(3 if f.cluster.patience_s >= UPSTREAMS_PATIENCE_S else 1):
        container = {"name": "test-container", "image": PAUSE, "volumeMounts": mounts}
        spec: Json = {"volumes": volumes, "restartPolicy": "Always", "dnsPolicy": "Default"}
        pods = [await f.create_pod(pod_body(unique("wrapped-volume-race-"), [container], **spec)) for _ in range(5)]
        for pod in pods:
            await f.wait_running(pod)
        async with trio.open_nursery() as nursery:
            for pod in pods:
                nursery.start_soon(f.delete_pod, pod)


async def _bidirectional(f: Framework) -> None:
    """What the runtime mounts in the volume, the termination message's file, spreads to the host. It must not stay there."""
    f.namespace = await f.create_namespace(level="privileged")
    message, path = "bidirectional-teardown-ok", "/cache/log.txt"
    writer = busybox(
        "writer",
        "sh",
        "-c",
        f"echo '{message}' > {path}",
        mounts=[mount("cache-volume", "/cache", mountPropagation="Bidirectional")],
        terminationMessagePath=path,
        securityContext={"privileged": True},
    )
    pod = await f.create_pod(
        pod_body("bidirectional-emptydir", [writer], volumes=[{"name": "cache-volume", "emptyDir": {}}])
    )
    await f.wait_success(pod)
    (status,) = (await f.get(pod))["status"]["containerStatuses"]
    assert message in status["state"]["terminated"]["message"]
    await f.delete_pod(pod)


def _cases() -> list[Case]:
    found: list[Case] = []

    def add(text: str, labels: str, run: Any, *args: Any, **kwargs: Any) -> None:
        found.append(Case(f"EmptyDir volumes {text}", partial(run, *args, **kwargs) if args or kwargs else run, labels))

    def look(medium: str, seen: tuple[list[str], list[str]], **kwargs: Any) -> Any:
        return lambda f: _look(f, medium, seen[0], *seen[1], **kwargs)

    volume_mode = ([f"--file_perm={VOLUME}"], [f'perms of file "{VOLUME}": -rwxrwxrwx'])
    modes = (("0644", "-rw-r--r--"), ("0666", "-rw-rw-rw-"), ("0777", "-rwxrwxrwx"))
    for what, medium in (("tmpfs", TMPFS), ("default", DEFAULT)):
        where = "tmpfs" if medium else "default medium"
        add(f"volume on {where} should have the correct mode", "NC", look(medium, volume_mode))
        for who, user in (("root", 0), ("non-root", 1001)):
            for mode, perms in modes:
                add(f"should support ({who},{mode},{what})", "NC", look(medium, _new_file(mode, perms), user=user))
    add("pod should support shared volumes between containers", "C", _shared)

    when = "when FSGroup is specified"
    for who, user in (("root", 0), ("non-root", 1001)):
        flags, seen = _new_file("0660", "-rw-rw----")
        owned = ([*flags, f"--file_owner={FILE}"], [*seen, f'owner GID of "{FILE}": 123'])
        text = f"{when} new files should be created with FSGroup ownership when container is {who}"
        add(text, "N", look(TMPFS, owned, user=user, fs_group=123))
    sub_path = (
        [f"--file_perm={VOLUME}", f"--file_owner={VOLUME}", f"--file_mode={VOLUME}"],
        [
            f'perms of file "{VOLUME}": -rwxrwxrwx',
            f'owner UID of "{VOLUME}": 0',
            f'owner GID of "{VOLUME}": 123',
            f'mode of file "{VOLUME}": dgtrwxrwxrwx',
        ],
    )
    text = f"{when} nonexistent volume subPath should have the correct mode and owner using FSGroup"
    add(text, "N", look(TMPFS, sub_path, user=1001, fs_group=123, sub_path="test-sub"))
    text = f"{when} files with FSGroup ownership should support (root,0644,tmpfs)"
    add(text, "N", look(TMPFS, _new_file(*modes[0]), fs_group=123))
    for where, medium in (("default medium", DEFAULT), ("tmpfs", TMPFS)):
        text = f"{when} volume on {where} should have the correct mode using FSGroup"
        add(text, "N", look(medium, volume_mode, fs_group=1001))
    add("pod should support memory backed volumes of specified size", "N", _sized)
    return [
        *found,
        Case("EmptyDir wrapper volumes should not conflict", _no_conflict, "C"),
        Case(
            "EmptyDir bidirectional teardown should read terminationMessagePath inside a Bidirectional emptyDir and tear down "
            "cleanly after deletion",
            _bidirectional,
        ),
        Case("EmptyDir wrapper volumes should not cause race condition when used for configmaps", _no_race, "C"),
    ]


CASES = _cases()
