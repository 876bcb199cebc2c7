"""The environment of a container, case by case as upstream's own test has it.

Source: pkg/kubelet/kubelet_pods_test.go, TestMakeEnvironmentVariables and …WithFileKeyRef; semantics §6.1, §6.7.
"""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kubelet_secrets.api.core import ConfigMap, Pod, Secret
from kubelet_secrets.api.origin import OriginKind
from kubelet_secrets.api.sources import NodeInfo, ObjectSnapshot
from kubelet_secrets.envvars.environment import Environment, expand_command, make_environment
from kubelet_secrets.envvars.filekeys import EnvFile, wanted_env_files
from kubelet_secrets.errors import CacheNotSynced, ContainerConfigError, MissingObject, SetUpError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.envvars.builders import (
    NODE,
    environment_of,
    make_config_map,
    make_pod,
    make_secret,
    make_service,
    make_sources,
    values_of,
)

SERVICES = (
    make_service("default", "kubernetes", "1.2.3.1", 8081),
    make_service("test1", "test", "1.2.3.3", 8083),
    make_service("test2", "kubernetes", "1.2.3.4", 8084),
    make_service("test2", "test", "1.2.3.5", 8085),
    make_service("test1", "test", "None", 8085),
    make_service("test2", "test", "", 8085),
    make_service("default", "not-special", "1.2.3.8", 8088),
    make_service("default", "not-special", "None", 8088),
    make_service("default", "not-special", "", 8088),
)


def service_variables(name: str, ip: str, port: int) -> dict[str, str]:
    url = f"tcp://{ip}:{port}"
    return {
        f"{name}_SERVICE_HOST": ip,
        f"{name}_SERVICE_PORT": str(port),
        f"{name}_PORT": url,
        f"{name}_PORT_{port}_TCP": url,
        f"{name}_PORT_{port}_TCP_PROTO": "tcp",
        f"{name}_PORT_{port}_TCP_PORT": str(port),
        f"{name}_PORT_{port}_TCP_ADDR": ip,
    }


def literal(name: str, value: str) -> dict[str, Any]:
    return {"name": name, "value": value}


def field(name: str, path: str) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}}}


def from_secret(name: str, secret: str, key: str, *, optional: bool | None = None) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"secretKeyRef": {"name": secret, "key": key, "optional": optional}}}


def from_config_map(name: str, config_map: str, key: str, *, optional: bool | None = None) -> dict[str, Any]:
    return {"name": name, "valueFrom": {"configMapKeyRef": {"name": config_map, "key": key, "optional": optional}}}


KUBE = service_variables("KUBERNETES", "1.2.3.1", 8081)
TEST_VARIABLES = service_variables("TEST", "1.2.3.3", 8083)


@pytest.mark.parametrize(
    ("namespace", "links", "env", "expected"),
    [
        pytest.param(
            "test1",
            False,
            [{"name": n, "value": v} for n, v in TEST_VARIABLES.items()],
            {**TEST_VARIABLES, **KUBE},
            id="api server = Y, kubelet = Y",
        ),
        pytest.param("test1", False, [literal("FOO", "BAZ")], {"FOO": "BAZ", **KUBE}, id="no links"),
        pytest.param("test1", True, [literal("FOO", "BAZ")], {"FOO": "BAZ", **TEST_VARIABLES, **KUBE}, id="links"),
        pytest.param("test2", False, [literal("FOO", "ZAP")], {"FOO": "ZAP", **KUBE}, id="master in pod ns, no links"),
        pytest.param(
            "test2",
            True,
            [literal("FOO", "ZAP")],
            {
                "FOO": "ZAP",
                **service_variables("TEST", "1.2.3.5", 8085),
                **service_variables("KUBERNETES", "1.2.3.4", 8084),
            },
            id="master in pod ns, links",
        ),
        pytest.param("default", False, [], KUBE, id="pod in default ns, no links"),
        pytest.param(
            "default",
            True,
            [],
            {**KUBE, **service_variables("NOT_SPECIAL", "1.2.3.8", 8088)},
            id="pod in default ns, links",
        ),
        pytest.param(
            "test1",
            False,
            [literal("KUBERNETES_PORT", "mine")],
            {**KUBE, "KUBERNETES_PORT": "mine"},
            id="env overrides a service's variable",
        ),
    ],
)
def test_service_variables(namespace: str, links: bool, env: list[dict[str, Any]], expected: dict[str, str]) -> None:
    pod = make_pod(env, namespace=namespace, links=links)
    assert values_of(environment_of(pod, services=SERVICES)) == expected


def test_services_not_read_yet_stop_a_pod_of_the_api_but_not_a_static_one() -> None:
    with pytest.raises(ContainerConfigError) as caught:
        environment_of(make_pod(), services=None)
    assert str(caught.value) == "services have not yet been read at least once, cannot construct envvars"
    static = make_pod([literal("A", "a")], meta={"annotations": {"kubernetes.io/config.source": "file"}})
    assert values_of(environment_of(static, services=None)) == {"A": "a"}


def test_enable_service_links_must_be_defaulted() -> None:
    with pytest.raises(ContainerConfigError) as caught:
        environment_of(make_pod(links=None))
    assert str(caught.value) == "nil pod.spec.enableServiceLinks encountered, cannot construct envvars"


DOWNWARD = [
    field("POD_NAME", "metadata.name"),
    field("POD_NAMESPACE", "metadata.namespace"),
    field("POD_UID", "metadata.uid"),
    field("POD_NODE_NAME", "spec.nodeName"),
    field("POD_SERVICE_ACCOUNT_NAME", "spec.serviceAccountName"),
    field("POD_IP", "status.podIP"),
    field("POD_IPS", "status.podIPs"),
    field("HOST_IP", "status.hostIP"),
    field("HOST_IPS", "status.hostIPs"),
    field("LABEL", "metadata.labels['app']"),
    field("NO_LABEL", "metadata.labels['none']"),
    field("ANNOTATION", "metadata.annotations['Www.k8s.io/Test']"),
]


@pytest.mark.parametrize(
    ("pod_ips", "is_ipv6_primary", "pod_ip", "shown"),
    [
        pytest.param(("1.2.3.4", "fd00::6"), False, "1.2.3.4", "1.2.3.4,fd00::6", id="downward api pod"),
        pytest.param(("fd00::6", "1.2.3.4"), False, "1.2.3.4", "1.2.3.4,fd00::6", id="pod ips reversed"),
        pytest.param(("1.2.3.4", "192.168.1.1.", "fd00::6"), False, "1.2.3.4", "1.2.3.4,fd00::6", id="multiple ips"),
        pytest.param(("1.2.3.4", "1.2.3.5", "fd00::6"), True, "fd00::6", "fd00::6,1.2.3.4", id="node prefers ipv6"),
        pytest.param((), False, "", "", id="no ip"),
    ],
)
def test_downward_api(pod_ips: tuple[str, ...], is_ipv6_primary: bool, pod_ip: str, shown: str) -> None:
    pod = make_pod(
        DOWNWARD,
        namespace="downward-api",
        meta={"labels": {"app": "web"}, "annotations": {"Www.k8s.io/Test": "x\ny"}},
        spec={"serviceAccountName": "special", "nodeName": "node-name"},
    )
    node = NodeInfo(name="node-name", is_ipv6_primary=is_ipv6_primary)
    environment = environment_of(pod, pod_ips=pod_ips, host_ips=("10.0.0.1", "fd00::1"), node_info=node)
    assert values_of(environment) == {
        "POD_NAME": "dapi-test-pod-name",
        "POD_NAMESPACE": "downward-api",
        "POD_UID": "uid-1",
        "POD_NODE_NAME": "node-name",
        "POD_SERVICE_ACCOUNT_NAME": "special",
        "POD_IP": pod_ip,
        "POD_IPS": shown,
        "HOST_IP": "10.0.0.1",
        "HOST_IPS": "10.0.0.1,fd00::1",
        "LABEL": "web",
        "NO_LABEL": "",
        "ANNOTATION": "x\ny",
    }
    assert str(environment["LABEL"].origin) == "field metadata.labels['app']"


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        pytest.param({"fieldPath": "status.nope"}, "field label not supported: status.nope", id="unknown"),
        pytest.param(
            {"fieldPath": "status.podIP['a']"},
            "field label does not support subscript: status.podIP['a']",
            id="subscript",
        ),
        pytest.param({"fieldPath": "metadata.name", "apiVersion": "v2"}, "unsupported pod version: v2", id="version"),
        pytest.param(
            {"fieldPath": "spec.schedulerName"}, "unsupported fieldPath: spec.schedulerName", id="label-but-no-field"
        ),
        pytest.param(
            {"fieldPath": "metadata.labels['a b']"},
            "invalid key subscript in metadata.labels['a b']: name part must consist of alphanumeric characters, '-', '_' "
            "or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', "
            "regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')",
            id="bad-key",
        ),
    ],
)
def test_field_that_cannot_be_given(reference: dict[str, str], message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        environment_of(make_pod([{"name": "X", "valueFrom": {"fieldRef": reference}}]))
    assert str(caught.value) == message


def resource(resource_name: str, container: str = "", divisor: str | None = None) -> dict[str, Any]:
    reference = {"resource": resource_name, "containerName": container, "divisor": divisor}
    return {"name": "X", "valueFrom": {"resourceFieldRef": reference}}


@pytest.mark.parametrize(
    ("variable", "limits", "expected"),
    [
        pytest.param(resource("limits.cpu"), {"cpu": "1250m"}, "2", id="own cpu limit, rounded up"),
        pytest.param(resource("limits.cpu", divisor="1m"), {"cpu": "250m"}, "250", id="milli"),
        pytest.param(resource("limits.memory"), {}, str(8 * 2**30), id="node's allocatable"),
        pytest.param(resource("limits.memory", "c", "1Gi"), {}, "8", id="named, node's allocatable"),
        pytest.param(resource("limits.memory", "init", "1Gi"), {}, "0", id="a named init container gets no defaults"),
        pytest.param(resource("requests.memory"), {}, "0", id="request not set"),
        pytest.param(resource("limits.hugepages-2Mi"), {}, "0", id="hugepages have no default"),
        pytest.param(resource("limits.hugepages-2Mi", divisor="1Mi"), {"hugepages-2Mi": "4Mi"}, "4", id="hugepages"),
    ],
)
def test_resource_field(variable: dict[str, Any], limits: dict[str, str], expected: str) -> None:
    pod = make_pod([variable], resources={"limits": limits}, spec={"initContainers": [{"name": "init"}]})
    # The shared builder puts the init container beside "c".
    assert values_of(environment_of(pod)) == {"X": expected}


@pytest.mark.parametrize(
    ("variable", "node", "message"),
    [
        pytest.param(resource("limits.gpu"), NODE, "unsupported container resource : limits.gpu", id="resource"),
        pytest.param(resource("cpu"), NODE, "unsupported container resource : cpu", id="no side"),
        pytest.param(resource("limits.cpu", "x"), NODE, "container x not found", id="container"),
        pytest.param(resource("limits.cpu"), None, "failed to find node object, expected a node", id="no node"),
    ],
)
def test_resource_that_cannot_be_given(variable: dict[str, Any], node: NodeInfo | None, message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        environment_of(make_pod([variable]), node_info=node)
    assert str(caught.value) == message


def test_expansion_sees_what_was_set_before() -> None:
    """Forward references stay, empty values vanish, chains work, and fieldRef values can be used."""
    pod = make_pod(
        [
            literal("TEST_LITERAL", "test-test-test"),
            field("POD_NAME", "metadata.name"),
            literal("OUT_OF_ORDER_TEST", "$(OUT_OF_ORDER_TARGET)"),
            literal("OUT_OF_ORDER_TARGET", "FOO"),
            literal("EMPTY_VAR", ""),
            literal("EMPTY_TEST", "foo-$(EMPTY_VAR)"),
            literal("POD_NAME_TEST2", "test2-$(POD_NAME)"),
            literal("POD_NAME_TEST3", "$(POD_NAME_TEST2)-3"),
            literal("LITERAL_TEST", "literal-$(TEST_LITERAL)"),
            literal("TEST_UNDEFINED", "$(UNDEFINED_VAR)"),
        ]
    )
    environment = environment_of(pod)
    assert values_of(environment) == {
        "TEST_LITERAL": "test-test-test",
        "POD_NAME": "dapi-test-pod-name",
        "OUT_OF_ORDER_TEST": "$(OUT_OF_ORDER_TARGET)",
        "OUT_OF_ORDER_TARGET": "FOO",
        "EMPTY_VAR": "",
        "EMPTY_TEST": "foo-",
        "POD_NAME_TEST2": "test2-dapi-test-pod-name",
        "POD_NAME_TEST3": "test2-dapi-test-pod-name-3",
        "LITERAL_TEST": "literal-test-test-test",
        "TEST_UNDEFINED": "$(UNDEFINED_VAR)",
    }
    assert environment["POD_NAME_TEST3"].expanded_from == ("POD_NAME_TEST2",)
    assert environment["TEST_UNDEFINED"].undefined == ("UNDEFINED_VAR",)
    assert environment["OUT_OF_ORDER_TEST"].undefined == ("OUT_OF_ORDER_TARGET",)


def test_expansion_sees_service_variables_below_the_pods_own() -> None:
    pod = make_pod(
        [
            literal("ADDRESS", "http://$(TEST_SERVICE_HOST):$(TEST_SERVICE_PORT)"),
            literal("TEST_SERVICE_PORT", "1"),
            literal("PORT", "$(TEST_SERVICE_PORT)"),
        ],
        namespace="test1",
        links=True,
    )
    environment = environment_of(pod, services=SERVICES)
    assert environment["ADDRESS"].value == "http://1.2.3.3:8083"
    assert environment["PORT"].value == "1"
    assert environment["TEST_SERVICE_HOST"].origin.kind is OriginKind.SERVICE


SECRET = make_secret("test-secret", {"REPLACE_ME": "FROM_SECRET", "DUPE_TEST": "SECRET"}, resource_version="7")
CONFIG_MAP = make_config_map("test-config-map", {"REPLACE_ME": "FROM_CONFIG_MAP", "DUPE_TEST": "CONFIG_MAP"})


def env_from(kind: str, name: str, prefix: str = "", *, optional: bool | None = None) -> dict[str, Any]:
    return {"prefix": prefix, f"{kind}Ref": {"name": name, "optional": optional}}


@pytest.mark.parametrize(
    ("kind", "name", "word"),
    [
        pytest.param("configMap", "test-config-map", "CONFIG_MAP", id="configmap"),
        pytest.param("secret", "test-secret", "SECRET", id="secret"),
    ],
)
def test_env_from_with_and_without_prefix(kind: str, name: str, word: str) -> None:
    pod = make_pod(
        [
            literal("TEST_LITERAL", "test-test-test"),
            literal("EXPANSION_TEST", "$(REPLACE_ME)"),
            literal("DUPE_TEST", "ENV_VAR"),
        ],
        envFrom=[env_from(kind, name), env_from(kind, name, "p_")],
    )
    environment = environment_of(pod, SECRET, CONFIG_MAP, services=SERVICES)
    assert values_of(environment) == {
        "TEST_LITERAL": "test-test-test",
        "REPLACE_ME": f"FROM_{word}",
        "EXPANSION_TEST": f"FROM_{word}",
        "DUPE_TEST": "ENV_VAR",
        "p_REPLACE_ME": f"FROM_{word}",
        "p_DUPE_TEST": word,
        **KUBE,
    }
    assert [str(origin) for origin in environment["DUPE_TEST"].overridden] == [f"{kind.lower()}/{name} key DUPE_TEST"]


def test_later_env_from_wins() -> None:
    pod = make_pod(envFrom=[env_from("configMap", "test-config-map"), env_from("secret", "test-secret")])
    environment = environment_of(pod, SECRET, CONFIG_MAP)
    assert environment["DUPE_TEST"].value == "SECRET"
    assert str(environment["DUPE_TEST"].origin) == "secret/test-secret key DUPE_TEST"
    assert environment["DUPE_TEST"].origin.resource_version == "7"


def test_later_env_of_the_same_name_wins_and_may_use_the_earlier() -> None:
    pod = make_pod([literal("A", "1"), literal("A", "$(A)2"), literal("A", "$(A)3")])
    environment = environment_of(pod)
    assert values_of(environment) == {"A": "123"}
    assert len(environment["A"].overridden) == 2


@pytest.mark.parametrize("prefix", ["1_", "1-", "$_-", "ABC_", "#@!", ""])
@pytest.mark.parametrize("key", ["REPLACE_ME", "1234", "1234.name", "a-b", "a.b"])
def test_no_name_is_filtered(prefix: str, key: str) -> None:
    """Since 1.34 every key is injected as it is; there is no event for odd names."""
    pod = make_pod(envFrom=[env_from("secret", "s", prefix)])
    assert values_of(environment_of(pod, make_secret("s", {key: "abc"}))) == {prefix + key: "abc"}


def test_config_map_env_from_ignores_binary_data() -> None:
    config_map = make_config_map("c", {"a": "1"}, binaryData={"b": "Mg=="})
    assert values_of(environment_of(make_pod(envFrom=[env_from("configMap", "c")]), config_map)) == {"a": "1"}


@pytest.mark.parametrize(
    ("pod", "objects"),
    [
        pytest.param(make_pod([from_config_map("X", "none", "k", optional=True)]), (), id="configmapkeyref, object"),
        pytest.param(make_pod([from_secret("X", "none", "k", optional=True)]), (), id="secretkeyref, object"),
        pytest.param(
            make_pod([from_config_map("X", "test-config-map", "k", optional=True)]),
            (CONFIG_MAP,),
            id="configmapkeyref, key",
        ),
        pytest.param(
            make_pod([from_secret("X", "test-secret", "k", optional=True)]), (SECRET,), id="secretkeyref, key"
        ),
        pytest.param(make_pod(envFrom=[env_from("configMap", "none", optional=True)]), (), id="configmap env"),
        pytest.param(make_pod(envFrom=[env_from("secret", "none", optional=True)]), (), id="secret env"),
    ],
)
def test_missing_but_optional_is_not_set(pod: Pod, objects: tuple[Secret | ConfigMap, ...]) -> None:
    assert values_of(environment_of(pod, *objects, services=SERVICES)) == KUBE


def test_missing_optional_key_lets_the_env_from_value_of_the_same_name_live() -> None:
    pod = make_pod([from_secret("REPLACE_ME", "none", "k", optional=True)], envFrom=[env_from("secret", "test-secret")])
    assert environment_of(pod, SECRET)["REPLACE_ME"].value == "FROM_SECRET"


@pytest.mark.parametrize(
    ("pod", "error", "message"),
    [
        pytest.param(
            make_pod([from_config_map("X", "none", "k")]),
            MissingObject,
            'configmap "none" not found',
            id="configmapkeyref, object",
        ),
        pytest.param(
            make_pod([from_secret("X", "none", "k", optional=False)]),
            MissingObject,
            'secret "none" not found',
            id="secretkeyref, object",
        ),
        pytest.param(
            make_pod([from_config_map("X", "test-config-map", "k")]),
            ContainerConfigError,
            "couldn't find key k in ConfigMap test/test-config-map",
            id="configmapkeyref, key",
        ),
        pytest.param(
            make_pod([from_secret("X", "test-secret", "k")]),
            ContainerConfigError,
            "couldn't find key k in Secret test/test-secret",
            id="secretkeyref, key",
        ),
        pytest.param(
            make_pod(envFrom=[env_from("configMap", "none")]),
            MissingObject,
            'configmap "none" not found',
            id="configmap env",
        ),
        pytest.param(
            make_pod(envFrom=[env_from("secret", "none")]), MissingObject, 'secret "none" not found', id="secret env"
        ),
    ],
)
def test_missing_and_required_fails(pod: Pod, error: type[Exception], message: str) -> None:
    with pytest.raises(error) as caught:
        environment_of(pod, SECRET, CONFIG_MAP)
    assert str(caught.value) == message


@pytest.mark.parametrize(
    "failure",
    [
        pytest.param(CacheNotSynced("secret"), id="not synced"),
        pytest.param(SetUpError('secrets "s" is forbidden: no relationship found'), id="forbidden"),
    ],
)
def test_optional_forgives_absence_only(failure: SetUpError) -> None:
    sources = ObjectSnapshot(secrets={"s": failure})
    with pytest.raises(type(failure)) as caught:
        environment_of(make_pod([from_secret("X", "s", "k", optional=True)]), sources=sources)
    assert str(caught.value) == str(failure)


class CountingSource:
    """Counts how often each object is asked for."""

    def __init__(self, *objects: Secret | ConfigMap) -> None:
        self.snapshot = make_sources(*objects)
        self.asked: list[str] = []

    def get_secret(self, name: str) -> Secret:
        self.asked.append(name)
        return self.snapshot.get_secret(name)

    def get_config_map(self, name: str) -> ConfigMap:
        self.asked.append(name)
        return self.snapshot.get_config_map(name)


def test_each_object_is_asked_for_once_unless_it_is_missing() -> None:
    source = CountingSource(SECRET)
    pod = make_pod(
        [
            from_secret("A", "test-secret", "REPLACE_ME"),
            from_secret("B", "none", "k", optional=True),
            from_secret("C", "none", "k", optional=True),
        ],
        envFrom=[env_from("secret", "test-secret")],
    )
    environment_of(pod, sources=source)
    assert source.asked == ["test-secret", "none", "none"]


def test_value_goes_before_value_from_and_nothing_inside_is_empty() -> None:
    both = {**from_secret("A", "none", "k"), "value": "given"}
    assert values_of(environment_of(make_pod([both, {"name": "B", "valueFrom": {}}]))) == {"A": "given", "B": ""}


def test_secret_value_that_is_not_utf8_survives_to_the_bytes() -> None:
    secret = make_secret("s", {"bin": b"\xde\xca\xfe\xba\xd0\xfe\xff", "nul": b"a\0b"})
    pod = make_pod([literal("WRAPPED", "<$(bin)>")], envFrom=[env_from("secret", "s")])
    assert environment_of(pod, secret).to_bytes() == {
        b"bin": b"\xde\xca\xfe\xba\xd0\xfe\xff",
        b"nul": b"a\0b",
        b"WRAPPED": b"<\xde\xca\xfe\xba\xd0\xfe\xff>",
    }


@given(st.dictionaries(st.from_regex(r"[-._a-zA-Z0-9]{1,20}", fullmatch=True), st.binary(max_size=50), max_size=8))
def test_any_secret_bytes_come_out_as_they_went_in(data: dict[str, bytes]) -> None:
    pod = make_pod(envFrom=[env_from("secret", "s")])
    environment = environment_of(pod, make_secret("s", dict(data)))
    assert environment.to_bytes() == {key.encode(): value for key, value in data.items()}


def test_no_repr_shows_a_value() -> None:
    secret = make_secret("s", {"password": "c4n4ry"})
    pod = make_pod([literal("URL", "db://$(password)")], envFrom=[env_from("secret", "s")])
    environment = environment_of(pod, secret)
    for text in (
        repr(environment),
        str(environment),
        f"{environment}",
        repr(environment["URL"]),
        repr(dict(environment)),
    ):
        assert "c4n4ry" not in text
    assert repr(environment) == "Environment(password, URL)"
    assert environment["URL"].is_secret
    assert environment["password"].is_secret


def test_literal_made_of_literals_is_not_secret() -> None:
    assert not environment_of(make_pod([literal("A", "a"), literal("B", "$(A)")]))["B"].is_secret


# --- fileKeyRef ----------------------------------------------------------------------------------------------------


def file_key(
    name: str, key: str, path: str = "config.env", volume: str = "files", *, optional: bool | None = None
) -> dict[str, Any]:
    return {
        "name": name,
        "valueFrom": {"fileKeyRef": {"volumeName": volume, "path": path, "key": key, "optional": optional}},
    }


def with_file(pod: Pod, content: bytes | None) -> Environment:
    file = EnvFile(host_path="/v/files/config.env", content=None if content is None else SensitiveBytes(content))
    files = {(volume, path): file for volume, path in wanted_env_files(pod.spec.containers[0]) if volume == "files"}
    return environment_of(pod, env_files=files)


@pytest.mark.parametrize(
    ("env", "content", "expected"),
    [
        pytest.param(
            [file_key("DATABASE", "DATABASE")], b"DATABASE='mydb'\nAPI='x'\n", {"DATABASE": "mydb"}, id="success"
        ),
        pytest.param([file_key("D", "DATABASE")], b"# c\n\nDATABASE='mydb'\n", {"D": "mydb"}, id="comments"),
        pytest.param([file_key("D", "NONE", optional=True)], b"DATABASE='mydb'\n", {}, id="optional key missing"),
        pytest.param([file_key("D", "EMPTY", optional=True)], b"EMPTY=''\n", {}, id="optional key empty"),
        pytest.param([file_key("A", "A"), file_key("B", "B")], b"A='1'\nB='2'\n", {"A": "1", "B": "2"}, id="several"),
        pytest.param(
            [literal("S", "s"), file_key("A", "A"), literal("Z", "$(A)")],
            b"A='1'\n",
            {"S": "s", "A": "1", "Z": "1"},
            id="mixed",
        ),
    ],
)
def test_file_key(env: list[dict[str, Any]], content: bytes, expected: dict[str, str]) -> None:
    assert values_of(with_file(make_pod(env), content)) == expected


@pytest.mark.parametrize(
    ("variable", "content", "message"),
    [
        pytest.param(file_key("D", "D"), b"D = 'x'\n", "couldn't parse env file", id="spaces around equals"),
        pytest.param(
            file_key("D", "MISSING_KEY"),
            b"D='x'\n",
            'environment variable key "MISSING_KEY" not found in file "/v/files/config.env"',
            id="key missing",
        ),
        pytest.param(
            file_key("D", "D"),
            b"D=''\n",
            'environment variable key "D" not found in file "/v/files/config.env"',
            id="key empty",
        ),
        pytest.param(file_key("D", "D"), None, "couldn't parse env file", id="file missing"),
        pytest.param(file_key("D", "D", optional=True), None, "couldn't parse env file", id="file missing, optional"),
        pytest.param(
            file_key("D", "D", volume="gone"),
            b"",
            'cannot find the volume "gone" referenced by FileKeyRef',
            id="volume missing",
        ),
    ],
)
def test_file_key_that_cannot_be_given(variable: dict[str, Any], content: bytes | None, message: str) -> None:
    with pytest.raises(ContainerConfigError) as caught:
        with_file(make_pod([variable]), content)
    assert str(caught.value) == message


def test_wanted_env_files_are_told_once() -> None:
    pod = make_pod([file_key("A", "A"), file_key("B", "B"), file_key("C", "C", path="other"), literal("D", "d")])
    assert wanted_env_files(pod.spec.containers[0]) == (("files", "config.env"), ("files", "other"))


# --- command and args ----------------------------------------------------------------------------------------------


def test_command_and_args_use_the_final_environment_with_services() -> None:
    pod = make_pod(
        [literal("A", "a")],
        namespace="test1",
        links=True,
        command=["sh", "-c", "echo $(A) $$(A) $(NONE)"],
        args=["$(TEST_SERVICE_HOST)"],
    )
    environment = make_environment(
        pod, pod.spec.containers[0], sources=make_sources(), services=SERVICES, node_info=NODE
    )
    assert expand_command(pod.spec.containers[0], environment) == (("sh", "-c", "echo a $(A) $(NONE)"), ("1.2.3.3",))
