"""Create, read, update, delete over HTTP/2: upstream's rules and the exact texts clients see."""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import PODS, SECRETS, STRATEGIC, Http, pod, secret

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
LEASES = "/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases"
NODES = "/api/v1/nodes"


async def test_created_object_has_system_metadata_and_defaults(admin: Http) -> None:
    answer = await admin.post(SECRETS, secret("s", a="b"))
    assert answer.status == 201
    metadata = answer.json["metadata"]
    assert set(metadata) == {"name", "namespace", "uid", "creationTimestamp", "resourceVersion", "managedFields"}
    assert metadata["namespace"] == "default"
    assert answer.json["type"] == "Opaque"
    assert answer.json["data"] == {"a": "Yg=="}
    assert "stringData" not in answer.json
    assert (await admin.get(f"{SECRETS}/s")).json == answer.json


async def test_system_metadata_of_the_creator_is_ignored(admin: Http) -> None:
    body = secret("s")
    body["metadata"] |= {
        "uid": "mine",
        "creationTimestamp": None,
        "generation": 7,
        "deletionTimestamp": "2020-01-01T00:00:00Z",
    }
    metadata = (await admin.post(SECRETS, body)).json["metadata"]
    assert metadata["uid"] != "mine"
    assert "generation" not in metadata
    assert "deletionTimestamp" not in metadata


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "reason", "message", "details"),
    [
        pytest.param(
            "GET",
            f"{SECRETS}/x",
            None,
            404,
            "NotFound",
            'secrets "x" not found',
            {"name": "x", "kind": "secrets"},
            id="get-absent",
        ),
        pytest.param(
            "GET",
            f"{LEASES}/x",
            None,
            404,
            "NotFound",
            'leases.coordination.k8s.io "x" not found',
            {"name": "x", "group": "coordination.k8s.io", "kind": "leases"},
            id="get-absent-in-a-group",
        ),
        pytest.param(
            "POST",
            SECRETS,
            secret("taken"),
            409,
            "AlreadyExists",
            'secrets "taken" already exists',
            {"name": "taken", "kind": "secrets"},
            id="create-twice",
        ),
        pytest.param(
            "POST",
            "/api/v1/namespaces/nope/secrets",
            secret("x"),
            404,
            "NotFound",
            'namespaces "nope" not found',
            {"name": "nope", "kind": "namespaces"},
            id="create-in-an-absent-namespace",
        ),
        pytest.param(
            "PUT",
            f"{SECRETS}/taken",
            {"metadata": {"name": "taken", "resourceVersion": "1"}},
            409,
            "Conflict",
            'Operation cannot be fulfilled on secrets "taken": the object has been modified; please apply your changes to '
            "the latest version and try again",
            {"name": "taken", "kind": "secrets"},
            id="update-of-an-old-version",
        ),
        pytest.param(
            "PUT",
            f"{SECRETS}/x",
            secret("x"),
            404,
            "NotFound",
            'secrets "x" not found',
            {"name": "x", "kind": "secrets"},
            id="update-absent",
        ),
        pytest.param(
            "PUT",
            f"{SECRETS}/taken",
            secret("other"),
            400,
            "BadRequest",
            "the name of the object (other) does not match the name on the URL (taken)",
            None,
            id="update-under-another-name",
        ),
        pytest.param(
            "POST",
            SECRETS,
            {"metadata": {"name": "x", "namespace": "kube-system"}},
            400,
            "BadRequest",
            "the namespace of the provided object does not match the namespace sent on the request",
            None,
            id="create-in-another-namespace",
        ),
        pytest.param(
            "DELETE",
            f"{SECRETS}/x",
            None,
            404,
            "NotFound",
            'secrets "x" not found',
            {"name": "x", "kind": "secrets"},
            id="delete-absent",
        ),
        pytest.param(
            "GET",
            "/api/v1/nonsense",
            None,
            404,
            "NotFound",
            "the server could not find the requested resource",
            None,
            id="unknown-resource",
        ),
        pytest.param(
            "GET",
            "/nonsense",
            None,
            404,
            "NotFound",
            "the server could not find the requested resource",
            None,
            id="unknown-path",
        ),
        pytest.param(
            "POST",
            "/api/v1/secrets",
            secret("x"),
            405,
            "MethodNotAllowed",
            None,
            {"kind": "secrets"},
            id="create-without-namespace",
        ),
        pytest.param("POST", SECRETS, b"{", 400, "BadRequest", None, None, id="broken-json"),
        pytest.param("POST", SECRETS, [1], 400, "BadRequest", "the body must be an object", None, id="not-an-object"),
        pytest.param(
            "GET", f"{SECRETS}?fieldSelector=data.a=b", None, 400, "BadRequest", None, None, id="unsupported-field"
        ),
        pytest.param(
            "GET",
            f"{SECRETS}?labelSelector=a%3D%3D%3Db",
            None,
            400,
            "BadRequest",
            None,
            None,
            id="broken-label-selector",
        ),
    ],
)
async def test_refusals(
    admin: Http, method: str, path: str, body: Any, status: int, reason: str, message: str | None, details: Any
) -> None:
    await admin.post(SECRETS, secret("taken"))
    answer = await admin.send(method, path, body)
    assert (answer.status, answer.json["kind"], answer.json["status"]) == (status, "Status", "Failure")
    assert answer.json["code"] == status
    assert answer.json["reason"] == reason
    if message is not None:
        assert answer.message == message
    assert answer.json.get("details") == details


async def test_refusals_never_quote_the_body(admin: Http) -> None:
    canary = "c4n4ry-value"
    for body in (
        b'{"metadata": {"name": "x"}, "data": "%s' % canary.encode(),
        {"metadata": {"name": "x"}, "data": canary},
        {"metadata": {"name": "x"}, "data": {"a": canary + "!"}},
        {"metadata": {"name": "x"}, "data": {"a": [canary]}},
        {"metadata": {"name": "x"}, "stringData": {"a": {"b": canary}}},
        {
            "metadata": {"name": "x"},
            "type": "kubernetes.io/dockerconfigjson",
            "stringData": {".dockerconfigjson": canary},
        },
    ):
        answer = await admin.post(SECRETS, body)
        assert answer.status in (400, 422), answer.body
        assert canary not in answer.body.decode()


async def test_generated_names_are_unique_and_carry_the_prefix(admin: Http) -> None:
    names = set()
    for _ in range(5):
        answer = await admin.post(SECRETS, {"metadata": {"generateName": "gen-"}})
        assert answer.status == 201
        names.add(answer.json["metadata"]["name"])
    assert len(names) == 5
    assert all(name.startswith("gen-") and len(name) == 9 for name in names)


async def test_name_is_required(admin: Http) -> None:
    answer = await admin.post(SECRETS, {"metadata": {}})
    assert answer.status == 422
    assert "metadata.name: Required value: name or generateName is required" in answer.message


async def test_update_keeps_identity_and_counts_a_new_version(admin: Http) -> None:
    created = (await admin.post(SECRETS, secret("s", a="1"))).json
    updated = (await admin.put(f"{SECRETS}/s", secret("s", a="2"))).json
    assert updated["data"] == {"a": "Mg=="}
    for field in ("uid", "creationTimestamp"):
        assert updated["metadata"][field] == created["metadata"][field]
    assert int(updated["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])


async def test_update_that_changes_nothing_keeps_the_version(admin: Http) -> None:
    created = (await admin.post(SECRETS, secret("s", a="1"))).json
    again = (await admin.put(f"{SECRETS}/s", created)).json
    assert again == created
    patched = (await admin.patch(f"{SECRETS}/s", {})).json
    assert patched == created


async def test_update_with_the_uid_of_a_predecessor_is_a_conflict(admin: Http) -> None:
    old = (await admin.post(SECRETS, secret("s"))).json
    await admin.delete(f"{SECRETS}/s")
    new = (await admin.post(SECRETS, secret("s"))).json
    body = secret("s", a="b")
    body["metadata"]["uid"] = old["metadata"]["uid"]
    answer = await admin.put(f"{SECRETS}/s", body)
    assert answer.status == 409
    assert f"UID in object meta: {new['metadata']['uid']}" in answer.message


async def test_lease_update_needs_a_resource_version(admin: Http) -> None:
    lease = {"metadata": {"name": "n"}, "spec": {"holderIdentity": "n", "leaseDurationSeconds": 40}}
    created = (await admin.put(f"{LEASES}/n", lease)).json  # leases may be created by PUT
    answer = await admin.put(f"{LEASES}/n", lease)
    assert answer.status == 422
    assert "metadata.resourceVersion: Invalid value: 0x0: must be specified for an update" in answer.message
    lease["metadata"]["resourceVersion"] = created["metadata"]["resourceVersion"]
    lease["spec"]["leaseDurationSeconds"] = 41
    assert (await admin.put(f"{LEASES}/n", lease)).status == 200


async def test_dry_run_writes_nothing(admin: Http, server: ServerHandle) -> None:
    await admin.post(SECRETS, secret("s", a="1"))
    before = server.registry.storage.revision
    assert (await admin.post(f"{SECRETS}?dryRun=All", secret("new"))).status == 201
    assert (await admin.post(f"{SECRETS}?dryRun=All", secret("s"))).status == 409
    changed = await admin.put(f"{SECRETS}/s?dryRun=All", secret("s", a="2"))
    assert changed.json["data"] == {"a": "Mg=="}
    assert (await admin.delete(f"{SECRETS}/s?dryRun=All")).status == 200
    assert (await admin.delete(f"{SECRETS}/s", {"dryRun": ["All"]})).status == 200
    assert server.registry.storage.revision == before


# --- status apart from spec ------------------------------------------------------------------------------------------


async def test_status_is_written_through_its_subresource_only(admin: Http) -> None:
    await admin.post(PODS, pod("p", node="n"))
    body = (await admin.get(f"{PODS}/p")).json
    assert body["status"] == {"phase": "Pending", "qosClass": "BestEffort"}
    body["status"]["phase"] = "Running"
    body["metadata"]["labels"] = {"a": "b"}
    updated = (await admin.put(f"{PODS}/p", body)).json
    assert updated["status"]["phase"] == "Pending"
    assert updated["metadata"]["labels"] == {"a": "b"}
    patch = {"status": {"phase": "Running"}, "spec": {"nodeName": "elsewhere"}}
    patched = (await admin.patch(f"{PODS}/p/status", patch)).json
    assert patched["status"]["phase"] == "Running"
    assert patched["spec"]["nodeName"] == "n"
    assert patched["metadata"]["generation"] == 1


async def test_strategic_patch_of_conditions_merges_by_type(admin: Http) -> None:
    """What a node sends for its status and its pods'."""
    node = {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": "False"}]}}
    created = (await admin.post(NODES, node)).json
    assert created["status"] == node["status"]  # a node registers with its status
    patch = {
        "status": {"conditions": [{"type": "MemoryPressure", "status": "False"}, {"type": "Ready", "status": "True"}]}
    }
    patched = (await admin.patch(f"{NODES}/n/status", patch, STRATEGIC)).json
    statuses = {entry["type"]: entry["status"] for entry in patched["status"]["conditions"]}
    assert statuses == {"Ready": "True", "MemoryPressure": "False"}


async def test_pod_generation_counts_changes_of_spec(admin: Http) -> None:
    created = (await admin.post(PODS, pod("p", node="n"))).json
    assert created["metadata"]["generation"] == 1
    labelled = (await admin.patch(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}})).json
    assert labelled["metadata"]["generation"] == 1
    changed = (await admin.patch(f"{PODS}/p", {"spec": {"activeDeadlineSeconds": 5}})).json
    assert changed["metadata"]["generation"] == 2


async def test_binding_gives_a_pod_its_node_once(admin: Http) -> None:
    await admin.post(PODS, pod("p"))
    binding = {
        "apiVersion": "v1",
        "kind": "Binding",
        "metadata": {"name": "p"},
        "target": {"kind": "Node", "name": "n"},
    }
    wrong = {**binding, "metadata": {"name": "q"}}
    assert (await admin.post(f"{PODS}/p/binding", wrong)).message == "name in URL does not match name in Binding object"
    another = {**binding, "metadata": {"name": "p", "uid": "that-of-its-predecessor"}}
    assert (await admin.post(f"{PODS}/p/binding", another)).status == 409
    of_a_pod = await admin.post(f"{PODS}/p/binding", {**binding, "target": {"kind": "Pod", "name": "n"}})
    assert of_a_pod.message == (
        'Binding "p" is invalid: target.kind: Unsupported value: "Pod": supported values: "Node"'
    )
    assert (await admin.post(f"{PODS}/p/binding", binding)).status == 201
    bound = (await admin.get(f"{PODS}/p")).json
    assert bound["spec"]["nodeName"] == "n"
    assert [(entry["type"], entry["status"]) for entry in bound["status"]["conditions"]] == [("PodScheduled", "True")]
    assert bound["metadata"]["generation"] == 1
    again = await admin.post(f"{PODS}/p/binding", binding)
    assert again.status == 409
    assert again.message == ('Operation cannot be fulfilled on pods/binding "p": pod p is already assigned to node "n"')


# --- deletion --------------------------------------------------------------------------------------------------------


async def test_deleted_secret_answers_with_a_status(admin: Http) -> None:
    uid = (await admin.post(SECRETS, secret("s"))).json["metadata"]["uid"]
    answer = await admin.delete(f"{SECRETS}/s")
    assert answer.json == {
        "kind": "Status",
        "apiVersion": "v1",
        "metadata": {},
        "status": "Success",
        "details": {"name": "s", "kind": "secrets", "uid": uid},
    }
    assert (await admin.get(f"{SECRETS}/s")).status == 404


@pytest.mark.parametrize("field", ["uid", "resourceVersion"])
async def test_delete_preconditions(admin: Http, field: str) -> None:
    created = (await admin.post(SECRETS, secret("s"))).json
    answer = await admin.delete(f"{SECRETS}/s", {"preconditions": {field: "1"}})
    assert (answer.status, answer.json["reason"]) == (409, "Conflict")
    assert "in the precondition (1) does not match" in answer.message
    right = {"preconditions": {field: created["metadata"][field]}}
    assert (await admin.delete(f"{SECRETS}/s", right)).status == 200


async def test_unbound_pod_is_deleted_at_once(admin: Http) -> None:
    await admin.post(PODS, pod("p"))
    assert (await admin.delete(f"{PODS}/p")).json["kind"] == "Pod"
    assert (await admin.get(f"{PODS}/p")).status == 404


async def test_bound_pod_is_deleted_by_the_nodes_second_request(admin: Http) -> None:
    """The handshake: mark with a grace period; the node deletes with grace 0 when it is done."""
    created = (await admin.post(PODS, pod("p", node="n", terminationGracePeriodSeconds=40))).json
    marked = (await admin.delete(f"{PODS}/p")).json
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 40
    assert marked["metadata"]["generation"] == 2
    again = (await admin.delete(f"{PODS}/p")).json
    assert again["metadata"]["resourceVersion"] == marked["metadata"]["resourceVersion"]
    longer = (await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": 60})).json
    assert longer["metadata"]["deletionGracePeriodSeconds"] == 40
    shorter = (await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": 5})).json
    assert shorter["metadata"]["deletionGracePeriodSeconds"] == 5
    assert shorter["metadata"]["deletionTimestamp"] < marked["metadata"]["deletionTimestamp"]
    final = {"gracePeriodSeconds": 0, "preconditions": {"uid": created["metadata"]["uid"]}}
    assert (await admin.delete(f"{PODS}/p", final)).status == 200
    assert (await admin.get(f"{PODS}/p")).status == 404


async def test_finished_pod_is_deleted_at_once(admin: Http) -> None:
    await admin.post(PODS, pod("p", node="n"))
    await admin.patch(f"{PODS}/p/status", {"status": {"phase": "Succeeded"}})
    await admin.delete(f"{PODS}/p")
    assert (await admin.get(f"{PODS}/p")).status == 404


async def test_negative_grace_period_is_one_second(admin: Http) -> None:
    await admin.post(PODS, pod("p", node="n"))
    marked = (await admin.delete(f"{PODS}/p", {"gracePeriodSeconds": -1})).json
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 1


async def test_finalizer_holds_a_deleted_object_until_it_is_removed(admin: Http) -> None:
    body = secret("s")
    body["metadata"]["finalizers"] = ["example.com/hold"]
    await admin.post(SECRETS, body)
    marked = (await admin.delete(f"{SECRETS}/s")).json
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 0
    assert (await admin.get(f"{SECRETS}/s")).status == 200
    assert (await admin.delete(f"{SECRETS}/s")).json["metadata"]["finalizers"] == ["example.com/hold"]
    assert (await admin.patch(f"{SECRETS}/s", {"metadata": {"finalizers": None}})).status == 200
    assert (await admin.get(f"{SECRETS}/s")).status == 404


async def test_eviction_deletes_the_pod(admin: Http) -> None:
    await admin.post(PODS, pod("p"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    assert (await admin.post(f"{PODS}/p/eviction", eviction)).status == 201
    assert (await admin.get(f"{PODS}/p")).status == 404


async def test_what_is_dry_or_meant_for_another_is_not_evicted_or_deleted(admin: Http) -> None:
    """``kubectl drain --dry-run=server`` says it in the options; a directive that nobody knows prevents everything."""
    await admin.post(PODS, pod("p"))
    eviction = {"apiVersion": "policy/v1", "kind": "Eviction", "metadata": {"name": "p"}}
    for options, status in (
        ({"dryRun": ["All"]}, 201),
        ({"dryRun": ["x"]}, 422),
        ({"preconditions": {"uid": "x"}}, 409),
    ):
        answer = await admin.post(f"{PODS}/p/eviction", {**eviction, "deleteOptions": options})
        assert answer.status == status
    other = await admin.post(f"{PODS}/p/eviction", {**eviction, "metadata": {"name": "q"}})
    assert other.message == "name in URL does not match name in Eviction object"
    for directives, status in ((["All", "All"], 200), (["x"], 422)):
        answer = await admin.delete(f"{PODS}/p", {"dryRun": directives})
        assert answer.status == status
    assert answer.message == (
        'DeleteOptions.meta.k8s.io "" is invalid: dryRun: Unsupported value: ["x"]: supported values: "All"'
    )
    assert (await admin.get(f"{PODS}/p")).status == 200


async def test_delete_collection_takes_what_the_selector_says(admin: Http) -> None:
    for name, label in (("a", "x"), ("b", "x"), ("c", "y")):
        body = secret(name)
        body["metadata"]["labels"] = {"l": label}
        await admin.post(SECRETS, body)
    answer = await admin.delete(f"{SECRETS}?labelSelector=l%3Dx")
    assert [item["metadata"]["name"] for item in answer.json["items"]] == ["a", "b"]
    assert [item["metadata"]["name"] for item in (await admin.get(SECRETS)).json["items"]] == ["c"]


# --- lists -----------------------------------------------------------------------------------------------------------


async def _fill(admin: Http, count: int) -> None:
    for index in range(count):
        assert (await admin.post(SECRETS, secret(f"s{index:02}"))).status == 201


async def test_pages_show_one_revision(admin: Http) -> None:
    await _fill(admin, 5)
    first = (await admin.get(f"{SECRETS}?limit=2")).json
    assert first["metadata"]["remainingItemCount"] == 3
    await admin.post(SECRETS, secret("s00a"))
    await admin.delete(f"{SECRETS}/s04")
    names = [item["metadata"]["name"] for item in first["items"]]
    page = first
    while token := page["metadata"].get("continue"):
        page = (await admin.get(f"{SECRETS}?limit=2&continue={token}")).json
        assert page["metadata"]["resourceVersion"] == first["metadata"]["resourceVersion"]
        names += [item["metadata"]["name"] for item in page["items"]]
    assert names == ["s00", "s01", "s02", "s03", "s04"]


async def test_expired_page_offers_an_inconsistent_continuation(admin: Http, server: ServerHandle) -> None:
    await _fill(admin, 3)
    token = (await admin.get(f"{SECRETS}?limit=1")).json["metadata"]["continue"]
    await admin.post(SECRETS, secret("s01a"))
    server.registry.storage.compact(server.registry.storage.revision)
    answer = await admin.get(f"{SECRETS}?limit=1&continue={token}")
    assert (answer.status, answer.json["reason"]) == (410, "Expired")
    token = answer.json["metadata"]["continue"]
    rest = (await admin.get(f"{SECRETS}?continue={token}")).json
    assert [item["metadata"]["name"] for item in rest["items"]] == ["s01", "s01a", "s02"]


async def test_list_by_name_by_field_and_by_label(admin: Http) -> None:
    await _fill(admin, 3)
    labelled = secret("l")
    labelled["metadata"]["labels"] = {"a": "b"}
    labelled["type"] = "example.com/t"
    await admin.post(SECRETS, labelled)
    for query, names in (
        ("fieldSelector=metadata.name%3Ds01", ["s01"]),
        ("fieldSelector=metadata.name%3Dnone", []),
        ("fieldSelector=type%3Dexample.com/t", ["l"]),
        ("fieldSelector=type!%3DOpaque,metadata.namespace%3Ddefault", ["l"]),
        ("labelSelector=a%3Db", ["l"]),
        ("labelSelector=!a", ["s00", "s01", "s02"]),
    ):
        items = (await admin.get(f"{SECRETS}?{query}")).json["items"]
        assert [item["metadata"]["name"] for item in items] == names, query


@pytest.mark.parametrize(
    ("query", "status", "message"),
    [
        (
            "resourceVersionMatch=Exact",
            422,
            "Forbidden: resourceVersionMatch is forbidden unless resourceVersion is provided",
        ),
        (
            "resourceVersion=0&resourceVersionMatch=Exact",
            422,
            'Forbidden: resourceVersionMatch "exact" is forbidden for resourceVersion "0"',
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Exact&continue=x",
            422,
            "Forbidden: resourceVersionMatch is forbidden when continue is provided",
        ),
        (
            "resourceVersion=1&resourceVersionMatch=Most",
            422,
            'Unsupported value: "Most": supported values: "", "Exact", "NotOlderThan"',
        ),
        ("sendInitialEvents=true", 422, "Forbidden: sendInitialEvents is forbidden for list"),
        ("resourceVersion=1&continue=x", 400, "specifying resource version is not allowed when using continue"),
        ("resourceVersion=x", 400, "resourceVersion: Invalid value: must be a decimal number"),
    ],
)
async def test_list_options_that_do_not_fit(admin: Http, query: str, status: int, message: str) -> None:
    """Source: apimachinery pkg/apis/meta/internalversion/validation/validation_test.go."""
    answer = await admin.get(f"{SECRETS}?{query}")
    assert answer.status == status
    assert message in answer.message
    if status == 422:
        assert answer.message.startswith('ListOptions.meta.k8s.io "" is invalid: ')


async def test_list_at_a_revision(admin: Http) -> None:
    await admin.post(SECRETS, secret("a"))
    then = (await admin.get(SECRETS)).json["metadata"]["resourceVersion"]
    await admin.post(SECRETS, secret("b"))
    exact = (await admin.get(f"{SECRETS}?resourceVersion={then}&resourceVersionMatch=Exact")).json
    assert [item["metadata"]["name"] for item in exact["items"]] == ["a"]
    newer = (await admin.get(f"{SECRETS}?resourceVersion={then}&resourceVersionMatch=NotOlderThan")).json
    assert [item["metadata"]["name"] for item in newer["items"]] == ["a", "b"]
    assert len((await admin.get(f"{SECRETS}?resourceVersion=0")).json["items"]) == 2
    future = await admin.get(f"{SECRETS}?resourceVersion={int(then) + 100}")
    assert future.status == 504
    assert future.json["details"]["causes"][0]["reason"] == "ResourceVersionTooLarge"
    assert future.headers["retry-after"] == "1"
    expired = await admin.get(f"{SECRETS}?resourceVersion=1&resourceVersionMatch=Exact")
    assert (expired.status, expired.json["reason"]) == (410, "Expired")


async def test_list_across_namespaces_and_in_other_forms(admin: Http) -> None:
    await admin.post(CONFIG_MAPS, {"metadata": {"name": "mine"}, "data": {"a": "b"}})
    everywhere = (await admin.get("/api/v1/configmaps")).json
    assert everywhere["kind"] == "ConfigMapList"
    assert {item["metadata"]["namespace"] for item in everywhere["items"]} >= {"default", "kube-system"}
    metadata_only = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
    partial = (await admin.get(CONFIG_MAPS, accept=metadata_only)).json
    assert partial["kind"] == "PartialObjectMetadataList"
    assert all(set(item) == {"kind", "apiVersion", "metadata"} for item in partial["items"])
    yaml = await admin.get(f"{CONFIG_MAPS}/mine", accept="application/yaml")
    assert yaml.headers["content-type"].startswith("application/yaml")
    assert b"a: b" in yaml.body
    assert (await admin.get(CONFIG_MAPS, accept="text/html")).status == 406


# --- managed fields --------------------------------------------------------------------------------------------------


async def test_apply_creates_then_guards_its_fields(admin: Http) -> None:
    apply = "application/apply-patch+yaml"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}}
    created = await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=one", config, apply)
    assert created.status == 201
    assert [entry["manager"] for entry in created.json["metadata"]["managedFields"]] == ["one"]
    again = await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=one", config, apply)
    assert again.json == created.json
    theirs = {**config, "data": {"a": "2"}}
    conflict = await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=two", theirs, apply)
    assert (conflict.status, conflict.json["reason"]) == (409, "Conflict")
    assert [cause["field"] for cause in conflict.json["details"]["causes"]] == [".data.a"]
    forced = await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=two&force=true", theirs, apply)
    assert forced.json["data"] == {"a": "2", "b": "1"}
    assert (await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=one", {**config, "data": {}}, apply)).json["data"] == {
        "a": "2"
    }


async def test_update_of_an_applied_object_takes_over_what_it_changes(admin: Http) -> None:
    apply = "application/apply-patch+yaml"
    config = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": {"a": "1", "b": "1"}}
    await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=one", config, apply)
    edited = (await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=editor", {"data": {"a": "2"}})).json
    owners = {entry["manager"]: entry["fieldsV1"]["f:data"] for entry in edited["metadata"]["managedFields"]}
    assert "f:a" in owners["editor"]
    assert "f:a" not in owners["one"]
    unchanged = (await admin.patch(f"{CONFIG_MAPS}/c?fieldManager=other", {"data": {"a": "2"}})).json
    assert unchanged == edited


async def test_every_writer_owns_what_it_wrote_and_admission_nothing(admin: Http) -> None:
    await admin.post(f"{PODS}?fieldManager=creator", pod("p"))
    edited = (await admin.patch(f"{PODS}/p?fieldManager=editor", {"metadata": {"labels": {"a": "b"}}})).json
    owners = {entry["manager"]: entry["fieldsV1"] for entry in edited["metadata"]["managedFields"]}
    assert set(owners) == {"creator", "editor"}
    assert owners["editor"] == {"f:metadata": {"f:labels": {".": {}, "f:a": {}}}}
    assert edited["spec"]["serviceAccountName"] == "default"
    assert "f:serviceAccountName" not in owners["creator"]["f:spec"]
