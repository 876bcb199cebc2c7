"""Server-side apply and managedFields. Source of the cases: structured-merge-diff/merge/*_test.go, KEP-555."""

from __future__ import annotations

import copy
from typing import Any

import pytest

from kubelet_secrets.apiserver import fieldset, patch
from kubelet_secrets.apiserver.schemas import schema_of
from kubelet_secrets.errors import Conflict, Invalid

Obj = dict[str, Any]


def _apply(live: Obj | None, applied: Obj, manager: str = "alice", *, force: bool = False, now: str = "T1") -> Obj:
    before = copy.deepcopy((live, applied))
    result = patch.server_side_apply(
        live,
        {"apiVersion": "v1", **applied},
        manager,
        force=force,
        api_version="v1",
        kind=applied["kind"],
        now=now,
    )
    assert (live, applied) == before, "neither argument changes"
    return result


def _update(live: Obj | None, new: Obj, manager: str = "ctl", now: str = "T0") -> Obj:
    return patch.track_update(live, new, manager, api_version="v1", kind=new["kind"], now=now)


def _secret(**data: str) -> Obj:
    return {"kind": "Secret", "metadata": {"name": "s"}, "data": data}


def _pod(*containers: Obj) -> Obj:
    return {"kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": list(containers)}}


def _fields(obj: Obj, manager: str) -> Obj:
    (entry,) = [entry for entry in obj["metadata"]["managedFields"] if entry["manager"] == manager]
    fields: Obj = entry["fieldsV1"]
    return fields


def test_create_by_apply_owns_what_it_names() -> None:
    secret = _apply(None, _secret(a="MQ=="))
    assert secret["data"] == {"a": "MQ=="}
    assert secret["metadata"]["managedFields"] == [
        {
            "manager": "alice",
            "operation": "Apply",
            "apiVersion": "v1",
            "time": "T1",
            "fieldsType": "FieldsV1",
            "fieldsV1": {"f:data": {"f:a": {}}},
        }
    ]


def test_create_by_update_owns_maps_and_their_content() -> None:
    secret = _update(None, {**_secret(a="MQ=="), "type": "Opaque", "metadata": {"name": "s", "labels": {"x": "y"}}})
    assert _fields(secret, "ctl") == {
        "f:data": {".": {}, "f:a": {}},
        "f:type": {},
        "f:metadata": {"f:labels": {".": {}, "f:x": {}}},
    }


def test_a_field_no_longer_applied_is_removed_and_others_stay() -> None:
    first = _apply(None, _secret(a="1", b="2"))
    shared = _update(first, {**first, "data": {**first["data"], "c": "3"}})
    second = _apply(shared, _secret(a="1"), now="T2")
    assert second["data"] == {"a": "1", "c": "3"}
    assert _fields(second, "alice") == {"f:data": {"f:a": {}}}
    assert _fields(second, "ctl") == {"f:data": {"f:c": {}}}


def test_a_field_two_appliers_share_stays_until_both_let_go() -> None:
    obj = _apply(_apply(None, _secret(a="1")), _secret(a="1"), "bob")
    obj = _apply(obj, _secret(), "alice", now="T2")
    assert obj["data"] == {"a": "1"}
    obj = _apply(obj, {"kind": "Secret", "metadata": {"name": "s"}}, "bob", now="T3")
    assert "data" not in obj


def test_applying_the_same_again_changes_nothing() -> None:
    first = _apply(None, _secret(a="1"))
    assert _apply(first, _secret(a="1"), now="T9") == first


def test_another_managers_value_is_a_conflict_with_upstreams_text() -> None:
    live = _update(None, _secret(a="1", b="2"), "kubectl-create", now="2026-01-01T00:00:00Z")
    with pytest.raises(Conflict) as caught:
        _apply(live, _secret(a="x"))
    assert str(caught.value) == (
        'Apply failed with 1 conflict: conflict with "kubectl-create" using v1 at 2026-01-01T00:00:00Z: .data.a'
    )
    assert caught.value.details["causes"] == [
        {
            "reason": "FieldManagerConflict",
            "message": 'conflict with "kubectl-create" using v1 at 2026-01-01T00:00:00Z',
            "field": ".data.a",
        }
    ]
    with pytest.raises(Conflict) as caught:
        _apply(live, _secret(a="x", b="y"))
    assert str(caught.value) == (
        'Apply failed with 2 conflicts: conflicts with "kubectl-create" using v1 at 2026-01-01T00:00:00Z:\n'
        "- .data.a\n- .data.b"
    )


def test_conflicts_name_appliers_without_version() -> None:
    live = _apply(None, _secret(a="1"), "bob")
    with pytest.raises(Conflict, match=r'^Apply failed with 1 conflict: conflict with "bob": \.data\.a$'):
        _apply(live, _secret(a="2"))


def test_force_takes_the_field_over() -> None:
    live = _update(None, _secret(a="1", b="2"), "ctl")
    forced = _apply(live, _secret(a="x"), force=True)
    assert forced["data"] == {"a": "x", "b": "2"}
    assert _fields(forced, "ctl") == {"f:data": {".": {}, "f:b": {}}}


def test_the_same_value_is_shared_not_fought_over() -> None:
    live = _update(None, _secret(a="1"))
    assert _fields(_apply(live, _secret(a="1")), "alice") == {"f:data": {"f:a": {}}}


def test_an_update_takes_ownership_from_the_applier() -> None:
    live = _apply(None, _secret(a="1", b="2"))
    updated = _update(live, {**live, "data": {"a": "9", "b": "2"}}, now="T2")
    assert _fields(updated, "alice") == {"f:data": {"f:b": {}}}
    assert _fields(updated, "ctl") == {"f:data": {"f:a": {}}}


def test_lists_by_key_merge_and_lose_elements_by_owner() -> None:
    live = _apply(None, _pod({"name": "a", "image": "1"}, {"name": "b", "image": "1"}))
    live = _update(live, _with_sidecar(live))
    assert _fields(live, "alice") == {
        "f:spec": {
            "f:containers": {
                'k:{"name":"a"}': {".": {}, "f:image": {}, "f:name": {}},
                'k:{"name":"b"}': {".": {}, "f:image": {}, "f:name": {}},
            }
        }
    }
    after = _apply(live, _pod({"name": "a", "image": "2"}), now="T2")
    assert after["spec"]["containers"] == [{"name": "a", "image": "2"}, {"name": "sidecar", "image": "s"}]


def test_an_element_that_nobody_owns_as_such_goes_with_what_others_own_in_it() -> None:
    """As upstream's own code does it: what an update changed in an element does not hold the element."""
    live = _apply(None, _pod({"name": "a", "image": "1", "tty": True}))
    live = _update(live, _pod({"name": "a", "image": "2", "tty": True}) | {"metadata": live["metadata"]}, "ctl")
    after = _apply(live, _pod({"name": "b"}), now="T2")
    assert after["spec"]["containers"] == [{"name": "b"}]
    assert [entry["manager"] for entry in after["metadata"]["managedFields"]] == ["alice"]


@pytest.mark.parametrize(
    ("live", "applied", "merged"),
    [
        pytest.param("ab", "c", "abc", id="what-is-there-comes-first"),
        pytest.param("abc", "ca", "bca", id="the-order-of-what-is-applied"),
        pytest.param("abcd", "db", "acdb", id="those-between-stay-before-what-followed-them"),
        pytest.param("ab", "xay", "xaby", id="around-a-shared-one"),
        pytest.param("abc", "cxb", "acxb", id="a-new-one-among-shared"),
    ],
)
def test_order_of_merged_lists(live: str, applied: str, merged: str) -> None:
    """Expected: what k8s.io/apimachinery's field manager (structured-merge-diff v6) made of each."""
    before = _update(None, _pod(*({"name": name} for name in live)))
    after = _apply(before, _pod(*({"name": name} for name in applied)))
    assert "".join(each["name"] for each in after["spec"]["containers"]) == merged


def test_a_key_with_a_default_can_be_left_out_again() -> None:
    live = _apply(None, _pod({"name": "a", "ports": [{"containerPort": 80, "protocol": "TCP"}]}))
    after = _apply(live, _pod({"name": "a", "ports": [{"containerPort": 80}]}), now="T2")
    assert after["spec"]["containers"] == [{"name": "a", "ports": [{"containerPort": 80}]}]


def _with_sidecar(pod: Obj) -> Obj:
    pod = copy.deepcopy(pod)
    pod["spec"]["containers"].append({"name": "sidecar", "image": "s"})
    return pod


def test_conflicts_in_lists_name_the_element() -> None:
    live = _update(
        None, _pod({"name": "a", "image": "1", "ports": [{"containerPort": 80, "protocol": "TCP", "name": "x"}]})
    )
    with pytest.raises(Conflict) as caught:
        _apply(live, _pod({"name": "a", "image": "1", "ports": [{"containerPort": 80, "name": "y"}]}))
    assert str(caught.value).endswith('.spec.containers[name="a"].ports[containerPort=80,protocol="TCP"].name')


def test_atomic_lists_have_one_owner() -> None:
    live = _apply(None, _pod({"name": "a", "args": ["1", "2"]}))
    with pytest.raises(Conflict, match=r"\.args$"):
        _apply(live, _pod({"name": "a", "args": ["1"]}), "bob")


def test_sets_merge() -> None:
    first = _apply(None, {"kind": "Secret", "metadata": {"name": "s", "finalizers": ["x/a"]}})
    second = _apply(first, {"kind": "Secret", "metadata": {"name": "s", "finalizers": ["x/b"]}}, "bob")
    assert sorted(second["metadata"]["finalizers"]) == ["x/a", "x/b"]
    third = _apply(second, {"kind": "Secret", "metadata": {"name": "s"}}, "alice")
    assert third["metadata"]["finalizers"] == ["x/b"]


def test_the_first_apply_onto_an_untracked_object_meets_its_old_owner() -> None:
    with pytest.raises(Conflict, match='conflict with "before-first-apply" using v1'):
        _apply(_secret(a="1"), _secret(a="2"))


def test_status_is_not_owned_by_writers_of_the_main_resource() -> None:
    pod = _update(None, {**_pod({"name": "a"}), "status": {"phase": "Pending"}})
    assert "f:status" not in _fields(pod, "ctl")
    running = patch.track_update(
        pod,
        {**pod, "status": {"phase": "Running"}},
        "kubelet",
        api_version="v1",
        kind="Pod",
        now="T",
        subresource="status",
    )
    (entry,) = [entry for entry in running["metadata"]["managedFields"] if entry["manager"] == "kubelet"]
    assert entry["subresource"] == "status"
    assert entry["fieldsV1"] == {"f:status": {"f:phase": {}}}


def test_clients_can_move_and_clear_ownership() -> None:
    live = _update(None, _secret(a="1"), "kubectl-client-side-apply")
    moved = copy.deepcopy(live)
    moved["metadata"]["managedFields"][0] |= {"manager": "kubectl", "operation": "Apply"}
    assert [entry["manager"] for entry in _update(live, moved, "kubectl")["metadata"]["managedFields"]] == ["kubectl"]
    cleared = copy.deepcopy(live)
    cleared["metadata"]["managedFields"] = [{}]
    assert "managedFields" not in _update(live, cleared)["metadata"]
    forgotten = _secret(a="1")
    assert _update(live, forgotten)["metadata"]["managedFields"] == live["metadata"]["managedFields"]


@pytest.mark.parametrize(
    "fields",
    [
        {"f:a": "x"},
        {"f:a": {"f:b": [1]}},
        {"nonsense": {}},
        {"k:nonsense": {}},
        {"k:[1]": {}},
        {"v:nonsense": {}},
        {"i:x": {}},
        {"": {}},
    ],
    ids=str,
)
def test_managed_fields_that_cannot_be_read_count_as_none(fields: dict[str, Any]) -> None:
    live = _update(None, _secret(a="1"), "kubectl-client-side-apply")
    live["metadata"]["managedFields"][0]["fieldsV1"] = fields
    assert _apply(live, _secret(a="2"), "me", force=True)["data"] == {"a": "2"}
    assert _update(live, _secret(a="2"), "me")["data"] == {"a": "2"}


def test_an_apply_needs_a_manager_and_brings_no_managed_fields() -> None:
    with pytest.raises(Invalid, match="fieldManager: Required value: is required for apply patch"):
        _apply(None, _secret(), "")
    with pytest.raises(Invalid, match=r"^metadata\.managedFields must be nil$"):
        _apply(None, {"kind": "Secret", "metadata": {"name": "s", "managedFields": [{"manager": "x"}]}})


def test_field_sets_survive_their_json_form() -> None:
    pod = _pod({"name": "a", "env": [{"name": "X", "value": "1"}], "args": ["x"]}, {"name": "b"})
    paths = fieldset.field_set(pod, schema_of("v1", "Pod"))
    assert fieldset.from_fields_v1(fieldset.to_fields_v1(paths)) == paths


def test_duplicate_variables_do_not_confuse_the_comparison() -> None:
    """The API allows one env name twice, although the list is keyed by name."""
    live = _update(None, _pod({"name": "a", "env": [{"name": "X", "value": "1"}, {"name": "X", "value": "2"}]}))
    changed = copy.deepcopy(live)
    changed["spec"]["containers"][0]["env"][1]["value"] = "3"
    assert _update(live, live)["metadata"] == live["metadata"]
    assert 'k:{"name":"X"}' in str(_fields(_update(live, changed, "other"), "other"))
