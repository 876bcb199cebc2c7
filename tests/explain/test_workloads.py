"""Workloads with a pod template, and input that cannot be used."""

from __future__ import annotations

import copy
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain import explain
from kubelet_secrets.manifests import parse_manifest
from tests.explain.builders import NOW, explain_yaml, pod, problems, secret

TEMPLATE = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {
        "initContainers": [{"name": "init", "image": "i"}],
        "containers": [
            {
                "name": "c",
                "image": "i",
                "env": [
                    {"name": "PW", "valueFrom": {"secretKeyRef": {"name": "db", "key": "none"}}},
                    {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
                    {"name": "HASH", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['pod-template-hash']"}}},
                    {"name": "APP", "valueFrom": {"fieldRef": {"fieldPath": "metadata.labels['app']"}}},
                ],
            }
        ],
    },
}


@pytest.mark.parametrize(
    ("kind", "spec", "path"),
    [
        pytest.param("Deployment", {"template": TEMPLATE}, "spec.template.spec", id="Deployment"),
        pytest.param("ReplicaSet", {"template": TEMPLATE}, "spec.template.spec", id="ReplicaSet"),
        pytest.param("StatefulSet", {"template": TEMPLATE}, "spec.template.spec", id="StatefulSet"),
        pytest.param("DaemonSet", {"template": TEMPLATE}, "spec.template.spec", id="DaemonSet"),
        pytest.param("Job", {"template": TEMPLATE}, "spec.template.spec", id="Job"),
        pytest.param(
            "CronJob",
            {"jobTemplate": {"spec": {"template": TEMPLATE}}},
            "spec.jobTemplate.spec.template.spec",
            id="CronJob",
        ),
    ],
)
def test_pod_template(kind: str, spec: dict[str, object], path: str) -> None:
    workload = {"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": "web"}, "spec": spec}
    explanation = explain_yaml(secret("db", password="x") + "---\n" + json.dumps(workload))
    (pod,) = explanation.pods
    assert (pod.kind, pod.namespace, pod.name) == (kind, "default", "web")
    assert [(container.kind, container.name) for container in pod.containers] == [("init", "init"), ("container", "c")]
    (problem,) = problems(explanation, "missing-key")
    assert problem.where == f"{kind} default/web: {path}.containers[0].env[0].valueFrom.secretKeyRef"
    values = {variable.name: variable.value for variable in pod.containers[1].variables}
    assert (values["NAME"], values["HASH"], values["APP"]) == (None, None, "web")


def test_claims_of_a_stateful_set_are_volumes() -> None:
    text = """
        apiVersion: apps/v1
        kind: StatefulSet
        metadata: {name: db}
        spec:
          volumeClaimTemplates: [{metadata: {name: data}}]
          template:
            spec: {containers: [{name: c, image: i, volumeMounts: [{name: data, mountPath: /data}]}]}
        """
    explanation = explain_yaml(text)
    mounts = explanation.pods[0].containers[0].mounts
    assert [(mount.path, mount.volume_type) for mount in mounts[:1]] == [("/data", "persistentVolumeClaim")]
    assert not explanation.is_blocked


def test_namespace_of_the_object_goes_before_the_default() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: a, namespace: x}\n---\napiVersion: v1\nkind: Pod\nmetadata: {name: b}\n"
    assert [pod.namespace for pod in explain_yaml(text, namespace="y").pods] == ["x", "y"]


def test_kinds_that_have_no_say_are_passed_over() -> None:
    explanation = explain_yaml(
        "apiVersion: v1\nkind: Namespace\nmetadata: {name: a}\n---\napiVersion: x/v1\nkind: Odd\n"
    )
    assert (explanation.pods, explanation.problems) == ((), ())


def test_object_defined_twice_is_told_and_the_later_counts() -> None:
    explanation = explain_yaml(secret("db", a="1") + secret("db", b="2"))
    (problem,) = problems(explanation, "defined-twice")
    assert problem.where == "Secret default/db (f.yaml, document 2)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        pytest.param("apiVersion: v1\nkind: Pod\n", "f.yaml: Pod: metadata is missing", id="metadata"),
        pytest.param("apiVersion: v1\nkind: Pod\nmetadata: {}\n", "f.yaml: Pod: metadata.name is missing", id="name"),
        pytest.param(
            "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: a}\nspec: {}\n",
            "f.yaml: Deployment default/a: spec.template is missing",
            id="template",
        ),
        pytest.param(
            "apiVersion: batch/v1\nkind: CronJob\nmetadata: {name: a}\nspec: {jobTemplate: {spec: {template: 5}}}\n",
            "f.yaml: CronJob default/a: spec.jobTemplate.spec.template is not an object",
            id="template-is-a-number",
        ),
        pytest.param(
            "apiVersion: batch/v1\nkind: Job\nmetadata: {name: a}\n"
            "spec: {template: {spec: {containers: [{name: c, image: i, resources: {limits: {cpu: 1x}}}]}}}\n",
            "f.yaml: Job default/a: spec.template.spec.containers[0].resources.limits[cpu]: "
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            id="quantity",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n"
            "spec: {containers: [], volumes: [{name: e, emptyDir: {sizeLimit: 1Kk}}]}\n",
            "f.yaml: Pod default/a: spec.volumes[0].emptyDir.sizeLimit: unable to parse quantity's suffix",
            id="size-limit",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\nspec: {containers: {}}\n",
            "f.yaml: Pod default/a: Pod: Expected `array`, got `object` - at `$.spec.containers`",
            id="type",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\ndata: {k: c4n4ry!}\n",
            "f.yaml: Secret default/a: Secret: Invalid base64-encoded string - at `$.data[k]`",
            id="base64",
        ),
        pytest.param(
            "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nstringData: {k: 5}\n",
            "f.yaml: Secret default/a: Secret: Expected `str`, got `int` - at `$.stringData[k]`",
            id="number",
        ),
    ],
)
def test_unusable_object_is_told_without_its_values(text: str, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        explain_yaml(text)
    assert str(caught.value) == message


def test_generated_name_is_not_known() -> None:
    env = "[{name: N, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]"
    text = (
        "apiVersion: v1\nkind: Pod\nmetadata: {generateName: web-}\n"
        f"spec: {{containers: [{{name: c, image: i, env: {env}}}]}}\n"
    )
    explanation = explain_yaml(text)
    assert explanation.pods[0].name == "web-xxxxx"
    assert explanation.pods[0].containers[0].variables[0].value is None
    assert not explanation.is_blocked


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.sampled_from(["", "a", "v", "$(A)", "..", "metadata.name"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(
            st.sampled_from(
                ["name", "items", "key", "path", "secret", "env", "value", "mountPath", "metadata", "spec"]
            ),
            inner,
            max_size=3,
        )
    ),
    max_leaves=5,
)
FIELDS = [
    "metadata", "spec", "spec.template", "spec.template.metadata", "spec.template.spec", "spec.template.spec.volumes",
    "spec.template.spec.volumes.0", "spec.template.spec.volumes.0.secret", "spec.template.spec.volumes.0.projected",
    "spec.template.spec.containers", "spec.template.spec.containers.0", "spec.template.spec.containers.0.env",
    "spec.template.spec.containers.0.env.0", "spec.template.spec.containers.0.env.0.valueFrom",
    "spec.template.spec.containers.0.envFrom", "spec.template.spec.containers.0.volumeMounts",
    "spec.template.spec.containers.0.volumeMounts.0", "spec.template.spec.imagePullSecrets", "spec.volumeClaimTemplates",
    "spec.template.spec.securityContext", "spec.template.spec.serviceAccountName",
    "spec.template.spec.volumes.0.image.reference", "spec.template.spec.volumes.0.image.pullPolicy",
    "spec.template.spec.volumes.0.ephemeral.volumeClaimTemplate.spec", "spec.template.spec.volumes.0.csi.nodePublishSecretRef",
    "spec.template.spec.volumes.0.iscsi.secretRef", "spec.template.spec.volumes.0.emptyDir.sizeLimit",
    "spec.template.spec.volumes.0.projected.sources", "spec.template.spec.containers.0.resources.limits.cpu",
    "spec.template.spec.containers.0.ports", "spec.template.spec.containers.0.lifecycle.postStart",
    "spec.template.spec.overhead", "spec.template.spec.containers.0.livenessProbe",
    "spec.template.spec.topologySpreadConstraints", "spec.template.spec.ephemeralContainers",
    "spec.template.spec.initContainers.0.restartPolicy",
]  # fmt: skip


def test_each_pod_is_told_of() -> None:
    told: list[tuple[int, int]] = []
    manifests = parse_manifest((pod("") * 3).encode(), source="f.yaml")
    explain(manifests, now=NOW, tell=lambda done, total: told.append((done, total)))
    assert told == [(1, 3), (2, 3), (3, 3)]


@given(st.lists(st.tuples(st.sampled_from(FIELDS), JSON), min_size=1, max_size=3))
def test_whatever_a_manifest_holds_there_is_an_answer_or_one_line(changes: list[tuple[str, object]]) -> None:
    template: dict[str, Any] = copy.deepcopy(TEMPLATE)
    template["spec"]["volumes"] = [{"name": "v", "secret": {"secretName": "db"}}]
    template["spec"]["containers"][0]["volumeMounts"] = [{"name": "v", "mountPath": "/v"}]
    workload: Any = {
        "apiVersion": "apps/v1",
        "kind": "StatefulSet",
        "metadata": {"name": "a"},
        "spec": {"template": template},
    }
    for path, value in changes:
        _set(workload, path.split("."), value)
    try:
        explanation = explain_yaml(secret("db", password="x") + "---\n" + json.dumps(workload))
    except UsageError as error:
        text = str(error)
        assert "\n" not in text
    else:
        assert isinstance(explanation.is_blocked, bool)


def _set(target: Any, steps: list[str], value: object) -> None:
    for step in steps[:-1]:
        if isinstance(target, dict):
            target = target.setdefault(step, {})
        elif isinstance(target, list) and step.isdigit() and int(step) < len(target):
            target = target[int(step)]
        else:
            return
    if isinstance(target, dict):
        target[steps[-1]] = value
    elif isinstance(target, list) and steps[-1].isdigit() and int(steps[-1]) < len(target):
        target[int(steps[-1])] = value
