"""The token volume. Source: plugin/pkg/admission/serviceaccount/admission_test.go; semantics §4.2."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.serviceaccount import TOKEN_MOUNT_PATH, add_token_volume, token_volume_source, wants_token


@pytest.mark.parametrize(
    ("pod_says", "account_says", "expected"),
    [
        pytest.param(None, None, True, id="by-default"),
        pytest.param(None, False, False, id="account-says-no"),
        pytest.param(True, False, True, id="pod-overrides-account"),
        pytest.param(False, True, False, id="pod-says-no"),
    ],
)
def test_wants_token(pod_says: bool | None, account_says: bool | None, expected: bool) -> None:
    pod = {"spec": {"automountServiceAccountToken": pod_says}}
    assert wants_token(pod, {"automountServiceAccountToken": account_says}) is expected


def test_without_an_account_the_token_is_wanted() -> None:
    assert wants_token({"spec": {}}, None)


def name_it(prefix: str) -> str:
    return prefix + "abcde"


MOUNT = {"name": "kube-api-access-abcde", "readOnly": True, "mountPath": TOKEN_MOUNT_PATH}


def test_every_init_and_regular_container_gets_the_mount() -> None:
    pod: dict[str, Any] = {
        "spec": {
            "initContainers": [{"name": "i"}],
            "containers": [{"name": "c", "volumeMounts": [{"name": "v", "mountPath": "/v"}]}],
        }
    }
    add_token_volume(pod, name_it)
    spec = pod["spec"]
    assert spec["volumes"] == [{"name": "kube-api-access-abcde", "projected": token_volume_source()}]
    assert spec["initContainers"][0]["volumeMounts"] == [MOUNT]
    assert spec["containers"][0]["volumeMounts"] == [{"name": "v", "mountPath": "/v"}, MOUNT]


def test_container_that_mounts_something_there_is_left_alone() -> None:
    own = {"name": "v", "mountPath": TOKEN_MOUNT_PATH}
    pod: dict[str, Any] = {"spec": {"containers": [{"name": "c", "volumeMounts": [own]}]}}
    add_token_volume(pod, name_it)
    assert pod == {"spec": {"containers": [{"name": "c", "volumeMounts": [own]}]}}


def test_adding_it_twice_changes_nothing() -> None:
    pod: dict[str, Any] = {"spec": {"containers": [{"name": "c"}]}}
    add_token_volume(pod, name_it)
    once = repr(pod)
    add_token_volume(pod, lambda prefix: prefix + "zzzzz")
    assert repr(pod) == once
