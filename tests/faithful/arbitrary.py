"""Arbitrary manifests of one pod and its objects, by number: the same number gives the same manifests. And by edition: the same
pod, with other data in its objects.

Names, keys and paths come from small pools, so that they meet: collisions, missing keys, nested mounts and subPaths into them
are common, and so are pods that no API server takes and pods that cannot start. Not a table of rules: ``cases`` is that.
"""

from __future__ import annotations

import base64
import json
import random
from typing import Any

from tests.faithful.cases import WAIT

KEYS = ("a", "b", "c", ".d", "e-f", "G_h", "1x")
PATHS = ("a", "b/c", "b/d/e", "./f", "g//h", "b", "x/y")
ODD_PATHS = ("..z", "k/../m", "/abs", ".", "a/..b", "b/./c")  # of which the last two are fine
MOUNT_PATHS = ("/m", "/m/b", "/n", "/m/b/c", "/n/", "/o/p", "q", "/m/x")
SUB_PATHS = ("a", "b", "b/c", "./b//d", "nope", "a/b", "..data/a", "b/d/e", "f", ".d")
TEXTS = ("", "v", "$(A)", "$(a)-$(B)", "$$(A)", "$(NOPE)", "$(A", "<$(A)$(C)>", "$(KUBERNETES_SERVICE_HOST)")
FIELDS = ("metadata.name", "metadata.namespace", "metadata.labels['x']")
ENV_FIELDS = (*FIELDS, "metadata.uid", "spec.nodeName", "status.podIP", "status.hostIP", "spec.serviceAccountName")
VOLUME_FIELDS = (*FIELDS, "metadata.labels", "metadata.annotations", "metadata.annotations['y']")
RESOURCES = ("limits.cpu", "limits.memory", "requests.cpu", "requests.memory", "limits.ephemeral-storage")
VALUES = (b"", b"plain", b"two\nlines\n", "Ünï".encode(), b"x" * 4097, b"a$(b)$$c", b"..", b"/tmp", b"b/c", b"\xff\xfe")
LIMITS = ({"cpu": "25m"}, {"memory": "64Mi"}, {"cpu": "125m", "memory": "100M"}, {"cpu": "0"})


def arbitrary_pod(number: int) -> str:
    """A pod ``web``, as a document of JSON."""
    return json.dumps(_Maker(f"{number}").pod())


def arbitrary_objects(number: int, edition: int = 0) -> str:
    """Three Secrets and two ConfigMaps, as documents of JSON; immutable ones are the same in every edition."""
    objects = []
    for name in ("s0", "s1", "s2", "c0", "c1"):
        is_immutable = random.Random(f"{number} {name}").random() < 0.2
        maker = _Maker(f"{number} {name} {0 if is_immutable else edition}")
        made = maker.secret(name) if name.startswith("s") else maker.config_map(name)
        objects.append({**made, "immutable": True} if is_immutable else made)
    return "".join(f"{json.dumps(each)}\n---\n" for each in objects)


class _Maker:
    def __init__(self, number: int) -> None:
        self.random = random.Random(number)

    def make(self) -> str:
        objects = [self.secret(f"s{index}") for index in range(3)] + [
            self.config_map(f"c{index}") for index in range(2)
        ]
        return "\n---\n".join(json.dumps(each) for each in [*objects, self.pod()])

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def maybe(self, probability: float, **fields: Any) -> dict[str, Any]:
        return fields if self.chance(probability) else {}

    # --- objects ---

    def secret(self, name: str) -> dict[str, Any]:
        keys = self.random.sample(KEYS, self.random.choice((0, 3, 5, 6, 7)))
        data = {key: base64.b64encode(self.random.choice(VALUES)).decode() for key in keys}
        return {**_head("v1", "Secret", name), "data": data}

    def config_map(self, name: str) -> dict[str, Any]:
        keys = self.random.sample(KEYS, self.random.choice((0, 3, 5, 6, 7)))
        cut = self.random.randint(0, len(keys))
        text = {key: self.random.choice(VALUES).decode("utf-8", "replace") for key in keys[:cut]}
        binary = {key: base64.b64encode(self.random.choice(VALUES)).decode() for key in keys[cut:]}
        return {**_head("v1", "ConfigMap", name), "data": text, "binaryData": binary}

    def secret_name(self) -> str:
        return "missing" if self.chance(0.04) else self.random.choice(("s0", "s1", "s2"))

    def config_map_name(self) -> str:
        return "missing" if self.chance(0.04) else self.random.choice(("c0", "c1"))

    def optional(self) -> dict[str, Any]:
        return self.maybe(0.8, optional=self.chance(0.9))

    # --- volumes ---

    def path(self) -> str:
        return self.random.choice(PATHS if self.chance(0.98) else ODD_PATHS)

    def mode(self) -> dict[str, Any]:
        return self.maybe(0.3, mode=self.random.choice((0, 0o400, 0o440, 0o644, 0o777, 0o100)))

    def default_mode(self) -> dict[str, Any]:
        return self.maybe(0.5, defaultMode=self.random.choice((0, 0o400, 0o440, 0o600, 0o755)))

    def items(self) -> dict[str, Any]:
        count = self.random.randint(1, 3)
        items = [{"key": self.random.choice(KEYS), "path": self.path(), **self.mode()} for _ in range(count)]
        return self.maybe(0.5, items=items)

    def downward_items(self) -> dict[str, Any]:
        return {"items": [self.downward_item() for _ in range(self.random.randint(1, 3))]}

    def downward_item(self) -> dict[str, Any]:
        if self.chance(0.6):
            source: dict[str, Any] = {"fieldRef": {"fieldPath": self.random.choice(VOLUME_FIELDS)}}
        else:
            container = self.random.choice(("app", "app", "app", "side"))
            source = {"resourceFieldRef": {"containerName": container, "resource": self.random.choice(RESOURCES)}}
        return {"path": self.path(), **source, **self.mode()}

    def projection(self) -> dict[str, Any]:
        kind = self.random.choices(("secret", "configMap", "downwardAPI", "token"), (7, 6, 4, 3))[0]
        if kind == "secret":
            return {"secret": {"name": self.secret_name(), **self.optional(), **self.items()}}
        if kind == "configMap":
            return {"configMap": {"name": self.config_map_name(), **self.optional(), **self.items()}}
        if kind == "downwardAPI":
            return {"downwardAPI": self.downward_items()}
        return {"serviceAccountToken": {"path": self.path(), "expirationSeconds": 600, **self.maybe(0.5, audience="v")}}

    def volume(self, name: str) -> dict[str, Any]:
        kind = self.random.choices(("secret", "configMap", "projected", "downwardAPI", "emptyDir"), (6, 4, 6, 2, 2))[0]
        if kind == "secret":
            source = {"secretName": self.secret_name(), **self.optional(), **self.items(), **self.default_mode()}
        elif kind == "configMap":
            source = {"name": self.config_map_name(), **self.optional(), **self.items(), **self.default_mode()}
        elif kind == "projected":
            count = self.random.randint(1, 4)
            source = {"sources": [self.projection() for _ in range(count)], **self.default_mode()}
        elif kind == "downwardAPI":
            source = {**self.downward_items(), **self.default_mode()}
        else:
            source = self.maybe(0.5, medium="Memory")
        return {"name": name, kind: source}

    # --- containers ---

    def variable(self) -> dict[str, Any]:
        name = self.random.choice(("A", "B", "C", "a", "b", "e-f", "x.y"))
        kind = self.random.choices(("text", "secret", "configMap", "field", "resource"), (8, 4, 3, 3, 2))[0]
        if kind == "text":
            return {"name": name, "value": self.random.choice(TEXTS)}
        key = {"key": self.random.choice(KEYS), **self.optional()}
        if kind == "secret":
            source = {"secretKeyRef": {"name": self.secret_name(), **key}}
        elif kind == "configMap":
            source = {"configMapKeyRef": {"name": self.config_map_name(), **key}}
        elif kind == "field":
            source = {"fieldRef": {"fieldPath": self.random.choice(ENV_FIELDS)}}
        else:
            whose = self.maybe(0.4, containerName=self.random.choice(("app", "app", "app", "side")))
            source = {"resourceFieldRef": {"resource": self.random.choice(RESOURCES), **whose}}
        return {"name": name, "valueFrom": source}

    def env_from(self) -> dict[str, Any]:
        prefix = self.maybe(0.5, prefix=self.random.choice(("P_", "1-", "q")))
        if self.chance(0.5):
            return {**prefix, "secretRef": {"name": self.secret_name(), **self.optional()}}
        return {**prefix, "configMapRef": {"name": self.config_map_name(), **self.optional()}}

    def mount(self, volume: dict[str, Any], place: str) -> dict[str, Any]:
        mount = {"name": volume["name"], "mountPath": place, **self.maybe(0.2, readOnly=True)}
        if self.chance(0.2) and "emptyDir" not in volume:
            return {**mount, "subPath": self.random.choice(SUB_PATHS)}
        return {**mount, **self.maybe(0.08, subPathExpr=self.random.choice(("$(A)", "b/$(B)", "$$(A)", "$(NOPE)")))}

    def container(self, name: str, volumes: list[dict[str, Any]]) -> dict[str, Any]:
        places = self.random.sample(MOUNT_PATHS, len(volumes) + 1)
        mounted = [each for each in (*volumes, volumes[0]) if self.chance(0.8)] or volumes[:1]
        mounts = [self.mount(each, place) for each, place in zip(mounted, places, strict=False)]
        return {
            "name": name,
            "image": "localhost/busybox:1",
            "command": ["sh", "-c", WAIT],
            "env": [self.variable() for _ in range(self.random.randint(0, 6))],
            "envFrom": [self.env_from() for _ in range(self.random.randint(0, 2))],
            "volumeMounts": mounts,
            **self.maybe(0.5, resources={"limits": self.random.choice(LIMITS)}),
            **self.maybe(0.3, securityContext={"runAsUser": self.random.choice((0, 1000))}),
        }

    def pod(self) -> dict[str, Any]:
        volumes = [self.volume(f"v{index}") for index in range(self.random.randint(1, 4))]
        names = ["app"] + ["side"] * self.chance(0.6)
        spec = {
            "terminationGracePeriodSeconds": 1,
            "containers": [self.container(name, volumes) for name in names],
            "volumes": volumes,
            "securityContext": {
                **self.maybe(0.4, fsGroup=self.random.choice((0, 7, 2000))),
                **self.maybe(0.3, runAsUser=self.random.choice((0, 1000))),
            },
            **self.maybe(0.2, enableServiceLinks=False),
            **self.maybe(0.3, automountServiceAccountToken=False),
        }
        head = _head("v1", "Pod", "web")
        head["metadata"] |= {"labels": {"x": "1"}, "annotations": {"y": 'z\n"q"'}}
        return {**head, "spec": spec}


def _head(api_version: str, kind: str, name: str) -> dict[str, Any]:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": name}}
