"""Source: pkg/kubelet/kubelet_pods_linux_test.go TestMakeMounts, TestResolveRecursiveReadOnly; semantics §5.1."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Container, EmptyDirVolumeSource, SecretVolumeSource, Volume, VolumeMount
from kubelet_secrets.api.origin import LITERAL
from kubelet_secrets.envvars.environment import EnvEntry, Environment
from kubelet_secrets.errors import ContainerConfigError
from kubelet_secrets.pod.mounts import PlannedMount, choose_part, plan_mount

SECRET = Volume(name="s", secret=SecretVolumeSource(secret_name="db"))
SCRATCH = Volume(name="e", empty_dir=EmptyDirVolumeSource())


def plan(*mounts: VolumeMount, supported: bool = True, **variables: str) -> tuple[PlannedMount, ...]:
    container = Container(name="c", volume_mounts=mounts)
    environment = Environment({name: EnvEntry(value=value, origin=LITERAL) for name, value in variables.items()})
    found = {"s": SECRET, "e": SCRATCH}
    return tuple(
        plan_mount(
            each,
            choose_part(container, each, environment, find_volume=found.get),
            index,
            supports_recursive_read_only=supported,
        )
        for index, each in enumerate(mounts)
    )


def mount(name: str = "e", **fields: Any) -> VolumeMount:
    return VolumeMount(name=name, mount_path=fields.pop("mount_path", "/m"), **fields)


def test_volumes_of_objects_are_read_only_whatever_the_mount_says() -> None:
    secret, scratch, asked = plan(mount("s"), mount("e"), mount("e", read_only=True))
    assert (secret.read_only, scratch.read_only, asked.read_only) == (True, False, True)


def test_relative_mount_path_is_made_absolute() -> None:
    assert plan(mount(mount_path="data"))[0].container_path == "/data"


def test_sub_path_expr_is_expanded() -> None:
    assert plan(mount(sub_path_expr="logs/$(NAME)"), NAME="web")[0].sub_path == "logs/web"


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        pytest.param(mount("nope"), 'cannot find volume "nope" to mount into container "c"', id="no-such-volume"),
        pytest.param(
            mount("nope", sub_path="/abs", mount_propagation="Up"),
            'cannot find volume "nope" to mount into container "c"',
            id="the-volume-first",
        ),
        pytest.param(
            mount(sub_path="/abs", mount_propagation="Up", recursive_read_only="foo"),
            "error SubPath `/abs` must not be an absolute path",
            id="then-the-sub-path",
        ),
        pytest.param(
            mount(mount_propagation="Up", recursive_read_only="foo", read_only=True),
            'invalid MountPropagation mode: "Up"',
            id="then-the-propagation",
        ),
        pytest.param(mount(mount_propagation="Up"), 'invalid MountPropagation mode: "Up"', id="propagation"),
        pytest.param(
            mount(sub_path="/abs"), "error SubPath `/abs` must not be an absolute path", id="absolute-sub-path"
        ),
        pytest.param(
            mount(sub_path="a/../b"), "unable to provision SubPath `a/../b`: must not contain '..'", id="backstep"
        ),
        pytest.param(mount(sub_path_expr="$(NONE)"), "missing value for NONE", id="undefined-variable"),
        pytest.param(
            mount(recursive_read_only="Enabled"),
            'failed to resolve recursive read-only mode: volume "e" requested recursive read-only mode, '
            "but it is not read-only",
            id="rro-without-ro",
        ),
        pytest.param(
            mount(recursive_read_only="Enabled", read_only=True, mount_propagation="HostToContainer"),
            'failed to resolve recursive read-only mode: volume "e" requested recursive read-only mode, '
            'but it is not compatible with propagation "HostToContainer"',
            id="rro-with-propagation",
        ),
        pytest.param(
            mount(recursive_read_only="foo", read_only=True),
            'failed to resolve recursive read-only mode: unknown recursive read-only mode "foo"',
            id="rro-unknown",
        ),
    ],
)
def test_errors(broken: VolumeMount, message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        plan(broken)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("mode", "supported", "expected"),
    [
        pytest.param("Disabled", True, False, id="disabled"),
        pytest.param("IfPossible", True, True, id="if-possible"),
        pytest.param("IfPossible", False, False, id="not-possible"),
        pytest.param("Enabled", True, True, id="enabled"),
    ],
)
def test_recursive_read_only(mode: str, supported: bool, expected: bool) -> None:
    assert plan(mount(recursive_read_only=mode, read_only=True), supported=supported)[0].recursive_read_only is expected


def test_recursive_read_only_that_the_runtime_lacks() -> None:
    with pytest.raises(ContainerConfigError, match="but it is not supported by the runtime"):
        plan(mount(recursive_read_only="Enabled", read_only=True), supported=False)
