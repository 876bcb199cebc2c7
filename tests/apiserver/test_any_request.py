"""Whatever is asked of the server, by its own OpenAPI or past it: the answer is never a 500, and the server goes on.

Each example is a walk of some dozens of requests against one server, so that they also meet what the ones before them left.
``KUBELET_SECRETS_WALKS`` makes it a long run: so many walks, each of another seed.
"""

from __future__ import annotations

import os
from typing import Any

import msgspec
import trio
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from kubelet_secrets.apiserver import openapi, patch, resources
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.schemas import schema_of
from tests.apiserver.harness import JSON, Http, http_client
from tests.apiserver.test_any_object import objects

Obj = dict[str, Any]
Request = tuple[str, str, bytes, str, str]  # method, path with query, body, Content-Type, Accept

WALKS = int(os.environ.get("KUBELET_SECRETS_WALKS", "4"))
NAMES = st.sampled_from(
    ["x", "y", "default", "kube-root-ca.crt", "cluster-admin", "..", "%2e%2e", "%00", "A_b", "a%2fb", "é"]
)
NAMESPACES = st.sampled_from(["default", "default", "default", "kube-system", "none", "%20"])
# Values that some parameter takes, and some that none does; each goes to any parameter.
VALUES = st.sampled_from(
    [
        *("", "0", "1", "-1", "2", "999999999999999999999", "1e3", "true", "false", "All", "x", "%00", "%ff", "a=b"),
        *("metadata.name=x", "metadata.name!=x,type=Opaque", "status.phase in (a)", "spec.unschedulable=false", "!a"),
        *("a in (b,c)", "a notin ()", "Exact", "NotOlderThan", "Strict", "Warn", "Ignore", "Background", "Foreground"),
        *("Orphan", "e30", "eyJ2IjoibWV0YS5rOHMuaW8vdjEiLCJydiI6MSwic3RhcnQiOiIvIn0", "eyJydiI6W119", "a" * 200),
    ]
)
ODD = st.sampled_from([None, True, 0, -1, 2**70, 1.5, "", "x", [], {}, [None], {"a": None}, [[1]], {"": {"": ""}}])
ACCEPT = st.sampled_from(
    [
        *(
            "",
            "",
            JSON,
            "application/yaml",
            "*/*",
            "application/json;as=Table;v=v1;g=meta.k8s.io",
            "text/html",
            ";",
            ",",
        ),
        "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io",
        "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io",
    ]
)
TYPES = st.sampled_from(
    [
        *(JSON, JSON, JSON, "application/yaml", "application/vnd.kubernetes.protobuf", "text/plain", "", ";"),
        *(patch.JSON_PATCH, patch.MERGE_PATCH, patch.STRATEGIC_MERGE_PATCH, patch.APPLY),
    ]
)
JSON_PATCHES = st.lists(
    st.fixed_dictionaries(
        {
            "op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test", "none"]),
            "path": st.sampled_from(
                ["", "/", "/metadata", "/metadata/name", "/data/a", "/spec", "/metadata/labels/-", "x"]
            ),
        },
        optional={"value": ODD, "from": st.sampled_from(["", "/metadata", "/data", "/x"])},
    ),
    max_size=3,
)


def _operations() -> list[tuple[str, str, list[str], tuple[str, str]]]:
    """(method, path, query parameters, apiVersion and kind) of everything the server says it serves."""
    found = []
    for group, version in resources.group_versions():
        document = msgspec.json.decode(openapi.make_document(group, version).body)
        for path, item in document["paths"].items():
            for method, operation in item.items():
                if method == "parameters":
                    continue
                gvk = operation["x-kubernetes-group-version-kind"]
                api_version = f"{gvk['group']}/{gvk['version']}" if gvk["group"] else gvk["version"]
                names = [parameter["name"] for parameter in operation["parameters"]]
                found.append((method.upper(), path, names, (api_version, gvk["kind"])))
    return found


OPERATIONS = _operations()


@st.composite
def bodies(draw: st.DrawFn, kind: tuple[str, str]) -> Any:
    """An object of *kind*, mostly: now and then with something odd somewhere in it, or something else altogether."""
    body = draw(objects(schema_of(*kind), 5))
    body = body if isinstance(body, dict) else {}
    head = {"apiVersion": kind[0], "kind": kind[1]}
    metadata = {key: value for key, value in (body.get("metadata") or {}).items() if key != "resourceVersion"}
    body = {**body, **head, "metadata": {**metadata, "name": draw(st.sampled_from(["x", "y"])), "namespace": "default"}}
    if draw(st.booleans()):
        place = body
        while True:
            key = draw(st.sampled_from(sorted(place)))
            if isinstance(place[key], dict) and place[key] and draw(st.booleans()):
                place = place[key]
                continue
            place[key] = draw(ODD)
            break
    return body


@st.composite
def requests(draw: st.DrawFn) -> Request:
    method, path, names, kind = draw(st.sampled_from(OPERATIONS))
    path = path.replace("{namespace}", draw(NAMESPACES)).replace("{name}", draw(NAMES))
    query = draw(st.dictionaries(st.sampled_from(names), VALUES, max_size=3)) if draw(st.booleans()) else {}
    text = "&".join(f"{name}={value}" for name, value in query.items())
    content_type = draw(TYPES) if draw(st.booleans()) else JSON
    if method == "PATCH" and content_type == JSON:
        content_type = draw(st.sampled_from([patch.MERGE_PATCH, patch.STRATEGIC_MERGE_PATCH, patch.APPLY]))
    body = b""
    if method != "GET":
        kind = ("v1", "DeleteOptions") if method == "DELETE" else kind
        plain = draw(JSON_PATCHES if content_type == patch.JSON_PATCH else st.one_of(bodies(kind), ODD))
        body = msgspec.json.encode(plain)
    return method, f"{path}?{text}" if text else path, body, content_type, draw(ACCEPT)


async def _is_answered(admin: Http, request: Request) -> None:
    method, path, body, content_type, accept = request
    answer = await admin.begin(method, path, body, content_type, accept)
    assert answer.status < 500 or answer.status == 504, f"{request}: {answer.body.decode()}"


@settings(
    max_examples=WALKS,
    deadline=None,
    phases=[Phase.explicit, Phase.reuse, Phase.generate],  # to shrink a walk takes a server for every step of it
    suppress_health_check=list(HealthCheck),
)
@given(st.lists(requests(), min_size=30, max_size=60))
async def test_no_request_is_an_internal_error(walk: list[Request]) -> None:
    with trio.fail_after(120):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            async with http_client(server, server.authority.issue_admin()) as admin:
                for request in walk:
                    await _is_answered(admin, request)
                assert (await admin.get("/readyz")).body == b"ok"
            server.shut_down()
