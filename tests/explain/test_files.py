"""The files that a container would see, and what is wrong with its volumes."""

from __future__ import annotations

import pytest

from kubelet_secrets.errors import UsageError
from kubelet_secrets.explain import Severity
from tests.explain.builders import explain_yaml, only_container, pod, problems, secret

MOUNT = "volumeMounts: [{name: v, mountPath: /etc/v}]"
DB = secret("db", password="s3cr3t", user="u")


def test_files_have_path_mode_owner_size_and_origin() -> None:
    items = "[{key: password, path: a/pw, mode: 0400}, {key: user, path: u}]"
    volume = f"[{{name: v, secret: {{secretName: db, defaultMode: 0440, items: {items}}}}}]"
    explanation = explain_yaml(DB + pod(MOUNT, volumes=volume))
    shown = {
        file.path: (str(file.ownership), file.size_bytes, str(file.origin), file.refreshes)
        for file in only_container(explanation).files
    }
    assert shown == {
        "/etc/v/a/pw": ("0400 0:0", 6, "secret/db key password", True),
        "/etc/v/u": ("0440 0:0", 1, "secret/db key user", True),
    }
    assert not explanation.is_blocked
    assert "s3cr3t" not in repr(explanation)


def test_default_mode_is_filled_in_as_the_api_server_does() -> None:
    container = only_container(explain_yaml(DB + pod(MOUNT, volumes="[{name: v, secret: {secretName: db}}]")))
    assert {file.ownership.mode for file in container.files} == {0o644}
    assert container.mounts[0].read_only


@pytest.mark.parametrize(
    ("volumes", "where", "message", "hint"),
    [
        pytest.param(
            "[{name: v, secret: {secretName: dbs}}]",
            "volumes[0].secret",
            'secret "dbs" not found',
            'did you mean "db"?',
            id="object",
        ),
        pytest.param(
            "[{name: v, configMap: {name: db}}]",
            "volumes[0].configMap",
            'configmap "db" not found',
            "there is a Secret of that name",
            id="other-kind",
        ),
        pytest.param(
            "[{name: v, secret: {secretName: far}}]",
            "volumes[0].secret",
            'secret "far" not found',
            "there is one in namespace other; a pod only sees its own namespace, default",
            id="other-namespace",
        ),
        pytest.param(
            "[{name: v, secret: {secretName: db, items: [{key: user, path: u}, {key: zab, path: z}]}}]",
            "volumes[0].secret.items[1]",
            "references non-existent secret key: zab",
            "its keys are: password, user",
            id="key",
        ),
        pytest.param(
            "[{name: w, emptyDir: {}}, {name: v, projected: {sources:"
            " [{secret: {name: db}}, {secret: {name: db, items: [{key: usr, path: u}]}}]}}]",
            "volumes[1].projected.sources[1].secret.items[0]",
            "references non-existent secret key: usr",
            'did you mean "user"?',
            id="projected-key",
        ),
        pytest.param(
            "[{name: v, secret: {secretName: db, items: [{key: user, path: a}, {key: user, path: a/b}]}}]",
            "volumes[0]",
            "invalid path: a is both a file and the directory of a/b",
            "",
            id="file-in-the-way",
        ),
    ],
)
def test_what_stops_a_volume_is_told_where_it_stands(volumes: str, where: str, message: str, hint: str) -> None:
    far = "---\napiVersion: v1\nkind: Secret\nmetadata: {name: far, namespace: other}\n"
    explanation = explain_yaml(DB + far + pod(MOUNT, volumes=volumes))
    blocking = [problem for problem in explanation.pods[0].problems if problem.severity is Severity.BLOCKS]
    assert [(problem.where, problem.message, problem.hint) for problem in blocking] == [
        (f"Pod default/web: spec.{where}", f'MountVolume.SetUp failed for volume "v" : {message}', hint)
    ]
    assert explanation.is_blocked
    assert only_container(explanation).files == ()


def test_every_failing_part_of_a_volume_is_told() -> None:
    sources = "[{secret: {name: a}}, {configMap: {name: b}}, {secret: {name: c, optional: true}}]"
    volume = f"[{{name: v, projected: {{sources: {sources}}}}}]"
    explanation = explain_yaml(pod(MOUNT, volumes=volume))
    assert len(problems(explanation, "missing-object")) == 2
    (optional,) = problems(explanation, "missing-optional")
    assert optional.message == 'secret "c" not found; it is optional, so the volume goes without'


def test_missing_optional_key_is_a_warning_and_the_rest_is_shown() -> None:
    volume = "[{name: v, secret: {secretName: db, optional: true, items: [{key: zab, path: z}, {key: user, path: u}]}}]"
    explanation = explain_yaml(DB + pod(MOUNT, volumes=volume))
    (problem,) = problems(explanation, "missing-optional")
    assert (problem.severity, problem.where) == (Severity.WARNING, "Pod default/web: spec.volumes[0].secret.items[0]")
    assert [file.path for file in only_container(explanation).files] == ["/etc/v/u"]
    assert not explanation.is_blocked


def test_path_collision_says_who_wins() -> None:
    sources = "[{secret: {name: db}}, {secret: {name: db, items: [{key: user, path: password}]}}]"
    volume = f"[{{name: v, projected: {{sources: {sources}}}}}]"
    explanation = explain_yaml(DB + pod(MOUNT, volumes=volume))
    (problem,) = problems(explanation, "path-collision")
    assert problem.message == (
        "file password is given more than once: secret/db key user wins over secret/db key password"
    )


def test_fs_group_that_widens_a_mode_is_told() -> None:
    volume = "[{name: v, secret: {secretName: db, defaultMode: 0400}}]"
    explanation = explain_yaml(DB + pod(MOUNT, volumes=volume, spec="securityContext: {fsGroup: 7}"))
    (problem,) = problems(explanation, "mode-widened")
    assert problem.message == "fsGroup 7 widens mode 0400 to 0440: password, user"
    assert {str(file.ownership) for file in only_container(explanation).files} == {"0440 0:7"}
    unchanged = explain_yaml(
        DB + pod(MOUNT, volumes="[{name: v, secret: {secretName: db}}]", spec="securityContext: {fsGroup: 7}")
    )
    assert problems(unchanged, "mode-widened") == []


def test_sub_path_is_laid_out_and_does_not_refresh() -> None:
    mounts = (
        "volumeMounts: [{name: v, mountPath: /etc/one, subPath: d/pw}, {name: v, mountPath: /etc/dir, subPath: d},"
        " {name: v, mountPath: /etc/none, subPath: zzz}]"
    )
    volume = "[{name: v, secret: {secretName: db, items: [{key: password, path: d/pw}]}}]"
    explanation = explain_yaml(DB + pod(mounts, volumes=volume))
    files = only_container(explanation).files
    assert [(file.path, file.refreshes) for file in files] == [("/etc/one", False), ("/etc/dir/pw", False)]
    assert len(problems(explanation, "sub-path-frozen")) == 2
    (missing,) = problems(explanation, "sub-path-missing")
    assert missing.message == "volume v has no zzz: the container sees an empty directory there"
    assert missing.where == "Pod default/web: spec.containers[0].volumeMounts[2].subPath"


@pytest.mark.parametrize(
    ("sub_path", "hint"),
    [
        pytest.param("d/pw/x", "d/pw is a file", id="below-a-file"),
        pytest.param("..data/d/pw/x/y", "d/pw is a file", id="below-a-file-through-the-machinery"),
        pytest.param("a\\0b", "no file can be called that", id="nul"),
        pytest.param("x/" + "n" * 256, "no file can be called that", id="long"),
        pytest.param("d/pw/", "", id="slash-behind"),
        pytest.param("d/./pw", "", id="unclean"),
        pytest.param("n" * 255, "", id="longest"),
    ],
)
def test_sub_path_that_nothing_can_be_found_at(sub_path: str, hint: str) -> None:
    explanation = explain_yaml(
        secret("db", pw="x")
        + pod(
            f'volumeMounts: [{{name: v, mountPath: /v, subPath: "{sub_path}"}}]',
            volumes="[{name: v, secret: {secretName: db, items: [{key: pw, path: d/pw}]}}]",
        )
    )
    told = [(each.message, each.hint) for each in problems(explanation, "sub-path-unusable")]
    assert told == ([('failed to prepare subPath for volumeMount "v" of container "c"', hint)] if hint else [])


@pytest.mark.parametrize(
    ("sub_path", "fate"),
    [
        pytest.param("d/pw", "stays as it is at the container's start, whatever changes", id="file"),
        pytest.param(
            "d",
            "is a directory of the version at the container's start, and empty as soon as the volume changes",
            id="directory",
        ),
    ],
)
def test_what_becomes_of_a_sub_path(sub_path: str, fate: str) -> None:
    """§5.2"""
    mounts = f"volumeMounts: [{{name: v, mountPath: /m, subPath: {sub_path}}}]"
    volumes = "[{name: v, secret: {secretName: db, items: [{key: pw, path: d/pw}]}}]"
    (problem,) = problems(explain_yaml(secret("db", pw="x") + pod(mounts, volumes=volumes)), "sub-path-frozen")
    assert problem.message == f"mounted by subPath: /m {fate}"


def test_sub_path_of_an_immutable_secret_is_no_surprise() -> None:
    mounts = "volumeMounts: [{name: v, mountPath: /etc/one, subPath: user}]"
    frozen = secret("db", extra="immutable: true\n", user="u")
    explanation = explain_yaml(frozen + pod(mounts, volumes="[{name: v, secret: {secretName: db}}]"))
    assert problems(explanation, "sub-path-frozen") == []
    assert len(problems(explanation, "immutable")) == 1


@pytest.mark.parametrize(
    ("expression", "value", "message"),
    [
        pytest.param("$(X)", "..", "unable to provision SubPath `..`: must not contain '..'", id="step-back"),
        pytest.param("$(X)", "/tmp", "error SubPath `/tmp` must not be an absolute path", id="absolute"),
        pytest.param("$(X)", "", "missing value for X", id="empty"),
        pytest.param("$(Y)", "x", "missing value for Y", id="undefined"),
    ],
)
def test_sub_path_expr_that_is_refused(expression: str, value: str, message: str) -> None:
    container = (
        f"env: [{{name: X, value: '{value}'}}], volumeMounts: [{{name: v, mountPath: /v, subPathExpr: {expression}}}]"
    )
    explanation = explain_yaml(pod(container, volumes="[{name: v, emptyDir: {}}]"))
    (problem,) = problems(explanation, "sub-path-invalid")
    assert (problem.severity, problem.message) == (Severity.BLOCKS, message)


def test_sub_path_expr_of_a_run_time_value_is_left_as_it_is_written() -> None:
    container = (
        "env: [{name: IP, valueFrom: {fieldRef: {fieldPath: status.podIP}}}],"
        " volumeMounts: [{name: v, mountPath: /v, subPathExpr: $(IP)/x}]"
    )
    explanation = explain_yaml(DB + pod(container, volumes="[{name: v, secret: {secretName: db}}]"))
    assert [mount.sub_path for mount in only_container(explanation).mounts] == ["$(IP)/x"]
    assert not explanation.is_blocked


@pytest.mark.parametrize(("first", "second"), [("/v/", "/v"), ("v", "/v/."), ("/v//", "/v")])
def test_of_two_volumes_at_one_place_the_later_mount_is_seen(first: str, second: str) -> None:
    """For the API these are two paths; the runtime makes the later mount over the earlier one."""
    mounts = f"volumeMounts: [{{name: v, mountPath: '{first}'}}, {{name: w, mountPath: '{second}'}}]"
    volumes = "[{name: v, secret: {secretName: db}}, {name: w, secret: {secretName: db2}}]"
    explanation = explain_yaml(secret("db", a="1") + secret("db2", b="2") + pod(mounts, volumes=volumes))
    assert [file.path for file in only_container(explanation).files] == ["/v/b"]
    assert not explanation.is_blocked
    (problem,) = problems(explanation, "file-hidden")
    assert problem.message == "/v/a of volume v is hidden by volume w, mounted at /v"


def test_what_a_directory_for_a_mount_beneath_stands_in_place_of_is_hidden() -> None:
    """§2.2 step 5: it is made before the files, in the volume, so for every container that mounts it."""
    items = "[{key: user, path: sub/u}, {key: user, path: sub/deep/v}, {key: user, path: u}]"
    volumes = f"[{{name: v, secret: {{secretName: db, items: {items}}}}}, {{name: w, emptyDir: {{}}}}]"
    others = """\
initContainers:
- name: nests
  image: i
  volumeMounts: [{name: w, mountPath: /x/sub/new}, {name: v, mountPath: /x}]
- name: digs
  image: i
  volumeMounts: [{name: v, mountPath: /a, subPath: sub}, {name: v, mountPath: /b, subPath: ..data/sub}]
"""
    explanation = explain_yaml(DB + pod("volumeMounts: [{name: v, mountPath: /etc/v}]", volumes=volumes, spec=others))
    seen = {each.name: [file.path for file in each.files] for each in explanation.pods[0].containers}
    assert seen == {"nests": ["/x/u"], "digs": ["/b/u", "/b/deep/v"], "c": ["/etc/v/u"]}
    (problem,) = problems(explanation, "path-hidden")
    assert problem.message == (
        "sub/u, sub/deep/v cannot be seen: directory sub stands there, for a mount beneath this volume"
    )
    assert not explanation.is_blocked


def test_mounts_that_the_api_refuses() -> None:
    mounts = "volumeMounts: [{name: v, mountPath: /a}, {name: zip, mountPath: /b}, {name: v, mountPath: /a}]"
    explanation = explain_yaml(pod(mounts, volumes="[{name: v, emptyDir: {}}]"))
    told = {problem.where.rpartition("spec.")[2]: problem.message for problem in explanation.all_problems()}
    assert told["containers[0].volumeMounts[1].name"] == 'Not found: "zip"'
    assert told["containers[0].volumeMounts[2].mountPath"] == 'Invalid value: "/a": must be unique'
    assert explanation.is_blocked


def test_volume_that_nobody_mounts_cannot_stop_anything() -> None:
    explanation = explain_yaml(pod("args: []", volumes="[{name: v, secret: {secretName: none}}]"))
    assert not explanation.is_blocked
    assert [problem.code for problem in explanation.all_problems()] == ["volume-unused"]


def test_downward_files_that_a_node_must_fill_in_have_no_size() -> None:
    volume = (
        "[{name: v, downwardAPI: {items: [{path: name, fieldRef: {fieldPath: metadata.name}},"
        " {path: uid, fieldRef: {fieldPath: metadata.uid}},"
        " {path: cpu, resourceFieldRef: {containerName: c, resource: limits.cpu}},"
        " {path: mem, resourceFieldRef: {containerName: c, resource: limits.memory}}]}}]"
    )
    container = MOUNT + ", resources: {limits: {memory: 64Mi}}"
    files = only_container(explain_yaml(pod(container, volumes=volume))).files
    assert {file.path: file.size_bytes for file in files} == {
        "/etc/v/name": 3,
        "/etc/v/uid": None,
        "/etc/v/cpu": None,
        "/etc/v/mem": 8,
    }


def test_token_volume_is_added_as_admission_does() -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: web}\nspec: {containers: [{name: c, image: i}]}\n"
    files = only_container(explain_yaml(text)).files
    directory = "/var/run/secrets/kubernetes.io/serviceaccount"
    assert {file.path: (str(file.ownership), file.size_bytes) for file in files} == {
        f"{directory}/token": ("0644 0:0", None),
        f"{directory}/ca.crt": ("0644 0:0", None),
        f"{directory}/namespace": ("0644 0:0", 7),
    }
    account = (
        "apiVersion: v1\nkind: ServiceAccount\nmetadata: {name: default}\nautomountServiceAccountToken: false\n---\n"
    )
    assert only_container(explain_yaml(account + text)).files == ()


def test_pull_secrets_are_looked_at_but_stop_nothing() -> None:
    explanation = explain_yaml(DB + pod("args: []", spec="imagePullSecrets: [{name: none}, {name: db}]"))
    assert [problem.code for problem in explanation.all_problems()] == ["missing-pull-secret", "pull-secret-ignored"]
    assert not explanation.is_blocked


@pytest.mark.parametrize(
    ("volumes", "where", "message"),
    [
        pytest.param(
            "[{name: v, downwardAPI: {items: [{path: a, fieldRef: {fieldPath: x.y}}]}}]",
            "spec.volumes[0].downwardAPI.fieldRef.fieldPath",
            'Invalid value: "x.y": error converting fieldPath: field label not supported: x.y',
            id="field",
        ),
        pytest.param(
            "[{name: v, secret: {secretName: db, items: [{key: user, path: ../u}]}}]",
            "spec.volumes[0].secret.items[0].path",
            "Invalid value: \"../u\": must not contain '..'",
            id="path",
        ),
        pytest.param(
            "[{name: v, secret: {}}]", "spec.volumes[0].secret.secretName", "Required value", id="nothing-named"
        ),
    ],
)
def test_what_the_api_refuses_is_told_in_its_words_and_once(volumes: str, where: str, message: str) -> None:
    explanation = explain_yaml(DB + pod(MOUNT, volumes=volumes))
    told = [(problem.code, problem.where, problem.message) for problem in explanation.pods[0].problems]
    assert told == [
        ("invalid", f"Pod default/web: {where}", message),
        ("invalid", "Pod default/web: spec.containers[0].volumeMounts[0].name", 'Not found: "v"'),
    ], "the second follows from the first, for the API server too"
    assert explanation.is_blocked


def test_paths_of_a_templates_errors_are_those_of_the_template() -> None:
    text = (
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: web}\n"
        "spec: {template: {metadata: {labels: {a b: c}}, spec: {containers: [{name: C, image: i}]}}}\n"
    )
    told = [problem.where for problem in explain_yaml(text).all_problems()]
    assert told == [
        "Deployment default/web: spec.template.metadata.labels",
        "Deployment default/web: spec.template.spec.containers[0].name",
    ]


def test_field_of_a_type_that_only_the_rules_read_is_unusable_input() -> None:
    with pytest.raises(UsageError, match=r"^f.yaml: Pod default/web: a field has the wrong type$"):
        explain_yaml(pod("args: []", volumes="[{name: v, image: {reference: 5}}]"))
