from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.apiserver import strictness


def _pod(**container: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "p"}, "spec": {"containers": [container]}}


@pytest.mark.parametrize(
    ("obj", "kind", "messages"),
    [
        (_pod(name="a", image="b"), "Pod", []),
        (_pod(name="a", imagee="b"), "Pod", ['unknown field "spec.containers[0].imagee"']),
        ({"bogus": 1, "metadata": {"labels": {"any": "thing"}, "nam": "x"}}, "Secret", None),
        ({"data": {"any.key": "eA=="}, "stringData": {"other": "x"}}, "Secret", []),
        (_pod(name="a", resources={"limits": {"example.com/gpu": "1"}}), "Pod", []),
        ({"metadata": {"managedFields": [{"fieldsV1": {"f:data": {"f:x": {}}}}]}}, "Secret", []),
        ({"anything": {"goes": 1}}, "Unheard", []),
    ],
)
def test_unknown_fields(obj: dict[str, Any], kind: str, messages: list[str] | None) -> None:
    found = strictness.unknown_fields(obj, "v1", kind)
    assert found == (['unknown field "bogus"', 'unknown field "metadata.nam"'] if messages is None else messages)


def test_the_text_of_a_strict_error_is_what_kubectl_prints() -> None:
    problems = strictness.unknown_fields(_pod(name="a", imagee="b"), "v1", "Pod")
    assert strictness.cannot_be_handled("Pod", "v1", strictness.strict_cause(problems)) == (
        'Pod in version "v1" cannot be handled as a Pod: strict decoding error: unknown field "spec.containers[0].imagee"'
    )


@pytest.mark.parametrize(
    ("obj", "kind", "problem"),
    [
        (
            {"data": {"k": 5}},
            "ConfigMap",
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        ({"data": "x"}, "ConfigMap", "json: cannot unmarshal string into Go struct field ConfigMap.data of type map"),
        ({"data": {"k": "not base64!"}}, "Secret", "illegal base64 data at input byte 3"),
        (
            {"immutable": "yes"},
            "Secret",
            "json: cannot unmarshal string into Go struct field Secret.immutable of type bool",
        ),
        (
            {"spec": {"containers": {"name": "x"}}},
            "Pod",
            "json: cannot unmarshal object into Go struct field Pod.spec.containers of type slice",
        ),
        (
            {"spec": {"containers": [{"name": 1}]}},
            "Pod",
            "json: cannot unmarshal number into Go struct field Pod.spec.containers.name of type string",
        ),
        (
            {"spec": {"activeDeadlineSeconds": True}},
            "Pod",
            "json: cannot unmarshal bool into Go struct field Pod.spec.activeDeadlineSeconds of type int64",
        ),
        (
            {"spec": {"containers": [{"resources": {"limits": {"cpu": "lots"}}}]}},
            "Pod",
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        ({"metadata": []}, "Pod", "json: cannot unmarshal array into Go struct field Pod.metadata of type struct"),
        ({"metadata": {"creationTimestamp": "yesterday"}}, "Pod", "parsing time in Pod.metadata.creationTimestamp"),
    ],
)
def test_wrong_types_are_told_by_field(obj: dict[str, Any], kind: str, problem: str) -> None:
    message = strictness.decode_error(obj, "v1", kind)
    assert message is not None
    assert message.startswith(f'{kind} in version "v1" cannot be handled as a {kind}: {problem}')


@pytest.mark.parametrize(
    ("obj", "kind"),
    [
        ({"data": {"k": "eHg=\n"}, "metadata": {"creationTimestamp": None}}, "Secret"),
        ({"spec": {"containers": [{"resources": {"limits": {"cpu": 1.5, "memory": "1Gi"}}}]}}, "Pod"),
        ({"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": "http"}}}]}}, "Pod"),
        ({"metadata": {"creationTimestamp": "2026-01-01T00:00:00Z"}}, "Pod"),
        ({"spec": {"renewTime": "2026-01-01T00:00:00.123456Z"}}, "Lease"),
        ({"unknown": object()}, "Pod"),
    ],
)
def test_right_types_pass(obj: dict[str, Any], kind: str) -> None:
    assert strictness.decode_error(obj, "coordination.k8s.io/v1" if kind == "Lease" else "v1", kind) is None


def test_no_value_is_ever_quoted() -> None:
    canary = "canary-4711"
    for obj in ({"data": {"k": canary}}, {"data": canary}, {"data": [canary]}, {"type": {"x": canary}}):
        assert canary not in str(strictness.decode_error(obj, "v1", "Secret"))


@pytest.mark.parametrize(
    ("text", "offset"),
    [
        ("", None),
        ("eA==", None),
        ("eH\ng=", None),
        ("!", 0),
        ("eA", 0),
        ("eHh4e", 4),
        ("eA=", 3),
        ("eA==e", 4),
        ("e===", 1),
    ],
)
def test_base64_fails_where_gos_decoder_does(text: str, offset: int | None) -> None:
    assert strictness.illegal_base64_offset(text) == offset
