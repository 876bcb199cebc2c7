"""Lives of objects under several managers: who applies and updates what, at random, and what becomes of it here.

Pure. The fields are few, so that managers meet; of each shape that a schema knows there are some: structs, maps, sets, lists
that are maps by one key or two, atomic lists and maps. Nothing in them is empty: what Go's JSON leaves out is not compared.
"""

from __future__ import annotations

import copy
import random
import re
from collections.abc import Callable, Sequence
from typing import Any

from kubelet_secrets.apiserver import patch
from kubelet_secrets.apiserver.conform import conform
from kubelet_secrets.errors import ApiError
from tests.apiserver.test_protobuf_form import telling

Obj = dict[str, Any]
STEPS = 6
_API_VERSIONS = {"ClusterRole": "rbac.authorization.k8s.io/v1"}
_OWNERS = [{"apiVersion": "v1", "kind": "Pod", "name": name, "uid": name} for name in ("o", "p")]
_TOLERATIONS = [{"key": key, "operator": "Exists"} for key in "ab"]
_TAINTS = [{"key": key, "effect": "NoSchedule"} for key in "ab"]
_ITEMS = [{"key": key, "path": key} for key in "ab"]


class Lives:
    """An endless supply, the same for the same *seed*."""

    def __init__(self, seed: int) -> None:
        self._random = random.Random(seed)

    def next(self) -> list[Obj]:
        """The steps of one life, as ``fields/main.go`` takes them."""
        kind = self._random.choice(list(_KINDS))
        api_version = _API_VERSIONS.get(kind, "v1")
        steps = []
        for _ in range(STEPS):
            obj = _without_empty(
                {"apiVersion": api_version, "kind": kind, "metadata": self.metadata(), **_KINDS[kind](self)}
            )
            conform(obj, api_version, kind)
            does_apply, forces = self._random.random() < 0.65, self._random.random() < 0.4
            steps.append({"apply": does_apply, "manager": self.pick("a", "b", "c"), "force": forces, "object": obj})
        return steps

    def pick(self, *values: Any) -> Any:
        return copy.deepcopy(self._random.choice(values))

    def some(self, share: float = 0.5, /, **fields: Callable[[], Any]) -> Obj:
        return {name: make() for name, make in fields.items() if self._random.random() < share}

    def subset(self, values: Sequence[Any]) -> list[Any]:
        """Some of *values* in any order; what can be called is."""
        chosen = [
            value() if callable(value) else copy.deepcopy(value) for value in values if self._random.random() < 0.5
        ]
        self._random.shuffle(chosen)
        return chosen

    def numbers(self, *names: str) -> Obj:
        """A map with some of *names*."""
        return self.some(**{name: lambda: self.pick("1", "2") for name in names})

    def metadata(self) -> Obj:
        chosen = self.some(
            0.3,
            labels=lambda: self.numbers("l", "m"),
            finalizers=lambda: self.subset(["e.com/a", "e.com/b", "e.com/c"]),
            ownerReferences=lambda: self.subset(_OWNERS),
        )
        return {"name": "x", "namespace": "d", **chosen}

    def environment(self, name: str) -> Obj:
        reference = {"secretKeyRef": {"name": self.pick("s", "t"), "key": "k"}}
        return {"name": name, **self.pick({"value": self.pick("1", "2")}, {"valueFrom": reference}, {})}

    def port(self, number: int) -> Obj:
        more = self.some(protocol=lambda: self.pick("TCP", "UDP"), name=lambda: self.pick("p", "q"))
        return {"containerPort": number, **more}

    def container(self, name: str) -> Obj:
        chosen = self.some(
            0.45,
            image=lambda: self.pick("i", "j"),
            command=lambda: self.pick(["a"], ["a", "b"]),
            env=lambda: self.subset([lambda each=each: self.environment(each) for each in "ABC"]),
            ports=lambda: self.subset([lambda: self.port(80), lambda: self.port(81)]),
            resources=lambda: {"limits": self.numbers("cpu", "memory")},
            volumeMounts=lambda: self.subset(
                [{"mountPath": "/a", "name": self.pick("v", "w")}, {"mountPath": "/b", "name": "v"}]
            ),
            securityContext=lambda: {
                "capabilities": {"add": self.pick(["A"], ["A", "B"])},
                "privileged": self.pick(True, False),
            },
            livenessProbe=lambda: {
                "httpGet": {"port": self.pick(80, "http"), "path": "/"},
                "periodSeconds": self.pick(1, 2),
            },
        )
        return {"name": name, "resources": {}, **chosen}

    def volume(self, name: str) -> Obj:
        source = self.pick(
            {"secret": {"secretName": self.pick("s", "t"), "items": self.subset(_ITEMS)}},
            {"emptyDir": {"medium": "Memory"}},
            {"projected": {"sources": self.subset([{"secret": {"name": "s"}}, {"configMap": {"name": "c"}}])}},
        )
        return {"name": name, **source}

    def pod(self) -> Obj:
        spec = self.some(
            0.45,
            containers=lambda: self.subset([lambda each=each: self.container(each) for each in "abc"]),
            volumes=lambda: self.subset([lambda: self.volume("v"), lambda: self.volume("w")]),
            nodeSelector=lambda: self.numbers("n", "m"),
            tolerations=lambda: self.subset(_TOLERATIONS),
            imagePullSecrets=lambda: self.subset([{"name": "s"}, {"name": "t"}]),
            hostAliases=lambda: self.subset(
                [{"ip": "1.1.1.1", "hostnames": self.pick(["a"], ["a", "b"])}, {"ip": "2.2.2.2"}]
            ),
            restartPolicy=lambda: self.pick("Always", "Never"),
            securityContext=lambda: {"runAsUser": self.pick(1, 2), "supplementalGroups": self.pick([1], [1, 2])},
            terminationGracePeriodSeconds=lambda: self.pick(0, 30),
        )
        return {"spec": spec}

    def service(self) -> Obj:
        named = {"port": 80, "targetPort": self.pick(80, "http"), **self.some(protocol=lambda: "TCP", name=lambda: "a")}
        spec = self.some(
            0.6,
            ports=lambda: self.subset([named, {"port": 81, "targetPort": 81, "protocol": self.pick("TCP", "UDP")}]),
            selector=lambda: self.numbers("a", "b"),
            externalIPs=lambda: self.subset(["1.1.1.1", "2.2.2.2"]),
        )
        return {"spec": spec}

    def secret(self) -> Obj:
        data = self.some(a=lambda: self.pick("MQ==", "Mg=="), b=lambda: self.pick("MQ==", "Mg=="), c=lambda: "MQ==")
        return self.some(
            0.7, data=lambda: data, type=lambda: self.pick("Opaque", "x"), immutable=lambda: self.pick(True, False)
        )

    def config_map(self) -> Obj:
        return self.some(0.7, data=lambda: self.numbers("a", "b"), binaryData=lambda: self.some(x=lambda: "MQ=="))

    def service_account(self) -> Obj:
        names = [{"name": "a"}, {"name": "b"}]
        return self.some(
            secrets=lambda: self.subset(names),
            imagePullSecrets=lambda: self.subset(names),
            automountServiceAccountToken=lambda: self.pick(True, False),
        )

    def node(self) -> Obj:
        spec = self.some(
            taints=lambda: self.subset(_TAINTS),
            podCIDRs=lambda: self.subset(["1.0.0.0/8", "2.0.0.0/8"]),
            unschedulable=lambda: True,
        )
        return {"spec": spec}

    def cluster_role(self) -> Obj:
        rules = [{"verbs": [verb], "apiGroups": [""], "resources": ["pods"]} for verb in ("get", "list")]
        selector = {"matchLabels": {"a": self.pick("1", "2")}}
        aggregation = self.some(aggregationRule=lambda: {"clusterRoleSelectors": [selector]})
        return {"rules": self.pick(rules, rules[:1]), **aggregation}


_KINDS: dict[str, Callable[[Lives], Obj]] = {
    "ClusterRole": Lives.cluster_role,
    "ConfigMap": Lives.config_map,
    "Node": Lives.node,
    "Pod": Lives.pod,
    "Secret": Lives.secret,
    "Service": Lives.service,
    "ServiceAccount": Lives.service_account,
}


def _without_empty(value: Any) -> Any:
    if isinstance(value, dict):
        cleaned = {key: _without_empty(entry) for key, entry in value.items()}
        return {key: entry for key, entry in cleaned.items() if entry not in ({}, []) or key == "resources"}
    return [_without_empty(entry) for entry in value] if isinstance(value, list) else value


def outcomes_here(steps: Sequence[Obj]) -> list[Any]:
    """What each step made of the object here, as :func:`outcome_of` has it."""
    live: Obj | None = None
    found: list[Any] = []
    for number, step in enumerate(steps):
        obj = copy.deepcopy(step["object"])
        options = {"api_version": obj["apiVersion"], "kind": obj["kind"], "now": f"2026-01-01T00:00:0{number}Z"}
        try:
            if step["apply"]:
                live = patch.server_side_apply(live, obj, step["manager"], step["force"], **options)
            else:
                live = patch.track_update(live, obj, step["manager"], **options)
        except ApiError as error:
            found.append(_conflicts(f"{cause['field']} {cause['message']}" for cause in error.details["causes"]))
            continue
        for container in (live.get("spec") or {}).get("containers") or ():
            container.setdefault("resources", {})  # a struct in Go, there even when it is empty
        found.append(outcome_of({"object": live}))
    return found


def outcome_of(outcome: Obj) -> Any:
    """One of ``fields/main.go``'s, without times: the object and who owns what, or the conflicts."""
    if "object" not in outcome:
        return _conflicts(outcome["conflict"])
    obj = copy.deepcopy(outcome["object"])
    owners = {}
    for entry in obj["metadata"].pop("managedFields", ()):
        owners[f"{entry['manager']} {entry['operation']} {entry['apiVersion']}"] = entry["fieldsV1"]
    return [telling(obj), owners]


def _conflicts(texts: Any) -> list[str]:
    return sorted(re.sub(" (at|using) .*", "", text) for text in texts)
