"""``env`` and ``tree``: as started, as it would be now, since when."""

from __future__ import annotations

from dataclasses import replace

from kubelet_secrets.api.core import Container, PodStatus, SecretVolumeSource, Volume, VolumeMount
from kubelet_secrets.api.origin import Origin, OriginKind
from kubelet_secrets.envvars.environment import EnvEntry, Environment
from kubelet_secrets.pod.environ import EnvState, EnvVersion
from kubelet_secrets.pod.presentation import make_env_view, make_file_rows
from kubelet_secrets.pod.state import ContainerKind
from kubelet_secrets.pod.views import ContainerView, PodView
from kubelet_secrets.pod.volumes import FileInfo, VolumeEdition, VolumeState
from kubelet_secrets.volume.store import StoredFile, VolumeVersion
from tests.pod.builders import after, make_pod, running

OLD, NEW = "..2026_11_23_19_39_00.1", "..2026_11_23_19_41_00.2"


def origin(version: str, key: str = "k") -> Origin:
    return Origin(kind=OriginKind.SECRET, namespace="default", name="db", key=key, resource_version=version)


# --- variables -------------------------------------------------------------------------------------------------------


def env(**values: tuple[str, str]) -> Environment:
    """name=(value, resourceVersion)"""
    return Environment(
        {
            name: EnvEntry(value=value, origin=origin(version), is_secret=True)
            for name, (value, version) in values.items()
        }
    )


def view_of(state: EnvState) -> tuple[PodView, ContainerView]:
    container = ContainerView(name="app", kind=ContainerKind.REGULAR, instance=running("app"), failure=None, env=state)
    return PodView(pod=make_pod(), status=PodStatus(), containers=(container,), volumes={}), container


STARTED = EnvVersion(number=1, environment=env(A=("a1", "5"), B=("b", "5"), C=("c", "5")), since=after(-60))
CURRENT = EnvVersion(
    number=2,
    environment=env(A=("a2", "9"), B=("b", "9"), D=("d", "9")),
    since=after(10),
    changed={"A": after(10), "B": after(-60), "C": after(5), "D": after(10)},
)


def test_each_variable_says_what_a_restart_would_change_and_since_when() -> None:
    shown = make_env_view(*view_of(EnvState(container="app", started=STARTED, current=CURRENT)), show_values=False)
    assert (shown.started_version, shown.started_since) == (1, "2026-11-23T19:39:00.000Z")
    assert (shown.current_version, shown.since) == (2, "2026-11-23T19:40:10.000Z")
    found = {row.name: row for row in shown.rows}
    assert list(found) == ["A", "B", "C", "D"]
    assert {name: (row.stale, row.missing, row.added) for name, row in found.items()} == {
        "A": (True, False, False),
        "B": (False, False, False),
        "C": (False, True, False),
        "D": (False, False, True),
    }
    assert [row.since for row in shown.rows] == [
        "2026-11-23T19:40:10.000Z",
        "2026-11-23T19:39:00.000Z",  # other objects, the same value
        "2026-11-23T19:40:05.000Z",  # gone
        "2026-11-23T19:40:10.000Z",
    ]
    assert [(row.started_resource_version, row.current_resource_version) for row in shown.rows] == [
        ("5", "9"),
        ("5", "9"),
        ("5", ""),
        ("", "9"),
    ]
    assert all(row.value is None and row.current_value is None for row in shown.rows)


def test_values_only_when_asked_for_the_current_one_where_it_differs() -> None:
    state = EnvState(container="app", started=STARTED, current=CURRENT)
    shown = make_env_view(*view_of(state), show_values=True)
    assert [(row.value, row.current_value) for row in shown.rows] == [
        ("a1", "a2"),
        ("b", None),
        ("c", None),
        ("d", "d"),
    ]
    assert "a1" not in repr(shown)


def test_container_that_has_not_started() -> None:
    shown = make_env_view(*view_of(EnvState(container="app", current=CURRENT, problem="why not")), show_values=False)
    assert (shown.started_version, shown.started_since, shown.problem) == (0, "", "why not")
    assert not any(row.stale or row.missing or row.added for row in shown.rows)


# --- files -----------------------------------------------------------------------------------------------------------


def file(path: str, version: str, size: int = 3) -> FileInfo:
    return FileInfo(path=path, mode=0o400, size_bytes=size, origin=origin(version, key=path))


def stored(path: str, size: int = 3) -> StoredFile:
    return StoredFile(path=path, mode=0o400, uid=0, gid=0, size_bytes=size)


VOLUME = VolumeState(
    name="v",
    is_ready=True,
    version=VolumeVersion(NEW, after(60)),
    files=(file("a", "9", 4), file("sub/b", "9")),
    earlier=(VolumeEdition(version=VolumeVersion(OLD, after(-60)), files=(file("a", "5", 2), file("gone", "5"))),),
)
STORED = {"v": [stored("a", 4), stored("sub/b")]}


def tree(*mounts: VolumeMount, volume: VolumeState = VOLUME, **bound: str) -> list[tuple[object, ...]]:
    app = Container(name="app", image="i", volume_mounts=mounts)
    pod = make_pod(app, volumes=(Volume(name="v", secret=SecretVolumeSource(secret_name="db")),))
    container = ContainerView(
        name="app",
        kind=ContainerKind.REGULAR,
        instance=running("app", since=-30),
        failure=None,
        env=EnvState(container="app"),
    )
    view = PodView(pod=pod, status=PodStatus(), containers=(container,), volumes={"v": volume})
    rows = make_file_rows(view, container, STORED, {f"/{name}": version for name, version in bound.items()})
    assert all(row.volume == "v" for row in rows)
    return [(row.path, row.size, row.version, row.started, row.updates, row.stale) for row in rows]


def test_whole_volume_shows_what_is_current_and_remembers_what_was() -> None:
    assert tree(VolumeMount(name="v", mount_path="/etc/v/")) == [
        ("/etc/v/a", 4, NEW, OLD, True, False),
        ("/etc/v/sub/b", 3, NEW, OLD, True, False),
    ]


def test_sub_path_shows_what_it_held_when_the_container_started() -> None:
    held = VolumeMount(name="v", mount_path="/f", sub_path="a")
    assert tree(held, f=OLD) == [("/f", 2, OLD, OLD, False, True)]
    assert tree(held, f=NEW) == [("/f", 4, NEW, NEW, False, False)]


def test_removed_key_stays_where_a_sub_path_holds_it() -> None:
    assert tree(VolumeMount(name="v", mount_path="/f", sub_path="gone"), f=OLD) == [("/f", 3, OLD, OLD, False, True)]


def test_same_object_in_a_newer_version_is_not_stale() -> None:
    unchanged = replace(
        VOLUME, files=(file("a", "5", 2),), earlier=(replace(VOLUME.earlier[0], files=(file("a", "5", 2),)),)
    )
    held = VolumeMount(name="v", mount_path="/f", sub_path="a")
    assert tree(held, volume=unchanged, f=OLD) == [("/f", 2, OLD, OLD, False, False)]


def test_version_older_than_the_agent_is_named_all_the_same() -> None:
    held = VolumeMount(name="v", mount_path="/f", sub_path="a")
    assert tree(held, volume=replace(VOLUME, earlier=()), f=OLD) == [("/f", None, OLD, OLD, False, True)]


def test_directory_below_a_sub_path() -> None:
    assert tree(VolumeMount(name="v", mount_path="/d", sub_path="..data/sub")) == [("/d/b", 3, NEW, NEW, False, False)]


def test_what_lies_under_another_mount_is_not_shown() -> None:
    whole = VolumeMount(name="v", mount_path="/etc/v")
    part = VolumeMount(name="v", mount_path="/etc/v/x", sub_path="sub")
    assert [row[0] for row in tree(whole, part)] == ["/etc/v/a", "/etc/v/sub/b", "/etc/v/x/b"]
    one = VolumeMount(name="v", mount_path="/etc/v//", sub_path="sub")
    assert [row[0] for row in tree(whole, one)] == ["/etc/v/b"]
    assert [row[0] for row in tree(one, whole)] == ["/etc/v/a", "/etc/v/sub/b"]


def test_what_a_directory_for_a_mount_beneath_hides_is_not_shown() -> None:
    """§2.2 step 5: also where that mount is of the volume itself."""
    whole = VolumeMount(name="v", mount_path="/etc/v")
    assert [row[0] for row in tree(whole, VolumeMount(name="v", mount_path="/etc/v/sub", sub_path="a"))] == [
        "/etc/v/a",
        "/etc/v/sub",
    ]


def test_mount_paths_are_shown_as_the_container_has_them() -> None:
    held = VolumeMount(name="v", mount_path="f/.//", sub_path="a")
    assert tree(held, f=OLD) == [("/f", 2, OLD, OLD, False, True)]
    assert tree(VolumeMount(name="v", mount_path="/"))[0][0] == "/a"
