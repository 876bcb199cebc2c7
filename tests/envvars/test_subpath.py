"""subPath and subPathExpr.

Source: pkg/kubelet/kubelet_pods_test.go, TestMakeMounts and TestExpandVolumeMountsWithSubpath; semantics §5.1, §5.3.
"""

from __future__ import annotations

import pytest

from kubelet_secrets.api.core import VolumeMount
from kubelet_secrets.envvars.subpath import resolve_sub_path
from kubelet_secrets.errors import ContainerConfigError
from tests.envvars.builders import environment_of, make_pod, make_secret


def resolve(mount: VolumeMount, **variables: str) -> str:
    pod = make_pod([{"name": name, "value": value} for name, value in variables.items()])
    return resolve_sub_path(mount, environment_of(pod))


@pytest.mark.parametrize(
    ("expression", "variables", "expected"),
    [
        pytest.param("$(POD_NAME)", {"POD_NAME": "foo"}, "foo", id="name"),
        pytest.param("$(FOO)/$(BAR)", {"FOO": "f", "BAR": "b"}, "f/b", id="joined"),
        pytest.param("$$(POD_NAME)", {"POD_NAME": "foo"}, "$(POD_NAME)", id="escaped"),
        pytest.param("a..b/..c", {}, "a..b/..c", id="dots-inside-names"),
    ],
)
def test_expression(expression: str, variables: dict[str, str], expected: str) -> None:
    assert resolve(VolumeMount(sub_path_expr=expression), **variables) == expected


def test_no_sub_path_is_the_whole_volume_and_plain_sub_path_is_not_expanded() -> None:
    assert resolve(VolumeMount()) == ""
    assert resolve(VolumeMount(sub_path="$(A)"), A="a") == "$(A)"


@pytest.mark.parametrize(
    ("mount", "variables", "message"),
    [
        pytest.param(VolumeMount(sub_path_expr="$(MISSING)"), {}, "missing value for MISSING", id="undefined"),
        pytest.param(VolumeMount(sub_path_expr="$(E)"), {"E": ""}, "missing value for E", id="empty"),
        pytest.param(VolumeMount(sub_path_expr="$(B)$(A)"), {}, "missing value for A, B", id="several"),
        pytest.param(
            VolumeMount(sub_path_expr="$(A)"),
            {"A": ".."},
            "unable to provision SubPath `..`: must not contain '..'",
            id="step-back",
        ),
        pytest.param(
            VolumeMount(sub_path_expr="$(A)"),
            {"A": "/tmp"},
            "error SubPath `/tmp` must not be an absolute path",
            id="absolute",
        ),
        pytest.param(
            VolumeMount(sub_path="/must/not/be/absolute"),
            {},
            "error SubPath `/must/not/be/absolute` must not be an absolute path",
            id="plain-absolute",
        ),
        pytest.param(
            VolumeMount(sub_path="no/backsteps/../allowed"),
            {},
            "unable to provision SubPath `no/backsteps/../allowed`: must not contain '..'",
            id="plain-step-back",
        ),
    ],
)
def test_refused(mount: VolumeMount, variables: dict[str, str], message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        resolve(mount, **variables)
    assert str(caught.value) == message


def test_secret_value_in_a_refused_path_is_not_shown() -> None:
    pod = make_pod([{"name": "S", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}])
    environment = environment_of(pod, make_secret("s", {"k": "/c4n4ry"}))
    with pytest.raises(ContainerConfigError) as caught:
        resolve_sub_path(VolumeMount(sub_path_expr="$(S)"), environment)
    assert str(caught.value) == "error SubPath `$(S)` must not be an absolute path"
