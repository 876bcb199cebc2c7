"""The files of a downward API volume: fields and resources of the pod itself.

Pure. Called by ``payload`` for downwardAPI volumes and by ``projected``. Labels and annotations may change while the pod runs;
the caller makes the payload again and the writer finds out whether anything differs.

Source: pkg/volume/downwardapi/downwardapi.go, CollectData; semantics §4.4.
"""

from __future__ import annotations

import posixpath
from collections.abc import Sequence

from kubelet_secrets.api.core import DownwardAPIVolumeFile, Pod
from kubelet_secrets.api.fieldpath import FieldPathError, extract_field
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.api.quantity import InvalidQuantity
from kubelet_secrets.api.resources import ResourceFieldError, volume_resource
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.projection import Entries, FileProjection


def downward_entries(
    items: Sequence[DownwardAPIVolumeFile], pod: Pod, node: NodeInfo, *, default_mode: int
) -> tuple[Entries, list[str]]:
    """Read every item, also after one failed.

    Returns:
        The files in order, and one text per item that failed; with any failure the files are not to be used.
    """
    entries: Entries = []
    failures: list[str] = []
    for item in items:
        try:
            text = _item_text(item, pod, node)
        except (FieldPathError, ResourceFieldError, InvalidQuantity) as error:
            failures.append(str(error))
            continue
        file = FileProjection(
            data=SensitiveBytes(text.encode("utf-8", "surrogateescape")),
            mode=default_mode if item.mode is None else item.mode,
            origin=_item_origin(item),
        )
        # Cleaned before it is checked, as upstream does: "a/../b" is b.
        entries.append((posixpath.normpath(item.path), file))
    return entries, failures


def _item_text(item: DownwardAPIVolumeFile, pod: Pod, node: NodeInfo) -> str:
    if item.field_ref is not None:
        return extract_field(pod, item.field_ref.field_path)
    if item.resource_field_ref is not None:
        return volume_resource(item.resource_field_ref, pod, node.allocatable)
    return ""  # neither is set: upstream writes an empty file


def _item_origin(item: DownwardAPIVolumeFile) -> Origin:
    if item.resource_field_ref is not None and item.field_ref is None:
        reference = item.resource_field_ref
        return Origin(kind=OriginKind.RESOURCE_FIELD, name=reference.container_name, key=reference.resource)
    return Origin(kind=OriginKind.FIELD, key=item.field_ref.field_path if item.field_ref is not None else "")
