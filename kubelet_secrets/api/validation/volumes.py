"""``spec.volumes``: one source each, paths that stay inside, modes, projections that do not collide.

Pure, on plain dictionaries, defaulted. The sources this project reads are checked in full; foreign ones only for being alone.

Source: pkg/apis/core/validation, ValidateVolumes, validateVolumeSource, validateProjectionSources,
validateDownwardAPIVolumeFile; semantics §2.1, §4.1, §4.2, §4.4. Paths in errors are upstream's, its omitted indices included.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from kubelet_secrets.api import quantity
from kubelet_secrets.api.validation import fields
from kubelet_secrets.api.validation.fields import FILE_MODE_MESSAGE, FieldError, Path
from kubelet_secrets.api.validation.names import dns1123_label_errors
from kubelet_secrets.api.validation.references import validate_field_ref, validate_resource_field_ref

Obj = dict[str, Any]

_VOLUME_FIELD_PATHS = (
    *("metadata.annotations", "metadata.labels", "metadata.name"),
    *("metadata.namespace", "metadata.uid"),
)
_HOST_PATH_TYPES = (
    *("", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate"),
    *("File", "FileOrCreate", "Socket"),
)
# In upstream's order: the first source present is taken for the volume's own, every further one is an error.
_SOURCES = (
    *("emptyDir", "hostPath", "gitRepo", "gcePersistentDisk", "awsElasticBlockStore", "secret", "nfs", "iscsi"),
    *("glusterfs", "flocker", "persistentVolumeClaim", "rbd", "cinder", "cephfs", "downwardAPI", "fc", "flexVolume"),
    *("configMap", "azureFile", "vsphereVolume", "quobyte", "photonPersistentDisk", "portworxVolume", "azureDisk"),
    *("storageos", "projected", "scaleIO", "csi", "ephemeral", "image"),
)
_TOKEN_SHORTEST_S = 600
_TOKEN_LONGEST_S = 2**32


def validate_volumes(volumes: list[Obj], path: Path) -> tuple[dict[str, Obj], list[FieldError]]:
    """Check the volumes of a pod.

    Returns:
        The valid ones by name, as mounts may refer to those only, and the errors.
    """
    valid: dict[str, Obj] = {}
    errors: list[FieldError] = []
    for index, volume in enumerate(volumes):
        here = path.index(index)
        name = volume.get("name", "")
        found = _validate_source(volume, here)
        if name:
            found += fields.each_invalid(here.child("name"), name, dns1123_label_errors(name))
        else:
            found.append(fields.required(here.child("name")))
        if name in valid:
            found.append(fields.duplicate(here.child("name"), name))
        if not found:
            valid[name] = volume
        errors += found
    return valid, errors


def descending_path_errors(text: str, path: Path) -> list[FieldError]:
    """A path that leads down: relative, without ``..`` elements. Source: validateLocalDescendingPath."""
    errors = [fields.invalid(path, text, "must be a relative path")] if text.startswith("/") else []
    return errors + backstep_errors(text, path)


def backstep_errors(text: str, path: Path) -> list[FieldError]:
    return [fields.invalid(path, text, "must not contain '..'")] if ".." in text.split("/") else []


def local_path_errors(text: str, path: Path) -> list[FieldError]:
    """A path below a volume's root that does not look like the writer's own. Source: ValidateLocalNonReservedPath."""
    errors = descending_path_errors(text, path)
    if text.startswith("..") and not text.startswith("../"):
        errors.append(fields.invalid(path, text, "must not start with '..'"))
    return errors


def _validate_source(volume: Obj, path: Path) -> list[FieldError]:
    present = [name for name in _SOURCES if volume.get(name) is not None]
    if not present:
        return [fields.required(path, "must specify a volume type")]
    errors = _validate_one_source(present[0], volume[present[0]], path.child(present[0]))
    return errors + [
        fields.forbidden(path.child(name), "may not specify more than 1 volume type") for name in present[1:]
    ]


def _validate_one_source(name: str, source: Obj, path: Path) -> list[FieldError]:
    match name:
        case "secret":
            return _validate_keyed(source, "secretName", path)
        case "configMap":
            return _validate_keyed(source, "name", path)
        case "downwardAPI":
            errors = _mode_errors(source, "defaultMode", path)
            return errors + [error for item in source.get("items") or () for error in _downward_errors(item, path)]
        case "projected":
            return _mode_errors(source, "defaultMode", path) + _validate_projections(source, path)
        case "emptyDir":
            limit = source.get("sizeLimit")
            if limit is not None and quantity.parse(limit) < 0:
                return [fields.forbidden(path.child("sizeLimit"), "SizeLimit field must be a valid resource quantity")]
        case "hostPath":
            if not source.get("path"):
                return [fields.required(path.child("path"))]
            errors = backstep_errors(source["path"], path.child("path"))
            kind = source.get("type") or ""
            if kind not in _HOST_PATH_TYPES:
                errors.append(fields.not_supported(path.child("type"), kind, _HOST_PATH_TYPES))
            return errors
        case "persistentVolumeClaim":
            return [] if source.get("claimName") else [fields.required(path.child("claimName"))]
        case "csi":
            return _csi_errors(source, path)
    return []


def _validate_keyed(source: Obj, name_field: str, path: Path) -> list[FieldError]:
    errors = [] if source.get(name_field) else [fields.required(path.child(name_field))]
    errors += _mode_errors(source, "defaultMode", path)
    for index, item in enumerate(source.get("items") or ()):
        errors += _item_errors(item, path.child("items").index(index))
    return errors


def _item_errors(item: Obj, path: Path) -> list[FieldError]:
    """Source: validateKeyToPath."""
    errors = [] if item.get("key") else [fields.required(path.child("key"))]
    if not item.get("path"):
        errors.append(fields.required(path.child("path")))
    errors += local_path_errors(item.get("path", ""), path.child("path"))
    return errors + _mode_errors(item, "mode", path)


def _mode_errors(source: Obj, field: str, path: Path) -> list[FieldError]:
    mode = source.get(field)
    if mode is None or 0 <= mode <= 0o777:
        return []
    return [fields.invalid(path.child(field), mode, FILE_MODE_MESSAGE)]


def _downward_errors(item: Obj, path: Path) -> list[FieldError]:
    errors = [] if item.get("path") else [fields.required(path.child("path"))]
    errors += local_path_errors(item.get("path", ""), path.child("path"))
    field_ref, resource_ref = item.get("fieldRef"), item.get("resourceFieldRef")
    if field_ref is not None:
        errors += validate_field_ref(field_ref, _VOLUME_FIELD_PATHS, path.child("fieldRef"))
        if resource_ref is not None:
            text = "fieldRef and resourceFieldRef can not be specified simultaneously"
            errors.append(fields.invalid(path, "resource", text))
    elif resource_ref is not None:
        errors += validate_resource_field_ref(resource_ref, path.child("resourceFieldRef"), needs_container=True)
    else:
        errors.append(fields.required(path, "one of fieldRef and resourceFieldRef is required"))
    return errors + _mode_errors(item, "mode", path)


def _validate_projections(projected: Obj, path: Path) -> list[FieldError]:
    """Every source by itself, and no path twice. Tokens are not part of the collision check, as upstream."""
    errors: list[FieldError] = []
    seen: set[str] = set()
    for index, source in enumerate(projected.get("sources") or ()):
        here = path.child("sources").index(index)
        for kind in ("secret", "configMap"):
            if source.get(kind) is not None:
                errors += [] if source[kind].get("name") else [fields.required(here.child(kind, "name"))]
                for position, item in enumerate(source[kind].get("items") or ()):
                    errors += _item_errors(item, here.child(kind, "items").index(position))
                    errors += _collision(item.get("path", ""), seen, path, shown=source[kind].get("name", ""))
        for item in (source.get("downwardAPI") or {}).get("items") or ():
            errors += _downward_errors(item, here.child("downwardAPI"))
            errors += _collision(item.get("path", ""), seen, path)
        if source.get("serviceAccountToken") is not None:
            errors += _token_errors(source["serviceAccountToken"], here.child("serviceAccountToken"), path)
        if source.get("clusterTrustBundle") is not None:
            errors += _trust_bundle_errors(source["clusterTrustBundle"], here.child("clusterTrustBundle"))
        for taken in _other_paths(source):
            errors += _collision(taken, seen, path)
        if sum(value is not None for value in source.values()) > 1:
            errors.append(fields.forbidden(here, "may not specify more than 1 volume type per source"))
    return errors


def _other_paths(source: Obj) -> Iterator[str]:
    if source.get("clusterTrustBundle") is not None:
        yield source["clusterTrustBundle"].get("path", "")
    certificate = source.get("podCertificate") or {}
    for field in ("credentialBundlePath", "keyPath", "certificateChainPath"):
        if certificate.get(field):
            yield certificate[field]


def _collision(taken: str, seen: set[str], path: Path, *, shown: str | None = None) -> list[FieldError]:
    if not taken:
        return []
    if taken in seen:
        return [fields.invalid(path, taken if shown is None else shown, "conflicting duplicate paths")]
    seen.add(taken)
    return []


def _token_errors(token: Obj, path: Path, volume_path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    expiration_s = token.get("expirationSeconds") or 0
    if expiration_s < _TOKEN_SHORTEST_S:
        text = "may not specify a duration less than 10 minutes"
        errors.append(fields.invalid(path.child("expirationSeconds"), expiration_s, text))
    if expiration_s > _TOKEN_LONGEST_S:
        text = "may not specify a duration larger than 2^32 seconds"
        errors.append(fields.invalid(path.child("expirationSeconds"), expiration_s, text))
    # Upstream reports the token's path at the projected volume.
    if not token.get("path"):
        return [*errors, fields.required(volume_path.child("path"))]
    return errors + local_path_errors(token["path"], volume_path.child("path"))


def _trust_bundle_errors(bundle: Obj, path: Path) -> list[FieldError]:
    errors: list[FieldError] = []
    by_name, by_signer = bundle.get("name") is not None, bundle.get("signerName") is not None
    if by_name and by_signer:
        errors.append(fields.invalid(path, bundle, "only one of name and signerName may be used"))
    elif by_name and bundle.get("labelSelector") is not None:
        text = "labelSelector must be unset if name is specified"
        errors.append(fields.invalid(path.child("labelSelector"), bundle["labelSelector"], text))
    elif not by_name and not by_signer:
        errors.append(fields.required(path, "either name or signerName must be specified"))
    if not bundle.get("path"):
        errors.append(fields.required(path.child("path")))
    return errors + local_path_errors(bundle.get("path", ""), path.child("path"))


def _csi_errors(source: Obj, path: Path) -> list[FieldError]:
    errors = [] if source.get("driver") else [fields.required(path.child("driver"))]
    reference = source.get("nodePublishSecretRef")
    if reference is not None and not reference.get("name"):
        errors.append(fields.required(path.child("nodePublishSecretRef", "name")))
    return errors
