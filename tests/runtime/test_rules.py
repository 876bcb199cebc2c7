"""The small pure rules around a container: names, users, processes, limits, files, cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubelet_secrets.errors import ContainerConfigError, ContainerRunError, HostError, ImageError
from kubelet_secrets.runtime.cgroups import CgroupLayout, CgroupTree, parse_mountinfo
from kubelet_secrets.runtime.images import ImageConfig
from kubelet_secrets.runtime.oci import signal_by_name
from kubelet_secrets.runtime.podfiles import Dns, hosts_file, parse_resolv_conf, pod_dns, resolv_conf
from kubelet_secrets.runtime.process import DEFAULT_PATH, process_args, process_cwd, process_env
from kubelet_secrets.runtime.reference import apply_default_tag, parse_reference
from kubelet_secrets.runtime.registry import error_text, is_loopback
from kubelet_secrets.runtime.resources import cpu_quota_us, cpu_shares, linux_resources, oom_score_adj
from kubelet_secrets.runtime.settings import UserIds
from kubelet_secrets.runtime.tools import find_tool
from kubelet_secrets.runtime.users import (
    UserDatabase,
    parse_user_database,
    read_user_database,
    resolve_user,
    verify_non_root,
)

HEX = "a" * 64
DIGEST = f"sha256:{HEX}"


@pytest.mark.parametrize(
    ("name", "canonical"),
    [
        ("busybox", "docker.io/library/busybox:latest"),
        ("busybox:1.36", "docker.io/library/busybox:1.36"),
        ("user/app", "docker.io/user/app:latest"),
        ("index.docker.io/user/app", "docker.io/user/app:latest"),
        ("docker.io/busybox", "docker.io/library/busybox:latest"),
        ("localhost/app:1", "localhost/app:1"),
        ("127.0.0.1:5000/a/b/c:x", "127.0.0.1:5000/a/b/c:x"),
        ("registry.k8s.io/pause@" + DIGEST, "registry.k8s.io/pause@" + DIGEST),
        ("registry.k8s.io/pause:3.9@" + DIGEST, "registry.k8s.io/pause:3.9@" + DIGEST),
        ("Example.com/app", "Example.com/app:latest"),
        ("[::1]:5000/app", "[::1]:5000/app:latest"),
        ("a__b/c.d-e--f", "docker.io/a__b/c.d-e--f:latest"),
    ],
)
def test_image_names_are_normalised(name: str, canonical: str) -> None:
    assert parse_reference(name).canonical == canonical


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("FAILED_IMAGE", "invalid reference format: repository name (library/FAILED_IMAGE) must be lowercase"),
        ("http://url", "invalid reference format"),
        (HEX, f"invalid repository name ({HEX}), cannot specify 64-byte hexadecimal strings"),
        ("", "invalid reference format"),
        ("a b", "invalid reference format"),
        ("app:", "invalid reference format"),
        ("app@sha256:abc", "invalid reference format"),
        ("-app", "invalid reference format"),
        ("a" * 256, "repository name must not be more than 255 characters"),
    ],
)
def test_bad_image_names_get_the_kubelets_text(name: str, problem: str) -> None:
    """Source: pkg/kubelet/images/image_manager_test.go; semantics §9.4."""
    with pytest.raises(ImageError) as caught:
        parse_reference(name)
    assert caught.value.reason == "InvalidImageName"
    assert (
        str(caught.value)
        == f'Failed to apply default image tag "{name}": couldn\'t parse image name "{name}": {problem}'
    )


@pytest.mark.parametrize(
    ("name", "expected"), [("root", "root:latest"), ("root:tag", "root:tag"), (f"root@{DIGEST}", f"root@{DIGEST}")]
)
def test_default_tag(name: str, expected: str) -> None:
    """Source: TestApplyDefaultImageTag; semantics §9.4."""
    assert apply_default_tag(name) == expected


# --- users ----------------------------------------------------------------------------------------------------------

PASSWD = "root:x:0:0::/root:/bin/sh\nbroken\nweb:x:33:34::/:/bin/sh\nbob:x:1000:1000::/:/bin/sh\n"
GROUP = "root:x:0:\nweb:x:34:\nextra:x:50:bob,web\nbad:x:y:bob\n"
DATABASE = parse_user_database(PASSWD, GROUP)


@pytest.mark.parametrize(
    ("image_user", "options", "expected"),
    [
        pytest.param("", {}, UserIds(uid=0, gid=0, additional_gids=(0,)), id="root-by-default"),
        pytest.param("web", {}, UserIds(uid=33, gid=34, additional_gids=(34, 50)), id="name"),
        pytest.param("1000", {}, UserIds(uid=1000, gid=1000, additional_gids=(1000, 50)), id="known-uid"),
        pytest.param("4711", {}, UserIds(uid=4711, gid=0, additional_gids=(0,)), id="unknown-uid"),
        pytest.param("web:extra", {}, UserIds(uid=33, gid=50, additional_gids=(50,)), id="name-and-group"),
        pytest.param("1:2", {}, UserIds(uid=1, gid=2, additional_gids=(2,)), id="numbers"),
        pytest.param(
            "web:extra",
            {"run_as_user": 1000},
            UserIds(uid=1000, gid=1000, additional_gids=(1000, 50)),
            id="run-as-user-drops-the-images-group",
        ),
        pytest.param(
            "web",
            {"run_as_user": 4711, "run_as_group": 7, "supplemental_groups": (8, 9), "fs_group": 10},
            UserIds(uid=4711, gid=7, additional_gids=(7, 8, 9, 10)),
            id="security-context",
        ),
        pytest.param(
            "bob", {"strict_groups": True}, UserIds(uid=1000, gid=1000, additional_gids=(1000,)), id="strict-groups"
        ),
    ],
)
def test_user_of_a_container(image_user: str, options: dict[str, int], expected: UserIds) -> None:
    assert resolve_user(image_user, DATABASE, **options) == expected  # type: ignore[arg-type]


@pytest.mark.parametrize("user", ["nobody", "web:nogroup"])
def test_unknown_names_are_create_errors(user: str) -> None:
    with pytest.raises(ContainerRunError, match=r"unable to find (user nobody|group nogroup): no matching entries"):
        resolve_user(user, DATABASE)


def test_user_files_are_read_inside_the_image_only(tmp_path: Path) -> None:
    """An image may carry any symbolic link."""
    root = tmp_path / "rootfs"
    root.joinpath("etc").mkdir(parents=True)
    root.joinpath("data").write_text("inner:x:5:6::/:\n")
    root.joinpath("etc/passwd").symlink_to("/data")
    tmp_path.joinpath("outside").write_text("outer:x:7:\n")
    root.joinpath("etc/group").symlink_to("../../outside")
    assert read_user_database(root) == UserDatabase(users=(("inner", 5, 6),))


@pytest.mark.parametrize(
    ("image_user", "run_as_user", "text"),
    [
        ("", None, "container has runAsNonRoot and image will run as root"),
        ("0", None, "container has runAsNonRoot and image will run as root"),
        (
            "web",
            None,
            "container has runAsNonRoot and image has non-numeric user (web), cannot verify user is non-root",
        ),
        ("1000", 0, "container's runAsUser breaks non-root policy"),
        ("1000", None, None),
        ("", 5, None),
    ],
)
def test_run_as_non_root(image_user: str, run_as_user: int | None, text: str | None) -> None:
    """Source: TestVerifyRunAsNonRoot; semantics §6.6."""
    arguments = {"run_as_non_root": True, "run_as_user": run_as_user, "pod": "p_ns(u)", "container": "c"}
    if text is None:
        verify_non_root(image_user, **arguments)  # type: ignore[arg-type]
        return
    with pytest.raises(ContainerConfigError) as caught:
        verify_non_root(image_user, **arguments)  # type: ignore[arg-type]
    assert str(caught.value) == f'{text} (pod: "p_ns(u)", container: c)'


# --- process --------------------------------------------------------------------------------------------------------

IMAGE = ImageConfig(entrypoint=("e",), cmd=("c",), env=("PATH=/image", "A=image", "odd"), working_dir="/w")


@pytest.mark.parametrize(
    ("command", "args", "expected"),
    [((), (), ("e", "c")), ((), ("a",), ("e", "a")), (("x",), (), ("x",)), (("x",), ("a",), ("x", "a"))],
)
def test_command_and_args(command: tuple[str, ...], args: tuple[str, ...], expected: tuple[str, ...]) -> None:
    """Source: kubernetes.io, define-command-argument-container."""
    assert process_args(IMAGE, command, args) == expected


def test_environment_is_layered() -> None:
    assert process_env(ImageConfig(), {}, hostname="h") == {"PATH": DEFAULT_PATH, "HOSTNAME": "h"}
    assert process_env(IMAGE, {"A": "pod", "HOSTNAME": "mine"}, hostname="h", tty=True) == {
        "PATH": "/image",
        "HOSTNAME": "mine",
        "TERM": "xterm",
        "A": "pod",
    }


def test_working_directory() -> None:
    assert [process_cwd(IMAGE, "/x"), process_cwd(IMAGE, ""), process_cwd(ImageConfig(), "")] == ["/x", "/w", "/"]


# --- limits ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("milli", "shares", "quota"),
    [(0, 2, 1000), (1, 2, 1000), (2, 2, 1000), (10, 10, 1000), (100, 102, 10_000), (1000, 1024, 100_000)],
)
def test_cpu_numbers(milli: int, shares: int, quota: int) -> None:
    """Source: TestMilliCPUToShares, TestMilliCPUToQuota."""
    assert (cpu_shares(milli), cpu_quota_us(milli)) == (shares, quota)


def test_a_cpu_limit_alone_is_the_request_too() -> None:
    limits = linux_resources(cpu_request_milli=None, cpu_limit_milli=500, memory_limit_bytes=None)
    assert (limits.cpu_shares, limits.cpu_quota_us, limits.memory_limit_bytes) == (512, 50_000, None)


@pytest.mark.parametrize(
    ("qos", "request_bytes", "expected"),
    [
        ("Guaranteed", 5, -997),
        ("BestEffort", 0, 1000),
        ("Burstable", 0, 999),
        ("Burstable", 500, 500),
        ("Burstable", 1000, 3),
    ],
)
def test_oom_scores(qos: str, request_bytes: int, expected: int) -> None:
    """Source: TestGetContainerOOMScoreAdjust."""
    assert oom_score_adj(qos, memory_request_bytes=request_bytes, memory_capacity_bytes=1000) == expected


# --- files of the pod -----------------------------------------------------------------------------------------------


def test_hosts_file_of_a_pod() -> None:
    text = hosts_file(("10.0.0.2",), "web", "web.sub.ns.svc.cluster.local", (("1.2.3.4", ("a", "b")),))
    assert text.startswith("# Kubernetes-managed hosts file.\n127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost")
    assert text.endswith(
        "10.0.0.2\tweb.sub.ns.svc.cluster.local\tweb\n\n# Entries added by HostAliases.\n1.2.3.4\ta\tb\n"
    )
    assert hosts_file(("10.0.0.2",), "web").endswith("fe00::2\tip6-allrouters\n10.0.0.2\tweb\n")


def test_hosts_file_on_the_hosts_network() -> None:
    text = hosts_file((), "web", host_network_text="127.0.0.1 x\n")
    assert text == "# Kubernetes-managed hosts file (host network).\n127.0.0.1 x\n"


HOST_DNS = Dns(nameservers=("192.0.2.1",), searches=("lan",), options={"timeout": "1"})


@pytest.mark.parametrize(
    ("policy", "host_network", "cluster", "expected"),
    [
        pytest.param(
            "ClusterFirst",
            False,
            ("10.96.0.10",),
            "search ns.svc.cluster.local svc.cluster.local cluster.local lan\nnameserver 10.96.0.10\noptions ndots:5\n",
            id="cluster-first",
        ),
        pytest.param(
            "ClusterFirst",
            True,
            ("10.96.0.10",),
            "search lan\nnameserver 192.0.2.1\noptions timeout:1\n",
            id="host-network",
        ),
        pytest.param(
            "ClusterFirst", False, (), "search lan\nnameserver 192.0.2.1\noptions timeout:1\n", id="no-cluster-dns"
        ),
        pytest.param("None", False, ("10.96.0.10",), "", id="none"),
    ],
)
def test_resolv_conf_by_policy(policy: str, host_network: bool, cluster: tuple[str, ...], expected: str) -> None:
    dns = pod_dns(
        policy,
        host=HOST_DNS,
        config=Dns(),
        namespace="ns",
        host_network=host_network,
        cluster_dns=cluster,
        cluster_domain="cluster.local",
    )
    assert resolv_conf(dns) == expected


def test_dns_config_is_added_and_bounded() -> None:
    config = Dns(
        nameservers=("a", "b", "192.0.2.1", "c"), searches=("x", "lan"), options={"edns0": None, "timeout": "9"}
    )
    dns = pod_dns("Default", host=HOST_DNS, config=config, namespace="ns", host_network=False)
    assert dns.nameservers == ("192.0.2.1", "a", "b")
    assert resolv_conf(dns).endswith("options timeout:9 edns0\n")
    assert dns.searches == ("lan", "x")


def test_resolv_conf_is_parsed() -> None:
    text = "# c\nnameserver 1.1.1.1 # x\nsearch a b.\n; c\nsearch c d.\noptions ndots:2 rotate\nnameserver\nother x\n"
    assert parse_resolv_conf(text) == Dns(
        nameservers=("1.1.1.1",), searches=("c", "d"), options={"ndots": "2", "rotate": None}
    )


# --- cgroups --------------------------------------------------------------------------------------------------------

V1 = """\
30 23 0:26 / /sys/fs/cgroup ro,nosuid,nodev,noexec shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw,nosuid shared:10 - cgroup2 cgroup2 rw
32 30 0:28 / /sys/fs/cgroup/systemd rw,nosuid shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,nosuid shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:30 / /sys/fs/cgroup/memory rw,nosuid shared:13 - cgroup cgroup rw,memory
"""
PURE_V2 = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"


def test_hybrid_layout_is_told_from_pure_v2() -> None:
    hybrid = parse_mountinfo(V1)
    assert not hybrid.is_v2
    assert {name: str(path) for name, path in hybrid.controllers.items()} == {
        "name=systemd": "/sys/fs/cgroup/systemd",
        "cpu": "/sys/fs/cgroup/cpu,cpuacct",
        "cpuacct": "/sys/fs/cgroup/cpu,cpuacct",
        "memory": "/sys/fs/cgroup/memory",
    }
    assert len(hybrid.hierarchies) == 4
    pure = parse_mountinfo(PURE_V2)
    assert pure.is_v2
    assert pure.hierarchies == (Path("/sys/fs/cgroup"),)


def test_oom_kills_and_processes_are_read_on_v2(tmp_path: Path) -> None:
    tree = CgroupTree("node1", CgroupLayout(unified=tmp_path))
    path = tree.container_path("uid", "cid")
    assert path == "/kubelet-secrets/node1/poduid/cid"
    directory = tmp_path / path.lstrip("/")
    directory.mkdir(parents=True)
    directory.joinpath("memory.events").write_text("low 0\noom 3\noom_kill 2\noom_group_kill 0\n")
    directory.joinpath("cgroup.procs").write_text("12\n7\n0\n")
    assert tree.oom_kills(path) == 2
    assert tree.processes(path) == (7, 12)
    assert (tree.oom_kills("/none"), tree.processes("/none")) == (0, ())


def test_conmon_is_put_where_nothing_is_swapped(tmp_path: Path) -> None:
    """The kernel makes the files of a cgroup with its directory; here they have to be there already."""
    pure, hybrid = tmp_path / "v2", tmp_path / "v1"
    monitor = "kubelet-secrets/node1/monitor"
    for hierarchy, setting in (
        (pure, "memory.swap.max"),
        (hybrid / "memory", "memory.swappiness"),
        (hybrid / "systemd", ""),
    ):
        (hierarchy / monitor).mkdir(parents=True)
        if setting:
            (hierarchy / monitor / setting).write_text("max")
    CgroupTree("node1", CgroupLayout(unified=pure)).adopt_monitor(17)
    assert (pure / monitor / "memory.swap.max").read_text() == "0"
    assert (pure / monitor / "cgroup.procs").read_text() == "17"
    for parent in (pure, pure / "kubelet-secrets", pure / "kubelet-secrets/node1"):
        assert (parent / "cgroup.subtree_control").read_text() == "+memory"
    controllers = {"memory": hybrid / "memory", "name=systemd": hybrid / "systemd", "cpu": hybrid / "cpu"}
    CgroupTree("node1", CgroupLayout(controllers=controllers)).adopt_monitor(18)
    assert (hybrid / "memory" / monitor / "memory.swappiness").read_text() == "0"
    assert [(hybrid / name / monitor / "cgroup.procs").read_text() for name in ("memory", "systemd")] == ["18", "18"]
    assert not (hybrid / "cpu").exists()


@pytest.mark.parametrize("make", ["make_pod", "adopt_monitor", "place"])
def test_cgroup_is_made_though_its_parents_go_as_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: str
) -> None:
    """Another pod of this node ends just now, or another node, and takes away what nobody is in."""
    tree = CgroupTree("node1", CgroupLayout(controllers={"name=systemd": tmp_path}))
    mkdir, removed = os.mkdir, 0

    def overtaken(path: Path, mode: int = 0o777) -> None:
        nonlocal removed
        mkdir(path, mode)
        if Path(path).name == "node1" and removed < 3:
            removed += 1
            tree.remove_idle()

    monkeypatch.setattr(os, "mkdir", overtaken)
    {
        "make_pod": lambda: tree.make_pod("uid"),
        "adopt_monitor": lambda: tree.adopt_monitor(17),
        "place": lambda: tree.place(17, tree.pod_path("uid")),
    }[make]()
    assert removed == 3
    made = tmp_path / "kubelet-secrets/node1" / ("monitor" if make == "adopt_monitor" else "poduid")
    assert made.is_dir()
    assert make == "make_pod" or (made / "cgroup.procs").read_text() == "17"


@pytest.mark.parametrize("name", ["", "a/b", "..", ".x", "a b"])
def test_instance_names_cannot_leave_the_tree(name: str) -> None:
    with pytest.raises(HostError, match="cannot name a cgroup"):
        CgroupTree(name, CgroupLayout())


# --- the rest -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "number"),
    [("SIGTERM", 15), ("TERM", 15), ("9", 9), ("SIGUSR1", 10), ("SIGRTMIN+3", 37), ("RTMIN+3", 37), ("nonsense", 15)],
)
def test_stop_signals(name: str, number: int) -> None:
    assert signal_by_name(name) == number


@pytest.mark.parametrize(
    ("domain", "expected"),
    [
        ("localhost", True),
        ("localhost:5000", True),
        ("127.0.0.1:5000", True),
        ("127.9.9.9", True),
        ("[::1]:5000", True),
        ("registry.k8s.io", False),
        ("127.0.0.1.example.com", False),
        ("localhost.example.com:443", False),
    ],
)
def test_only_loopback_registries_go_unverified(domain: str, expected: bool) -> None:
    assert is_loopback(domain) is expected


def test_skopeo_log_lines_are_unwrapped() -> None:
    line = 'time="2026-01-01T00:00:00Z" level=fatal msg="Error reading manifest \\"x\\": unauthorized"'
    assert error_text(line) == 'Error reading manifest "x": unauthorized'
    assert error_text("plain") == "plain"


def test_missing_program_names_its_debian_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("kubelet_secrets.runtime.tools.SEARCH_PATH", "/nonexistent")
    with pytest.raises(HostError) as caught:
        find_tool("conmon")
    assert str(caught.value) == "conmon not found: install the Debian package conmon"
