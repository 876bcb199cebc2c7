"""Static pods: what one manifest file of the node means as a pod, and which pods of a directory shall run now. Pure.

A static pod runs without the API server's knowledge or consent, so it may refer to nothing of the API, Secrets foremost: that
is refused here as the kubelet does, with its words. ``pod/manifestdir.py`` reads the files, ``pod/manager.py`` runs what
:class:`StaticPods` says, ``pod/mirrors.py`` shows it to the API server.

Source: pkg/kubelet/config/common.go (applyDefaults, tryDecodeSinglePod), pkg/kubelet/pod_workers.go (allowStaticPodStart);
semantics §13.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.defaults import default_pod
from kubelet_secrets.api.meta import PodUID
from kubelet_secrets.api.staticpod import CONFIG_HASH, CONFIG_MIRROR, CONFIG_SEEN, CONFIG_SOURCE, api_object_reference
from kubelet_secrets.api.times import rfc3339_nano
from kubelet_secrets.api.validation.fields import invalid_message
from kubelet_secrets.api.validation.pods import validate_pod
from kubelet_secrets.errors import UsageError
from kubelet_secrets.manifests import parse_manifest

LARGEST_FILE_BYTES = 10 << 20


class InvalidStaticPod(UsageError):
    """A file holds no pod that this node may run by itself. The message names the file and what is wrong, never a value."""


@dataclass(frozen=True, slots=True)
class StaticPod:
    """A pod of one file.

    Attributes:
        pod: as its worker runs it.
        manifest: the same, plain: what its mirror is made of, with the fields this project does not know.
    """

    pod: Pod
    manifest: dict[str, Any] = field(repr=False, compare=False)

    @property
    def full_name(self) -> tuple[str, str]:
        """(namespace, name)."""
        return self.pod.metadata.namespace, self.pod.metadata.name

    @property
    def uid(self) -> PodUID:
        return PodUID(self.pod.metadata.uid)

    @property
    def hash(self) -> str:
        """Changes with the content of the file."""
        return self.pod.metadata.annotations[CONFIG_HASH]


def read_static_pod(content: bytes, *, path: str, node_name: str, seen: datetime) -> StaticPod:
    """The pod that a manifest file stands for: ``<name>-<node>``, with a uid made from node, path and content.

    Args:
        seen: when the file was first read like this, aware.

    Raises:
        InvalidStaticPod: see there.
    """
    try:
        found = parse_manifest(content, source=path)
        if len(found) != 1 or (found[0].kind, found[0].obj["apiVersion"]) != ("Pod", "v1"):
            raise InvalidStaticPod(f"{path}: couldn't parse as pod(it holds not one v1 Pod), please check config file")
        manifest = copy.deepcopy(found[0].obj)  # aliases in YAML are shared; what is filled in below must not be
        digest = hashlib.blake2b(json.dumps(manifest, sort_keys=True).encode(), digest_size=16)
        digest.update(f"host:{node_name} file:{path}".encode())
        default_pod(manifest)
        _bind(manifest, node_name, digest.hexdigest(), seen)
        reference = api_object_reference(manifest)
        pod = convert(manifest, Pod)
    except InvalidStaticPod:
        raise
    except UsageError as error:  # no YAML, or a field of the wrong type
        raise InvalidStaticPod(f"{path}: couldn't parse as pod({error}), please check config file") from None
    except (TypeError, AttributeError):
        # A list where a mapping belongs: the defaults stumble over it before the decoder can say where.
        raise InvalidStaticPod(f"{path}: couldn't parse as pod(malformed), please check config file") from None
    if reference is not None:
        cause = f"static pods may not reference {reference}"
        raise InvalidStaticPod(f"{path}: couldn't parse as pod({cause}), please check config file")
    if errors := validate_pod(manifest):
        cause = invalid_message("Pod", pod.metadata.name, errors)
        raise InvalidStaticPod(f"{path}: couldn't parse as pod({cause}), please check config file")
    return StaticPod(pod, manifest)


def _bind(manifest: dict[str, Any], node_name: str, digest: str, seen: datetime) -> None:
    meta, spec = manifest["metadata"], manifest["spec"]
    if not meta.get("uid"):
        meta["uid"] = digest
    if meta.get("name"):  # without one, validation says so
        meta["name"] = f"{meta['name']}-{node_name.lower()}"
    meta["namespace"] = meta.get("namespace") or "default"
    annotations = meta["annotations"] = dict(meta.get("annotations") or {})
    annotations |= {CONFIG_HASH: digest, CONFIG_SOURCE: "file", CONFIG_SEEN: rfc3339_nano(seen)}
    spec["nodeName"] = node_name
    tolerations = [each for each in spec.get("tolerations") or () if not _is_everything(each)]
    spec["tolerations"] = [*tolerations, {"effect": "NoExecute", "operator": "Exists"}]
    manifest["status"] = {"phase": "Pending"}


def _is_everything(toleration: dict[str, Any]) -> bool:
    return {key: value for key, value in toleration.items() if value} == {"effect": "NoExecute", "operator": "Exists"}


def make_mirror(static: StaticPod, node_name: str, node_uid: str) -> dict[str, Any]:
    """The pod by which the API server knows of *static*. Source: pkg/kubelet/pod/mirror_client.go, CreateMirrorPod."""
    mirror = copy.deepcopy(static.manifest)
    meta = mirror["metadata"]
    meta.pop("uid")
    meta["annotations"][CONFIG_MIRROR] = static.hash
    meta["ownerReferences"] = [
        {"apiVersion": "v1", "kind": "Node", "name": node_name, "uid": node_uid, "controller": True}
    ]
    del mirror["status"]
    return mirror


@dataclass(frozen=True, slots=True)
class Changes:
    """What follows from a new look: first what stops, then what starts."""

    stop: tuple[PodUID, ...] = ()
    start: tuple[StaticPod, ...] = ()


class StaticPods:
    """Which static pods shall run: one per name at a time, so that a changed one starts when its predecessor has gone."""

    def __init__(self) -> None:
        self._wanted: dict[tuple[str, str], StaticPod] = {}
        self._running: dict[tuple[str, str], StaticPod] = {}

    def replace(self, found: Sequence[StaticPod]) -> Changes:
        """All that the node's manifests say now. Of two with one name, the first counts."""
        self._wanted = {each.full_name: each for each in reversed(found)}
        stop = tuple(
            running.uid
            for name, running in self._running.items()
            if name not in self._wanted or self._wanted[name].hash != running.hash
        )
        start = tuple(each for name, each in self._wanted.items() if name not in self._running)
        self._running |= {each.full_name: each for each in start}
        return Changes(stop, start)

    def ended(self, uid: PodUID) -> Changes:
        """Nothing is left of the pod *uid* on this node."""
        ended = next((name for name, each in self._running.items() if each.uid == uid), None)
        if ended is None:
            return Changes()
        del self._running[ended]
        successor = self._wanted.get(ended)
        if successor is None:
            return Changes()
        self._running[ended] = successor
        return Changes(start=(successor,))

    def running(self) -> Sequence[StaticPod]:
        """Those that run, or are being stopped: the API server shall know of them."""
        return tuple(self._running.values())
