"""The OCI spec as a table: settings in, the part that matters out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.runtime.capabilities import NAMES, capabilities_of_mask, container_capabilities
from kubelet_secrets.runtime.seccomp import read_profile, runtime_default
from kubelet_secrets.runtime.settings import (
    ContainerSettings,
    DeviceNode,
    HostFacts,
    Mount,
    NamespacePaths,
    Resources,
    SeccompMode,
    UserIds,
)
from kubelet_secrets.runtime.spec import MASKED_PATHS, READ_ONLY_PATHS, environment_list, make_spec

HYBRID = HostFacts(
    cgroup_v2=False,
    capabilities=NAMES,
    controllers=frozenset({"cpu", "cpuset", "memory", "pids"}),
    limits_swap=True,
    devices=(DeviceNode(path="/dev/kvm", kind="c", major=10, minor=232, mode=0o660, uid=0, gid=104),),
)
V2 = replace(HYBRID, cgroup_v2=True)
SETTINGS = ContainerSettings(
    container_id="c1",
    pod_uid="u1",
    pod_namespace="ns",
    pod_name="p",
    container_name="c",
    args=("sh", "-c", "true"),
    env={"A": "1"},
    cgroup_path="/kubelet-secrets/n/podu1/c1",
)


def make(host: HostFacts = HYBRID, termination_log: Path | None = None, **changes: Any) -> dict[str, Any]:
    spec = make_spec(replace(SETTINGS, **changes), host, termination_log=termination_log)
    assert json.loads(json.dumps(spec)) == spec, "not plain JSON"
    return spec


def destinations(spec: dict[str, Any]) -> list[str]:
    return [mount["destination"] for mount in spec["mounts"]]


def mount_at(spec: dict[str, Any], destination: str) -> dict[str, Any]:
    (found,) = [mount for mount in spec["mounts"] if mount["destination"] == destination]
    return found


def namespaces(spec: dict[str, Any]) -> dict[str, str | None]:
    return {entry["type"]: entry.get("path") for entry in spec["linux"]["namespaces"]}


def test_process_of_a_plain_container() -> None:
    process = make()["process"]
    assert process["args"] == ["sh", "-c", "true"]
    assert process["env"] == ["A=1"]
    assert process["cwd"] == "/"
    assert process["user"] == {"uid": 0, "gid": 0}
    assert process["noNewPrivileges"] is False
    assert process["terminal"] is False
    assert "inheritable" not in process["capabilities"]
    assert "ambient" not in process["capabilities"]


def test_user_groups_and_privilege_escalation() -> None:
    process = make(user=UserIds(uid=1, gid=2, additional_gids=(2, 3)), allow_privilege_escalation=False)["process"]
    assert process["user"] == {"uid": 1, "gid": 2, "additionalGids": [2, 3]}
    assert process["noNewPrivileges"] is True


@pytest.mark.parametrize(
    ("host", "has_cgroup"), [pytest.param(HYBRID, False, id="hybrid"), pytest.param(V2, True, id="v2")]
)
def test_cgroup_mount_and_namespace_exist_on_v2_only(host: HostFacts, has_cgroup: bool) -> None:
    spec = make(host)
    assert ("/sys/fs/cgroup" in destinations(spec)) is has_cgroup
    assert ("cgroup" in namespaces(spec)) is has_cgroup
    assert spec["linux"]["cgroupsPath"] == "/kubelet-secrets/n/podu1/c1"


def test_namespaces_are_joined_by_path() -> None:
    paths = NamespacePaths(net=Path("/n/net"), ipc=Path("/n/ipc"), uts=Path("/n/uts"))
    assert namespaces(make(namespaces=paths)) == {
        "mount": None,
        "network": "/n/net",
        "ipc": "/n/ipc",
        "uts": "/n/uts",
        "pid": None,
    }


@pytest.mark.parametrize(
    ("paths", "expected"),
    [
        pytest.param(NamespacePaths(), {"mount": None, "pid": None}, id="host-but-pid"),
        pytest.param(NamespacePaths(host_pid=True), {"mount": None}, id="host-pid"),
        pytest.param(NamespacePaths(pid=Path("/n/pid")), {"mount": None, "pid": "/n/pid"}, id="shared-pid"),
    ],
)
def test_host_namespaces_are_left_out(paths: NamespacePaths, expected: dict[str, str | None]) -> None:
    assert namespaces(make(namespaces=paths)) == expected


def test_pod_mounts_follow_by_depth_and_in_the_given_order() -> None:
    mounts = tuple(
        Mount(container_path=path, host_path=Path(f"/h{index}"))
        for index, path in enumerate(("/a/b/c", "/z", "/a/b", "/y/", "/a//b/d"))
    )
    assert destinations(make(mounts=mounts))[-5:] == ["/z", "/y/", "/a/b", "/a/b/c", "/a//b/d"]


@pytest.mark.parametrize(
    ("mount", "options"),
    [
        pytest.param({}, ["rbind", "rprivate", "rw"], id="writable"),
        pytest.param({"read_only": True}, ["rbind", "rprivate", "ro"], id="read-only"),
        pytest.param({"read_only": True, "recursive_read_only": True}, ["rbind", "rprivate", "rro"], id="recursive"),
        pytest.param({"propagation": "HostToContainer"}, ["rbind", "rslave", "rw"], id="slave"),
        pytest.param({"propagation": "Bidirectional"}, ["rbind", "rshared", "rw"], id="shared"),
    ],
)
def test_mount_options(mount: dict[str, Any], options: list[str]) -> None:
    spec = make(mounts=(Mount(container_path="/m", host_path=Path("/h"), **mount),))
    assert mount_at(spec, "/m") == {"destination": "/m", "type": "bind", "source": "/h", "options": options}
    wanted = options[1] if options[1] != "rprivate" else "rprivate"
    assert spec["linux"]["rootfsPropagation"] == wanted


def test_a_mount_of_the_pod_replaces_the_runtimes_own() -> None:
    spec = make(
        mounts=(
            Mount(container_path="/etc/hosts", host_path=Path("/mine")),
            Mount(container_path="/dev/shm/", host_path=Path("/big")),
            Mount(container_path="/dev/termination-log", host_path=Path("/log")),
        ),
        hosts_path=Path("/pod/hosts"),
        shm_path=Path("/pod/shm"),
        termination_log=Path("/run/termination-log"),
    )
    assert mount_at(spec, "/etc/hosts")["source"] == "/mine"
    assert [path for path in destinations(spec) if path.startswith("/dev/shm")] == ["/dev/shm/"]
    assert mount_at(spec, "/dev/termination-log")["source"] == "/log"


def test_pod_files_are_read_only_with_a_read_only_root() -> None:
    paths = {"hosts_path": Path("/h"), "resolv_conf_path": Path("/r"), "hostname_path": Path("/n")}
    spec = make(read_only_rootfs=True, termination_log=Path("/t"), **paths)
    assert spec["root"] == {"path": "rootfs", "readonly": True}
    for path in ("/etc/hosts", "/etc/resolv.conf", "/etc/hostname"):
        assert "ro" in mount_at(spec, path)["options"]
    assert "rw" in mount_at(spec, "/dev/termination-log")["options"]


def test_privileged_container() -> None:
    linux = make(privileged=True, seccomp=SeccompMode.RUNTIME_DEFAULT)["linux"]
    assert linux["maskedPaths"] == []
    assert linux["readonlyPaths"] == []
    assert "seccomp" not in linux
    assert linux["resources"]["devices"] == [{"allow": True, "access": "rwm"}]
    assert [device["path"] for device in linux["devices"]] == ["/dev/kvm"]


def test_plain_container_is_masked_and_unfiltered() -> None:
    linux = make()["linux"]
    assert linux["maskedPaths"] == list(MASKED_PATHS)
    assert linux["readonlyPaths"] == list(READ_ONLY_PATHS)
    assert linux["resources"]["devices"] == [{"allow": False, "access": "rwm"}]
    assert "seccomp" not in linux
    assert make(unmasked_proc=True)["linux"]["maskedPaths"] == []


def test_profile_of_the_node(tmp_path: Path) -> None:
    """Source: containerd contrib/seccomp: the file is OCI's object; what it does not know there is passed over."""
    rule = {"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1, "includes": {"caps": ["x"]}, "args": []}
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "p.json").write_text(
        json.dumps({"defaultAction": "SCMP_ACT_ALLOW", "archMap": [], "syscalls": [rule]})
    )
    profile = read_profile(tmp_path, "sub/p.json")
    expected = {
        "defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
    }
    assert profile == expected
    wanted = {"seccomp": SeccompMode.LOCALHOST, "seccomp_profile": profile}
    assert make(**wanted)["linux"]["seccomp"] == expected
    assert "seccomp" not in make(privileged=True, **wanted)["linux"]


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (None, "no such file or directory"),
        ("{", "it is no JSON object with a defaultAction"),
        ("[]", "it is no JSON object with a defaultAction"),
        ('{"syscalls": []}', "it is no JSON object with a defaultAction"),
        ('{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [1]}', "it is no JSON object with a defaultAction"),
    ],
)
def test_profile_that_is_none_stops_the_container(tmp_path: Path, content: str | None, text: str) -> None:
    if content is not None:
        (tmp_path / "p.json").write_text(content)
    with pytest.raises(ContainerRunError, match=f'cannot load seccomp profile "{tmp_path}/p.json": .*{text}'):
        read_profile(tmp_path, "p.json")


@pytest.mark.parametrize(
    ("host", "resources", "expected"),
    [
        pytest.param(
            HYBRID,
            Resources(memory_limit_bytes=100, cpu_shares=512, cpu_quota_us=5000, cpu_period_us=10000, pids_limit=9),
            {
                "cpu": {"shares": 512, "quota": 5000, "period": 10000},
                "memory": {"limit": 100, "swap": 100, "swappiness": 0},
                "pids": {"limit": 9},
            },
            id="v1",
        ),
        pytest.param(HYBRID, Resources(), {"memory": {"swappiness": 0}}, id="v1-without-limits-still-not-swapped"),
        pytest.param(
            V2,
            Resources(memory_limit_bytes=100),
            {"memory": {"limit": 100, "swap": 100}, "unified": {"memory.oom.group": "1"}},
            id="v2",
        ),
        pytest.param(
            V2,
            Resources(),
            {"unified": {"memory.swap.max": "0", "memory.oom.group": "1"}},
            id="v2-without-limits-still-not-swapped",
        ),
        pytest.param(
            replace(V2, limits_swap=False),
            Resources(memory_limit_bytes=100),
            {"memory": {"limit": 100}, "unified": {"memory.oom.group": "1"}},
            id="no-swap",
        ),
        pytest.param(
            replace(HYBRID, controllers=frozenset()),
            Resources(memory_limit_bytes=100, cpu_shares=512, pids_limit=9, cpuset_cpus="0"),
            {},
            id="no-controllers",
        ),
        pytest.param(
            HYBRID, Resources(cpuset_cpus="0-1"), {"cpu": {"cpus": "0-1"}, "memory": {"swappiness": 0}}, id="cpuset"
        ),
    ],
)
def test_resources(host: HostFacts, resources: Resources, expected: dict[str, Any]) -> None:
    found = make(host, resources=resources)["linux"]["resources"]
    found.pop("devices")
    assert found == expected


def test_value_that_cannot_be_passed_is_named_and_not_shown() -> None:
    env = {"TOKEN": "s3cr3t\0b"}
    with pytest.raises(ContainerRunError, match=r'^environment variable "TOKEN" contains a NUL byte$') as caught:
        environment_list(env)
    assert "s3cr3t" not in str(caught.value)
    assert "s3cr3t" not in repr(replace(SETTINGS, env=env))


def test_bytes_that_are_not_utf8_are_replaced_as_other_runtimes_do() -> None:
    assert environment_list({"V": "\udcff\udcfeok", "W": "ä"}) == ["V=\ufffd\ufffdok", "W=ä"]


def test_unknown_capability_is_a_create_error() -> None:
    with pytest.raises(ContainerRunError, match='unknown capability "CAP_NOPE"'):
        make(capabilities_add=("NOPE",))


DEFAULT_MASK = 0xA80425FB


@pytest.mark.parametrize(
    ("add", "drop", "privileged", "expected"),
    [
        pytest.param((), (), False, set(capabilities_of_mask(DEFAULT_MASK)), id="docker's-default"),
        pytest.param(("ALL",), (), False, set(NAMES), id="add-all"),
        pytest.param((), ("ALL",), False, set(), id="drop-all"),
        pytest.param(("net_admin",), ("ALL",), False, {"CAP_NET_ADMIN"}, id="add-survives-drop-all"),
        pytest.param(("CAP_NET_ADMIN",), ("NET_ADMIN", "ALL"), False, set(), id="named-drop-wins"),
        pytest.param((), ("ALL",), True, set(NAMES), id="privileged"),
    ],
)
def test_capabilities(add: tuple[str, ...], drop: tuple[str, ...], privileged: bool, expected: set[str]) -> None:
    assert set(container_capabilities(add, drop, privileged=privileged, available=NAMES)) == expected


def test_capabilities_this_process_lacks_are_not_promised() -> None:
    some = capabilities_of_mask(0b11)
    assert container_capabilities((), (), privileged=False, available=some) == some
    assert container_capabilities((), (), privileged=True, available=some) == some


def test_seccomp_profile_opens_with_capabilities() -> None:
    def denied(capabilities: tuple[str, ...]) -> set[str]:
        rules = runtime_default(capabilities)["syscalls"]
        return {name for rule in rules for name in rule["names"]}

    assert {"mount", "unshare", "bpf", "keyctl", "ptrace"} - denied(()) == {"ptrace"}
    assert {"mount", "unshare", "clone", "clone3", "bpf"} & denied(("CAP_SYS_ADMIN",)) == set()
    assert "keyctl" in denied(NAMES)
    assert "bpf" not in denied(("CAP_BPF",))


@pytest.mark.parametrize(
    ("host", "wanted", "expected"),
    [
        pytest.param(HYBRID, -997, -997, id="privileged-enough"),
        pytest.param(replace(HYBRID, capabilities=("CAP_SYS_ADMIN",)), -997, 0, id="not-below-our-own"),
        pytest.param(replace(HYBRID, capabilities=(), oom_score_adj=-500), -997, -500, id="down-to-our-own"),
        pytest.param(replace(HYBRID, capabilities=()), 1000, 1000, id="raising-is-free"),
    ],
)
def test_oom_score_is_what_this_machine_allows(host: HostFacts, wanted: int, expected: int) -> None:
    """A hardened unit or an outer container may lack CAP_SYS_RESOURCE; Guaranteed pods have to run there as well."""
    assert make(host, oom_score_adj=wanted)["process"]["oomScoreAdj"] == expected
