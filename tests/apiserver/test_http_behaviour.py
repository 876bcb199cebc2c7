"""What kubectl relies on, asked for over plain HTTP: the same behaviours as in ``test_kubectl.py``, without kubectl."""

from __future__ import annotations

from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver import patch
from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import JSON, PODS, SECRETS, STRATEGIC, TABLE, Answer, Http, client_context, pod, secret
from tests.apiserver.test_protobuf import SECRET as SECRET_AS_PROTOBUF

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
STRICT = "fieldValidation=Strict"
PROTOBUF = "application/vnd.kubernetes.protobuf"


def _config_map(**data: str) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "c"}, "data": data}


def _failure(answer: Answer) -> tuple[int, str, str]:
    body = answer.json
    assert body["kind"] == "Status"
    assert body["code"] == answer.status
    return answer.status, body["reason"], body["message"]


# --- create --------------------------------------------------------------------------------------------------------


async def test_protobuf_in_json_out(admin: Http) -> None:
    made = await admin.post(SECRETS, bytes.fromhex(SECRET_AS_PROTOBUF), PROTOBUF)
    assert (made.status, made.json["data"], made.json["type"]) == (201, {"password": "cHc="}, "Opaque")
    garbled = await admin.post(SECRETS, b"k8s\0\xff\xff", PROTOBUF)
    assert garbled.status == 400
    other = await admin.post(SECRETS, b"<x/>", "application/xml")
    assert _failure(other)[:2] == (415, "UnsupportedMediaType")


async def test_strict_validation_names_the_field(admin: Http) -> None:
    body = {**secret("s", a="b"), "bogus": 1}
    refused = await admin.post(f"{SECRETS}?{STRICT}", body)
    assert _failure(refused) == (
        400,
        "BadRequest",
        'Secret in version "v1" cannot be handled as a Secret: strict decoding error: unknown field "bogus"',
    )
    warned = await admin.post(f"{SECRETS}?fieldValidation=Warn", body)
    assert warned.status == 201
    assert warned.headers["warning"] == '299 - "unknown field \\"bogus\\""'
    await admin.delete(f"{SECRETS}/s")
    silent = await admin.post(f"{SECRETS}?fieldValidation=Ignore", body)
    assert "warning" not in silent.headers


async def test_a_field_that_is_named_twice_is_an_error_or_a_warning(admin: Http) -> None:
    body = b'{"metadata":{"name":"s"},"type":"Opaque","bogus":1,"type":"Opaque"}'
    refused = await admin.post(f"{SECRETS}?{STRICT}", body)
    assert _failure(refused) == (
        400,
        "BadRequest",
        'Secret in version "v1" cannot be handled as a Secret: strict decoding error: duplicate field "type", unknown field '
        '"bogus"',
    )
    warned = await admin.post(SECRETS, body)
    assert warned.headers.get_list("warning") == [
        '299 - "duplicate field \\"type\\""',
        '299 - "unknown field \\"bogus\\""',
    ]
    patch = b'{"data":{"a":"eA==","a":"eQ=="}}'
    refused = await admin.send("PATCH", f"{SECRETS}/s?{STRICT}", patch, "application/merge-patch+json")
    assert 'strict decoding error: duplicate field "data.a"' in refused.message
    applied = b"apiVersion: v1\nkind: Secret\nmetadata:\n  name: s\n  name: s\n"
    path = f"{SECRETS}/s?{STRICT}&fieldManager=m"
    refused = await admin.send("PATCH", path, applied, "application/apply-patch+yaml")
    assert refused.message.endswith(
        'strict decoding error: yaml: unmarshal errors:\n  line 5: key "name" already set in map'
    )


async def test_a_request_that_does_not_end_is_ended(server: ServerHandle, admin: Http) -> None:
    """Over HTTP/1.1: a client of ours would finish its request before it looks at the answer."""
    context = client_context(server, server.authority.issue_admin())
    with trio.fail_after(60):
        tcp = await trio.open_tcp_stream("127.0.0.1", server.port)
        async with trio.SSLStream(tcp, context, server_hostname="127.0.0.1", https_compatible=True) as tls:
            head = f"POST {SECRETS}?timeout=200ms HTTP/1.1\r\nHost: x\r\nContent-Type: {JSON}\r\nContent-Length: 99\r\n\r\n{{"
            await tls.send_all(head.encode())
            answer = b""
            while b"}" not in answer:
                answer += await tls.receive_some()
    assert answer.startswith(b"HTTP/1.1 504")
    assert b'"message":"Timeout: request did not complete within the allotted timeout","reason":"Timeout"' in answer
    assert (await admin.get(f"{SECRETS}?timeout=1m30s")).status == 200, "longer than allowed is as long as allowed"
    refused = await admin.get(f"{SECRETS}?timeout=soon")
    assert _failure(refused)[:2] == (400, "BadRequest")


@pytest.mark.parametrize("metadata", [[None], "x", 1])
async def test_metadata_of_a_wrong_type_is_the_clients_fault(admin: Http, metadata: object) -> None:
    for path, body in (
        (SECRETS, {"metadata": metadata}),
        ("/api/v1/namespaces", {"metadata": metadata}),
        ("/api/v1/namespaces/default/serviceaccounts/default/token", {"metadata": metadata}),
    ):
        assert _failure(await admin.post(path, body))[:2] == (400, "BadRequest")
    assert _failure(await admin.put(f"{SECRETS}/s", {"metadata": metadata}))[:2] == (400, "BadRequest")
    assert _failure(await admin.delete(f"{SECRETS}/s", {"preconditions": metadata}))[:2] == (400, "BadRequest")
    assert _failure(await admin.post("/api/v1/namespaces", {}))[:2] == (422, "Invalid")


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (
            {**secret("s"), "data": {"k": "canary!"}},
            (
                400,
                "BadRequest",
                'Secret in version "v1" cannot be handled as a Secret: illegal base64 data at input byte 6',
            ),
        ),
        (
            {**secret("s"), "type": "kubernetes.io/ssh-auth"},
            (422, "Invalid", 'Secret "s" is invalid: data[ssh-privatekey]: Required value'),
        ),
        (
            {**secret("s"), "type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "canary"}},
            (
                422,
                "Invalid",
                'Secret "s" is invalid: data[.dockercfg]: Invalid value: "<secret contents redacted>": invalid character in '
                "JSON input",
            ),
        ),
        (
            secret("s", **{"..": "x"}),
            (422, "Invalid", 'Secret "s" is invalid: data[..]: Invalid value: "..": must not be \'..\''),
        ),
        (
            {**secret("s"), "kind": "ConfigMap"},
            (400, "BadRequest", "the object provided is unrecognized (must be of type Secret)"),
        ),
    ],
)
async def test_invalid_secrets_are_refused_without_their_values(
    admin: Http, body: Any, expected: tuple[int, str, str]
) -> None:
    refused = await admin.post(SECRETS, body)
    if "unrecognized" in expected[2]:
        assert refused.status == 400
    else:
        assert _failure(refused) == expected
    assert b"canary" not in refused.body


async def test_a_secret_of_a_mebibyte_is_the_largest(admin: Http) -> None:
    mebibyte = 1024 * 1024
    assert (await admin.post(SECRETS, secret("fits", a="x" * mebibyte))).status == 201
    refused = await admin.post(SECRETS, secret("more", a="x" * (mebibyte + 1)))
    assert _failure(refused)[2] == 'Secret "more" is invalid: data: Too long: may not be more than 1048576 bytes'


async def test_pods_are_defaulted_and_checked(admin: Http) -> None:
    volume = {"name": "v", "secret": {"secretName": "s"}}
    made = (await admin.post(PODS, pod("p", volumes=[volume]))).json
    assert made["spec"]["volumes"][0]["secret"] == {"secretName": "s", "defaultMode": 420}
    assert made["spec"]["enableServiceLinks"] is True
    assert made["status"]["phase"] == "Pending"
    mount = {"name": "c", "image": "i", "volumeMounts": [{"name": "none", "mountPath": "/x"}]}
    refused = await admin.post(PODS, pod("q", containers=[mount]))
    assert refused.json["details"]["causes"] == [
        {
            "reason": "FieldValueNotFound",
            "message": 'Not found: "none"',
            "field": "spec.containers[0].volumeMounts[0].name",
        }
    ]


async def test_what_is_probably_not_meant_is_a_warning(admin: Http) -> None:
    container = {"name": "c", "image": "i", "env": [{"name": "A", "value": "1"}, {"name": "A", "value": "2"}]}
    made = await admin.post(PODS, pod("p", containers=[container]))
    assert made.headers["warning"] == (
        '299 - "spec.containers[0].env[1]: hides previous definition of \\"A\\", which may be dropped when using apply"'
    )
    assert "warning" not in (await admin.patch(f"{PODS}/p", {"metadata": {"labels": {"a": "b"}}})).headers
    pair = {**secret("s", **{"tls.crt": "canary", "tls.key": ""}), "type": "kubernetes.io/tls"}
    text = '299 - "tls: failed to find any PEM data in certificate input"'
    assert (await admin.post(SECRETS, pair)).headers["warning"] == text
    assert (await admin.patch(f"{SECRETS}/s", {"metadata": {"labels": {"a": "b"}}})).headers["warning"] == text
    assert "warning" not in (await admin.get(f"{SECRETS}/s")).headers


# --- change --------------------------------------------------------------------------------------------------------


async def test_four_types_of_patch(admin: Http) -> None:
    await admin.post(PODS, pod("p"))
    strategic = await admin.patch(f"{PODS}/p", {"spec": {"containers": [{"name": "c", "image": "other"}]}}, STRATEGIC)
    assert [(c["name"], c["image"]) for c in strategic.json["spec"]["containers"]] == [("c", "other")]
    await admin.post(CONFIG_MAPS, _config_map(a="1", b="2"))
    merged = await admin.patch(f"{CONFIG_MAPS}/c", {"data": {"a": None, "d": "4"}})
    assert merged.json["data"] == {"b": "2", "d": "4"}
    operations = [{"op": "test", "path": "/data/b", "value": "2"}, {"op": "remove", "path": "/data/b"}]
    assert (await admin.patch(f"{CONFIG_MAPS}/c", operations, patch.JSON_PATCH)).json["data"] == {"d": "4"}
    failed = await admin.patch(f"{CONFIG_MAPS}/c", operations, patch.JSON_PATCH)
    assert _failure(failed) == (
        422,
        "Invalid",
        "the server rejected our request due to an error in our request",
    )
    unknown = await admin.patch(f"{CONFIG_MAPS}/c", {}, JSON)
    assert unknown.status == 415


async def test_patches_pass_the_same_checks_as_updates(admin: Http) -> None:
    await admin.post(SECRETS, {**secret("s", a="b"), "immutable": True})
    refused = await admin.patch(f"{SECRETS}/s", {"stringData": {"a": "canary"}})
    assert _failure(refused) == (
        422,
        "Invalid",
        'Secret "s" is invalid: data: Forbidden: field is immutable when `immutable` is set',
    )
    strict = await admin.patch(f"{SECRETS}/s?{STRICT}", {"metadata": {"lables": {}}})
    # The patch is to blame, and the object not named: so does a kube-apiserver 1.20.2, which shows the object besides.
    text = ' "" is invalid: patch: Invalid value: "": strict decoding error: unknown field "metadata.lables"'
    assert _failure(strict) == (422, "Invalid", text)
    wrong = await admin.patch(f"{SECRETS}/s", {"data": ["canary"]})
    assert wrong.status == 422
    assert wrong.message.startswith(' "" is invalid: patch: Invalid value: "": json: cannot unmarshal array into Go')
    assert b"canary" not in refused.body + wrong.body
    assert (await admin.patch(f"{SECRETS}/s", {"metadata": {"labels": {"a": "b"}}})).status == 200


async def test_what_may_not_change(admin: Http) -> None:
    await admin.post(SECRETS, secret("s", a="b"))
    refused = await admin.patch(f"{SECRETS}/s", {"type": "kubernetes.io/tls"})
    assert 'type: Invalid value: "kubernetes.io/tls": field is immutable' in refused.message
    stored = (await admin.get(f"{SECRETS}/s")).json
    kept = await admin.put(f"{SECRETS}/s", {**stored, "type": ""})
    assert kept.json["type"] == "Opaque"
    await admin.post(PODS, pod("p"))
    moved = await admin.patch(f"{PODS}/p", {"spec": {"hostname": "h"}})
    assert moved.message.startswith('Pod "p" is invalid: spec: Forbidden: pod updates may not change fields other than')


async def test_apply_on_the_server(admin: Http) -> None:
    one, two = (f"{CONFIG_MAPS}/c?fieldManager={name}" for name in ("one", "two"))
    assert (await admin.patch(one, _config_map(a="1", b="1"), patch.APPLY)).status == 201
    assert (await admin.patch(one, _config_map(a="1"), patch.APPLY)).json["data"] == {"a": "1"}
    conflict = await admin.patch(two, _config_map(a="2"), patch.APPLY)
    assert _failure(conflict) == (409, "Conflict", 'Apply failed with 1 conflict: conflict with "one": .data.a')
    forced = await admin.patch(f"{two}&force=true", _config_map(a="2"), patch.APPLY)
    assert forced.json["data"] == {"a": "2"}
    nobody = await admin.patch(f"{CONFIG_MAPS}/c", _config_map(a="3"), patch.APPLY)
    assert "fieldManager: Required value: is required for apply patch" in nobody.message
    as_yaml = b"apiVersion: v1\nkind: ConfigMap\nmetadata:\n  name: c\ndata:\n  y: '1'\n"
    assert (await admin.patch(two, as_yaml, patch.APPLY)).json["data"] == {"y": "1"}


async def test_dry_run_shows_and_does_not_keep(admin: Http) -> None:
    shown = await admin.post(f"{SECRETS}?dryRun=All", secret("dry", a="b"))
    assert (shown.status, shown.json["data"]) == (201, {"a": "Yg=="})
    assert (await admin.get(f"{SECRETS}/dry")).status == 404


# --- read ----------------------------------------------------------------------------------------------------------


async def test_tables_for_lists_objects_and_watches(admin: Http) -> None:
    await admin.post(SECRETS, secret("s", a="canary"))
    listed = await admin.get(SECRETS, accept=TABLE)
    assert [column["name"] for column in listed.json["columnDefinitions"]] == ["Name", "Type", "Data", "Age"]
    assert listed.json["rows"][0]["cells"][:3] == ["s", "Opaque", 1]
    assert b"canary" not in listed.body
    single = (await admin.get(f"{SECRETS}/s", accept=TABLE)).json
    assert single["rows"][0]["object"]["kind"] == "PartialObjectMetadata"
    async with admin.watch(f"{SECRETS}?watch=1", accept=TABLE) as watch:
        kind, table = await watch.next()
        assert (kind, table["rows"][0]["cells"][0]) == ("ADDED", "s")


async def test_selectors_and_their_errors(admin: Http) -> None:
    await admin.post(SECRETS, {**secret("a"), "metadata": {"name": "a", "labels": {"x": "1"}}})
    await admin.post(SECRETS, secret("b"))

    async def names(query: str) -> list[str]:
        return [item["metadata"]["name"] for item in (await admin.get(f"{SECRETS}?{query}")).json["items"]]

    assert await names("labelSelector=x") == ["a"]
    assert await names("labelSelector=!x") == ["b"]
    assert await names("fieldSelector=metadata.name%3Db") == ["b"]
    assert await names("fieldSelector=type!%3DOpaque") == []
    for query, message in (
        ("fieldSelector=spec.x%3D1", "field label not supported: spec.x"),
        ("fieldSelector=nonsense", "invalid selector: 'nonsense'; can't understand 'nonsense'"),
        ("labelSelector=,", "found ',', expected: !, identifier, or 'end of string'"),
        (f"resourceVersion={'9' * 5000}", "resourceVersion: Invalid value: must be a decimal number"),
        (f"watch=1&resourceVersion={'9' * 5000}", "resourceVersion: Invalid value: must be a decimal number"),
    ):
        refused = await admin.get(f"{SECRETS}?{query}")
        assert _failure(refused) == (400, "BadRequest", message)


async def test_discovery_and_documents(admin: Http) -> None:
    resources = (await admin.get("/api/v1")).json["resources"]
    assert {"secrets", "pods", "pods/status", "configmaps"} <= {resource["name"] for resource in resources}
    groups = (await admin.get("/apis")).json["groups"]
    for group in groups:
        answer = await admin.get(f"/apis/{group['preferredVersion']['groupVersion']}")
        assert answer.json["kind"] == "APIResourceList"
    for entry in (await admin.get("/openapi/v3")).json["paths"].values():
        assert (await admin.get(entry["serverRelativeURL"])).json["openapi"] == "3.0.0"
    assert (await admin.get("/openapi/v2")).json["swagger"] == "2.0"
