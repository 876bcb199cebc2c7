"""Volumes of real pods, as their containers see them."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.api.core import Secret
from kubelet_secrets.api.meta import PODS, SECRETS
from tests.e2e.stacks import Cluster, container, eventually, mount, receive, secret_env, secret_volume

pytestmark = [pytest.mark.fuse, pytest.mark.runtime]


async def test_secret_before_pod(cluster: Cluster) -> None:
    await cluster.put_secret("before", {"user": "shop", "password": "p1"})
    await cluster.run_pod(
        "before", container(volumeMounts=[mount("v", "/etc/v")]), volumes=[secret_volume("v", "before")]
    )
    assert await cluster.exec("before", "cd /etc/v; cat user password; ls -A") == "shopp1" + "\n".join(
        [(await cluster.exec("before", "readlink /etc/v/..data")).strip(), "..data", "password", "user", ""]
    )


async def test_pod_before_secret_starts_when_the_secret_appears(cluster: Cluster) -> None:
    """Told again and again. That the appearance alone ends the wait is ``tests/pod``'s, where no back-off does."""
    await cluster.create_pod(
        "first", container(volumeMounts=[mount("v", "/etc/v")]), volumes=[secret_volume("v", "late")]
    )
    event = await cluster.wait_event("first", "FailedMount", after=2)
    assert event.type == "Warning"
    assert event.message == 'MountVolume.SetUp failed for volume "v" : secret "late" not found'
    assert event.source.component == "kubelet"
    pod = await cluster.pod("first")
    assert pod.status.phase == "Pending"
    (status,) = pod.status.container_statuses
    assert status.state.waiting is not None
    assert (status.state.waiting.reason, status.state.waiting.message) == ("ContainerCreating", "")
    await cluster.put_secret("late", {"k": "there"})
    await cluster.wait_ready("first")
    assert await cluster.exec("first", "cat /etc/v/k") == "there"


async def test_items_modes_and_fs_group_inside_the_container(cluster: Cluster) -> None:
    await cluster.put_secret("modes", {"a": "1", "b": "22", ".hidden": "333"})
    items = [{"key": "a", "path": "deep/er/a.txt", "mode": 0o400}, {"key": "b", "path": "b"}]
    await cluster.run_pod(
        "modes",
        container(
            volumeMounts=[mount("plain", "/plain"), mount("strict", "/strict"), mount("picked", "/picked")],
            securityContext={"runAsUser": 1000},
        ),
        volumes=[
            secret_volume("plain", "modes"),
            secret_volume("strict", "modes", defaultMode=0o400),
            secret_volume("picked", "modes", items=items, defaultMode=0o444),
        ],
        securityContext={"fsGroup": 1234},
    )
    listing = await cluster.exec(
        "modes",
        "for f in /plain /plain/..data/. /plain/a /plain/.hidden /strict/a /picked/deep/er/a.txt /picked/b; do"
        " stat -L -c '%A %a %u:%g %s %n' $f; done",
    )
    assert listing.splitlines() == [
        f"drwxrwsrwt 3777 0:1234 {await _size(cluster, 'modes', '/plain')} /plain",
        f"drwxr-sr-x 2755 0:1234 {await _size(cluster, 'modes', '/plain/..data/.')} /plain/..data/.",
        "-rw-r--r-- 644 0:1234 1 /plain/a",
        "-rw-r--r-- 644 0:1234 3 /plain/.hidden",
        "-r--r----- 440 0:1234 1 /strict/a",
        "-r--r----- 440 0:1234 1 /picked/deep/er/a.txt",
        "-r--r--r-- 444 0:1234 2 /picked/b",
    ]
    # The user is neither owner nor root: fsGroup is what lets it read.
    assert await cluster.exec("modes", "id -u; id -G | tr ' ' '\\n' | grep -c 1234; cat /strict/.hidden") == (
        "1000\n1\n333"
    )
    assert await cluster.exec("modes", "ls /picked") == "b\ndeep\n"


async def _size(cluster: Cluster, pod: str, path: str) -> str:
    return (await cluster.exec(pod, f"stat -L -c %s {path}")).strip()


async def test_modes_without_fs_group(cluster: Cluster) -> None:
    await cluster.put_secret("nogroup", {"a": "1"})
    await cluster.run_pod(
        "nogroup",
        container(volumeMounts=[mount("v", "/v")]),
        volumes=[secret_volume("v", "nogroup", defaultMode=0o400)],
    )
    assert await cluster.exec("nogroup", "stat -c %A /v; stat -L -c '%A %u:%g' /v/..data/. /v/a; readlink /v/a") == (
        "drwxrwxrwt\ndrwxr-xr-x 0:0\n-r-------- 0:0\n..data/a\n"
    )


async def test_reader_without_permission_bits_is_refused_by_the_kernel(cluster: Cluster) -> None:
    await cluster.put_secret("bits", {"a": "1"})
    await cluster.run_pod(
        "bits",
        container(volumeMounts=[mount("v", "/v")], securityContext={"runAsUser": 1000, "runAsGroup": 1000}),
        volumes=[secret_volume("v", "bits", defaultMode=0o400)],
    )
    done = await cluster.try_exec("bits", "cat /v/a")
    assert done.returncode == 1
    assert b"Permission denied" in done.stderr


async def test_volume_is_read_only_inside(cluster: Cluster) -> None:
    await cluster.put_secret("ro", {"a": "1"})
    await cluster.run_pod(
        "ro", container(volumeMounts=[{"name": "v", "mountPath": "/v"}]), volumes=[secret_volume("v", "ro")]
    )
    for script in ("echo x > /v/new", "rm /v/a", "echo x >> /v/a", "chmod 777 /v", "mv /v/..data /v/x", "mkdir /v/d"):
        done = await cluster.try_exec("ro", script)
        assert done.returncode != 0, script
        assert b"Read-only file system" in done.stderr, (script, done.stderr)


async def test_binary_values_arrive_byte_for_byte(cluster: Cluster) -> None:
    value = bytes(range(256)) * 1024
    await cluster.put_secret("binary", {"blob": value, "empty": b"", "crlf": b"a\r\n\0b"})
    await cluster.run_pod("binary", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "binary")])
    done = await cluster.try_exec("binary", "cat /v/blob")
    assert done.stdout == value
    assert (await cluster.try_exec("binary", "cat /v/crlf /v/empty")).stdout == b"a\r\n\0b"


async def test_largest_secret(cluster: Cluster) -> None:
    """1 MiB of values is the API's limit."""
    await cluster.put_secret("large", {"blob": b"\xa5" * (1 << 20)})
    await cluster.run_pod("large", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "large")])
    assert (await cluster.exec("large", "wc -c < /v/blob")).strip() == str(1 << 20)


async def test_dotfile_key_is_hidden_and_readable(cluster: Cluster) -> None:
    await cluster.put_secret("dot", {".netrc": "machine m"})
    await cluster.run_pod("dot", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "dot")])
    assert await cluster.exec("dot", "ls /v; cat /v/.netrc") == "machine m"


async def test_config_map_volume(cluster: Cluster) -> None:
    binary = {"raw": "3q2+7w=="}
    await cluster.put_config_map("settings", {"a.conf": "x=1\n"}, binaryData=binary)
    await cluster.run_pod(
        "settings",
        container(volumeMounts=[mount("v", "/etc/settings")]),
        volumes=[{"name": "v", "configMap": {"name": "settings", "defaultMode": 0o440}}],
    )
    assert await cluster.exec("settings", "cat /etc/settings/a.conf; stat -L -c %a /etc/settings/a.conf") == (
        "x=1\n440\n"
    )
    assert (await cluster.try_exec("settings", "cat /etc/settings/raw")).stdout == b"\xde\xad\xbe\xef"


async def test_empty_dir_is_shared_by_two_containers(cluster: Cluster) -> None:
    await cluster.run_pod(
        "shared",
        container("writer", volumeMounts=[{"name": "e", "mountPath": "/out"}, {"name": "m", "mountPath": "/mem"}]),
        container("reader", volumeMounts=[{"name": "e", "mountPath": "/in"}, {"name": "m", "mountPath": "/mem"}]),
        volumes=[{"name": "e", "emptyDir": {}}, {"name": "m", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}}],
    )
    await cluster.exec("shared", "echo hello > /out/f; echo mem > /mem/f", "writer")
    assert await cluster.exec("shared", "cat /in/f /mem/f; stat -f -c %T /mem", "reader") == "hello\nmem\ntmpfs\n"
    done = await cluster.try_exec("shared", "dd if=/dev/zero of=/mem/big bs=1024 count=2048", "writer")
    assert b"No space left on device" in done.stderr


async def test_projected_volume_gathers_secret_config_map_and_downward_api(cluster: Cluster) -> None:
    await cluster.put_secret("p-secret", {"password": "pw", "other": "no"})
    await cluster.put_config_map("p-config", {"settings": "verbose"})
    sources = [
        {"secret": {"name": "p-secret", "items": [{"key": "password", "path": "auth/password", "mode": 0o400}]}},
        {"configMap": {"name": "p-config"}},
        {
            "downwardAPI": {
                "items": [
                    {"path": "meta/name", "fieldRef": {"fieldPath": "metadata.name"}},
                    {"path": "meta/labels", "fieldRef": {"fieldPath": "metadata.labels"}},
                    {"path": "limit", "resourceFieldRef": {"containerName": "app", "resource": "limits.memory"}},
                ]
            }
        },
    ]
    await cluster.run_pod(
        "all",
        container(volumeMounts=[mount("v", "/all")], resources={"limits": {"memory": "64Mi"}}),
        metadata={"labels": {"app": "all", "tier": "one"}},
        volumes=[{"name": "v", "projected": {"defaultMode": 0o444, "sources": sources}}],
    )
    script = "cd /all; for f in $(find . -type f -o -type l | grep -v '/\\.\\.' | sort); do echo $f; done"
    assert (await cluster.exec("all", script)).split() == ["./auth", "./limit", "./meta", "./settings"]
    assert await cluster.exec("all", "cd /all; cat auth/password settings meta/name limit; echo; cat meta/labels") == (
        'pwverboseall67108864\napp="all"\ntier="one"'
    )
    assert await cluster.exec("all", "stat -L -c %a /all/auth/password /all/settings") == "400\n444\n"


async def test_labels_and_annotations_follow_the_pod(cluster: Cluster) -> None:
    items = [{"path": "note", "fieldRef": {"fieldPath": "metadata.annotations['note']"}}]
    await cluster.run_pod(
        "noted",
        container(volumeMounts=[mount("v", "/v")]),
        metadata={"annotations": {"note": "first"}},
        volumes=[{"name": "v", "downwardAPI": {"items": items}}],
    )
    script = "cat /v/note; echo; until grep -q second /v/note; do :; done; cat /v/note"
    async with cluster.started("noted", script) as reader:
        await receive(reader, "first\n")
        await cluster.client.patch(PODS, "default", "noted", {"metadata": {"annotations": {"note": "second"}}})
        await receive(reader, "second")


async def test_nested_mounts(cluster: Cluster) -> None:
    """A volume mounted inside another's directory: the kubelet makes the mountpoint in the outer volume."""
    await cluster.put_secret("outer", {"o": "outer"})
    await cluster.put_secret("inner", {"i": "inner"})
    await cluster.run_pod(
        "nested",
        container(volumeMounts=[mount("outer", "/v"), mount("inner", "/v/sub")]),
        volumes=[secret_volume("outer", "outer"), secret_volume("inner", "inner")],
    )
    assert await cluster.exec("nested", "cat /v/o /v/sub/i; ls /v") == "outerinnero\nsub\n"
    await cluster.put_secret("outer", {"o": "outer2"})
    await cluster.exec("nested", "until grep -q outer2 /v/o; do :; done; cat /v/sub/i")


async def test_sub_path_is_frozen_until_the_container_restarts(cluster: Cluster) -> None:
    await cluster.put_secret("frozen", {"key": "one"})
    await cluster.run_pod(
        "frozen",
        container(volumeMounts=[mount("v", "/etc/one.conf", subPath="key"), mount("v", "/live")]),
        volumes=[secret_volume("v", "frozen")],
    )
    assert await cluster.exec("frozen", "cat /etc/one.conf") == "one"
    await cluster.put_secret("frozen", {"key": "two"})
    assert await cluster.exec("frozen", "until grep -q two /live/key; do :; done; cat /etc/one.conf") == "one"
    await cluster.restart("frozen")
    assert await cluster.exec("frozen", "cat /etc/one.conf") == "two"


async def test_sub_path_expression(cluster: Cluster) -> None:
    await cluster.run_pod(
        "expr",
        container(
            env=[{"name": "POD", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}],
            volumeMounts=[
                {"name": "e", "mountPath": "/mine", "subPathExpr": "$(POD)/data"},
                {"name": "e", "mountPath": "/all"},
            ],
        ),
        volumes=[{"name": "e", "emptyDir": {}}],
    )
    assert await cluster.exec("expr", "echo x > /mine/f; ls /all/expr/data") == "f\n"


async def test_optional_secret_that_arrives_late(cluster: Cluster) -> None:
    await cluster.run_pod(
        "optional",
        container(
            volumeMounts=[mount("v", "/v")],
            env=[secret_env("TOKEN", "optional", "token", optional=True)],
        ),
        volumes=[secret_volume("v", "optional", optional=True)],
    )
    assert (
        await cluster.exec("optional", "ls /v; readlink /v/..data | cut -c1-4; echo ${TOKEN-unset}") == "..20\nunset\n"
    )
    async with cluster.started("optional", "echo; until [ -s /v/token ]; do :; done; cat /v/token") as reader:
        await receive(reader, "\n")
        await cluster.put_secret("optional", {"token": "came"})
        await receive(reader, "came")


async def test_immutable_secret_is_mounted_and_stays(cluster: Cluster) -> None:
    await cluster.put_secret("fixed", {"k": "for ever"}, immutable=True)
    await cluster.run_pod("fixed", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "fixed")])
    assert await cluster.exec("fixed", "cat /v/k") == "for ever"
    # Deleted and made anew under its name: a node that has read an immutable Secret goes on with what it has.
    await cluster.delete_secret("fixed")
    await cluster.put_secret("fixed", {"k": "another"}, immutable=True)
    await cluster.put_secret("witness", {"k": "1"})
    await cluster.run_pod(
        "witness", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "witness")]
    )
    assert await cluster.exec("fixed", "cat /v/k") == "for ever"


async def test_secret_deleted_while_mounted_leaves_its_files(cluster: Cluster) -> None:
    await cluster.put_secret("gone", {"k": "kept"})
    await cluster.run_pod("gone", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "gone")])
    await cluster.delete_secret("gone")
    await cluster.wait_event("gone", "FailedMount", 'MountVolume.SetUp failed for volume "v" : secret "gone" not found')
    assert await cluster.exec("gone", "cat /v/k") == "kept"
    assert (await cluster.pod("gone")).status.phase == "Running"
    await cluster.put_secret("gone", {"k": "back"})
    assert await cluster.exec("gone", "until grep -q back /v/k; do :; done; ls /v") == "k\n"


async def test_key_removed_and_added(cluster: Cluster) -> None:
    await cluster.put_secret("keys", {"a": "1", "b": "2"})
    await cluster.run_pod("keys", container(volumeMounts=[mount("v", "/v")]), volumes=[secret_volume("v", "keys")])
    await cluster.put_secret("keys", {"a": None, "c": "3"})
    assert await cluster.exec("keys", "until [ -e /v/c ]; do :; done; ls /v; cat /v/b /v/c") == "b\nc\n23"


async def test_selected_key_that_vanishes_keeps_the_last_version(cluster: Cluster) -> None:
    await cluster.put_secret("picked", {"a": "1", "b": "2"})
    volume = secret_volume("v", "picked", items=[{"key": "a", "path": "a"}, {"key": "b", "path": "b"}])
    await cluster.run_pod("picked", container(volumeMounts=[mount("v", "/v")]), volumes=[volume])
    await cluster.put_secret("picked", {"a": None, "b": "new"})
    await cluster.wait_event(
        "picked", "FailedMount", 'MountVolume.SetUp failed for volume "v" : references non-existent secret key: a'
    )
    assert await cluster.exec("picked", "cat /v/a /v/b") == "12"
    await cluster.put_secret("picked", {"a": "again"})
    assert await cluster.exec("picked", "until grep -q again /v/a; do :; done; cat /v/b") == "new"


async def test_one_secret_in_two_pods_and_in_two_volumes(cluster: Cluster) -> None:
    await cluster.put_secret("twice", {"k": "1"})
    for name in ("twice-a", "twice-b"):
        await cluster.run_pod(
            name,
            container(volumeMounts=[mount("x", "/x"), mount("y", "/y")]),
            volumes=[secret_volume("x", "twice"), secret_volume("y", "twice", defaultMode=0o400)],
        )
    await cluster.put_secret("twice", {"k": "2"})
    script = "until [ $(cat /x/k /y/k) = 22 ]; do :; done; stat -L -c %a /x/k /y/k"
    for name in ("twice-a", "twice-b"):
        assert await cluster.exec(name, script) == "644\n400\n"


async def test_pod_deletion_takes_its_volumes_off_the_node(cluster: Cluster) -> None:
    await cluster.put_secret("leaving", {"k": "1"})
    pod = await cluster.run_pod(
        "leaving",
        container(volumeMounts=[mount("v", "/v"), mount("v", "/sub", subPath="k")]),
        volumes=[secret_volume("v", "leaving"), {"name": "e", "emptyDir": {"medium": "Memory"}}],
    )
    assert cluster.volume_dir(pod, "v").is_dir()
    uid = pod.metadata.uid
    await cluster.delete_pod("leaving")
    await cluster.wait_gone("leaving")
    assert uid not in Path("/proc/self/mountinfo").read_text()
    assert not (cluster.stack.root_dir / "pods" / uid).exists()
    # The worker ends last, when the API server has confirmed the deletion.
    await eventually(lambda: uid not in [each.uid for each in cluster.stack.status().pods])
    # Its Secret outlives it.
    secret = await cluster.client.get(SECRETS, "default", "leaving", Secret)
    assert len(secret.data) == 1
