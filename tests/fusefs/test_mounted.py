"""The filesystem through the kernel: what a container's process sees, with an agent that is killed again and again."""

from __future__ import annotations

import contextlib
import errno
import json
import mmap
import os
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import ANY

import pytest
from inotify_simple import Event, INotify, flags

from kubelet_secrets import linux
from kubelet_secrets.fusefs import mounts
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume import atomicwriter
from tests.fusefs.running_node import RunningNode, running_node, wait_end
from tests.fusefs.serving_agent import entries
from tests.kernels import HAS_NOSWAP, needs_idmapped_fuse, needs_sized_store

pytestmark = pytest.mark.fuse

UID = "0a1b2c3d-0000-4000-8000-000000000001"
READER = Path(__file__).with_name("reader.py")


@pytest.fixture(scope="module")
def shared_node(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningNode]:
    """One node for the whole file: starting it takes longer than most of the tests."""
    with running_node(tmp_path_factory.mktemp("mounted") / "root") as node:
        yield node


@pytest.fixture
def node(shared_node: RunningNode) -> Iterator[RunningNode]:
    """The node without a pod in it."""
    yield shared_node
    shared_node.call("close", volumes=[])
    shared_node.call("die_over_change", number=0, moment="never")
    pods = shared_node.root / "pods"
    mounts.umount_all_below(pods)
    if pods.exists():
        shutil.rmtree(pods)
    shared_node.call("purge", pod=UID)
    assert shared_node.call("store") == [".grave"]


@pytest.fixture
def volume(node: RunningNode) -> Path:
    """A volume with two files, and its clone as a container gets it."""
    node.call("create", pod=UID, volume="v", files={"a": "one", "b": "B" * 9000})
    return attach(node, "v")


def attach(node: RunningNode, volume: str, path: str = "", *, name: str | None = None) -> Path:
    target = node.root / "pods" / (name or volume)
    target.parent.mkdir(exist_ok=True)
    if path:
        target.touch()
    else:
        target.mkdir()
    node.call("attach", pod=UID, volume=volume, target=str(target), path=path)
    return target


def update(node: RunningNode, **files: str) -> str:
    version: str = node.call("update", pod=UID, volume="v", files=files)
    return version


_UNDER_ALARMS = """
import os, signal, sys
alarms = 0
def count(*_):
    global alarms
    alarms += 1
signal.signal(signal.SIGALRM, count)
signal.setitimer(signal.ITIMER_REAL, 0.0003, 0.0003)
for _ in range(2000):
    file = os.open(sys.argv[1], os.O_RDONLY)
    assert os.pread(file, 10, 0) == b"one"
    os.close(file)
signal.setitimer(signal.ITIMER_REAL, 0)
assert alarms > 10
"""

# --- reading --------------------------------------------------------------------------------------------------------


def test_volume_looks_like_the_kubelets(node: RunningNode, volume: Path) -> None:
    version = os.readlink(volume / "..data")
    assert sorted(os.listdir(volume)) == sorted(["..data", version, "a", "b"])
    assert os.readlink(volume / "a") == "..data/a"
    assert (volume / "a").read_text() == "one"
    assert (volume / "b").stat().st_size == 9000
    assert volume.stat().st_mode & 0o7777 == 0o777
    assert (volume / version).stat().st_mode & 0o7777 == 0o755
    assert (volume / "a").stat().st_mode & 0o7777 == 0o644
    assert (volume / "a").stat().st_nlink == 1
    assert (os.statvfs(volume).f_blocks > 0) is HAS_NOSWAP


def test_missing_names_are_missing_until_they_appear(node: RunningNode, volume: Path) -> None:
    for _ in range(2):
        assert not (volume / "late").exists()
        assert not (volume / "..data" / "late").exists()
    update(node, late="x")
    assert (volume / "late").read_text() == "x"
    assert not (volume / "a").exists()


def test_first_version_appears_although_the_volume_was_missed_before(node: RunningNode) -> None:
    assert not (node.fuse / UID / "v").exists()
    node.call("create", pod=UID, volume="v", files={"a": "1"})
    assert (node.fuse / UID / "v" / "a").read_text() == "1"
    assert not (node.fuse / UID / "w").exists()
    node.call("create", pod=UID, volume="w", files={"a": "2"})
    assert (node.fuse / UID / "w" / "a").read_text() == "2"


def test_volume_made_again_under_its_name_is_the_new_one(node: RunningNode) -> None:
    """The names of pods and volumes are never cached: removed and made again directly in the store, they are new."""
    for text in ("1", "2"):
        node.call("create", pod=UID, volume="v", files={"a": text})
        assert (node.fuse / UID / "v" / "a").read_text() == text
        node.call("remove_directly", pod=UID, volume="v")
        assert not (node.fuse / UID / "v").exists()
    node.call("purge", pod=UID)
    assert os.listdir(node.fuse) == []
    node.call("create", pod=UID, volume="v", files={"a": "3"})
    assert (node.fuse / UID / "v" / "a").read_text() == "3"


def test_directory_with_many_entries_lists_each_once(node: RunningNode) -> None:
    names = {f"key-{index:04}-{'x' * 100}" for index in range(1500)}
    node.call("create", pod=UID, volume="v", files=dict.fromkeys(names, ""))
    version = node.fuse / UID / "v" / "..data"
    for _ in range(2):
        listed = os.listdir(version)
        assert len(listed) == len(names)
        assert set(listed) == names
    node.kill_agent()
    assert set(os.listdir(version)) == names


def test_listing_begun_before_a_crash_ends_complete_after_it(node: RunningNode) -> None:
    names = {f"key-{index:04}-{'x' * 200}" for index in range(2000)}
    node.call("create", pod=UID, volume="v", files=dict.fromkeys(names, ""))
    with os.scandir(node.fuse / UID / "v" / "..data") as entries_:
        listed = [next(entries_).name]
        node.kill_agent()
        listed += [entry.name for entry in entries_]
    assert len(listed) == len(names)
    assert set(listed) == names


def test_large_file_reads_whole_through_every_interface(node: RunningNode) -> None:
    text = "".join(f"{index:07}\n" for index in range(1 << 17))  # 1 MiB
    node.call("create", pod=UID, volume="v", files={"large": text})
    path = node.fuse / UID / "v" / "large"
    assert path.read_text() == text
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapped:
        assert mapped[-8:] == text[-8:].encode()
        assert os.pread(file.fileno(), 8, 1 << 19) == text[1 << 19 :][:8].encode()


def test_signals_do_not_disturb_opens(volume: Path) -> None:
    """A signal makes the kernel send an INTERRUPT after the request it is about."""
    subprocess.run([sys.executable, "-c", _UNDER_ALARMS, str(volume / "a")], check=True, timeout=60)
    assert (volume / "a").read_text() == "one"


def test_no_extended_attributes_and_no_surprise_in_asking(volume: Path) -> None:
    for _ in range(2):
        with pytest.raises(OSError) as caught:
            os.getxattr(volume / "a", "user.x")
        assert caught.value.errno == errno.EOPNOTSUPP


def test_script_in_a_volume_can_be_run(node: RunningNode) -> None:
    """ConfigMaps with scripts are everyday; a kubelet's volumes are not noexec."""
    node.call("create", pod=UID, volume="v", files={"run": "#!/bin/sh\necho ran"}, mode=0o755)
    path = attach(node, "v") / "run"
    assert subprocess.run([path], capture_output=True, text=True, check=True).stdout == "ran\n"


# --- who may --------------------------------------------------------------------------------------------------------


def test_every_open_and_every_listing_is_asked(node: RunningNode, volume: Path) -> None:
    node.call("asked")
    version = os.readlink(volume / "..data")
    for _ in range(3):
        (volume / "a").read_text()
        os.listdir(volume)
    asked = node.call("asked")
    expected = [
        {"pod": UID, "volume": "v", "path": f"{version}/a", "tid": os.getpid(), "kind": "open"},
        {"pod": UID, "volume": "v", "path": "", "tid": os.getpid(), "kind": "opendir"},
    ]
    assert asked == expected * 3


def test_refusal_is_eacces_and_metadata_stays_visible(node: RunningNode, volume: Path) -> None:
    node.call("close", volumes=["v"])
    for action in (lambda: (volume / "a").read_text(), lambda: os.listdir(volume)):
        with pytest.raises(OSError) as caught:
            action()
        assert caught.value.errno == errno.EACCES
    assert (volume / "a").stat().st_size == 3
    node.call("close", volumes=[])
    assert (volume / "a").read_text() == "one"


def test_directories_above_volumes_are_asked_for_by_no_name(node: RunningNode, volume: Path) -> None:
    node.call("close", volumes=[""])
    for path in (node.fuse, node.fuse / UID):
        with pytest.raises(PermissionError):
            os.listdir(path)
    assert "a" in os.listdir(volume)


def test_nobody_but_the_writer_changes_anything(node: RunningNode, volume: Path) -> None:
    inside = node.fuse / UID / "v"  # the writable mount; the clone refuses in the kernel already
    actions = [
        lambda base: (base / "new").write_text(""),
        lambda base: (base / "a").write_text("x"),
        lambda base: open(base / "a", "r+").close(),
        lambda base: os.close(os.open(base / "a", os.O_RDONLY | os.O_TRUNC)),
        lambda base: (base / "dir").mkdir(),
        lambda base: (base / "link").symlink_to("x"),
        lambda base: (base / "a").unlink(),
        lambda base: os.rename(base / "a", base / "z"),
        lambda base: os.rmdir(base / os.readlink(base / "..data")),
        lambda base: (base / "a").chmod(0o777),
        lambda base: os.chown(base / "a", 1, 1),
        lambda base: os.utime(base / "a"),
        lambda base: os.truncate(base / "a", 0),
        lambda base: os.link(base / "..data", base / "hard", follow_symlinks=False),
        lambda base: os.mkfifo(base / "fifo"),
    ]
    for base in (inside, volume):
        for number, action in enumerate(actions):
            with pytest.raises(OSError) as caught:
                action(base)
            assert caught.value.errno == errno.EROFS, f"action {number} under {base}"
    assert (volume / "a").read_text() == "one"


def test_modes_hold_for_users(node: RunningNode) -> None:
    node.call("create", pod=UID, volume="open", files={"key": "x"}, mode=0o444)
    node.call("create", pod=UID, volume="shut", files={"key": "x"}, mode=0o400)
    for directory in (node.root.parent, *node.root.parent.parents[:1]):
        assert directory.stat().st_mode & 0o700
    script = "import os, sys; os.setgid(1000); os.setuid(1000); print(os.read(os.open('key', os.O_RDONLY), 9))"
    for name, succeeds in (("open", True), ("shut", False)):
        target = attach(node, name)
        done = subprocess.run([sys.executable, "-c", script], cwd=target, capture_output=True, text=True)
        assert (done.returncode == 0) is succeeds, done.stderr
        assert succeeds or "PermissionError" in done.stderr


@needs_idmapped_fuse
def test_volume_can_be_mounted_with_mapped_ids(node: RunningNode, volume: Path, tmp_path: Path) -> None:
    """Pods with user namespaces: the runtime maps the owner of the files to the container's root."""
    with mapped(volume, tmp_path / "mapped", first_uid=100_000) as target:
        assert (volume / "a").stat().st_uid == 0
        assert (target / "a").stat().st_uid == 100_000
        assert (target / "a").read_text() == "one"


@contextlib.contextmanager
def mapped(directory: Path, target: Path, *, first_uid: int) -> Iterator[Path]:
    """Another mount of *directory*, at *target*, where what belongs to 0 belongs to *first_uid*."""
    target.mkdir()
    with user_namespace(first_uid) as namespace_fd:
        clone_fd = linux.syscall(linux.OPEN_TREE, "clone", -100, os.fsencode(directory), 1 | os.O_CLOEXEC)
        try:
            idmap = struct.pack("<QQQQ", 0x100000, 0, 0, namespace_fd)  # MOUNT_ATTR_IDMAP
            linux.syscall(linux.MOUNT_SETATTR, "idmap", clone_fd, b"", 0x1000, idmap, len(idmap))
            mounts.attach(clone_fd, target)
        finally:
            os.close(clone_fd)
    try:
        yield target
    finally:
        mounts.umount_lazy(target)


@contextlib.contextmanager
def user_namespace(first_uid: int) -> Iterator[int]:
    """A namespace whose ids 0–65535 are *first_uid* and up outside."""
    with subprocess.Popen(["unshare", "-U", "cat"], stdin=subprocess.PIPE) as process:
        own = os.readlink("/proc/self/ns/user")
        while os.readlink(f"/proc/{process.pid}/ns/user") == own:
            pass
        for kind in ("uid", "gid"):
            Path(f"/proc/{process.pid}/{kind}_map").write_text(f"0 {first_uid} 65536")
        namespace_fd = os.open(f"/proc/{process.pid}/ns/user", os.O_RDONLY)
        try:
            yield namespace_fd
        finally:
            os.close(namespace_fd)


# --- changing -------------------------------------------------------------------------------------------------------

MASK = (
    flags.MODIFY
    | flags.ATTRIB
    | flags.CLOSE_WRITE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.CREATE
    | flags.DELETE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
)


class Watches:
    """inotify as an application in the container uses it: on the directory, the version, a file, and the link."""

    def __init__(self, base: Path) -> None:
        self._inotify = INotify()
        self._names: dict[str, str] = {}
        self._rename(os.readlink(base / "..data"))
        self._watches = {
            self._inotify.add_watch(str(base), MASK): "directory",
            self._inotify.add_watch(str(base / "..data"), MASK): "version",
            self._inotify.add_watch(str(base / "a"), MASK): "file",
            self._inotify.add_watch(str(base / "..data"), MASK | flags.DONT_FOLLOW): "link",
        }

    def _rename(self, name: str) -> str:
        """Version names differ from run to run: number them."""
        if name.startswith("..2"):
            return self._names.setdefault(name, f"version {len(self._names)}")
        return name

    def events(self) -> list[tuple[str, str, str]]:
        """What was seen since the last call: (watch, events, name)."""
        events: list[Event] = self._inotify.read(timeout=0)
        return [
            (self._watches[e.wd], "|".join(str(f.name) for f in flags.from_mask(e.mask)), self._rename(e.name))
            for e in events
        ]

    def close(self) -> None:
        self._inotify.close()


def tmpfs_events(tmp_path: Path, versions: list[dict[str, str]]) -> list[list[tuple[str, str, str]]]:
    """The reference: the AtomicWriter on a plain tmpfs."""
    base = tmp_path / "reference"
    base.mkdir()
    mounts.attach_tmpfs(base, size_bytes=1 << 20)
    try:
        directory_fd = os.open(base, os.O_RDONLY | os.O_DIRECTORY)
        try:
            atomicwriter.write(directory_fd, entries(versions[0], 0o644))
            watches = Watches(base)
            seen = []
            for files in versions[1:]:
                atomicwriter.write(directory_fd, entries(files, 0o644))
                seen.append(watches.events())
            watches.close()
        finally:
            os.close(directory_fd)
    finally:
        mounts.umount_all_below(base)
    return seen


@pytest.mark.parametrize("kill", [False, True], ids=["agent-lives", "agent-killed-in-between"])
def test_inotify_sees_what_it_would_see_on_tmpfs(node: RunningNode, tmp_path: Path, kill: bool) -> None:
    versions = [
        {"a": "one", "b": "two"},
        {"a": "ONE!", "b": "two"},
        {"a": "ONE!", "c/d": "three"},
        {"a": "", "c/d": "three", "c/e": ""},
    ]
    expected = tmpfs_events(tmp_path, versions)
    assert ("directory", "MOVED_TO", "..data") in expected[0]

    node.call("create", pod=UID, volume="v", files=versions[0])
    watches = Watches(attach(node, "v"))
    try:
        for files, reference in zip(versions[1:], expected, strict=True):
            if kill:
                node.kill_agent()
            node.call("update", pod=UID, volume="v", files=files)
            assert watches.events() == reference
    finally:
        watches.close()


def test_identical_payload_writes_nothing_and_is_not_noticed(node: RunningNode, volume: Path) -> None:
    version = os.readlink(volume / "..data")
    watches = Watches(volume)
    assert update(node, a="one", b="B" * 9000) == version
    assert watches.events() == []
    watches.close()


def test_fs_group_reaches_the_whole_volume(node: RunningNode, volume: Path) -> None:
    node.call("update", pod=UID, volume="v", files={"a": "two"}, mode=0o400, fs_group=2000)
    assert (volume / "a").stat().st_mode & 0o7777 == 0o440
    assert (volume / "a").stat().st_gid == 2000
    assert volume.stat().st_mode & 0o7777 == 0o2777
    assert (volume / "..data").stat().st_mode & 0o7777 == 0o2755


def test_nested_mount_point_is_made_and_stays(node: RunningNode, volume: Path) -> None:
    node.call("make_directory", pod=UID, volume="v", path="sub/deeper")
    node.call("make_directory", pod=UID, volume="v", path="sub/deeper")
    assert (volume / "sub" / "deeper").stat().st_mode & 0o7777 == 0o755
    update(node, a="two")
    assert (volume / "sub" / "deeper").is_dir()
    with pytest.raises(NotADirectoryError):
        node.call("make_directory", pod=UID, volume="v", path="a/below-a-link")


def test_open_file_reads_on_after_its_version_is_gone(node: RunningNode, volume: Path) -> None:
    with open(volume / "b", "rb") as file, open(volume / "a", "rb") as unread:
        assert file.read(1) == b"B"
        update(node, a="two")
        node.kill_agent()
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert os.pread(file.fileno(), 9, 8995) == b"BBBBB"
        assert unread.read() == b"one"
        assert graves(node)
    drop_kernel_caches()
    eventually(lambda: graves(node), lambda paths: not paths)


def test_what_the_kernel_forgot_unheard_is_removed_by_the_next_agent(node: RunningNode, volume: Path) -> None:
    with open(volume / "b", "rb") as held:
        inode = os.fstat(held.fileno()).st_ino
        node.call("ignore_forgets")
        update(node, a="two")
        drop_kernel_caches()
        assert len(graves(node)) > 4, "file a, file b, their version and the link ..data"
        node.kill_agent()
        # An open file keeps the directory it was in: the two of them stay, each with its note.
        eventually(lambda: graves(node), lambda paths: len(paths) == 2 + 4 and f"{inode}" in paths[-2])
        assert len(held.read()) == 9000
    eventually(lambda: graves(node), lambda paths: not paths)


def graves(node: RunningNode) -> list[str]:
    return [path for path in node.call("store") if path.startswith(".grave/")]


def test_mounted_file_keeps_its_version_and_its_identity(node: RunningNode, volume: Path) -> None:
    """subPath: one file of one version, bound into a container. It never changes, and every open still says whose it is."""
    version = os.readlink(volume / "..data")
    bound = attach(node, "v", f"{version}/a", name="bound")
    update(node, a="two")
    assert bound.read_text() == "one"
    node.kill_agent()
    update(node, a="three")
    assert bound.read_text() == "one"
    node.call("asked")
    assert bound.read_text() == "one"
    (asked,) = node.call("asked")
    assert (asked["volume"], asked["path"]) == ("v", f"{version}/a")
    node.call("close", volumes=["v"])
    with pytest.raises(PermissionError):
        bound.read_text()


def test_removed_volume_is_gone_but_for_those_who_have_it_open(node: RunningNode, volume: Path) -> None:
    with open(volume / "b", "rb") as file:
        node.call("remove", pod=UID, volume="v")
        node.call("remove", pod=UID, volume="v")
        assert not (node.fuse / UID / "v").exists()
        assert os.listdir(volume) == []
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        assert len(file.read()) == 9000
        node.call("purge", pod=UID)
        assert node.call("store") == [".grave"]


def test_attaching_again_replaces_the_clone(node: RunningNode, volume: Path) -> None:
    node.call("attach", pod=UID, volume="v", target=str(volume))
    assert len([m for m in mounts.read_mount_table() if m.target == str(volume)]) == 1
    assert (volume / "a").read_text() == "one"


def test_failures_of_the_writer_come_back_as_they_are(node: RunningNode, volume: Path) -> None:
    with pytest.raises(FileNotFoundError):
        node.call("update", pod=UID, volume="missing", files={"a": "1"})
    with pytest.raises(FileNotFoundError):
        node.call("attach", pod=UID, volume="v", target=str(volume.parent / "missing"))


@needs_sized_store
def test_full_store_keeps_the_old_version_and_recovers(tmp_path: Path) -> None:
    node = RunningNode(tmp_path / "root")
    node.store_size_bytes = 1 << 20
    try:
        node.start()
        node.call("create", pod=UID, volume="v", files={"a": "one"})
        with pytest.raises(OSError) as caught:
            update(node, a="x" * (2 << 20))
        assert caught.value.errno == errno.ENOSPC
        assert (node.fuse / UID / "v" / "a").read_text() == "one"
        update(node, a="two")
        assert (node.fuse / UID / "v" / "a").read_text() == "two"
        assert len([path for path in node.call("store") if path.startswith(f"{UID}/v/..2")]) == 2
    finally:
        node.clean_up()


# --- crashes --------------------------------------------------------------------------------------------------------


def test_readers_survive_kills_under_updates(node: RunningNode, volume: Path) -> None:
    """Open file, open directory, mmap, working directory, fresh opens: no read fails and none sees a mix of versions.

    A fresh open that had entered the old version when it was removed may have to be done again, as on a tmpfs; few are.
    """
    update(node, a="0", b="0")
    readers = [
        subprocess.Popen(
            [sys.executable, str(READER), str(volume)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    try:
        for reader in readers:
            assert reader.stdout is not None
            assert reader.stdout.readline() == "reading\n"
        count = 0
        for _ in range(5):
            for _ in range(3):
                count += 1
                update(node, a=str(count), b=str(count))
            node.kill_agent()
        reports = [json.loads(reader.communicate("stop\n", timeout=120)[0]) for reader in readers]
    finally:
        for reader in readers:
            reader.kill()
            reader.communicate()
    for report in reports:
        assert report["errors"] == []
        assert report["mixed"] == 0
        assert report["rounds"] > 10
        assert report["raced"] <= 1 + report["rounds"] // 20
        assert report["seen"] == sorted(report["seen"])
        assert report["seen"][-1] <= count
    assert (volume / "a").read_text() == str(count)


@pytest.mark.parametrize("moment", ["before", "after"])
def test_update_ends_whole_wherever_the_agent_dies(node: RunningNode, volume: Path, moment: str) -> None:
    """The agent dies over the n-th change of an update, for every n: just before making it, or just after, unanswered.

    The writer notices nothing but a delay, and the next agent is given the same change once more.
    """
    writer = node.call("pids")["writer"]
    number = 0
    while True:
        number += 1
        files = {f"{number}-a": str(number), f"dir/{number}-b": str(number)}
        agent = node.call("pids")["agent"]
        node.call("die_over_change", number=number, moment=moment)
        try:
            node.call("update", pod=UID, volume="v", files=files)
        except ConnectionError:
            wait_end(agent)
            assert node.call("pids") == {"agent": ANY, "writer": writer, "resume": True}
            has_died = True
        else:
            has_died = False
        version = os.readlink(volume / "..data")
        assert sorted(os.listdir(volume)) == sorted(["..data", version, f"{number}-a", "dir"])
        assert (volume / f"{number}-a").read_text() == str(number)
        assert (volume / "dir" / f"{number}-b").read_text() == str(number)
        if not has_died:
            break
    assert number > 15, "an update has more changes than that"


def drop_kernel_caches() -> None:
    """Have the kernel forget what nobody uses."""
    with open("/proc/sys/vm/drop_caches", "w") as file:
        file.write("2")


def eventually(ask: object, holds: object) -> None:
    """FORGET is asynchronous: ask until it has arrived. And what was in use a moment ago the kernel forgets at its next try."""
    assert callable(ask)
    assert callable(holds)
    deadline_s = time.monotonic() + 60
    while not holds(answer := ask()):
        assert time.monotonic() < deadline_s, answer
        time.sleep(0.05)
        drop_kernel_caches()


def test_value_does_not_show_in_any_process_of_the_node(node: RunningNode, volume: Path) -> None:
    canary = "cafe-canary-1234567890"
    update(node, a=canary)
    for pid in (node.keeper.pid, *node.children()):
        for name in ("cmdline", "environ"):
            assert canary.encode() not in Path(f"/proc/{pid}/{name}").read_bytes()
    assert canary not in repr(entries({"a": canary}, 0o644))
    assert repr(SensitiveBytes(canary.encode())) == f"<{len(canary)} bytes>"
