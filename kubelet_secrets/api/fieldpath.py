"""``fieldRef``: the value of one field of a pod, as text.

Pure. Used by the downward API volume (``volume/downward.py``) and by variables (``envvars/environment.py``); which paths each
of the two allows is the API's validation, not decided here.

Source: pkg/fieldpath/fieldpath.go and pkg/apis/core/pods/helpers.go, ConvertDownwardAPIFieldLabel; semantics §4.4.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Address, IPv6Address, ip_address

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.quoting import go_quote
from kubelet_secrets.api.validation.names import qualified_name_errors
from kubelet_secrets.errors import KubeletSecretsError

_LABELS = frozenset(
    {
        "metadata.annotations",
        "metadata.labels",
        "metadata.name",
        "metadata.namespace",
        "metadata.uid",
        "spec.nodeName",
        "spec.restartPolicy",
        "spec.serviceAccountName",
        "spec.schedulerName",
        "status.phase",
        "status.hostIP",
        "status.hostIPs",
        "status.podIP",
        "status.podIPs",
    }
)


class FieldPathError(KubeletSecretsError):
    """The path names nothing that can be given; the text is the kubelet's."""


def split_subscript(field_path: str) -> tuple[str, str] | None:
    """``metadata.labels['K']`` → (``metadata.labels``, ``K``); None for a path without a subscript.

    Source: SplitMaybeSubscriptedPath.
    """
    if not field_path.endswith("']"):
        return None
    path, separator, subscript = field_path[:-2].partition("['")
    return (path, subscript) if separator and path else None


def convert_label(api_version: str, label: str) -> str:
    """Check a variable's field path and bring old spellings up to date.

    Raises:
        FieldPathError: another API version, an unknown label, or a subscript where none is allowed.

    Source: ConvertDownwardAPIFieldLabel.
    """
    if api_version != "v1":
        raise FieldPathError(f"unsupported pod version: {api_version}")
    if (split := split_subscript(label)) is not None:
        if split[0] in ("metadata.annotations", "metadata.labels"):
            return label
        raise FieldPathError(f"field label does not support subscript: {label}")
    if label == "spec.host":
        return "spec.nodeName"
    if label not in _LABELS:
        raise FieldPathError(f"field label not supported: {label}")
    return label


def extract_field(pod: Pod, field_path: str) -> str:
    """The text of a metadata field of *pod*.

    Returns:
        The raw value; for whole labels or annotations one ``key="value"`` line per entry. A missing label is "".

    Raises:
        FieldPathError: not a metadata field, or a subscript that is no label or annotation key.

    Source: ExtractFieldPathAsString.
    """
    meta = pod.metadata
    if (split := split_subscript(field_path)) is not None:
        path, key = split
        if path not in ("metadata.annotations", "metadata.labels"):
            raise FieldPathError(f"fieldPath {go_quote(field_path)} does not support subscript")
        is_annotation = path == "metadata.annotations"
        if problems := qualified_name_errors(key.lower() if is_annotation else key):
            raise FieldPathError(f"invalid key subscript in {field_path}: {';'.join(problems)}")
        return (meta.annotations if is_annotation else meta.labels).get(key, "")
    match field_path:
        case "metadata.annotations":
            return format_map(meta.annotations)
        case "metadata.labels":
            return format_map(meta.labels)
        case "metadata.name":
            return meta.name
        case "metadata.namespace":
            return meta.namespace
        case "metadata.uid":
            return meta.uid
        case _:
            raise FieldPathError(f"unsupported fieldPath: {field_path}")


def format_map(entries: Mapping[str, str]) -> str:
    """Labels or annotations as the downward API writes them: sorted by key, no newline at the end."""
    ordered = sorted(entries.items(), key=lambda entry: entry[0].encode("utf-8", "surrogatepass"))
    return "\n".join(f"{key}={go_quote(text)}" for key, text in ordered)


def sort_pod_ips(ips: tuple[str, ...], *, is_ipv6_primary: bool = False) -> tuple[str, ...]:
    """The first address of each family, the node's primary family first; what is no address is left out.

    Source: pkg/kubelet/kubelet_pods.go, sortPodIPs.
    """
    families = (IPv6Address, IPv4Address) if is_ipv6_primary else (IPv4Address, IPv6Address)
    first: dict[type[IPv4Address] | type[IPv6Address], str] = {}
    for text in ips:
        try:
            first.setdefault(type(ip_address(text)), text)
        except ValueError:
            continue
    return tuple(first[family] for family in families if family in first)
