"""The variables that a container would get, and what is wrong with them."""

from __future__ import annotations

import pytest

from kubelet_secrets.explain import Explanation, Severity
from tests.explain.builders import explain_yaml, only_container, pod, problems, secret

DB = secret("db", password="s3cr3t", user="u", empty="")


def explain_env(env: str, *, env_from: str = "[]", more: str = DB, volumes: str = "[]") -> Explanation:
    return explain_yaml(more + pod(f"env: {env}, envFrom: {env_from}", volumes=volumes))


def own_variables(explanation: Explanation) -> dict[str, tuple[str | None, str]]:
    return {
        variable.name: (variable.value, str(variable.origin))
        for variable in only_container(explanation).variables
        if variable.origin.kind != "service"
    }


def test_variables_have_value_and_origin() -> None:
    explanation = explain_env(
        "[{name: PW, valueFrom: {secretKeyRef: {name: db, key: password}}}, {name: URL, value: db://$(PW)@$(x_user)}]",
        env_from="[{prefix: x_, secretRef: {name: db}}]",
    )
    assert own_variables(explanation) == {
        "x_empty": ("", "secret/db key empty"),
        "x_password": ("s3cr3t", "secret/db key password"),
        "x_user": ("u", "secret/db key user"),
        "PW": ("s3cr3t", "secret/db key password"),
        "URL": ("db://s3cr3t@u", "literal"),
    }
    assert "s3cr3t" not in repr(explanation)
    url = next(variable for variable in only_container(explanation).variables if variable.name == "URL")
    assert (url.expanded_from, url.is_secret) == (("PW", "x_user"), True)


@pytest.mark.parametrize(
    ("entry", "where", "message", "hint"),
    [
        pytest.param(
            "valueFrom: {secretKeyRef: {name: bd, key: k}}",
            "env[0].valueFrom.secretKeyRef",
            'secret "bd" not found',
            "it is not among the given manifests",
            id="secret",
        ),
        pytest.param(
            "valueFrom: {secretKeyRef: {name: db, key: pasword}}",
            "env[0].valueFrom.secretKeyRef",
            "couldn't find key pasword in Secret default/db",
            'did you mean "password"?',
            id="secret-key",
        ),
        pytest.param(
            "valueFrom: {configMapKeyRef: {name: none, key: k}}",
            "env[0].valueFrom.configMapKeyRef",
            'configmap "none" not found',
            "it is not among the given manifests",
            id="configmap",
        ),
    ],
)
def test_what_stops_a_container_is_told_where_it_stands(entry: str, where: str, message: str, hint: str) -> None:
    explanation = explain_env(f"[{{name: X, {entry}}}, {{name: Y, value: 'y-$(X)'}}]")
    container = only_container(explanation)
    assert [(problem.where, problem.message, problem.hint) for problem in container.problems] == [
        (f"Pod default/web: spec.containers[0].{where}", message, hint)
    ], "and what refers to it is no second problem"
    assert container.is_blocked
    assert own_variables(explanation) == {"Y": ("y-$(X)", "literal")}


def test_env_file_of_an_unknown_volume_is_told_once() -> None:
    """The API refuses it; the node's own words would say it again."""
    explanation = explain_env("[{name: X, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: K}}}]")
    assert [(problem.where, problem.message) for problem in explanation.all_problems()] == [
        ("Pod default/web: spec.containers[0].env[0].valueFrom.fileKeyRef.volumeName", 'Not found: "v"')
    ]


@pytest.mark.parametrize(
    ("data", "severity", "message"),
    [
        ('stringData: {k: "a\\0b"}', Severity.BLOCKS, 'environment variable "X" contains a NUL byte'),
        (
            "data: {k: /2/+}",
            Severity.WARNING,
            "X is not valid UTF-8: the container gets U+FFFD in place of 2 of its bytes",
        ),
    ],
)
def test_value_that_no_process_can_have_as_it_is(data: str, severity: Severity, message: str) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\n" + data + "\n"
    text += pod("env: [{name: X, valueFrom: {secretKeyRef: {name: db, key: k}}}]")
    explanation = explain_yaml(text)
    told = [each for each in explanation.all_problems() if each.code in ("env-refused", "env-not-utf8")]
    assert [(each.where, each.severity, each.message) for each in told] == [
        ("Pod default/web: spec.containers[0].env[0]", severity, message)
    ]
    if severity is Severity.WARNING:
        assert own_variables(explanation)["X"] == ("\ufffdo\ufffd", "secret/db key k")


@pytest.mark.parametrize(
    ("field", "where"),
    [
        ("command: [echo, $(X), $(Y)]", "command[1]"),
        ('args: ["<$(X)>"]', "args[0]"),
        ("args: [$$(X), plain]", ""),
    ],
)
def test_argument_that_is_not_utf8_stops_the_container(field: str, where: str) -> None:
    text = "apiVersion: v1\nkind: Secret\nmetadata: {name: db}\ndata: {k: /w==}\n"
    text += pod(f"{field}, env: [{{name: X, valueFrom: {{secretKeyRef: {{name: db, key: k}}}}}}]")
    told = [(each.where, each.message) for each in problems(explain_yaml(text), "argument-refused")]
    expected = (f"Pod default/web: spec.containers[0].{where}", "an argument of the command is not valid UTF-8")
    assert told == ([expected] if where else [])


def test_missing_env_from_object() -> None:
    explanation = explain_env(
        "[]", env_from="[{secretRef: {name: none}}, {configMapRef: {name: none, optional: true}}]"
    )
    (blocking,) = problems(explanation, "missing-object")
    assert blocking.where == "Pod default/web: spec.containers[0].envFrom[0].secretRef"
    (optional,) = problems(explanation, "missing-optional")
    assert optional.message == 'configmap "none" not found; it is optional, so its variables are not set'


def test_missing_optional_key_is_a_warning() -> None:
    explanation = explain_env("[{name: X, valueFrom: {secretKeyRef: {name: db, key: zz, optional: true}}}]")
    (problem,) = problems(explanation, "missing-optional")
    assert problem.severity is Severity.WARNING
    assert problem.message == "secret db has no key zz; it is optional, so X is not set"
    assert own_variables(explanation) == {}


def test_references_that_stay_as_they_are_written() -> None:
    explanation = explain_env("[{name: A, value: $(B)-$(NONE)-$$(C)}, {name: B, value: b}]")
    assert [(problem.message, problem.hint) for problem in problems(explanation, "undefined-reference")] == [
        ("A refers to $(B), which is set further down: the text stays as it is written", "move B before A"),
        (
            "A refers to $(NONE), which is not defined: the text stays as it is written",
            "write $$ for a plain dollar sign",
        ),
    ]


def test_variable_that_expands_to_nothing() -> None:
    explanation = explain_env("[{name: E, valueFrom: {secretKeyRef: {name: db, key: empty}}}, {name: F, value: $(E)}]")
    (problem,) = problems(explanation, "expands-to-nothing")
    assert problem.message == "F expands to nothing: E is empty"


def test_collision_says_who_wins() -> None:
    explanation = explain_env("[{name: user, value: mine}]", env_from="[{secretRef: {name: db}}]")
    (problem,) = problems(explanation, "variable-collision")
    assert problem.message == "user is set more than once: literal wins over secret/db key user"


def test_stale_on_rotation_also_through_expansion_but_not_for_immutable_objects() -> None:
    frozen = secret("frozen", extra="immutable: true\n", k="v")
    explanation = explain_env(
        "[{name: PW, valueFrom: {secretKeyRef: {name: db, key: password}}}, {name: URL, value: 'x$(PW)'},"
        " {name: F, valueFrom: {secretKeyRef: {name: frozen, key: k}}}]",
        more=DB + frozen,
    )
    (problem,) = problems(explanation, "env-goes-stale")
    assert problem.message == "when secret/db changes, PW, URL keep their values until the container restarts"
    assert problem.severity is Severity.NOTE


def test_what_only_a_node_knows_has_no_value_nor_has_what_it_is_expanded_into() -> None:
    explanation = explain_env(
        "[{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}, {name: URL, value: 'http://$(IP)'},"
        " {name: CPU, valueFrom: {resourceFieldRef: {resource: limits.cpu}}},"
        " {name: REQ, valueFrom: {resourceFieldRef: {resource: requests.cpu}}},"
        " {name: NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}},"
        " {name: FILE, valueFrom: {fileKeyRef: {volumeName: v, path: p, key: K}}},"
        " {name: API, value: 'https://$(KUBERNETES_SERVICE_HOST)'}]",
        volumes="[{name: v, emptyDir: {}}]",
    )
    assert own_variables(explanation) == {
        "IP": (None, "field status.podIP"),
        "URL": (None, "literal"),
        "CPU": (None, "resourceField limits.cpu"),
        "REQ": ("0", "resourceField requests.cpu"),
        "NAME": ("web", "field metadata.name"),
        "FILE": (None, "file/v:p key K"),
        "API": (None, "literal"),
    }
    assert not explanation.is_blocked


def test_services_of_the_manifests_give_variables() -> None:
    service = (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: db-main}\nspec: {clusterIP: 10.0.0.9, ports: [{port: 5432}]}\n"
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: cache}\nspec: {ports: [{port: 6379}]}\n"
    )
    explanation = explain_env("[{name: A, value: $(DB_MAIN_SERVICE_HOST)}]", more=service)
    values = {variable.name: variable.value for variable in only_container(explanation).variables}
    assert values["A"] == "10.0.0.9"
    assert values["CACHE_SERVICE_HOST"] is None
    assert values["CACHE_SERVICE_PORT"] == "6379"
    assert values["KUBERNETES_SERVICE_HOST"] is None


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        pytest.param("resource: limits.cpu", "2", id="of-the-pod"),
        pytest.param("resource: limits.memory", None, id="zero-is-the-nodes"),
        pytest.param("resource: limits.ephemeral-storage", None, id="the-nodes"),
        pytest.param("resource: requests.cpu", "0", id="no-request"),
        pytest.param("resource: limits.hugepages-2Mi", "0", id="hugepages"),
        pytest.param("containerName: first, resource: limits.memory", "7", id="of-an-init-container"),
        pytest.param("containerName: first, resource: limits.cpu", "0", id="init-containers-get-no-defaults"),
    ],
)
def test_resources_that_are_known_before_the_pod_runs(reference: str, value: str | None) -> None:
    """§4.4: a variable's limit is the container's, the pod's, the node's; only the last needs a node."""
    text = pod(
        f"env: [{{name: A, valueFrom: {{resourceFieldRef: {{{reference}}}}}}}]",
        spec="resources: {limits: {cpu: 1500m, memory: 0}}\n"
        "initContainers: [{name: first, image: i, resources: {limits: {memory: 7}}}]",
    )
    (variable,) = (
        each
        for view in explain_yaml(text).pods[0].containers
        for each in view.variables
        if each.name == "A" and view.name == "c"
    )
    assert variable.value == value
