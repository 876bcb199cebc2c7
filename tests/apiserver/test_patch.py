"""JSON, merge and strategic merge patches. Source of the strategic cases: strategicpatch/patch_test.go."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubelet_secrets.apiserver import patch
from kubelet_secrets.errors import Invalid

Obj = dict[str, Any]


def _pod(**spec: Any) -> Obj:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": spec}


def _strategic(obj: Obj, change: Obj, kind: str = "Pod") -> Obj:
    before, given = copy.deepcopy(obj), copy.deepcopy(change)
    result = patch.apply_strategic_merge_patch(obj, change, "v1", kind)
    assert (obj, change) == (before, given), "a patch changes neither of its arguments"
    return result


# --- JSON patch ----------------------------------------------------------------------------------------------------


def test_json_patch_operations() -> None:
    secret = {"metadata": {"name": "s"}, "data": {"a": "eA==", "b": "eQ=="}}
    operations = [
        {"op": "test", "path": "/data/a", "value": "eA=="},
        {"op": "replace", "path": "/data/a", "value": "eg=="},
        {"op": "remove", "path": "/data/b"},
        {"op": "add", "path": "/metadata/labels", "value": {"x~/y": "1"}},
        {"op": "copy", "from": "/data/a", "path": "/data/c"},
        {"op": "move", "from": "/data/c", "path": "/data/d"},
    ]
    assert patch.apply_json_patch(secret, operations) == {
        "metadata": {"name": "s", "labels": {"x~/y": "1"}},
        "data": {"a": "eg==", "d": "eg=="},
    }
    assert secret["data"] == {"a": "eA==", "b": "eQ=="}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/data/a", "value": "other"},
        {"op": "remove", "path": "/data/nothing"},
        {"op": "add", "path": "/none/x", "value": 1},
        {"op": "replace", "path": "/data/x", "value": 1},
    ],
)
def test_a_json_patch_that_does_not_fit_is_422_and_quotes_no_value(operation: Obj) -> None:
    with pytest.raises(Invalid) as caught:
        patch.apply_json_patch({"data": {"a": "canary-value"}}, [operation])
    assert caught.value.code == 422
    assert str(caught.value) == "the server rejected our request due to an error in our request"
    assert caught.value.details == {}


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"op": "add"}, 400),
        (["x"], 400),
        ([{"op": "fly", "path": "/a"}], 400),
        ([{"op": "add"}], 400),
        ([{"op": "test", "path": "/a", "value": 1}] * 10_001, 413),
        ([{"op": "replace", "path": "", "value": []}], 400),
    ],
)
def test_what_is_no_json_patch(body: Any, code: int) -> None:
    with pytest.raises(Invalid) as caught:
        patch.apply_json_patch({"a": 1}, body)
    assert caught.value.code == code


# --- merge patch ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("target", "change", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b"}, {"a": None}, {}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({"a": "foo"}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch_cases_of_rfc_7386(target: Obj, change: Obj, expected: Obj) -> None:
    assert patch.apply_merge_patch(target, change) == expected


def test_a_merge_patch_is_an_object() -> None:
    with pytest.raises(Invalid, match="invalid JSON document"):
        patch.apply_merge_patch({}, ["x"])


# --- strategic merge patch -----------------------------------------------------------------------------------------


def test_containers_merge_by_name_and_env_below_them() -> None:
    pod = _pod(
        containers=[
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1"},
        ]
    )
    change = {"spec": {"containers": [{"name": "a", "image": "a:2", "env": [{"name": "Y", "value": "3"}]}]}}
    containers = _strategic(pod, change)["spec"]["containers"]
    assert containers == [
        {"name": "a", "image": "a:2", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "3"}]},
        {"name": "b", "image": "b:1"},
    ]


def test_null_removes_and_new_maps_lose_their_nulls() -> None:
    pod = _pod(hostname="h", containers=[])
    result = _strategic(pod, {"spec": {"hostname": None, "nodeSelector": {"a": "b", "c": None}}})
    assert result["spec"] == {"containers": [], "nodeSelector": {"a": "b"}}


def test_delete_directive_takes_an_element_out() -> None:
    pod = _pod(volumes=[{"name": "a", "emptyDir": {}}, {"name": "b", "emptyDir": {}}])
    result = _strategic(pod, {"spec": {"volumes": [{"name": "a", "$patch": "delete"}]}})
    assert result["spec"]["volumes"] == [{"name": "b", "emptyDir": {}}]


def test_replace_directive_in_a_list_replaces_all_of_it() -> None:
    pod = _pod(volumes=[{"name": "a", "emptyDir": {}}])
    result = _strategic(pod, {"spec": {"volumes": [{"name": "c", "emptyDir": {}}, {"$patch": "replace"}]}})
    assert result["spec"]["volumes"] == [{"name": "c", "emptyDir": {}}]


def test_replace_and_delete_directives_in_a_map() -> None:
    config = {"metadata": {"labels": {"a": "1", "b": "2"}, "annotations": {"x": "y"}}}
    change = {"metadata": {"labels": {"$patch": "replace", "c": "3"}, "annotations": {"$patch": "delete"}}}
    assert _strategic(config, change, "ConfigMap") == {"metadata": {"labels": {"c": "3"}, "annotations": {}}}


def test_retain_keys_clears_the_other_volume_source() -> None:
    pod = _pod(volumes=[{"name": "v", "emptyDir": {}}])
    change = {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "secret"], "secret": {"secretName": "s"}}]}}
    assert _strategic(pod, change)["spec"]["volumes"] == [{"name": "v", "secret": {"secretName": "s"}}]


def test_set_element_order_orders_and_keeps_what_the_server_added() -> None:
    pod = _pod(containers=[{"name": n} for n in ("a", "b", "injected")])
    change = {
        "spec": {
            "$setElementOrder/containers": [{"name": "b"}, {"name": "a"}, {"name": "new"}],
            "containers": [{"name": "new", "image": "x"}],
        }
    }
    names = [container["name"] for container in _strategic(pod, change)["spec"]["containers"]]
    assert [name for name in names if name != "injected"] == ["b", "a", "new"]
    assert "injected" in names


def test_set_element_order_alone_reorders() -> None:
    pod = _pod(containers=[{"name": "a"}, {"name": "b"}])
    result = _strategic(pod, {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}})
    assert [container["name"] for container in result["spec"]["containers"]] == ["b", "a"]


def test_primitive_lists_merge_as_sets_and_lose_what_is_deleted() -> None:
    pod = {"metadata": {"finalizers": ["a", "b"]}}
    merged = _strategic(pod, {"metadata": {"finalizers": ["b", "c"]}})
    assert sorted(merged["metadata"]["finalizers"]) == ["a", "b", "c"]
    removed = _strategic(pod, {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}})
    assert removed == {"metadata": {"finalizers": ["b"]}}


def test_lists_without_a_strategy_are_replaced() -> None:
    pod = _pod(containers=[{"name": "a", "args": ["1", "2"]}])
    result = _strategic(pod, {"spec": {"containers": [{"name": "a", "args": ["3"]}]}})
    assert result["spec"]["containers"][0]["args"] == ["3"]


def test_data_of_a_secret_merges_by_key() -> None:
    secret = {"data": {"a": "1", "b": "2"}}
    assert _strategic(secret, {"data": {"a": None, "c": "3"}}, "Secret") == {"data": {"b": "2", "c": "3"}}


def test_directives_do_not_reach_the_object_where_nothing_was() -> None:
    change = {
        "spec": {
            "$setElementOrder/volumes": [{"name": "v"}],
            "volumes": [{"name": "v", "$retainKeys": ["name"]}],
            "containers": [{"name": "gone", "$patch": "delete"}],
        }
    }
    assert _strategic({}, change) == {"spec": {"volumes": [{"name": "v"}]}} | {
        "spec": {"volumes": [{"name": "v"}], "containers": []}
    }


@pytest.mark.parametrize(
    "change",
    [
        {"spec": {"containers": [{"image": "x"}]}},
        {"spec": {"$patch": "fly"}},
        {"spec": {"volumes": [{"name": "v", "$retainKeys": ["name"], "secret": {}}]}},
        {"spec": {"volumes": [{"name": "v", "$retainKeys": "name"}]}},
        {"spec": {"containers": [{"name": "a", "$patch": "merge"}]}},
        {"spec": {"containers": ["a"]}},
        {"spec": {"$setElementOrder/containers": [{"name": "z"}], "containers": [{"name": "a", "image": "i"}]}},
    ],
)
def test_malformed_strategic_patches_are_400(change: Obj) -> None:
    pod = _pod(containers=[{"name": "a"}], volumes=[{"name": "v", "emptyDir": {}}])
    with pytest.raises(Invalid) as caught:
        patch.apply_strategic_merge_patch(pod, change, "v1", "Pod")
    assert caught.value.code == 400
