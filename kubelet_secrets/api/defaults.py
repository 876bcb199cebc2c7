"""What the API server fills in when a manifest leaves it out, as functions that change plain dictionaries in place.

Pure, and idempotent: defaulting an object twice changes nothing the second time. Called by the API server after decoding
and before validation, and by ``explain`` on manifests that no server has seen. A field that is ``None`` counts as absent.
Not here: what a server's *strategy* sets (uid, status, generation, clusterIP) and what admission adds (tokens, tolerations).

Source: pkg/apis/core/v1/{defaults,conversion}.go, ``+default`` markers in k8s.io/api/core/v1/types.go;
pkg/apis/rbac/v1/defaults.go; pkg/apis/authentication/v1/defaults.go; semantics §1.1, §2.1, §4.2.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterator
from typing import Any

Obj = dict[str, Any]
"""One API object, or a part of one, as JSON gives it."""

DEFAULT_FILE_MODE = 0o644
RBAC_GROUP = "rbac.authorization.k8s.io"

# docker/distribution reference grammar, as far as deciding "is there a tag, and does it parse at all" needs it.
_PATH_COMPONENT = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_IMAGE = re.compile(
    r"(?:(?P<domain>(?:localhost|[A-Za-z0-9-]*[A-Z.][A-Za-z0-9.-]*|[A-Za-z0-9.-]+(?=:[0-9]+/)|\[[0-9a-fA-F:]+\])(?::[0-9]+)?)/)?"
    rf"{_PATH_COMPONENT}(?:/{_PATH_COMPONENT})*"
    r"(?::(?P<tag>[\w][\w.-]{0,127}))?(?P<digest>@[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,})?"
)


def apply_defaults(obj: Obj) -> None:
    """Default *obj* by its ``apiVersion`` and ``kind``; a kind without defaults is left as it is."""
    defaulter = _DEFAULTERS.get((_group_of(obj), obj.get("kind", "")))
    if defaulter is not None:
        defaulter(obj)


# --- Secret, ConfigMap ---------------------------------------------------------------------------------------------


def default_secret(secret: Obj) -> None:
    """``type`` Opaque; ``stringData`` merged over ``data`` and dropped, as it is write-only."""
    _fill(secret, "type", "Opaque")
    written = secret.pop("stringData", None)
    if written:
        data = _child(secret, "data")
        for key, value in written.items():
            data[key] = base64.b64encode((value or "").encode("utf-8", "surrogatepass")).decode("ascii")
    _fill_entries(secret, "data")
    _drop_empty(secret, "data")


def default_config_map(config_map: Obj) -> None:
    """Nothing is filled in; empty maps are left out, as ``omitempty`` does."""
    _fill_entries(config_map, "data")
    _fill_entries(config_map, "binaryData")
    _drop_empty(config_map, "data")
    _drop_empty(config_map, "binaryData")


# --- Pod -----------------------------------------------------------------------------------------------------------


def default_pod(pod: Obj) -> None:
    """Source: SetDefaults_Pod, SetDefaults_PodSpec and what they reach; the deprecated ``serviceAccount`` alias too."""
    spec = _child(pod, "spec")
    _fill(spec, "dnsPolicy", "ClusterFirst")
    _fill(spec, "restartPolicy", "Always")
    _fill(spec, "securityContext", {}, empties=(None,))
    _fill(spec, "terminationGracePeriodSeconds", 30, empties=(None,))
    _fill(spec, "schedulerName", "default-scheduler")
    _fill(spec, "enableServiceLinks", True, empties=(None,))
    _fill(spec, "serviceAccountName", spec.get("serviceAccount") or "")
    if spec["serviceAccountName"]:
        spec["serviceAccount"] = spec["serviceAccountName"]
    else:
        del spec["serviceAccountName"]
        spec.pop("serviceAccount", None)
    for volume in _entries(spec, "volumes"):
        default_volume(volume)
    for field in ("initContainers", "containers", "ephemeralContainers"):
        for container in _entries(spec, field):
            default_container(container)
            if field != "ephemeralContainers":
                _requests_from_limits(container.get("resources"))
                if spec.get("hostNetwork"):
                    for port in _entries(container, "ports"):
                        _fill(port, "hostPort", port.get("containerPort", 0), empties=(None, 0))
    if isinstance(spec.get("resources"), dict):
        _requests_from_limits(spec["resources"])


def default_container(container: Obj) -> None:
    """Source: SetDefaults_Container, SetDefaults_Probe, SetDefaults_HTTPGetAction, SetDefaults_ObjectFieldSelector."""
    _fill(container, "imagePullPolicy", default_pull_policy(container.get("image") or ""))
    _fill(container, "terminationMessagePath", "/dev/termination-log")
    _fill(container, "terminationMessagePolicy", "File")
    _fill(container, "resources", {}, empties=(None,))
    for port in _entries(container, "ports"):
        _fill(port, "protocol", "TCP")
    for variable in _entries(container, "env"):
        source = variable.get("valueFrom")
        if isinstance(source, dict):
            _default_reference(source)
            if isinstance(source.get("fileKeyRef"), dict):
                _fill(source["fileKeyRef"], "optional", False, empties=(None,))
    for name in ("livenessProbe", "readinessProbe", "startupProbe"):
        if isinstance(container.get(name), dict):
            _default_probe(container[name])
    for hook in (container.get("lifecycle") or {}).values():
        if isinstance(hook, dict):
            _default_http_get(hook)


def default_volume(volume: Obj) -> None:
    """``emptyDir`` when no source is named; 0644 where files get a mode; 3600 s for tokens."""
    if not any(value is not None for key, value in volume.items() if key != "name"):
        volume["emptyDir"] = {}
    for source in ("secret", "configMap", "downwardAPI", "projected"):
        if isinstance(volume.get(source), dict):
            _fill(volume[source], "defaultMode", DEFAULT_FILE_MODE, empties=(None,))
    for item in _entries(volume.get("downwardAPI"), "items"):
        _default_reference(item)
    for projection in _entries(volume.get("projected"), "sources"):
        for item in _entries(projection.get("downwardAPI"), "items"):
            _default_reference(item)
        if isinstance(projection.get("serviceAccountToken"), dict):
            _fill(projection["serviceAccountToken"], "expirationSeconds", 3600, empties=(None,))
    if isinstance(volume.get("hostPath"), dict):
        _fill(volume["hostPath"], "type", "")
    if isinstance(volume.get("image"), dict):
        _fill(volume["image"], "pullPolicy", default_pull_policy(volume["image"].get("reference") or ""))


def default_pull_policy(image: str) -> str:
    """``Always`` for the tag ``latest``, written or implied; else ``IfNotPresent``, also for what does not parse.

    Source: SetDefaults_Container, pkg/util/parsers.ParseImageName.
    """
    match = _IMAGE.fullmatch(image)
    if match is None:
        return "IfNotPresent"
    is_latest = match["tag"] == "latest" or (match["tag"] is None and match["digest"] is None)
    return "Always" if is_latest else "IfNotPresent"


def _default_reference(source: Obj) -> None:
    if isinstance(source.get("fieldRef"), dict):
        _fill(source["fieldRef"], "apiVersion", "v1")
    if isinstance(source.get("resourceFieldRef"), dict):
        _fill(source["resourceFieldRef"], "divisor", "0", empties=(None, "", 0))
        source["resourceFieldRef"]["divisor"] = str(source["resourceFieldRef"]["divisor"])


def _default_probe(probe: Obj) -> None:
    _fill(probe, "timeoutSeconds", 1, empties=(None, 0))
    _fill(probe, "periodSeconds", 10, empties=(None, 0))
    _fill(probe, "successThreshold", 1, empties=(None, 0))
    _fill(probe, "failureThreshold", 3, empties=(None, 0))
    if isinstance(probe.get("grpc"), dict):
        _fill(probe["grpc"], "service", "")
    _default_http_get(probe)


def _default_http_get(handler: Obj) -> None:
    if isinstance(handler.get("httpGet"), dict):
        _fill(handler["httpGet"], "path", "/")
        _fill(handler["httpGet"], "scheme", "HTTP")


def _requests_from_limits(resources: Obj | None) -> None:
    """A request that is not given equals the limit. Quantities written as numbers become text, as they leave a server."""
    if not resources:
        return
    for name in ("limits", "requests"):
        for resource, quantity in (resources.get(name) or {}).items():
            if isinstance(quantity, (int, float)) and not isinstance(quantity, bool):
                resources[name][resource] = str(quantity)
    if resources.get("limits"):
        requests = _child(resources, "requests")
        for resource, quantity in resources["limits"].items():
            requests.setdefault(resource, quantity)


# --- Others --------------------------------------------------------------------------------------------------------


def default_service(service: Obj) -> None:
    """Source: SetDefaults_Service. The address itself is given by the server's strategy."""
    spec = _child(service, "spec")
    _fill(spec, "sessionAffinity", "None")
    _fill(spec, "type", "ClusterIP")
    if spec["type"] in ("ClusterIP", "NodePort", "LoadBalancer"):
        _fill(spec, "internalTrafficPolicy", "Cluster")
    for port in _entries(spec, "ports"):
        _fill(port, "protocol", "TCP")
        _fill(port, "targetPort", port.get("port", 0), empties=(None, 0, ""))


def default_namespace(namespace: Obj) -> None:
    """The label that names it, the finalizer of its content, and the phase."""
    metadata = _child(namespace, "metadata")
    if metadata.get("name"):
        _child(metadata, "labels")["kubernetes.io/metadata.name"] = metadata["name"]
    _fill(_child(namespace, "status"), "phase", "Active")


def default_node(node: Obj) -> None:
    """Allocatable is the capacity until a kubelet says otherwise."""
    status = node.get("status")
    if isinstance(status, dict) and status.get("allocatable") is None and status.get("capacity") is not None:
        status["allocatable"] = dict(status["capacity"])


def default_role_binding(binding: Obj) -> None:
    """API groups of the role and of subjects that are users or groups; the namespace of service accounts is not guessed."""
    if isinstance(binding.get("roleRef"), dict):
        _fill(binding["roleRef"], "apiGroup", RBAC_GROUP)
    for subject in _entries(binding, "subjects"):
        if subject.get("kind") in ("User", "Group"):
            _fill(subject, "apiGroup", RBAC_GROUP)


def default_token_request(request: Obj) -> None:
    _fill(_child(request, "spec"), "expirationSeconds", 3600, empties=(None,))


def default_csi_driver(driver: Obj) -> None:
    """Source: pkg/apis/storage/v1/defaults.go."""
    spec = _child(driver, "spec")
    _fill(spec, "attachRequired", True, empties=(None,))
    _fill(spec, "fsGroupPolicy", "ReadWriteOnceWithFSType")
    for field in ("podInfoOnMount", "storageCapacity", "requiresRepublish", "seLinuxMount"):
        _fill(spec, field, False, empties=(None,))
    _fill(spec, "volumeLifecycleModes", ["Persistent"], empties=(None, []))


_DEFAULTERS: dict[tuple[str, str], Callable[[Obj], None]] = {
    ("", "Secret"): default_secret,
    ("", "ConfigMap"): default_config_map,
    ("", "Pod"): default_pod,
    ("", "Service"): default_service,
    ("", "Namespace"): default_namespace,
    ("", "Node"): default_node,
    (RBAC_GROUP, "RoleBinding"): default_role_binding,
    (RBAC_GROUP, "ClusterRoleBinding"): default_role_binding,
    ("authentication.k8s.io", "TokenRequest"): default_token_request,
    ("storage.k8s.io", "CSIDriver"): default_csi_driver,
}


def _group_of(obj: Obj) -> str:
    group, slash, _ = str(obj.get("apiVersion", "")).partition("/")
    return group if slash else ""


def _fill(obj: Obj, field: str, value: Any, *, empties: tuple[Any, ...] = (None, "")) -> None:
    if obj.get(field) in empties:
        obj[field] = value


def _child(obj: Obj, field: str) -> Obj:
    """The mapping at *field*, made when it is absent."""
    if obj.get(field) is None:
        obj[field] = {}
    child: Obj = obj[field]
    return child


def _entries(obj: Obj | None, field: str) -> Iterator[Obj]:
    yield from (entry for entry in ((obj or {}).get(field) or ()) if isinstance(entry, dict))


def _fill_entries(obj: Obj, field: str) -> None:
    """An entry of a map that is ``null`` is there and empty, as Go decodes it."""
    for key, value in (obj.get(field) or {}).items():
        if value is None:
            obj[field][key] = ""


def _drop_empty(obj: Obj, field: str) -> None:
    if field in obj and not obj[field]:
        del obj[field]
