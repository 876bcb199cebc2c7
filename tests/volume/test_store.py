from __future__ import annotations

import errno
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from kubelet_secrets.errors import SetUpError, StoreFull
from kubelet_secrets.volume.atomicwriter import write
from kubelet_secrets.volume.quota import StoreLimits, Usage, VolumeRef, payload_usage
from kubelet_secrets.volume.store import Store

from .files import File, file

POD = "0b2b2a4e-6f0b-4b7e-9d4f-2f6f4c1f3a11"


@pytest.fixture
def store(store_fd: int) -> Store:
    return Store(store_fd)


def put(store: Store, volume: str, payload: dict[str, File], *, pod_uid: str = POD) -> str:
    if not store.has_volume(pod_uid, volume):
        store.create_volume(pod_uid, volume, mode=0o1777, fs_group=None)
    with store.open_volume(pod_uid, volume) as fd, store.translate_errors(payload_usage(payload)):
        return write(fd, payload).version


@pytest.mark.parametrize(
    ("mode", "fs_group", "expected"),
    [
        pytest.param(0o1777, None, (0o41777, 0), id="tmpfs-look"),
        pytest.param(0o777, None, (0o40777, 0), id="config-map"),
        pytest.param(0o1777, 2000, (0o43777, 2000), id="fs-group"),
    ],
)
def test_a_new_volume_has_the_root_the_kubelet_makes(
    store: Store, store_fd: int, mode: int, fs_group: int | None, expected: tuple[int, int]
) -> None:
    store.create_volume(POD, "v", mode=mode, fs_group=fs_group)
    found = os.stat(f"{POD}/v", dir_fd=store_fd)
    assert (found.st_mode, found.st_gid) == expected
    with pytest.raises(FileExistsError):
        store.create_volume(POD, "v", mode=mode, fs_group=fs_group)


def test_current_version_with_its_time(store: Store) -> None:
    assert store.current(POD, "v") is None
    store.create_volume(POD, "v", mode=0o1777, fs_group=None)
    assert store.current(POD, "v") is None
    name = put(store, "v", {"a": file("1")})
    version = store.current(POD, "v")
    assert version is not None
    assert version.name == name
    assert abs(version.since - datetime.now(UTC)) < timedelta(minutes=1)


def test_volumes_are_found_again_by_a_second_store(store: Store, store_fd: int) -> None:
    """A restarted agent knows nothing but the descriptor."""
    os.mkdir(".grave", dir_fd=store_fd)
    put(store, "b", {})
    put(store, "a", {})
    put(store, "c", {}, pod_uid="other")
    again = Store(store_fd)
    assert again.volumes() == [VolumeRef(POD, "a"), VolumeRef(POD, "b"), VolumeRef("other", "c")]
    assert again.volumes("other") == [VolumeRef("other", "c")]
    assert again.volumes("unknown") == []


def test_removal_leaves_nothing(store: Store, store_fd: int) -> None:
    put(store, "a", {"x/y": file("1")})
    put(store, "b", {"x/y": file("1")})
    store.remove_volume(POD, "a")
    store.remove_volume(POD, "a")
    assert store.volumes() == [VolumeRef(POD, "b")]
    store.purge_pod(POD)
    store.purge_pod(POD)
    assert store.volumes() == []
    assert store.usage() == Usage(0, 1)


def test_the_last_volume_takes_the_pods_directory_along(store: Store) -> None:
    put(store, "a", {})
    store.remove_volume(POD, "a")
    assert store.usage() == Usage(0, 1)  # the root itself


@pytest.mark.parametrize("name", ["", "..", ".grave", "a/b", "/", "."])
def test_a_name_cannot_lead_elsewhere(store: Store, name: str) -> None:
    with pytest.raises(ValueError, match="not a name"):
        store.create_volume(name, "v", mode=0o777, fs_group=None)
    with pytest.raises(ValueError, match="not a name"):
        store.create_volume(POD, name, mode=0o777, fs_group=None)


def test_files_shows_the_current_version(store: Store) -> None:
    put(store, "v", {"tls/tls.key": file("12345", 0o400), "a": file("1")})
    put(store, "v", {"tls/tls.key": file("123456", 0o400), "tls/tls.crt": file("1")})
    assert [(f.path, f.mode, f.size_bytes) for f in store.files(POD, "v")] == [
        ("tls/tls.crt", 0o644, 1),
        ("tls/tls.key", 0o400, 6),
    ]
    assert store.files(POD, "unknown") == []


def test_nested_mountpoints(store: Store, store_fd: int) -> None:
    store.create_volume(POD, "v", mode=0o1777, fs_group=None)
    old_umask = os.umask(0o077)
    try:
        store.make_directories(POD, "v", ["a/b", "a/c", "a/b"])
    finally:
        os.umask(old_umask)
    assert os.stat(f"{POD}/v/a/b", dir_fd=store_fd).st_mode == 0o40755
    assert store.missing_directories(POD, "v", ["a/c", "a/d"]) == ["a/d"]
    put(store, "v", {"key": file("1")})
    with pytest.raises(SetUpError, match="unable to create nested volume mountpoints: mkdir key/sub: not a directory"):
        store.make_directories(POD, "v", ["key/sub"])


def test_a_full_store_says_what_is_full_and_keeps_the_old_version(store: Store) -> None:
    old = put(store, "v", {"a": file("1")})
    with pytest.raises(StoreFull, match="full: 4096 of 4194304 bytes in use, 5242880 more needed"):
        put(store, "v", {f"{n}": file(bytes(1 << 20)) for n in range(5)})
    version = store.current(POD, "v")
    assert version is not None
    assert version.name == old
    assert [f.path for f in store.files(POD, "v")] == ["a"]
    with pytest.raises(StoreFull, match="full: 7 of 1000 files in use, 2402 more needed"):
        put(store, "v", {f"{n}": file("") for n in range(1200)})
    put(store, "v", {"a": file("2")})  # and there is room again


def test_other_errors_become_set_up_errors_without_a_path(store: Store) -> None:
    with pytest.raises(SetUpError, match=r"^secret store: input/output error$"), store.translate_errors():
        raise OSError(errno.EIO, "whatever", "some/path")


def test_usage_counts_pages_and_entries(store: Store) -> None:
    payload = {"a": file("1"), "x/y": file(bytes(5000))}
    put(store, "v", payload)
    # volume root + version + x + 2 files + links ..data, a, x
    assert store.usage(POD, "v") == Usage(4096 + 8192, 8)
    assert payload_usage(payload) == Usage(4096 + 8192, 7)
    assert store.usage(POD) == Usage(4096 + 8192, 9)
    assert store.usage("unknown") == Usage()


def test_quota_of_a_pod_counts_one_version_per_volume(store_fd: int) -> None:
    store = Store(store_fd, limits=StoreLimits(pod_bytes=3 * 4096))
    two_pages = {"a": file("1"), "b": file("2")}
    put(store, "v", two_pages)
    with store.reserve(POD, "v", {"a": file("3"), "b": file("4"), "c": file("5")}):
        pass
    full = "volumes of pod default/web would take 16384 bytes of memory, 12288 are allowed"
    with pytest.raises(StoreFull, match=full), store.reserve(POD, "w", two_pages, pod="default/web"):
        pass
    with pytest.raises(StoreFull, match=f"volumes of pod {POD} would take"), store.reserve(POD, "w", two_pages):
        pass
    with store.reserve("other", "w", two_pages):
        pass


def test_quota_of_the_node_counts_both_versions_of_a_switch_and_what_is_still_in_use(store_fd: int) -> None:
    store = Store(store_fd, limits=StoreLimits(node_bytes=3 * 4096))
    put(store, "v", {"a": file("1")})
    with store.reserve(POD, "v", {"a": file("2")}):
        pass
    os.makedirs(f"/proc/self/fd/{store_fd}/.grave/p/v")
    Path(f"/proc/self/fd/{store_fd}/.grave/p/v/123").write_bytes(bytes(4097))
    full = "secret volumes of the node would take 16384 bytes of memory, 12288 are allowed"
    with pytest.raises(StoreFull, match=full), store.reserve(POD, "v", {"a": file("2")}):
        pass


def test_quota_of_entries(store_fd: int) -> None:
    store = Store(store_fd, limits=StoreLimits(pod_inodes=5))
    two = {"a": file("1"), "b": file("2")}
    with pytest.raises(StoreFull, match="would take 6 files, 5 are allowed"), store.reserve(POD, "v", two):
        pass


def test_what_is_being_written_counts_already(store_fd: int) -> None:
    """Volumes of a pod are set up side by side: both must not find the same last page free."""
    store = Store(store_fd, limits=StoreLimits(pod_bytes=4096))
    with store.reserve(POD, "v", {"a": file("1")}):
        with pytest.raises(StoreFull), store.reserve(POD, "w", {"a": file("1")}):
            pass
    with store.reserve(POD, "w", {"a": file("1")}):  # the other was given up
        put(store, "w", {"a": file("1")})
    with pytest.raises(StoreFull), store.reserve(POD, "v", {"a": file("1")}):
        pass


def test_room_is_there_again_when_a_volume_went_or_shrank(store_fd: int) -> None:
    store = Store(store_fd, limits=StoreLimits(pod_bytes=2 * 4096))
    two_pages = {"a": file("1"), "b": file("2")}
    with store.reserve(POD, "v", two_pages):
        put(store, "v", two_pages)
    with store.reserve(POD, "v", {"a": file("1")}):
        put(store, "v", {"a": file("1")})
    with store.reserve(POD, "w", {"a": file("1")}):
        put(store, "w", {"a": file("1")})
    store.remove_volume(POD, "v")
    with store.reserve(POD, "w", two_pages):
        put(store, "w", two_pages)
    store.remove_volume(POD, "w")
    put(store, "w", {"a": file("1")})  # another one by that name, half as large
    with store.reserve(POD, "v", {"a": file("1")}):
        pass


def test_a_restarted_agent_knows_what_is_taken(store_fd: int) -> None:
    put(Store(store_fd), "v", {"a": file("1"), "b": file("2")})
    store = Store(store_fd, limits=StoreLimits(pod_bytes=2 * 4096))
    with pytest.raises(StoreFull), store.reserve(POD, "w", {"a": file("1")}):
        pass


def test_needs_write_asks_the_store(store: Store) -> None:
    assert store.needs_write(POD, "v", {})
    put(store, "v", {"a": file("1")})
    assert not store.needs_write(POD, "v", {"a": file("1")})
    assert store.needs_write(POD, "v", {"a": file("2")})
