"""Which objects a list or a watch is about: namespace, name and selectors, checked against what the resource supports.

Pure. Built by ``routes.py`` from a query string and by controllers in code.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubelet_secrets.api.selectors import (
    FieldSelector,
    LabelSelector,
    exact_name,
    parse_field_selector,
    parse_label_selector,
)
from kubelet_secrets.apiserver import statuses
from kubelet_secrets.apiserver.codec import Object, read_path
from kubelet_secrets.apiserver.resources import ServedResource
from kubelet_secrets.apiserver.storagepaths import prefix_of

EVERY_LABEL = LabelSelector()
EVERY_FIELD = FieldSelector()


@dataclass(frozen=True, slots=True)
class Selection:
    """Objects of one resource: in *namespace* (all when empty), named *name* (all when empty), matching both selectors."""

    row: ServedResource
    namespace: str = ""
    name: str = ""
    labels: LabelSelector = EVERY_LABEL
    fields: FieldSelector = EVERY_FIELD

    @property
    def prefix(self) -> str:
        """Of the storage keys that can match."""
        return prefix_of(self.row.plural, self.namespace if self.row.namespaced else "")

    @property
    def key(self) -> str | None:
        """The one storage key that can match; None when several can."""
        if not self.name or (self.row.namespaced and not self.namespace):
            return None
        return self.prefix + self.name

    @property
    def is_by_key_only(self) -> bool:
        """Whether namespace and name decide alone, so that no object has to be parsed."""
        return self.labels.is_empty and all(
            part.field == "metadata.name" and part.is_equal and part.value == self.name
            for part in self.fields.requirements
        )

    def matches_key(self, namespace: str, name: str) -> bool:
        return (not self.namespace or namespace == self.namespace) and (not self.name or name == self.name)

    def matches(self, obj: Object) -> bool:
        """Whether *obj*, whose key is known to match, satisfies the selectors."""
        return self.labels.matches(obj["metadata"].get("labels")) and self.fields.matches(
            lambda label: field_value(self.row, obj, label)
        )


def select(row: ServedResource, namespace: str, label_selector: str, field_selector: str) -> Selection:
    """Parse the two selectors of a query.

    Raises:
        Invalid: 400, a selector cannot be parsed or asks for a field this resource does not select by.
    """
    try:
        labels = parse_label_selector(label_selector)
        fields = parse_field_selector(field_selector)
    except ValueError as error:
        raise statuses.bad_request(str(error)) from None
    for label in fields.fields:
        if label not in row.selectable:
            raise statuses.bad_request(f"field label not supported: {label}")
    return Selection(row, namespace, exact_name(fields) or "", labels, fields)


def field_value(row: ServedResource, obj: Object, label: str) -> str:
    """What a field selector compares: the text at the label's path.

    Source: the ``ToSelectableFields`` functions of pkg/registry/core.
    """
    if row.kind == "Event" and label == "source":
        return str(read_path(obj, "source.component") or obj.get("reportingComponent") or "")
    value = read_path(obj, row.selectable[label])
    if value is None or value == "":
        return row.field_defaults.get(label, "")
    if isinstance(value, bool):
        return "true" if value else "false"
    if label == "status.podIPs":
        return ",".join(str(entry.get("ip", "")) for entry in value)
    return str(value)
