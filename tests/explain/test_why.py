"""``why`` from manifests: each chain whole, each rule exact, and no value anywhere."""

from __future__ import annotations

import textwrap

import pytest

from kubelet_secrets.control.protocol import WhyView
from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain.answer import Question, answer_from_manifests
from kubelet_secrets.manifests import parse_manifest
from tests.explain.builders import pod, secret

CONFIG = (
    "---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: settings}\ndata: {DB_HOST: db.local, password: plain}\n"
)
OBJECTS = secret("db", user="jane", password="hunter2") + CONFIG


def ask(text: str, name: str = "web", *, namespace: str = "default", **question: str) -> WhyView:
    manifests = parse_manifest(textwrap.dedent(text).encode(), source="f.yaml")
    view = answer_from_manifests(manifests, name, Question(**question), namespace=namespace)
    assert "hunter2" not in repr(view) + str(view)
    return view


def chain(view: WhyView) -> list[tuple[str, str]]:
    return [("  " * step.depth + step.where, step.text) for step in view.steps]


# --- variables -------------------------------------------------------------------------------------------------------

PW = "{name: PW, valueFrom: {secretKeyRef: {name: db, key: password}}}"


def test_variable_of_a_key() -> None:
    view = ask(OBJECTS + pod(f"env: [{PW}]"), variable="PW")
    assert (view.kind, view.origin, view.rule) == ("variable", "secret/db key password", "")
    assert chain(view) == [
        ("spec.containers[0].env[0].valueFrom.secretKeyRef", "key password of secret/db"),
        ("secret default/db", "key password, 7 bytes"),
    ]


def test_later_lines_win_and_the_losers_are_named() -> None:
    env_from = "envFrom: [{configMapRef: {name: settings}}, {secretRef: {name: db}}]"
    view = ask(
        OBJECTS + pod(f"{env_from}, env: [{{name: password, value: x}}, {{name: password, value: y}}]"),
        variable="password",
    )
    assert chain(view) == [
        ("spec.containers[0].envFrom[0].configMapRef", "every key of configmap/settings: key password: overridden"),
        ("spec.containers[0].envFrom[1].secretRef", "every key of secret/db: key password: overridden"),
        ("spec.containers[0].env[0].value", "text in the spec: overridden"),
        ("spec.containers[0].env[1].value", "text in the spec"),
    ]


def test_prefix_belongs_to_the_name() -> None:
    text = OBJECTS + pod("envFrom: [{prefix: DB_, secretRef: {name: db}}]")
    assert chain(ask(text, variable="DB_user"))[0] == (
        "spec.containers[0].envFrom[0].secretRef",
        "every key of secret/db under the prefix DB_: key user",
    )
    assert ask(text, variable="user").kind == "nothing"


def test_expansion_leads_to_every_part() -> None:
    url = '{name: URL, value: "$(PW)@$(DB_HOST)/$(NOPE)"}'
    view = ask(OBJECTS + pod(f"envFrom: [{{configMapRef: {{name: settings}}}}], env: [{PW}, {url}]"), variable="URL")
    assert chain(view) == [
        ("spec.containers[0].env[1].value", "text in the spec, made of $(PW), $(DB_HOST), $(NOPE)"),
        ("  $(NOPE)", "is not defined before it: the text stays as it is written"),
        ("  $(PW)", "is secret/db key password"),
        ("  spec.containers[0].env[0].valueFrom.secretKeyRef", "key password of secret/db"),
        ("  secret default/db", "key password, 7 bytes"),
        ("  $(DB_HOST)", "is configmap/settings key DB_HOST"),
        ("  spec.containers[0].envFrom[0].configMapRef", "every key of configmap/settings: key DB_HOST"),
        ("  configmap default/settings", "key DB_HOST, 8 bytes"),
    ]


def test_variable_that_names_itself_ends() -> None:
    view = ask(
        OBJECTS + pod('env: [{name: A, value: "1"}, {name: A, value: "$(A)2"}, {name: A, value: "$(A)3"}]'),
        variable="A",
    )
    assert len(view.steps) < 20


@pytest.mark.parametrize(
    ("env", "where", "text"),
    [
        pytest.param("{fieldRef: {fieldPath: status.podIP}}", "fieldRef", "field status.podIP of the pod", id="field"),
        pytest.param(
            "{resourceFieldRef: {resource: limits.cpu, divisor: 1m}}",
            "resourceFieldRef",
            "limits.cpu, in units of 1m",
            id="resource",
        ),
        pytest.param(
            "{configMapKeyRef: {name: settings, key: DB_HOST}}",
            "configMapKeyRef",
            "key DB_HOST of configmap/settings",
            id="config-map",
        ),
        pytest.param(
            "{fileKeyRef: {volumeName: e, path: x.env, key: K}}",
            "fileKeyRef",
            "key K in file x.env of volume e",
            id="file",
        ),
    ],
)
def test_every_kind_of_source(env: str, where: str, text: str) -> None:
    view = ask(
        OBJECTS + pod(f"env: [{{name: X, valueFrom: {env}}}]", volumes="[{name: e, emptyDir: {}}]"), variable="X"
    )
    assert chain(view)[0] == (f"spec.containers[0].env[0].valueFrom.{where}", text)
    assert view.kind == "variable"


def test_service_variables_come_with_the_links() -> None:
    service = (
        "---\napiVersion: v1\nkind: Service\nmetadata: {name: db}\nspec: {clusterIP: 10.0.0.1, ports: [{port: 1}]}\n"
    )
    view = ask(service + pod("env: []"), variable="DB_PORT")
    assert chain(view)[0] == ("spec.enableServiceLinks", "true: variables of every service of the namespace")
    view = ask(service + pod("env: []"), variable="KUBERNETES_SERVICE_HOST")
    assert chain(view)[0] == ("every container", "gets the variables of service default/kubernetes")
    view = ask(service + pod("env: []", spec="enableServiceLinks: false"), variable="DB_PORT")
    assert (view.kind, view.hint) == (
        "nothing",
        "enableServiceLinks is false: only the service default/kubernetes has variables",
    )


# --- rules that stop a variable --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "rule", "hint"),
    [
        pytest.param(
            "env: [{name: X, valueFrom: {secretKeyRef: {name: dbb, key: password}}}]",
            'secret "dbb" not found',
            'did you mean "db"?',
            id="missing-object",
        ),
        pytest.param(
            "env: [{name: X, valueFrom: {secretKeyRef: {name: db, key: pasword}}}]",
            "couldn't find key pasword in Secret default/db",
            'did you mean "password"?',
            id="missing-key",
        ),
        pytest.param(
            "env: [{name: X, valueFrom: {fieldRef: {fieldPath: spec.nope}}}]",
            'Invalid value: "spec.nope": error converting fieldPath: field label not supported: spec.nope',
            "",
            id="bad-field",
        ),
        pytest.param(
            "envFrom: [{secretRef: {name: gone}}]",
            'secret "gone" not found',
            "it is not among the given manifests",
            id="missing-envFrom",
        ),
    ],
)
def test_rule_that_stops_the_container(container: str, rule: str, hint: str) -> None:
    view = ask(OBJECTS + pod(container), variable="X")
    assert (view.rule, view.hint) == (rule, hint)
    assert view.effect in ("container c waits: CreateContainerConfigError", "the API server refuses the object")


def test_optional_reference_that_leads_nowhere_sets_nothing() -> None:
    optional = "{name: X, valueFrom: {secretKeyRef: {name: gone, key: k, optional: true}}}"
    view = ask(OBJECTS + pod(f"env: [{optional}]"), variable="X")
    assert (view.kind, view.effect) == ("nothing", "")
    assert view.rule == 'secret "gone" not found; it is optional, so X is not set'
    view = ask(OBJECTS + pod(f"env: [{{name: X, value: kept}}, {optional}]"), variable="X")
    assert (view.kind, view.rule) == ("variable", "")
    assert chain(view) == [
        ("spec.containers[0].env[1].valueFrom.secretKeyRef", "key k of secret/gone, optional: not set"),
        ("spec.containers[0].env[0].value", "text in the spec"),
    ]


def test_env_from_that_says_nothing_of_the_name_is_told_only_where_nothing_sets_it() -> None:
    optional = "{secretRef: {name: gone, optional: true}}"
    text = OBJECTS + pod(f"envFrom: [{{secretRef: {{name: db}}}}, {{prefix: X_, secretRef: {{name: db}}}}, {optional}]")
    assert chain(ask(text, variable="password")) == [
        ("spec.containers[0].envFrom[0].secretRef", "every key of secret/db: key password"),
        ("secret default/db", "key password, 7 bytes"),
    ]
    view = ask(text, variable="removed")
    assert view.rule == "nothing sets removed in container c; only the image's own ENV could"
    assert chain(view) == [
        ("spec.containers[0].envFrom[0].secretRef", "every key of secret/db: it has no key removed"),
        (
            "spec.containers[0].envFrom[2].secretRef",
            "every key of secret/gone: it does not exist, and is optional",
        ),
    ]


def test_name_that_nothing_sets() -> None:
    view = ask(OBJECTS + pod(f"env: [{PW}]"), variable="PWD_")
    assert view.rule == "nothing sets PWD_ in container c; only the image's own ENV could"
    assert view.hint == "it has PW"


def test_what_blocks_the_pod_elsewhere_is_told() -> None:
    text = OBJECTS + pod(
        f"env: [{PW}], volumeMounts: [{{name: v, mountPath: /v}}]", volumes="[{name: v, secret: {secretName: gone}}]"
    )
    view = ask(text, variable="PW")
    assert view.origin == "secret/db key password"
    assert view.rule == 'MountVolume.SetUp failed for volume "v" : secret "gone" not found'
    assert view.effect == "the pod waits with all its containers: ContainerCreating, FailedMount"
    assert chain(view)[-1] == ("spec.volumes[0].secret", "stands in the way of all of it")


# --- files -----------------------------------------------------------------------------------------------------------

MOUNT = "volumeMounts: [{name: v, mountPath: /etc/v}]"
WHOLE = "[{name: v, secret: {secretName: db}}]"


def test_file_of_a_whole_secret() -> None:
    view = ask(OBJECTS + pod(MOUNT, volumes=WHOLE), path="/etc/v/password")
    assert (view.kind, view.origin, view.frozen) == ("file", "secret/db key password", False)
    assert chain(view) == [
        ("spec.containers[0].volumeMounts[0]", "volume v at /etc/v"),
        ("spec.volumes[0].secret", "every key of secret/db under its own name"),
        ("secret default/db", "key password, 7 bytes"),
        ("the file password", "mode 0644, owner 0:0"),
    ]


@pytest.mark.parametrize(
    "path", ["/etc/v/password", "etc/v/password", "/etc/v/../v/./password", "/etc/v/..data/password"]
)
def test_spellings_of_one_path(path: str) -> None:
    assert ask(OBJECTS + pod(MOUNT, volumes=WHOLE), path=path).origin == "secret/db key password"


def test_item_with_its_mode_and_what_fs_group_makes_of_it() -> None:
    volumes = "[{name: v, secret: {secretName: db, items: [{key: password, path: a//pw, mode: 0400}]}}]"
    view = ask(OBJECTS + pod(MOUNT, volumes=volumes, spec="securityContext: {fsGroup: 7}"), path="/etc/v/a/pw")
    assert chain(view)[1:] == [
        ("spec.volumes[0].secret.items[0]", "key password of secret/db as a//pw, mode 0400"),
        ("secret default/db", "key password, 7 bytes"),
        ("the file a/pw", "mode 0440, owner 0:7 (mode 0400, widened by fsGroup 7)"),
    ]


PROJECTED = """[{name: v, projected: {sources: [
  {configMap: {name: settings}}, {secret: {name: db}},
  {downwardAPI: {items: [{path: labels, fieldRef: {fieldPath: metadata.labels}}]}},
  {serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}}]}}]"""


def test_collision_in_a_projected_volume() -> None:
    view = ask(OBJECTS + pod(MOUNT, volumes=PROJECTED), path="/etc/v/password")
    assert chain(view)[1:3] == [
        (
            "spec.volumes[0].projected.sources[0].configMap",
            "configmap/settings key password: the same path, overridden by a later source",
        ),
        ("spec.volumes[0].projected.sources[1].secret", "every key of secret/db under its own name"),
    ]


@pytest.mark.parametrize(
    ("path", "where", "text"),
    [
        ("labels", "sources[2].downwardAPI.items[0]", "field metadata.labels as labels"),
        ("token", "sources[3].serviceAccountToken", "a token for vault, good for 600 s"),
        ("DB_HOST", "sources[0].configMap", "every key of configmap/settings under its own name"),
    ],
)
def test_each_source_of_a_projected_volume(path: str, where: str, text: str) -> None:
    view = ask(OBJECTS + pod(MOUNT, volumes=PROJECTED), path=f"/etc/v/{path}")
    assert chain(view)[1] == (f"spec.volumes[0].projected.{where}", text)


def test_sub_path_is_frozen() -> None:
    mount = "volumeMounts: [{name: v, mountPath: /etc/pw, subPath: password}]"
    view = ask(OBJECTS + pod(mount, volumes=WHOLE), path="/etc/pw")
    assert (view.kind, view.origin, view.frozen) == ("file", "secret/db key password", True)
    assert chain(view)[0] == ("spec.containers[0].volumeMounts[0]", "volume v at /etc/pw, subPath password")


def test_deeper_mount_hides_the_file() -> None:
    mounts = "volumeMounts: [{name: v, mountPath: /etc/v}, {name: e, mountPath: /etc/v/password}]"
    volumes = "[{name: v, secret: {secretName: db}}, {name: e, emptyDir: {}}]"
    view = ask(OBJECTS + pod(mounts, volumes=volumes), path="/etc/v/password/x")
    assert chain(view) == [
        ("spec.containers[0].volumeMounts[1]", "volume e at /etc/v/password"),
        ("spec.containers[0].volumeMounts[0]", "lies under it: hidden at this path"),
        ("spec.volumes[1].emptyDir", "emptyDir: what is in it was written by the pod's containers"),
    ]


def test_of_two_mounts_at_one_place_the_later_one_is_asked() -> None:
    mounts = "volumeMounts: [{name: w, mountPath: /v/}, {name: v, mountPath: /v}]"
    volumes = "[{name: v, secret: {secretName: db}}, {name: w, configMap: {name: settings}}]"
    view = ask(OBJECTS + pod(mounts, volumes=volumes), path="/v/password")
    assert view.origin == "secret/db key password"
    assert chain(view)[:2] == [
        ("spec.containers[0].volumeMounts[1]", "volume v at /v"),
        ("spec.containers[0].volumeMounts[0]", "lies under it: hidden at this path"),
    ]


def test_file_that_a_directory_for_a_mount_beneath_hides() -> None:
    mounts = "volumeMounts: [{name: v, mountPath: /v}, {name: e, mountPath: /v/password/x}]"
    volumes = "[{name: v, secret: {secretName: db}}, {name: e, emptyDir: {}}]"
    text = OBJECTS + pod(mounts, volumes=volumes)
    view = ask(text, path="/v/password")
    assert (view.kind, view.rule) == (
        "nothing",
        "volume v has password, but a directory for a mount beneath it stands in its place",
    )
    assert ask(text, path="/v/..data/password").origin == "secret/db key password"


def test_directory_lists_its_files() -> None:
    view = ask(OBJECTS + pod(MOUNT, volumes=WHOLE), path="/etc/v")
    assert view.kind == "directory"
    assert chain(view)[-1] == ("the volume v", "the directory of password, user")


# --- rules that stop a file ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("container", "volumes", "path", "rule", "hint"),
    [
        pytest.param(
            MOUNT,
            WHOLE,
            "/etc/other",
            "no volume is mounted at /etc/other or above it: what is there comes from the image",
            "container c mounts /etc/v",
            id="not-mounted",
        ),
        pytest.param(
            MOUNT,
            WHOLE,
            "/etc",
            "no volume is mounted at /etc or above it: what is there comes from the image",
            "below it: /etc/v",
            id="above-a-mount",
        ),
        pytest.param(
            MOUNT, WHOLE, "/etc/v/passwrd", "volume v shows no file passwrd", "did you mean password?", id="no-file"
        ),
        pytest.param(
            MOUNT,
            "[{name: v, secret: {secretName: db, items: [{key: nope, path: x}]}}]",
            "/etc/v/x",
            'MountVolume.SetUp failed for volume "v" : references non-existent secret key: nope',
            "its keys are: password, user",
            id="missing-key",
        ),
        pytest.param(
            MOUNT,
            "[{name: v, secret: {secretName: gone, optional: true}}]",
            "/etc/v/x",
            "volume v shows no file x",
            "it is not among the given manifests",
            id="optional-missing",
        ),
        pytest.param(
            "volumeMounts: [{name: v, mountPath: /etc/v, subPath: nope}]",
            WHOLE,
            "/etc/v",
            "volume v has no nope: the container sees an empty directory at /etc/v",
            "it shows password, user",
            id="missing-subPath",
        ),
        pytest.param(
            "volumeMounts: [{name: v, mountPath: /etc/v, subPathExpr: $(NOPE)}]",
            WHOLE,
            "/etc/v",
            "missing value for NOPE",
            "",
            id="subPathExpr",
        ),
        pytest.param(
            "volumeMounts: [{name: nope, mountPath: /etc/v}]",
            "[]",
            "/etc/v/x",
            'cannot find volume "nope" to mount into container "c"',
            "",
            id="no-volume",
        ),
    ],
)
def test_rule_that_stops_a_file(container: str, volumes: str, path: str, rule: str, hint: str) -> None:
    view = ask(OBJECTS + pod(container, volumes=volumes), path=path)
    assert (view.kind, view.rule, view.hint) == ("nothing", rule, hint)
    assert view.readers == ()


# --- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "mode", "allowed", "why"),
    [
        ("", "0644", True, "everybody may read"),
        ("", "0400", True, "if its image runs as root, uid 0 or group 0"),
        ("securityContext: {runAsUser: 0}", "0000", True, "root with CAP_DAC_OVERRIDE reads it anyway"),
        ("securityContext: {runAsUser: 1000}", "0400", False, "uid 1000 is neither owner nor in group 0"),
        ("securityContext: {runAsUser: 1000, fsGroup: 7}", "0400", True, "the group's bits count for group 7"),
        ("securityContext: {runAsUser: 1000, runAsGroup: 0}", "0400", False, "the group's bits count for group 0"),
        (
            "securityContext: {runAsUser: 1000, supplementalGroups: [0]}",
            "0440",
            True,
            "the group's bits count for group 0",
        ),
    ],
)
def test_bits_of_the_file_decide_after_the_guard(spec: str, mode: str, allowed: bool, why: str) -> None:
    """§2.4"""
    volumes = f"[{{name: v, secret: {{secretName: db, defaultMode: {mode}}}}}]"
    view = ask(OBJECTS + pod(MOUNT, volumes=volumes, spec=spec), path="/etc/v/password")
    reader, host = view.readers
    assert (reader.who, reader.allowed) == ("container c", allowed)
    assert reader.why.startswith("the container mounts the volume; mode ")
    assert reader.why.endswith(why)
    assert (host.who, host.allowed) == ("a process of the host", False)


def test_root_without_the_capability_is_anybody() -> None:
    security = "securityContext: {runAsUser: 0, capabilities: {drop: [ALL]}}"
    volumes = "[{name: v, secret: {secretName: db, defaultMode: 0000}}]"
    view = ask(OBJECTS + pod(f"{MOUNT}, {security}", volumes=volumes), path="/etc/v/password")
    assert (view.readers[0].allowed, view.readers[0].why.partition("; ")[2]) == (
        False,
        "mode 0000 0:0: the owner's bits count for uid 0",
    )


def test_other_containers_of_the_pod() -> None:
    others = """\
initContainers:
- {name: init, image: i, volumeMounts: [{name: v, mountPath: /x, subPath: user}]}
- {name: whole, image: i, volumeMounts: [{name: v, mountPath: /x}]}
- {name: named, image: i, env: [{name: K, value: password}], volumeMounts: [{name: v, mountPath: /x, subPathExpr: $(K)}]}
"""
    view = ask(OBJECTS + pod("args: [x]", volumes=WHOLE, spec=others), container="whole", path="/x/password")
    assert [(reader.who, reader.allowed, reader.why.partition(";")[0]) for reader in view.readers] == [
        ("container init", False, "outside the container's subPath"),
        ("container whole", True, "the container mounts the volume"),
        ("container named", True, "the container mounts the volume"),
        ("container c", False, "the container does not mount the volume"),
        ("a process of the host", False, "host process, also as root"),
    ]


# --- whom it is asked of ---------------------------------------------------------------------------------------------

DEPLOYMENT = """\
---
apiVersion: apps/v1
kind: Deployment
metadata: {name: web, namespace: team}
spec:
  selector: {matchLabels: {a: b}}
  template:
    metadata: {labels: {a: b}}
    spec:
      containers: [{name: c, image: i, env: [{name: X, valueFrom: {secretKeyRef: {name: db, key: k}}}]}]
"""


def test_fields_are_those_of_the_workload() -> None:
    for name in ("web", "deployment/web", "Deployment/web"):
        view = ask(DEPLOYMENT, name, namespace="team", variable="X")
        assert view.steps[0].where == "spec.template.spec.containers[0].env[0].valueFrom.secretKeyRef"
        assert (view.namespace, view.pod) == ("team", "deployment/web")


def test_pod_elsewhere_is_found_when_it_is_the_only_one() -> None:
    assert ask(DEPLOYMENT, variable="X").namespace == "team"


@pytest.mark.parametrize(
    ("name", "container", "message"),
    [
        ("api", "", "no pod or workload api among the manifests; there are [deployment/web pod/web]"),
        ("web", "", "web is more than one thing among the manifests: say which of [pod/web deployment/web], or its "),
        ("pod/web", "x", "container x is not valid for pod web: choose one of [c]"),
    ],
)
def test_unclear_questions(name: str, container: str, message: str) -> None:
    text = pod("env: []") + DEPLOYMENT.replace("namespace: team", "namespace: default")
    with pytest.raises(UsageError, match="^" + message.replace("[", r"\[").replace("]", r"\]")):
        ask(text, name, container=container, variable="X")
