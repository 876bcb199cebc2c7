"""What a kube-apiserver 1.36 would say to the writes of a node: its JSON schemas, and rules that no schema tells.

The schemas are upstream's published ones, in their strict form (no unknown field), from the package kubernetes-validate. The
rules are written down here anew from upstream's validation, and not taken from this project's API server: two readings of one
source, that have to agree.

Source: pkg/apis/core/validation (validation.go, events.go), pkg/apis/coordination/validation, pkg/apis/certificates/validation,
plugin/pkg/admission/noderestriction, plugin/pkg/auth/authorizer/node; apimachinery strategicpatch.
"""

from __future__ import annotations

import copy
import functools
import importlib.resources
import ipaddress
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import jsonschema

from kubelet_secrets.client.lanes import Lanes
from kubelet_secrets.client.rest import ApiClient

Json = dict[str, Any]

_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MICRO_TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_QUALIFIED = re.compile(r"([a-z0-9.-]{1,253}/)?[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")


# --- what was asked -------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Asked:
    """One request."""

    method: str
    path: str
    params: Mapping[str, str] = field(default_factory=dict)
    content_type: str = ""
    body: Any = None

    def __str__(self) -> str:
        return f"{self.method} {self.path} {json.dumps(self.body)[:600]}"


def record(client: ApiClient) -> list[Asked]:
    """Note down whatever *client* asks from now on, as it goes out."""
    asked: list[Asked] = []
    lanes: Lanes = client._lanes
    send = lanes.send

    async def noting(lane: Any, method: str, path: str, **rest: Any) -> Any:
        content = rest.get("content") or b""
        headers = rest.get("headers") or {}
        body = json.loads(content) if content else None
        asked.append(Asked(method, path, dict(rest.get("params") or {}), headers.get("content-type", ""), body))
        return await send(lane, method, path, **rest)

    lanes.send = noting  # type: ignore[method-assign]  # listens, and passes on
    return asked


# --- whether a node may ask it --------------------------------------------------------------------------------------


def check_permitted(asked: Asked, node: str) -> None:
    """By the table of the Node authorizer (semantics §10.2), the kubelet's rights and nothing more."""
    allowed = [
        ("GET", r"/api/v1/pods", {"fieldSelector": f"spec.nodeName={node}"}),
        ("GET", r"/api/v1/services", {}),
        ("GET", r"/api/v1/namespaces/[^/]+/(secrets|configmaps)", {"fieldSelector": r"metadata\.name=[^,]+"}),
        ("GET", rf"/api/v1/nodes/{node}", {}),
        ("POST", r"/api/v1/nodes", {}),
        ("PATCH", rf"/api/v1/nodes/{node}(/status)?", {}),
        ("POST|PATCH", r"/api/v1/namespaces/[^/]+/events(/[^/]+)?", {}),
        ("POST", r"/api/v1/namespaces/[^/]+/pods", {}),
        ("PATCH", r"/api/v1/namespaces/[^/]+/pods/[^/]+/status", {}),
        ("DELETE", r"/api/v1/namespaces/[^/]+/pods/[^/]+", {}),
        ("POST", r"/api/v1/namespaces/[^/]+/serviceaccounts/[^/]+/token", {}),
        ("GET|PUT", rf"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}", {}),
        ("POST", r"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases", {}),
        ("POST", r"/apis/authentication.k8s.io/v1/tokenreviews", {}),
        ("POST", r"/apis/authorization.k8s.io/v1/subjectaccessreviews", {}),
        ("GET|POST", r"/apis/certificates.k8s.io/v1/certificatesigningrequests(/[^/]+)?", {}),
    ]
    for methods, path, params in allowed:
        is_meant = re.fullmatch(methods, asked.method) and re.fullmatch(path, asked.path)
        if is_meant and all(re.fullmatch(pattern, asked.params.get(name, "")) for name, pattern in params.items()):
            return
    raise AssertionError(f"a node may not ask this: {asked} {dict(asked.params)}")


# --- whether it is well formed --------------------------------------------------------------------------------------


@functools.cache
def schema(name: str) -> Json:
    directory = importlib.resources.files("kubernetes_validate") / "kubernetes-json-schema" / "v1.36.0-local-strict"
    found: Json = json.loads((directory / f"{name}.json").read_text())
    return found


def _resolved(part: Any, document: Json) -> Any:
    """*part* with its references to other files and definitions in place."""
    if isinstance(part, dict):
        reference = part.get("$ref")
        if isinstance(reference, str):
            file, _, pointer = reference.partition("#")
            target: Any = schema(file.rpartition("/")[2].removesuffix(".json")) if file else document
            whole = target
            for step in pointer.strip("/").split("/") if pointer.strip("/") else ():
                target = target[step]
            return _resolved(target, whole)
        return {key: _resolved(value, document) for key, value in part.items()}
    return [_resolved(each, document) for each in part] if isinstance(part, list) else part


@functools.cache
def whole_schema(name: str) -> Json:
    found: Json = _resolved(schema(name), schema(name))
    return found


@functools.cache
def patch_schema(name: str) -> Json:
    """*name*, with nothing required: a patch says what it changes."""

    def relaxed(part: Any) -> Any:
        if isinstance(part, dict):
            return {key: relaxed(value) for key, value in part.items() if key != "required"}
        return [relaxed(each) for each in part] if isinstance(part, list) else part

    found: Json = relaxed(whole_schema(name))
    return found


def check_object(name: str, body: Json) -> None:
    """*body* is an object by the schema file *name*."""
    _validate(body, whole_schema(name))


def check_patch(name: str, body: Json, merge_keys: Mapping[str, str]) -> None:
    """*body* is a strategic merge patch for an object of the schema file *name*.

    Args:
        merge_keys: lists of the kind that merge → their key: in no others may directives stand, in these every entry has it.
    """
    stripped = copy.deepcopy(body)

    def strip(part: Any, where: str) -> None:
        if isinstance(part, dict):
            assert not [key for key in part if key.startswith("$")], f"a directive in {where}: {part}"
            for key, value in part.items():
                if isinstance(value, list):
                    if key in merge_keys:
                        for entry in value:
                            directive = entry.get("$patch")
                            assert directive in (None, "delete", "replace"), entry
                            assert merge_keys[key] in entry or directive == "replace", (
                                f"{key}: {entry} has no merge key"
                            )
                        value[:] = [entry for entry in value if "$patch" not in entry]
                    for entry in value:
                        strip(entry, f"{where}.{key}")
                else:
                    strip(value, f"{where}.{key}")

    strip(stripped, "")
    _validate(stripped, patch_schema(name))


def _validate(body: Json, against: Json) -> None:
    errors = sorted(jsonschema.Draft202012Validator(against).iter_errors(body), key=str)
    assert not errors, [f"{'.'.join(map(str, each.absolute_path))}: {each.message[:200]}" for each in errors]


def check_times(part: Any, where: str = "") -> None:
    """Every time of an object is RFC 3339 in UTC, to the second; microseconds where the API has them."""
    if isinstance(part, dict):
        for key, value in part.items():
            here = f"{where}.{key}"
            if key in ("renewTime", "acquireTime", "eventTime") and value is not None:
                assert _MICRO_TIME.fullmatch(value), f"{here}: {value}"
            elif (key.endswith(("Time", "Timestamp")) or key in ("startedAt", "finishedAt")) and value is not None:
                assert _TIME.fullmatch(value), f"{here}: {value}"
            else:
                check_times(value, here)
    elif isinstance(part, list):
        for each in part:
            check_times(each, where)


# --- whether it is valid --------------------------------------------------------------------------------------------


def check_event(path: str, event: Json) -> None:
    """Source: legacyValidateEvent."""
    check_object("event-v1", event)
    meta, involved = event["metadata"], event["involvedObject"]
    assert len(meta["name"]) <= 253, meta["name"]
    assert _SUBDOMAIN.fullmatch(meta["name"]), meta["name"]
    assert f"/namespaces/{meta['namespace']}/events" in path
    if involved.get("namespace"):
        assert involved["namespace"] == meta["namespace"]
    else:
        assert (involved["kind"], meta["namespace"]) == ("Node", "default")
    assert event["type"] in ("Normal", "Warning")
    assert event["reason"]
    assert event["source"]["component"] == event["reportingComponent"] == "kubelet"
    assert 0 < len(event["reportingInstance"]) <= 128
    assert event["count"] >= 1


def check_lease(asked: Asked, node: str) -> None:
    lease = asked.body
    check_object("lease-coordination-v1", lease)
    spec = lease["spec"]
    assert lease["metadata"]["name"] == spec["holderIdentity"] == node
    assert spec["leaseDurationSeconds"] > 0
    if asked.method == "PUT":
        assert lease["metadata"]["resourceVersion"], "an update that overwrites others' unseen"
    for owner in lease["metadata"].get("ownerReferences") or ():
        assert owner["uid"], owner
        assert (owner["apiVersion"], owner["kind"], owner["name"]) == ("v1", "Node", node)


def check_node_status(status: Json) -> None:
    """Source: ValidateNode, and what controllers expect of a node."""
    assert {each["type"] for each in status["conditions"]} >= {"MemoryPressure", "DiskPressure", "PIDPressure", "Ready"}
    for condition in status["conditions"]:
        assert condition["status"] in ("True", "False", "Unknown"), condition
        assert condition["reason"], condition
        assert condition["lastHeartbeatTime"], condition
        assert condition["lastTransitionTime"], condition
    assert status["capacity"].keys() == status["allocatable"].keys() >= {"cpu", "memory", "pods", "ephemeral-storage"}
    assert all(each["names"] for each in status.get("images") or ())


CONTAINER_LISTS = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")


def check_pod_status_patch(patch: Json) -> None:
    """What pods/status takes from a node: nothing but the status, for one very pod."""
    assert patch.keys() == {"metadata", "status"}, patch.keys()
    assert patch["metadata"].keys() == {"uid"}, "NodeRestriction: labels and the like are not the node's"
    assert patch["metadata"]["uid"]
    assert patch["status"], "an empty patch"
    keys = {"conditions": "type", "podIPs": "ip", "hostIPs": "ip"}
    check_patch("pod-v1", {"apiVersion": "v1", "kind": "Pod", **patch}, keys)


def check_pod_status(pod: Json) -> None:
    """The whole, after the patch. Source: ValidatePodStatusUpdate and its helpers."""
    status, spec = pod["status"], pod["spec"]
    assert status.get("phase") in ("Pending", "Running", "Succeeded", "Failed"), status.get("phase")
    assert status.get("observedGeneration", 0) <= pod["metadata"].get("generation", 0)
    for condition in status.get("conditions") or ():
        assert _QUALIFIED.fullmatch(condition["type"]), condition
        assert condition["status"] in ("True", "False", "Unknown"), condition
        assert condition.get("observedGeneration", 0) >= 0
        if condition["type"] in ("Ready", "ContainersReady") and condition["status"] == "True":
            assert not condition.get("reason"), f"why it was not so before: {condition}"
            assert not condition.get("message"), condition
    types = [each["type"] for each in status.get("conditions") or ()]
    assert len(types) == len(set(types)), types
    for one, several in (("podIP", "podIPs"), ("hostIP", "hostIPs")):
        ips = [each["ip"] for each in status.get(several) or ()]
        assert status.get(one, "") == (ips[0] if ips else ""), (one, ips)
        families = [ipaddress.ip_address(each).version for each in ips]
        assert len(families) == len(set(families)) <= 2, ips
    for field_name, spec_name in zip(
        CONTAINER_LISTS, ("initContainers", "containers", "ephemeralContainers"), strict=True
    ):
        names = [each["name"] for each in status.get(field_name) or ()]
        assert len(names) == len(set(names)), names
        assert set(names) <= {each["name"] for each in spec.get(spec_name) or ()}, names
        for each in status.get(field_name) or ():
            for state in (each.get("state") or {}, each.get("lastState") or {}):
                assert len([value for value in state.values() if value is not None]) <= 1, state
            if (ended := (each.get("state") or {}).get("terminated")) is not None:
                assert ended["finishedAt"], ended
                assert ended["startedAt"], ended
            assert each["restartCount"] >= 0
            assert not each["ready"] or each["started"] or field_name == "initContainerStatuses", each


def check_transition(old: Json, new: Json) -> None:
    """From one status of a pod to the next. Source: ValidateContainerStateTransition, ValidateInitContainerStateTransition,
    and the phases that are the end."""
    spec, before, after = new["spec"], old.get("status") or {}, new["status"]
    assert before.get("qosClass") in (None, after.get("qosClass")), "it never changes"
    assert before.get("startTime") in (None, after.get("startTime")), "it never changes"
    assert before.get("observedGeneration", 0) <= after.get("observedGeneration", 0)
    if before.get("phase") in ("Succeeded", "Failed"):
        assert after["phase"] == before["phase"]
    policies = {each["name"]: each.get("restartPolicy") for each in spec.get("initContainers") or ()}
    for list_name in CONTAINER_LISTS:
        now = {each["name"]: each for each in after.get(list_name) or ()}
        for each in before.get(list_name) or ():
            assert each["name"] in now, f"the status of {each['name']} is gone"
            assert now[each["name"]]["restartCount"] >= each["restartCount"]
            ended = (each.get("state") or {}).get("terminated")
            policy = policies.get(each["name"]) or spec["restartPolicy"]
            may_restart = policy == "Always" or (policy == "OnFailure" and ended is not None and ended["exitCode"] != 0)
            if ended is not None and not may_restart:
                is_ended = (now[each["name"]].get("state") or {}).get("terminated") is not None
                assert is_ended, f"{each['name']} may not be transitioned to non-terminated state"


def check_mirror(pod: Json, node: str) -> None:
    """Source: noderestriction, admitPodCreate; core validation of a pod that is created."""
    check_object("pod-v1", pod)
    assert "status" not in pod
    assert pod["metadata"]["annotations"]["kubernetes.io/config.mirror"]
    assert "uid" not in pod["metadata"]
    [owner] = pod["metadata"]["ownerReferences"]
    assert owner.keys() == {"apiVersion", "kind", "name", "uid", "controller"}
    assert (owner["apiVersion"], owner["kind"], owner["name"], owner["controller"]) == ("v1", "Node", node, True)
    assert pod["spec"]["nodeName"] == node
    assert not pod["spec"].get("serviceAccountName")


def check_token_request(body: Json) -> None:
    """Source: serviceaccount token strategy, noderestriction admitServiceAccount."""
    check_object(
        "tokenrequest-authentication-v1",
        {**body, "spec": {**body["spec"], "audiences": body["spec"]["audiences"] or []}},
    )
    bound = body["spec"]["boundObjectRef"]
    assert (bound["kind"], bound["apiVersion"]) == ("Pod", "v1")
    assert bound["name"]
    assert bound["uid"]
    assert len(body["spec"]["audiences"] or ()) <= 1
    assert 600 <= body["spec"]["expirationSeconds"] <= 1 << 32


def check_pod_delete(body: Json) -> None:
    check_object("deleteoptions-meta-v1", body)
    assert body["gracePeriodSeconds"] == 0
    assert body["preconditions"] == {"uid": body["preconditions"]["uid"]}
    assert body["preconditions"]["uid"]
