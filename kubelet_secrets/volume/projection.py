"""One file of a volume, and the payloads of the two object volumes: Secret and ConfigMap.

Pure. Called by ``payload`` (the door for everyone outside this room) and by ``projected``.

Source: pkg/volume/secret/secret.go and pkg/volume/configmap/configmap.go, MakePayload; semantics §2.3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from kubelet_secrets.api.core import ConfigMap, KeyToPath, Secret
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.errors import InvalidPath, MissingKey
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.paths import clean_path, find_conflict


@dataclass(frozen=True, slots=True, kw_only=True)
class FileProjection:
    """Content, permission bits and owner of one file, before the volume's fsGroup is applied (``ownership``)."""

    data: SensitiveBytes  # shared with the object it comes from, not copied
    mode: int  # 0–0o777
    fs_user: int | None = None  # uid that owns the file; None: root. Only tokens and certificates have one
    origin: Origin
    replaced: tuple[Origin, ...] = ()  # earlier sources of the same path, which this one overwrote


Payload = dict[str, FileProjection]
"""Clean relative path → file."""

Entries = list[tuple[str, FileProjection]]
"""Files as they were asked for: paths unchecked, in order, a later one overwriting an earlier one of the same path."""


def make_secret_payload(
    items: Sequence[KeyToPath], secret: Secret | None, *, default_mode: int, optional: bool
) -> Payload:
    """Choose the files a secret volume shows.

    Args:
        items: key → path selections; empty means every key, under its own name.
        secret: None stands for an optional Secret that does not exist.
        default_mode: permission bits, 0–0o777, for items without a mode.
        optional: leave out missing keys instead of failing.

    Returns:
        Mapping of clean relative path → file; 0..n entries. Data is shared with *secret*, not copied.

    Raises:
        MissingKey: an item names a key the secret lacks and *optional* is false.
        InvalidPath: a path breaks the rules of ``paths``.

    Source: MakePayload. Differs: paths are checked here, not by the writer.
    """
    return to_payload(secret_entries(items, secret, default_mode=default_mode, optional=optional))


def make_config_map_payload(
    items: Sequence[KeyToPath], config_map: ConfigMap | None, *, default_mode: int, optional: bool
) -> Payload:
    """Choose the files a configMap volume shows: like :func:`make_secret_payload`, over ``data`` and ``binaryData``."""
    return to_payload(config_map_entries(items, config_map, default_mode=default_mode, optional=optional))


def secret_entries(items: Sequence[KeyToPath], secret: Secret | None, *, default_mode: int, optional: bool) -> Entries:
    """:func:`make_secret_payload` before its paths are checked (a missing key is reported before a bad path)."""
    meta = secret.metadata if secret is not None else ObjectMeta()
    return _select(
        items,
        secret.data if secret is not None else {},
        default_mode=default_mode,
        optional=optional,
        origin=lambda key: _object_origin(OriginKind.SECRET, meta, key),
        missing="references non-existent secret key: {}",
    )


def config_map_entries(
    items: Sequence[KeyToPath], config_map: ConfigMap | None, *, default_mode: int, optional: bool
) -> Entries:
    """:func:`make_config_map_payload` before its paths are checked."""
    data: dict[str, SensitiveBytes] = {}
    meta = ObjectMeta()
    if config_map is not None:
        meta = config_map.metadata
        # data first: it wins for a key that is (against the API's rules) in both.
        data = {key: SensitiveBytes(value) for key, value in config_map.binary_data.items()}
        data |= {key: SensitiveBytes(text.encode("utf-8", "surrogateescape")) for key, text in config_map.data.items()}
    return _select(
        items,
        data,
        default_mode=default_mode,
        optional=optional,
        origin=lambda key: _object_origin(OriginKind.CONFIG_MAP, meta, key),
        missing="configmap references non-existent config key: {}",
    )


def to_payload(entries: Iterable[tuple[str, FileProjection]]) -> Payload:
    """Check and clean the paths of *entries*; a later entry replaces an earlier one and remembers it.

    Raises:
        InvalidPath: a path breaks the rules of ``paths``, or is a file where another needs a directory.
    """
    payload: Payload = {}
    for path, file in entries:
        cleaned = clean_path(path)
        before = payload.pop(cleaned, None)  # popped, so that the order is that of the winners
        if before is not None:
            file = FileProjection(
                data=file.data,
                mode=file.mode,
                fs_user=file.fs_user,
                origin=file.origin,
                replaced=(*before.replaced, before.origin),
            )
        payload[cleaned] = file
    if (conflict := find_conflict(list(payload))) is not None:
        # Upstream's writer fails here too, with whichever of EISDIR and ENOTDIR its map's order leads to.
        raise InvalidPath(f"invalid path: {conflict[0]} is both a file and the directory of {conflict[1]}")
    return payload


def _select(
    items: Sequence[KeyToPath],
    data: Mapping[str, SensitiveBytes],
    *,
    default_mode: int,
    optional: bool,
    origin: Callable[[str], Origin],
    missing: str,
) -> Entries:
    if not items:
        return [(key, FileProjection(data=data[key], mode=default_mode, origin=origin(key))) for key in sorted(data)]
    entries: Entries = []
    for item in items:
        if item.key in data:
            mode = default_mode if item.mode is None else item.mode
            entries.append((item.path, FileProjection(data=data[item.key], mode=mode, origin=origin(item.key))))
        elif not optional:
            raise MissingKey(missing.format(item.key))
    return entries


def _object_origin(kind: OriginKind, meta: ObjectMeta, key: str) -> Origin:
    return Origin(kind=kind, namespace=meta.namespace, name=meta.name, key=key, resource_version=meta.resource_version)
