from __future__ import annotations

from dataclasses import replace

import pytest

from kubelet_secrets.access.identity import Caller
from kubelet_secrets.access.policy import Reason, decide, split_version
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry

APP = ContainerIdentity(
    pod_uid="pod-1",
    namespace="default",
    pod="web",
    container="app",
    container_id="a" * 64,
    cgroup_path="/kubelet-secrets/n1/podpod-1/" + "a" * 64,
    mnt_ns=1001,
    mounts=frozenset({("db", ""), ("tls", "tls.key"), ("parts", "etc/one"), ("parts", "..data/two")}),
)
SIDECAR = replace(
    APP,
    container="sidecar",
    container_id="b" * 64,
    cgroup_path="/kubelet-secrets/n1/podpod-1/" + "b" * 64,
    mnt_ns=1002,
    mounts=frozenset({("logs", "")}),
)
STARTING = replace(
    APP,
    container="starting",
    container_id="c" * 64,
    cgroup_path="/kubelet-secrets/n1/podpod-1/" + "c" * 64,
    mnt_ns=None,
)
HOST_NS = 1


@pytest.fixture
def registry() -> ContainerRegistry:
    registry = ContainerRegistry()
    for identity in (APP, SIDECAR, STARTING):
        registry.register(identity)
    return registry


def caller(*cgroups: str, mnt_ns: int = HOST_NS) -> Caller:
    return Caller(tid=11, pid=10, uid=0, gid=0, exe="/bin/cat", cgroup_paths=cgroups, mnt_ns=mnt_ns)


IN_APP = caller(APP.cgroup_path, "/", mnt_ns=1001)
V = "..2026_01_02_15_04_05.1"


@pytest.mark.parametrize(
    ("who", "pod_uid", "volume", "path", "reason"),
    [
        pytest.param(IN_APP, "pod-1", "db", f"{V}/password", Reason.MOUNTED, id="its-file"),
        pytest.param(IN_APP, "pod-1", "db", "", Reason.MOUNTED, id="its-volume-listed"),
        pytest.param(IN_APP, "pod-1", "db", "nested", Reason.MOUNTED, id="beside-the-versions"),
        pytest.param(IN_APP, "pod-1", "tls", f"{V}/tls.key", Reason.MOUNTED, id="its-sub-path"),
        pytest.param(IN_APP, "pod-1", "parts", f"{V}/etc/one/x", Reason.MOUNTED, id="below-its-sub-path"),
        pytest.param(IN_APP, "pod-1", "parts", f"{V}/two", Reason.MOUNTED, id="sub-path-through-data"),
        pytest.param(IN_APP, "pod-1", "tls", f"{V}/tls.key2", Reason.OUTSIDE_SUB_PATH, id="longer-name"),
        pytest.param(IN_APP, "pod-1", "tls", f"{V}/tls.crt", Reason.OUTSIDE_SUB_PATH, id="other-file"),
        pytest.param(IN_APP, "pod-1", "tls", "", Reason.OUTSIDE_SUB_PATH, id="root-of-sub-path-volume"),
        pytest.param(IN_APP, "pod-1", "tls", V, Reason.OUTSIDE_SUB_PATH, id="version-of-sub-path-volume"),
        pytest.param(IN_APP, "pod-1", "parts", f"{V}/etc", Reason.OUTSIDE_SUB_PATH, id="parent-of-sub-path"),
        pytest.param(IN_APP, "pod-1", "logs", f"{V}/x", Reason.NOT_MOUNTED, id="siblings-volume"),
        pytest.param(IN_APP, "pod-2", "db", f"{V}/password", Reason.OTHER_POD, id="same-name-in-other-pod"),
        pytest.param(IN_APP, "", "", "", Reason.NO_VOLUME, id="root-of-the-tree"),
        pytest.param(IN_APP, "pod-1", "", "", Reason.NO_VOLUME, id="directory-of-its-pod"),
        pytest.param(
            caller(SIDECAR.cgroup_path, mnt_ns=1002), "pod-1", "db", f"{V}/p", Reason.NOT_MOUNTED, id="sidecar"
        ),
        pytest.param(caller("/", "/user.slice"), "pod-1", "db", f"{V}/p", Reason.HOST_PROCESS, id="host-root"),
        pytest.param(caller(), "pod-1", "db", f"{V}/p", Reason.HOST_PROCESS, id="no-cgroups"),
        pytest.param(caller("/", mnt_ns=1001), "pod-1", "db", f"{V}/p", Reason.ENTERED, id="nsenter-from-the-host"),
        pytest.param(caller(APP.cgroup_path), "pod-1", "db", f"{V}/p", Reason.OTHER_NAMESPACE, id="host-namespace"),
        pytest.param(
            caller(APP.cgroup_path, mnt_ns=1002),
            "pod-1",
            "db",
            f"{V}/p",
            Reason.OTHER_NAMESPACE,
            id="siblings-namespace",
        ),
        pytest.param(
            caller(APP.cgroup_path, SIDECAR.cgroup_path, mnt_ns=1001),
            "pod-1",
            "db",
            f"{V}/p",
            Reason.AMBIGUOUS,
            id="two-containers",
        ),
        pytest.param(
            caller(STARTING.cgroup_path, mnt_ns=1003), "pod-1", "db", f"{V}/p", Reason.NOT_STARTED, id="being-created"
        ),
        pytest.param(
            caller(APP.cgroup_path + "/inner/x", mnt_ns=1001), "pod-1", "db", f"{V}/p", Reason.MOUNTED, id="sub-cgroup"
        ),
        pytest.param(
            caller("/docker/d0" + APP.cgroup_path, mnt_ns=1001),
            "pod-1",
            "db",
            f"{V}/p",
            Reason.MOUNTED,
            id="outer-cgroup",
        ),
        pytest.param(
            caller(APP.cgroup_path + "x", mnt_ns=1001), "pod-1", "db", f"{V}/p", Reason.ENTERED, id="longer-cgroup-name"
        ),
        pytest.param(
            caller("/other/" + "a" * 64, mnt_ns=1001), "pod-1", "db", f"{V}/p", Reason.ENTERED, id="same-id-elsewhere"
        ),
        pytest.param(
            caller(APP.cgroup_path + " (deleted)", mnt_ns=1001),
            "pod-1",
            "db",
            f"{V}/p",
            Reason.ENTERED,
            id="deleted-cgroup",
        ),
    ],
)
def test_verdict(
    registry: ContainerRegistry, who: Caller, pod_uid: str, volume: str, path: str, reason: Reason
) -> None:
    verdict = decide(who, registry, pod_uid, volume, path)
    assert verdict.reason is reason
    assert verdict.allowed is (reason is Reason.MOUNTED)


def test_revoked_volume_is_nobodys(registry: ContainerRegistry) -> None:
    verdict = decide(IN_APP, registry, "pod-1", "db", f"{V}/p", is_revoked=True)
    assert (verdict.allowed, verdict.reason) == (False, Reason.REVOKED)
    stranger = decide(caller("/"), registry, "pod-1", "db", f"{V}/p", is_revoked=True)
    assert stranger.reason is Reason.HOST_PROCESS  # which it would be told anyhow


def test_the_runtime_may_look_while_it_sets_a_container_up(registry: ContainerRegistry) -> None:
    runtime = caller(STARTING.cgroup_path, mnt_ns=1009)
    assert decide(runtime, registry, "pod-1", "db", "nested", admits_start=True).allowed
    assert decide(runtime, registry, "pod-1", "db", "nested").reason is Reason.NOT_STARTED
    in_app_from_outside = caller(APP.cgroup_path, mnt_ns=1009)
    verdict = decide(in_app_from_outside, registry, "pod-1", "db", f"{V}/p", admits_start=True)
    assert verdict.reason is Reason.OTHER_NAMESPACE


def test_a_container_that_is_gone_is_a_host_process(registry: ContainerRegistry) -> None:
    registry.unregister(APP.container_id)
    registry.unregister(APP.container_id)
    assert decide(IN_APP, registry, "pod-1", "db", f"{V}/p").reason is Reason.HOST_PROCESS


def test_learning_the_namespace_opens_the_volume(registry: ContainerRegistry) -> None:
    who = caller(STARTING.cgroup_path, mnt_ns=1003)
    registry.learn_mount_namespace(STARTING.container_id, 1003)
    assert decide(who, registry, "pod-1", "db", f"{V}/p").allowed
    entered = registry.find_by_mount_namespace(1003)
    assert entered is not None
    assert entered.container == "starting"


def test_a_restarted_container_replaces_its_predecessor_by_a_new_id(registry: ContainerRegistry) -> None:
    second = replace(APP, container_id="d" * 64, cgroup_path="/kubelet-secrets/n1/podpod-1/" + "d" * 64, mnt_ns=1004)
    registry.register(second)
    registry.unregister(APP.container_id)
    assert [identity.container_id[0] for identity in registry.containers("pod-1")] == ["b", "c", "d"]
    assert decide(caller(second.cgroup_path, mnt_ns=1004), registry, "pod-1", "db", V).allowed


@pytest.mark.parametrize("path", ["", "relative/x", "/", "/top", "/a/"])
def test_a_cgroup_path_that_could_match_too_much_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match="not a container's cgroup path"):
        ContainerRegistry().register(replace(APP, cgroup_path=path))


def test_two_containers_cannot_share_a_cgroup_name(registry: ContainerRegistry) -> None:
    with pytest.raises(ValueError, match="belongs to container"):
        registry.register(replace(SIDECAR, cgroup_path="/elsewhere/x/" + "a" * 64))


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("", ("", "")),
        (V, (V, "")),
        (f"{V}/tls/key", (V, "tls/key")),
        ("..data", ("..data", "")),
        ("nested/x", ("", "nested/x")),
        (".dotfile", ("", ".dotfile")),
    ],
)
def test_split_version(path: str, expected: tuple[str, str]) -> None:
    assert split_version(path) == expected
