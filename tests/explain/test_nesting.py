"""Mounts in mounts: which of them the runtime can make. Source: pkg/volume/util/nested_volumes.go; semantics §2.2, §5.4.

What is said here was seen in containers run by runc (``tests/faithful`` has those that start).
"""

from __future__ import annotations

import pytest

from kubelet_secrets.explain import Severity
from tests.explain.builders import explain_yaml, pod, problems, secret

OUTER = "{name: v, secret: {secretName: db, items: [{key: k, path: d/x/f}, {key: k, path: e}]}}"
INNER = "{name: w, secret: {secretName: db}}"


def told(outer: str, inner: str, *, volume: str = OUTER) -> list[str]:
    mounts = f"volumeMounts: [{{name: w, {inner}}}, {{name: v, {outer}}}]"
    explanation = explain_yaml(secret("db", k="1") + pod(mounts, volumes=f"[{volume}, {INNER}]"))
    found = problems(explanation, "mount-impossible")
    assert all(each.severity is Severity.BLOCKS and each.where.endswith("volumeMounts[0].mountPath") for each in found)
    return [each.message for each in found]


@pytest.mark.parametrize(
    ("outer", "inner"),
    [
        pytest.param("mountPath: /m", "mountPath: /m/new", id="whole-volume"),
        pytest.param("mountPath: /m, subPath: d", "mountPath: /m/x", id="directory-that-is-there"),
        pytest.param("mountPath: /m, subPath: d/x", "mountPath: /m/f, subPath: k", id="file-on-file"),
        pytest.param("mountPath: /m, subPath: d", "mountPath: /n/y", id="beside"),
        pytest.param("mountPath: /m, subPath: d", "mountPath: /mm", id="not-below"),
        pytest.param("mountPath: /m, subPath: d", "mountPath: /m", id="at-the-same-place"),
    ],
)
def test_mount_that_has_a_place(outer: str, inner: str) -> None:
    assert told(outer, inner) == []


@pytest.mark.parametrize(
    ("outer", "inner", "kind", "sub_path"),
    [
        pytest.param("mountPath: /m, subPath: d", "mountPath: /m/new", "directory", "d", id="nothing-there"),
        pytest.param("mountPath: /m, subPath: d/x", "mountPath: /m/f", "directory", "d/x", id="directory-on-file"),
        pytest.param("mountPath: /m, subPath: d", "mountPath: /m/x, subPath: k", "file", "d", id="file-on-directory"),
        pytest.param("mountPath: /m, subPath: nope", "mountPath: /m/x", "directory", "nope", id="empty-directory"),
        pytest.param("mountPath: /m, subPath: e", "mountPath: /m/x", "directory", "e", id="below-a-file"),
    ],
)
def test_mount_that_has_none(outer: str, inner: str, kind: str, sub_path: str) -> None:
    point = inner.removeprefix("mountPath: ").partition(",")[0]
    assert told(outer, inner) == [
        f"nothing can be mounted at {point}: subPath {sub_path} of volume v, read-only at /m, has no {kind} there"
    ]


def test_file_on_the_directory_that_the_kubelet_makes() -> None:
    """The place is made before anybody knows that a file will be mounted there; a file of that name is hidden by it."""
    for inner in ("mountPath: /m/new, subPath: k", "mountPath: /m/e, subPath: k"):
        point = inner.removeprefix("mountPath: ").partition(",")[0]
        assert told("mountPath: /m", inner) == [
            f"nothing can be mounted at {point}: volume v, read-only at /m, has a directory there, and this is a file"
        ]


def test_what_only_a_running_node_knows_is_no_problem() -> None:
    assert told("mountPath: /m, subPath: d", "mountPath: /m/new", volume="{name: v, emptyDir: {}}") == []


def test_an_empty_volume_that_is_mounted_read_only_has_no_place() -> None:
    """As seen of kubelet 1.20.2 with containerd, and here."""
    volume = "{name: v, emptyDir: {medium: Memory}}"
    assert told("mountPath: /m, readOnly: true", "mountPath: /m/x", volume=volume) == [
        "nothing can be mounted at /m/x: volume v, read-only at /m, is empty"
    ]
    assert told("mountPath: /m, readOnly: true, subPath: d", "mountPath: /m/x", volume=volume)
    assert told("mountPath: /m", "mountPath: /m/x", volume=volume) == []
    filling = "initContainers: [{name: i, image: x, volumeMounts: [{name: v, mountPath: /out}]}]"
    mounts = "volumeMounts: [{name: w, mountPath: /m/x}, {name: v, mountPath: /m, readOnly: true}]"
    explanation = explain_yaml(secret("db", k="1") + pod(mounts, volumes=f"[{volume}, {INNER}]", spec=filling))
    assert problems(explanation, "mount-impossible") == []


def test_nothing_is_in_it_for_an_init_container_that_runs_before_the_one_who_writes() -> None:
    early = "volumeMounts: [{name: w, mountPath: /m/x}, {name: v, mountPath: /m, readOnly: true}]"
    first = f"initContainers: [{{name: i, image: x, {early}}}]"
    volumes = f"[{{name: v, emptyDir: {{}}}}, {INNER}]"
    text = secret("db", k="1") + pod("volumeMounts: [{name: v, mountPath: /out}]", volumes=volumes, spec=first)
    (found,) = problems(explain_yaml(text), "mount-impossible")
    assert "initContainers[0]" in found.where


@pytest.mark.parametrize(
    ("first", "second", "obstacle"),
    [
        pytest.param("subPath: k", "subPath: k", "", id="files"),
        pytest.param("readOnly: true", "readOnly: true", "", id="directories"),
        pytest.param(
            "readOnly: true", "subPath: k", "volume v is mounted there, as a directory", id="file-on-directory"
        ),
        pytest.param("subPath: k", "readOnly: true", "volume v is mounted there, as a file", id="directory-on-file"),
    ],
)
def test_two_mounts_at_one_place_are_of_one_kind(first: str, second: str, obstacle: str) -> None:
    mounts = f"volumeMounts: [{{name: v, mountPath: /m/, {first}}}, {{name: w, mountPath: /m, {second}}}]"
    volumes = "[{name: v, secret: {secretName: db}}, {name: w, secret: {secretName: db}}]"
    found = problems(explain_yaml(secret("db", k="1", l="2") + pod(mounts, volumes=volumes)), "mount-impossible")
    expected = [f"nothing can be mounted at /m: {obstacle}"] if obstacle else []
    assert [each.message for each in found] == expected
