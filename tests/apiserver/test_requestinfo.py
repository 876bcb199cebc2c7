"""What a URL is about. Source: k8s.io/apiserver pkg/endpoints/request/requestinfo_test.go."""

from __future__ import annotations

import pytest

from kubelet_secrets.apiserver.requestinfo import is_true, parse_request


@pytest.mark.parametrize(
    ("method", "path", "verb", "group", "namespace", "plural", "subresource", "name"),
    [
        ("GET", "/api/v1/namespaces", "list", "", "", "namespaces", "", ""),
        ("GET", "/api/v1/namespaces/other", "get", "", "other", "namespaces", "", "other"),
        ("PUT", "/api/v1/namespaces/other/finalize", "update", "", "other", "namespaces", "finalize", "other"),
        ("PATCH", "/api/v1/namespaces/other/status", "patch", "", "other", "namespaces", "status", "other"),
        ("GET", "/api/v1/namespaces/other/pods", "list", "", "other", "pods", "", ""),
        ("GET", "/api/v1/namespaces/other/pods/foo", "get", "", "other", "pods", "", "foo"),
        ("HEAD", "/api/v1/namespaces/other/pods/foo", "get", "", "other", "pods", "", "foo"),
        ("GET", "/api/v1/pods", "list", "", "", "pods", "", ""),
        ("POST", "/api/v1/namespaces/other/pods", "create", "", "other", "pods", "", ""),
        ("DELETE", "/api/v1/namespaces/other/pods", "deletecollection", "", "other", "pods", "", ""),
        ("DELETE", "/api/v1/namespaces/other/pods/foo", "delete", "", "other", "pods", "", "foo"),
        ("GET", "/api/v1/namespaces/other/pods/foo/log", "get", "", "other", "pods", "log", "foo"),
        ("POST", "/api/v1/namespaces/o/pods/foo/binding", "create", "", "o", "pods", "binding", "foo"),
        ("GET", "/apis/coordination.k8s.io/v1/leases", "list", "coordination.k8s.io", "", "leases", "", ""),
        ("PATCH", "/api/v1/nodes/n/status", "patch", "", "", "nodes", "status", "n"),
        ("GET", "/api/v1/nodes/n/proxy/stats/summary", "get", "", "", "nodes", "proxy", "n"),
    ],
)
def test_resource_requests(
    method: str, path: str, verb: str, group: str, namespace: str, plural: str, subresource: str, name: str
) -> None:
    info = parse_request(method, path, {})
    assert info.is_resource
    assert (info.verb, info.group, info.namespace) == (verb, group, namespace)
    assert (info.plural, info.subresource, info.name) == (plural, subresource, name)


@pytest.mark.parametrize(
    "path", ["/", "/healthz", "/api", "/api/", "/api/v1", "/apis", "/apis/g", "/apis/g/v1", "/openapi/v3"]
)
def test_paths_that_are_no_resource(path: str) -> None:
    info = parse_request("GET", path, {})
    assert (info.is_resource, info.verb, info.path) == (False, "get", path)


@pytest.mark.parametrize(
    ("query", "verb", "name"),
    [
        ({"watch": "1"}, "watch", ""),
        ({"watch": "true"}, "watch", ""),
        ({"watch": "false"}, "list", ""),
        ({"watch": "0"}, "list", ""),
        ({"fieldSelector": "metadata.name=foo"}, "list", "foo"),
        ({"watch": "1", "fieldSelector": "metadata.name=foo,type=Opaque"}, "watch", "foo"),
        ({"fieldSelector": "metadata.name!=foo"}, "list", ""),
        ({"fieldSelector": "metadata.name"}, "list", ""),
    ],
)
def test_a_field_selector_can_name_the_object(query: dict[str, str], verb: str, name: str) -> None:
    info = parse_request("GET", "/api/v1/namespaces/ns/secrets", query)
    assert (info.verb, info.name) == (verb, name)


def test_watching_one_object_by_path_is_a_get() -> None:
    assert parse_request("GET", "/api/v1/namespaces/ns/secrets/x", {"watch": "1"}).verb == "get"


@pytest.mark.parametrize("name", ["%2e%2e", "a%2Fb"])
def test_names_are_not_decoded_a_second_time(name: str) -> None:
    assert parse_request("GET", f"/api/v1/namespaces/ns/secrets/{name}", {}).name == name


@pytest.mark.parametrize(
    ("text", "expected"), [("", False), ("0", False), ("false", False), ("False", False), ("1", True), ("yes", True)]
)
def test_booleans_of_a_query(text: str, expected: bool) -> None:
    assert is_true(text) is expected
