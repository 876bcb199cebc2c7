"""The manager over a real store, with the real writer's hands on the store's own directory instead of a FUSE mount.

The same through a mount, with containers looking on: tests/access/test_guarded_containers.py.
Source: pkg/volume/secret/secret.go, SetUpAt; semantics §2.2, §2.5, §5.2.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import pytest
import trio

from kubelet_secrets.api.core import (
    ConfigMapVolumeSource,
    Container,
    EmptyDirVolumeSource,
    HostPathVolumeSource,
    Pod,
    PodSpec,
    SecretVolumeSource,
    Volume,
    VolumeMount,
)
from kubelet_secrets.api.meta import ObjectMeta
from kubelet_secrets.errors import ContainerConfigError, InvalidPath, SetUpError, StoreFull
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.fusefs.orders import Attach, Failed, FileEntry, MakeDirectory, Order, Update
from kubelet_secrets.fusefs.writer import Writer
from kubelet_secrets.volume.atomicwriter import FileLike, WriteResult
from kubelet_secrets.volume.layout import PodsLayout
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.quota import StoreLimits, VolumeRef
from kubelet_secrets.volume.store import Store

from .files import file, files, mode_of, shown

POD = Pod(
    metadata=ObjectMeta(uid="0b2b2a4e-6f0b-4b7e-9d4f-2f6f4c1f3a11", name="web", namespace="default"),
    spec=PodSpec(
        containers=(
            Container(
                name="app",
                volume_mounts=(
                    VolumeMount(name="db", mount_path="/etc/db"),
                    VolumeMount(name="scratch", mount_path="/etc/db/scratch"),
                ),
            ),
        )
    ),
)
UID = POD.metadata.uid
DB = Volume(name="db", secret=SecretVolumeSource(secret_name="db"))


class LocalWriter:
    """Carries orders out in this process, on the store itself. Counts updates, and can be held up."""

    def __init__(self, store_fd: int) -> None:
        self._hands = Writer(store_fd, fuse_fd=-1)
        self.updates = 0
        self.gate: trio.Event | None = None
        self.entered = trio.Event()

    async def update(
        self, pod_uid: str, volume: str, payload: Mapping[str, FileLike], *, fs_group: int | None
    ) -> WriteResult:
        self.updates += 1
        self.entered.set()
        entries = [FileEntry(path, each.data, each.mode, each.fs_user) for path, each in payload.items()]
        if self.gate is not None:
            await self.gate.wait()
        return await self._perform(Update(pod_uid, volume, entries, fs_group))

    async def make_nested_directory(self, pod_uid: str, volume: str, path: str, *, mode: int = 0o755) -> None:
        await self._perform(MakeDirectory(pod_uid, volume, path, mode))

    async def attach(self, pod_uid: str, volume: str, target: Path, *, path: str = "") -> None:
        await self._perform(Attach(pod_uid, volume, path, str(target)))

    async def _perform(self, order: Order) -> WriteResult:
        answer = await trio.to_thread.run_sync(self._hands.perform, 1, order)
        if isinstance(answer, Failed):
            raise OSError(answer.errno, answer.message) if answer.errno else SetUpError(answer.message)
        return WriteResult(answer.version, answer.changed)


class Node:
    def __init__(self, store_fd: int, root: Path) -> None:
        self.layout = PodsLayout(root / "pods")
        self.store = Store(store_fd)
        self.writer = LocalWriter(store_fd)
        self.volumes = VolumeManager(self.store, self.layout, self.writer)

    async def show(self, contents: Mapping[str, str], volume: Volume = DB, fs_group: int | None = None) -> str:
        return (await self.volumes.set_up(POD, volume, files(contents), fs_group=fs_group)).name

    @property
    def db(self) -> Path:
        return self.volumes.host_path(UID, DB)


@pytest.fixture
def node(store_fd: int, tmp_path: Path) -> Iterator[Node]:
    yield Node(store_fd, tmp_path)
    left = [entry.target for entry in mounts.mounts_below(tmp_path)]
    mounts.umount_all_below(tmp_path)
    for target in left:
        assert target.startswith(str(tmp_path / "pods"))


async def test_first_version_is_shown_read_only_at_the_kubelets_path(node: Node, tmp_path: Path) -> None:
    name = await node.show({"password": "1", "tls/key": "2"})
    assert node.db == tmp_path / "pods" / UID / "volumes/kubernetes.io~secret/db"
    assert shown(node.db) == {"password": b"1", "tls/key": b"2"}
    assert os.readlink(node.db / "..data") == name
    assert os.stat(node.db).st_mode == stat.S_IFDIR | 0o1777
    assert (node.db / "scratch").is_dir()  # for the emptyDir mounted inside
    assert node.writer.updates == 0
    with pytest.raises(OSError, match="Read-only file system"):
        (node.db / "new").touch()
    assert (tmp_path / "pods" / UID / "plugins/kubernetes.io~empty-dir/wrapped_db/ready").exists()
    assert mode_of(tmp_path / "pods" / UID) == 0o750


async def test_a_config_map_has_a_plain_root(node: Node) -> None:
    volume = Volume(name="cfg", config_map=ConfigMapVolumeSource(name="cfg"))
    await node.show({"a": "1"}, volume)
    assert mode_of(node.volumes.host_path(UID, volume)) == 0o777


async def test_fs_group_holds_for_first_and_later_versions(node: Node) -> None:
    await node.volumes.set_up(POD, DB, {"a": file("1", 0o400)}, fs_group=2000)
    for text in ("2", "3"):
        assert mode_of(node.db) == 0o3777
        path = (node.db / "a").resolve()
        assert (mode_of(path), path.stat().st_gid, mode_of(path.parent)) == (0o440, 2000, 0o2755)
        await node.volumes.set_up(POD, DB, {"a": file(text, 0o400)}, fs_group=2000)


async def test_later_versions_are_the_writers(node: Node) -> None:
    first = await node.volumes.set_up(POD, DB, files({"a": "1"}), fs_group=None)
    same = await node.volumes.set_up(POD, DB, files({"a": "1"}), fs_group=None)
    assert same == first
    assert node.writer.updates == 0
    second = await node.volumes.set_up(POD, DB, files({"a": "2"}), fs_group=None)
    assert node.writer.updates == 1
    assert second.name != first.name
    assert second.since >= first.since
    assert shown(node.db) == {"a": b"2"}
    assert node.volumes.versions(UID) == {"db": second}


async def test_an_invalid_payload_keeps_the_last_version(node: Node) -> None:
    with pytest.raises(InvalidPath):
        await node.volumes.set_up(POD, DB, {"../x": file("1")}, fs_group=None)
    assert node.store.volumes() == []
    await node.show({"a": "1"})
    with pytest.raises(InvalidPath):
        await node.volumes.set_up(POD, DB, {"../x": file("1")}, fs_group=None)
    assert shown(node.db) == {"a": b"1"}


async def test_what_does_not_fit_leaves_nothing_or_the_last_version(node: Node) -> None:
    huge = {"a": file(bytes(5 << 20))}
    with pytest.raises(StoreFull, match="5242880 more needed"):
        await node.volumes.set_up(POD, DB, huge, fs_group=None)
    assert node.store.volumes() == []
    await node.show({"a": "1"})
    with pytest.raises(StoreFull, match="5242880 more needed"):
        await node.volumes.set_up(POD, DB, huge, fs_group=None)
    assert shown(node.db) == {"a": b"1"}
    await node.show({"a": "2"})
    assert shown(node.db) == {"a": b"2"}


async def test_a_quota_is_kept_before_anything_is_written(store_fd: int, node: Node) -> None:
    store = Store(store_fd, limits=StoreLimits(pod_bytes=4096))
    volumes = VolumeManager(store, node.layout, node.writer)
    await volumes.set_up(POD, DB, files({"a": "1"}), fs_group=None)
    pod = f"{POD.metadata.namespace}/{POD.metadata.name}"
    with pytest.raises(StoreFull, match=f"volumes of pod {pod} would take 8192 bytes of memory, 4096 are allowed"):
        await volumes.set_up(POD, DB, files({"a": "1", "b": "2"}), fs_group=None)
    assert node.writer.updates == 0
    assert shown(node.db) == {"a": b"1"}


async def test_tear_down_leaves_nothing(node: Node, tmp_path: Path) -> None:
    await node.show({"a": "1"})
    await node.volumes.prepare_sub_path(UID, DB, container="app", index=0, mount_name="db", sub_path="a")
    await node.volumes.tear_down(UID, "db")
    await node.volumes.tear_down(UID, "db")
    assert mounts.mounts_below(tmp_path) == []
    assert node.store.volumes() == []
    assert not node.db.exists()
    await node.volumes.tear_down_pod(UID)
    assert os.listdir(tmp_path / "pods") == []


class Withdrawal:
    """Notes what is withdrawn and what there is of it at that moment; may fail."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.said: list[object] = []
        self.error: OSError | None = None

    async def withdraw(self, pod_uid: str, volume: str) -> None:
        self.said.append((pod_uid, volume, self.store.has_volume(pod_uid, volume)))
        if self.error is not None:
            raise self.error

    def forget_pod(self, pod_uid: str) -> None:
        self.said.append((pod_uid, self.store.has_volume(pod_uid, "db")))


async def test_volume_is_withdrawn_before_it_is_removed(node: Node) -> None:
    """Afterwards nobody knows any more which pages the kernel holds of it."""
    withdrawal = Withdrawal(node.store)
    node.volumes = VolumeManager(node.store, node.layout, node.writer, withdrawal=withdrawal)
    await node.show({"a": "1"})
    withdrawal.error = OSError(errno.EAGAIN, "not now")
    with pytest.raises(OSError, match="not now"):
        await node.volumes.tear_down_pod(UID)
    assert shown(node.db) == {"a": b"1"}
    withdrawal.error = None
    await node.volumes.tear_down_pod(UID)
    assert withdrawal.said == [(UID, "db", True), (UID, "db", True), (UID, False)]


async def test_tear_down_pod_takes_every_type(node: Node, tmp_path: Path) -> None:
    plain = Volume(name="scratch", empty_dir=EmptyDirVolumeSource())
    memory = Volume(name="mem", empty_dir=EmptyDirVolumeSource(medium="Memory"))
    await node.show({"a": "1"})
    for volume in (plain, memory):
        await node.volumes.set_up_plain(POD, volume, fs_group=None, memory_bytes=1 << 20)
        (node.volumes.host_path(UID, volume) / "sub/deep").mkdir(parents=True)
        await node.volumes.prepare_sub_path(UID, volume, container="app", index=1, mount_name="m", sub_path="sub/deep")
    await node.volumes.tear_down_pod(UID)
    assert mounts.mounts_below(tmp_path) == []
    assert os.listdir(tmp_path / "pods") == []
    assert node.store.volumes() == []
    await node.volumes.tear_down_pod(UID)


async def test_other_types(node: Node, tmp_path: Path) -> None:
    host = Volume(name="host", host_path=HostPathVolumeSource(path=str(tmp_path), type="Directory"))
    await node.volumes.set_up_plain(POD, host, fs_group=None, memory_bytes=0)
    assert node.volumes.host_path(UID, host) == tmp_path
    with pytest.raises(SetUpError, match="is not a file"):
        await node.volumes.set_up_plain(
            POD,
            Volume(name="h", host_path=HostPathVolumeSource(path=str(tmp_path), type="File")),
            fs_group=None,
            memory_bytes=0,
        )
    with pytest.raises(SetUpError, match='no volume plugin matched for volume "x"'):
        await node.volumes.set_up_plain(POD, Volume(name="x", nfs={}), fs_group=None, memory_bytes=0)


async def test_sub_path_of_a_key_is_frozen_until_prepared_again(node: Node) -> None:
    await node.show({"a": "1", "b": "1"})

    async def prepare() -> Path:
        return await node.volumes.prepare_sub_path(UID, DB, container="app", index=2, mount_name="db", sub_path="a")

    target = await prepare()
    assert target == node.layout.pods_dir / UID / "volume-subpaths/db/app/2"
    assert target.read_text() == "1"
    assert target.is_file()
    await node.show({"a": "2"})
    assert target.read_text() == "1"
    assert (await prepare()).read_text() == "2"
    assert len(mounts.mounts_below(target)) == 1
    await node.show({})
    assert target.read_text() == "2"


async def test_sub_path_of_a_missing_key_is_an_empty_directory(node: Node) -> None:
    await node.show({"x/a": "1"})
    target = await node.volumes.prepare_sub_path(
        UID, DB, container="app", index=0, mount_name="db", sub_path="x/no/key"
    )
    assert target.is_dir()
    assert os.listdir(target) == []
    root_mode = stat.S_IMODE(node.db.stat().st_mode)
    assert root_mode == 0o1777
    assert [mode_of(node.db / path) for path in ("x/no", "x/no/key")] == [root_mode, root_mode]


async def test_sub_path_errors_do_not_tell_why(node: Node) -> None:
    await node.show({"a": "1"})
    with pytest.raises(ContainerConfigError) as caught:
        await node.volumes.prepare_sub_path(UID, DB, container="app", index=0, mount_name="db", sub_path="a/b")
    assert str(caught.value) == 'failed to prepare subPath for volumeMount "db" of container "app"'
    scratch = Volume(name="scratch", empty_dir=EmptyDirVolumeSource())
    await node.volumes.set_up_plain(POD, scratch, fs_group=None, memory_bytes=0)
    (node.volumes.host_path(UID, scratch) / "escape").symlink_to("/etc")
    (node.volumes.host_path(UID, scratch) / "dangling").symlink_to("nowhere")
    for sub_path, what in {"escape": "prepare subPath", "dangling": "create subPath directory"}.items():
        with pytest.raises(ContainerConfigError) as caught:
            await node.volumes.prepare_sub_path(
                UID, scratch, container="app", index=0, mount_name="m", sub_path=sub_path
            )
        assert str(caught.value) == f'failed to {what} for volumeMount "m" of container "app"'


async def test_adoption_after_a_restart(node: Node, store_fd: int, tmp_path: Path) -> None:
    await node.show({"a": "1"})
    await node.volumes.set_up_plain(
        POD, Volume(name="scratch", empty_dir=EmptyDirVolumeSource()), fs_group=None, memory_bytes=0
    )
    again = VolumeManager(Store(store_fd), node.layout, node.writer)
    assert await again.adopt() == [VolumeRef(UID, "db"), VolumeRef(UID, "scratch")]
    assert (await again.set_up(POD, DB, files({"a": "1"}), fs_group=None)).name == os.readlink(node.db / "..data")
    assert node.writer.updates == 0
    assert len(mounts.mounts_below(node.db)) == 1
    await again.set_up(POD, DB, files({"a": "2"}), fs_group=None)
    assert shown(node.db) == {"a": b"2"}
    await again.tear_down_pod(UID)
    assert mounts.mounts_below(tmp_path) == []


async def test_an_unattached_version_is_attached_and_a_half_made_volume_made_anew(node: Node, store_fd: int) -> None:
    """What an agent killed during the first set-up leaves."""
    node.store.create_volume(UID, "db", mode=0o700, fs_group=None)
    await node.show({"a": "1"})
    assert mode_of(node.db) == 0o1777
    mounts.umount_lazy(node.db)
    again = VolumeManager(Store(store_fd), node.layout, node.writer)
    await again.adopt()
    await again.set_up(POD, DB, files({"a": "1"}), fs_group=None)
    assert shown(node.db) == {"a": b"1"}


async def test_a_mountpoint_for_a_later_container_is_made_through_the_mount(node: Node) -> None:
    await node.show({"a": "1"})
    debugger = Container(
        name="debug",
        volume_mounts=(VolumeMount(name="db", mount_path="/db"), VolumeMount(name="scratch", mount_path="/db/later")),
    )
    pod = Pod(metadata=POD.metadata, spec=PodSpec(containers=POD.spec.containers, ephemeral_containers=(debugger,)))
    await node.volumes.set_up(pod, DB, files({"a": "1"}), fs_group=None)
    assert (node.db / "later").is_dir()


@pytest.mark.parametrize(
    ("path", "reason", "is_first"),
    [
        # At first mountpoints are made before the files: x would be a directory, which the AtomicWriter leaves alone.
        pytest.param("x/y", "not a directory", False, id="a-file-in-the-way"),
        pytest.param("a\0b", "invalid argument", True, id="nul-first"),
        pytest.param("a\0b", "invalid argument", False, id="nul-later"),
        pytest.param("a" * 256, "file name too long", True, id="long-first"),
        pytest.param("a" * 256, "file name too long", False, id="long-later"),
    ],
)
async def test_a_mountpoint_that_cannot_be_made(node: Node, path: str, reason: str, is_first: bool) -> None:
    """§2.2, step 5. What a volume showed before stays."""
    if not is_first:
        await node.show({"x": "file"})
    mounts_inside = (VolumeMount(name="db", mount_path="/d"), VolumeMount(name="v", mount_path=f"/d/{path}"))
    pod = Pod(metadata=POD.metadata, spec=PodSpec(containers=(Container(name="app", volume_mounts=mounts_inside),)))
    with pytest.raises(SetUpError) as caught:
        await node.volumes.set_up(pod, DB, files({"x": "file"}), fs_group=None)
    assert str(caught.value) == f"unable to create nested volume mountpoints: mkdir {path}: {reason}"
    if not is_first:
        assert shown(node.db) == {"x": b"file"}
    assert (await node.volumes.set_up(POD, DB, files({"x": "2"}), fs_group=None)).name
    assert shown(node.db) == {"x": b"2"}


async def test_a_volume_removed_under_our_hands_is_a_set_up_error(node: Node) -> None:
    await node.show({"a": "1"})

    async def update(*_: object, **__: object) -> WriteResult:
        raise FileNotFoundError(2, "No such file or directory")

    node.writer.update = update  # type: ignore[method-assign]
    with pytest.raises(SetUpError, match=r"^secret store: no such file or directory$"):
        await node.show({"a": "2"})


async def test_set_ups_of_one_volume_take_turns_and_of_others_do_not_wait(node: Node) -> None:
    await node.show({"a": "1"})
    node.writer.gate = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.show, {"a": "2"})
            await node.writer.entered.wait()
            nursery.start_soon(node.show, {"a": "3"})
            await node.show({"b": "1"}, Volume(name="other", secret=SecretVolumeSource(secret_name="x")))
            assert node.writer.updates == 1
            node.writer.gate.set()
    assert node.writer.updates == 2
    assert shown(node.db) == {"a": b"3"}


async def test_after_a_cancelled_update_the_next_one_does_not_trust_the_comparison(node: Node) -> None:
    """The cancelled order may still be carried out, after the store was compared."""
    await node.show({"a": "1"})
    node.writer.gate = trio.Event()
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(node.show, {"a": "2"})
            await node.writer.entered.wait()
            nursery.cancel_scope.cancel()
        node.writer.gate = None
        await node.show({"a": "1"})
        assert node.writer.updates == 2
        await node.show({"a": "1"})
    assert node.writer.updates == 2
    assert shown(node.db) == {"a": b"1"}


async def test_cancelled_at_any_await_the_volume_is_whole(node: Node, tmp_path: Path) -> None:
    """Cancel at the first checkpoint, the second, … of every operation; then it is called again and finishes."""

    async def sub_path() -> None:
        await node.volumes.prepare_sub_path(UID, DB, container="app", index=0, mount_name="db", sub_path="a")

    async def remove() -> None:
        await node.volumes.tear_down(UID, "db")

    async def first() -> None:
        await node.show({"a": "1"})

    async def second() -> None:
        await node.show({"a": "2"})

    expected: list[dict[str, bytes]] = [{"a": b"1"}, {"a": b"2"}]
    for _ in range(2):
        for operation in (first, second, sub_path, remove):
            completed = False
            for checkpoints in range(40):
                completed = await _cancel_after(operation, checkpoints)
                if node.store.current(UID, "db") is not None and mounts.mounts_below(node.db):
                    assert shown(node.db) in expected
                if completed:
                    break
            assert completed, operation
    assert mounts.mounts_below(tmp_path) == []
    assert node.store.volumes() == []


async def _cancel_after(operation: Callable[[], object], checkpoints: int) -> bool:
    """Run *operation* and cancel it after it was rescheduled so many times; whether it finished all the same."""

    class Canceller(trio.abc.Instrument):
        left = checkpoints

        def after_task_step(self, task: trio.lowlevel.Task) -> None:
            if task is watched:
                self.left -= 1
                if self.left < 0:
                    scope.cancel()

    watched = trio.lowlevel.current_task()
    canceller = Canceller()
    with trio.fail_after(60), trio.CancelScope() as scope:
        trio.lowlevel.add_instrument(canceller)
        try:
            await operation()  # type: ignore[misc]  # each one is an async function
            return True
        finally:
            trio.lowlevel.remove_instrument(canceller)
    return False
