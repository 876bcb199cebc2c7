"""The objects that bring canaries to a container in every way there is. Pure: canaries in, manifests out."""

from __future__ import annotations

import base64
import json
from dataclasses import dataclass
from typing import Any

from kubelet_secrets.runtime.keyring import DOCKER_CONFIG_JSON_KEY, DOCKER_CONFIG_JSON_TYPE
from kubelet_secrets.verify.canaries import Canaries, Canary

POD = "kubelet-secrets-verify"
BROKEN_POD = "kubelet-secrets-verify-broken"
SECRET = "kubelet-secrets-verify"
PULL_SECRET = "kubelet-secrets-verify-pull"
USERNAME = "verify"
LARGE_BYTES = 96 * 1024  # it becomes a variable too, of which Linux allows 128 KiB
FILES = "/v"
MEMORY = "/memory"
SCRIPT = f"""
cat {FILES}/file /projected/file /single; echo "$VARIABLE"
cp {FILES}/file /tmp/copy; cp {FILES}/file {MEMORY}/copy
trap 'exit 0' TERM; while :; do sleep 3600 & wait $!; done
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Planted:
    """The canaries of the course, by what they are for."""

    file: Canary
    variable: Canary
    large: Canary
    password: Canary
    refused: Canary
    rotated: Canary  # what the file becomes
    crashed: Canary  # what it becomes while the agent is killed
    aborted: Canary  # and after agent and writer aborted

    @classmethod
    def make(cls, canaries: Canaries) -> Planted:
        return cls(
            file=canaries.make("volume file"),
            variable=canaries.make("environment variable"),
            large=canaries.make("large file", size_bytes=LARGE_BYTES),
            password=canaries.make("registry password"),
            refused=canaries.make("refused object"),
            rotated=canaries.make("rotated file"),
            crashed=canaries.make("file rotated in a crash"),
            aborted=canaries.make("file rotated after an abort"),
        )

    @property
    def small(self) -> tuple[Canary, ...]:
        """Those that are counted in memory: each occurrence is a copy."""
        return (self.file, self.variable, self.password, self.refused, self.rotated, self.crashed, self.aborted)

    @property
    def all(self) -> tuple[Canary, ...]:
        return (*self.small, self.large)


def secrets(planted: Planted, namespace: str, registry: str) -> list[dict[str, Any]]:
    """The Secret of files and variables, and the one for pulls from *registry* (``host:port``)."""
    login = {"username": USERNAME, "password": planted.password.text}
    document = json.dumps({"auths": {registry: login}})
    return [
        _manifest(
            "Secret",
            SECRET,
            namespace,
            data={
                "file": _base64(planted.file.value),
                "variable": _base64(planted.variable.value),
                "large": _base64(planted.large.value),
            },
        ),
        _manifest(
            "Secret",
            PULL_SECRET,
            namespace,
            type=DOCKER_CONFIG_JSON_TYPE,
            data={DOCKER_CONFIG_JSON_KEY: _base64(document.encode())},
        ),
    ]


def refused_secret(planted: Planted, namespace: str) -> dict[str, Any]:
    """An object that no API server takes: its key is not a valid one. The answer must not quote the value."""
    return _manifest("Secret", f"{SECRET}-refused", namespace, data={"not a key": _base64(planted.refused.value)})


def new_content(canary: Canary) -> dict[str, Any]:
    """A patch that rotates the file."""
    return {"data": {"file": _base64(canary.value)}}


def pods(namespace: str, image: str, node_name: str) -> list[dict[str, Any]]:
    """The pod that gets everything, and one that waits for a key that does not exist."""
    mounts = [
        {"name": "files", "mountPath": FILES, "readOnly": True},
        {"name": "projected", "mountPath": "/projected", "readOnly": True},
        {"name": "files", "mountPath": "/single", "subPath": "file", "readOnly": True},
        {"name": "memory", "mountPath": MEMORY},
    ]
    app = {
        "name": "app",
        "image": image,
        "command": ["sh", "-c", SCRIPT],
        "env": [_variable("VARIABLE", "variable"), {"name": "EXPANDED", "value": "before $(VARIABLE) after"}],
        "envFrom": [{"prefix": "ALL_", "secretRef": {"name": SECRET}}],
        "volumeMounts": mounts,
    }
    first = {"name": "first", "image": image, "command": ["sh", "-c", f"cat {FILES}/*"], "volumeMounts": mounts[:1]}
    volumes = [
        {"name": "files", "secret": {"secretName": SECRET}},
        {"name": "projected", "projected": {"sources": [{"secret": {"name": SECRET}}]}},
        {"name": "memory", "emptyDir": {"medium": "Memory", "sizeLimit": "1Mi"}},
    ]
    broken = {"name": "app", "image": image, "command": ["true"], "env": [_variable("MISSING", "no-such-key")]}
    common = {
        "nodeName": node_name,
        "imagePullSecrets": [{"name": PULL_SECRET}],
        "automountServiceAccountToken": False,
        "terminationGracePeriodSeconds": 1,
    }
    return [
        _manifest(
            "Pod", POD, namespace, spec={**common, "initContainers": [first], "containers": [app], "volumes": volumes}
        ),
        _manifest("Pod", BROKEN_POD, namespace, spec={**common, "containers": [broken]}),
    ]


def _variable(name: str, key: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": SECRET, "key": key}}}


def _manifest(kind: str, name: str, namespace: str, **fields: Any) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": namespace}, **fields}


def _base64(value: bytes) -> str:
    return base64.b64encode(value).decode()
