"""Source: kubernetes pkg/volume/util/atomic_writer_test.go for the tables; semantics §3.1-§3.4."""

from __future__ import annotations

import errno
import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from inotify_simple import INotify, flags

from kubelet_secrets.errors import InvalidPath
from kubelet_secrets.volume import atomicwriter
from kubelet_secrets.volume.atomicwriter import needs_write, paths_to_remove, write
from kubelet_secrets.volume.fsgroup import apply_fs_group

from .files import file, files, mode_of, shown


@pytest.fixture
def root(store_fd: int) -> Path:
    """A volume on a real store, by the only kind of path that leads there."""
    os.mkdir("volume", dir_fd=store_fd)
    return Path(f"/proc/self/fd/{store_fd}/volume")


@pytest.fixture
def fd(root: Path) -> Iterator[int]:
    opened = os.open(root, os.O_PATH | os.O_DIRECTORY)
    yield opened
    os.close(opened)


def machinery(root: Path) -> list[str]:
    return sorted(name for name in os.listdir(root) if name.startswith(".."))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        pytest.param("", 'invalid path: must not be empty: ""', id="empty"),
        pytest.param("/dev/null", "invalid path: must be relative path: /dev/null", id="absolute"),
        pytest.param("a/" * 2049, "invalid path: must be less than or equal to 4096 characters", id="too-long"),
        pytest.param("x/../y", "invalid path: must not contain '..': x/../y", id="backstep"),
        pytest.param(
            "a/b/../../etc/passwd", "invalid path: must not contain '..': a/b/../../etc/passwd", id="two-backsteps"
        ),
        pytest.param(
            "a/" + "b" * 256, "invalid path: filenames must be less than or equal to 255 characters", id="long-name"
        ),
        pytest.param("..sneaky.txt", "invalid path: must not start with '..': ..sneaky.txt", id="reserved-prefix"),
    ],
)
def test_an_invalid_path_among_good_ones_writes_nothing(fd: int, root: Path, path: str, message: str) -> None:
    with pytest.raises(InvalidPath, match=re.escape(message)):
        write(fd, {"foo": file("1"), path: file("2"), "bar": file("3")})
    assert os.listdir(root) == []


KITCHEN_SINK = {
    "foo.log": file("foo"),
    "bar.zap": file("bar"),
    ".dotfile": file("dotfile"),
    "foo/bar.log": file("nested", 0o640),
    "foo////extra.txt": file("cleaned"),
    "./here": file("here"),
    "a/..b": file("dots later are fine"),
    "1/2/3/4/5/6/7/8/9/10/.dotfile.lib": file("deep", 0o777),
    "binary": file(bytes(range(256)) * 20, 0o400),
    ".binary.bin": file(b"\x00\xff", 0o407),
    "w": file("", 0o666),
    "zero": file("0", 0o000),
}


def test_first_write_shows_every_file_with_its_mode(fd: int, root: Path) -> None:
    old_umask = os.umask(0o077)
    try:
        result = write(fd, KITCHEN_SINK)
    finally:
        os.umask(old_umask)
    assert result.changed
    assert machinery(root) == sorted(["..data", result.version])
    assert os.readlink(root / "..data") == result.version
    assert re.fullmatch(r"\.\.\d{4}(_\d\d){5}\.\d+", result.version)
    assert mode_of(root / result.version) == 0o755
    clean = {os.path.normpath(path): projection for path, projection in KITCHEN_SINK.items()}
    assert shown(root) == {path: projection.data.reveal() for path, projection in clean.items()}
    for path, projection in clean.items():
        assert mode_of(root / result.version / path) == projection.mode, path
    assert {mode_of(d) for d in (root / result.version).rglob("*") if d.is_dir()} == {0o755}
    for first in {path.split("/", 1)[0] for path in clean}:
        assert os.readlink(root / first) == f"..data/{first}"


UPDATES = [
    pytest.param({"foo": "foo"}, {"foo": "bar"}, True, id="content"),
    pytest.param({"foo": "foo", "a/b": "c"}, {"foo": "foo", "a/b": "c"}, False, id="identical"),
    pytest.param({"foo": "foo"}, {"foo": "foo", "bar": "bar"}, True, id="add-file"),
    pytest.param({"foo": "foo"}, {"foo": "foo", "x/y": "z"}, True, id="add-in-new-directory"),
    pytest.param({"x/y": "z"}, {"x/y": "z", "x/v/w": "u"}, True, id="add-nested-deeper"),
    pytest.param({"foo": "foo", "bar": "bar"}, {"foo": "foo"}, True, id="delete"),
    pytest.param({"x/y": "1", "x/z": "2"}, {"x/y": "1"}, True, id="delete-in-shared-directory"),
    pytest.param({"x/y": "1", "z": "2"}, {}, True, id="delete-all"),
    pytest.param({}, {}, False, id="still-empty"),
    pytest.param({"foo": "1", "bar": "2"}, {"bar": "2", "baz": "3"}, True, id="add-and-delete"),
    pytest.param({"x": "file"}, {"x/y": "now a directory"}, True, id="file-becomes-directory"),
    pytest.param({"x/y": "1"}, {"x": "now a file"}, True, id="directory-becomes-file"),
]


@pytest.mark.parametrize(("before", "after", "changes"), UPDATES)
def test_update(fd: int, root: Path, before: dict[str, str], after: dict[str, str], changes: bool) -> None:
    first = write(fd, files(before))
    assert needs_write(fd, files(after)) is changes
    second = write(fd, files(after))
    assert second.changed is changes
    assert (second.version != first.version) is changes
    assert machinery(root) == sorted(["..data", second.version])
    assert shown(root) == {path: text.encode() for path, text in after.items()}
    assert not [name for name in os.listdir(root) if not (root / name).exists()]


def test_a_mode_alone_writes_nothing_and_comes_with_the_next_content(fd: int, root: Path) -> None:
    write(fd, {"foo": file("1", 0o644)})
    assert not write(fd, {"foo": file("1", 0o600)}).changed
    assert mode_of(root / os.readlink(root / "..data") / "foo") == 0o644
    assert write(fd, {"foo": file("2", 0o600)}).changed
    assert mode_of(root / os.readlink(root / "..data") / "foo") == 0o600


@pytest.mark.parametrize(
    ("first", "second", "expected"),
    [
        (["foo.txt", "bar.txt"], ["foo.txt"], {"bar.txt"}),
        (["foo.txt", "zip/bar.txt"], ["foo.txt"], {"zip", "zip/bar.txt"}),
        (
            ["foo.txt", "zip/1/2/3/4/bar.txt"],
            ["foo.txt"],
            {"zip", "zip/1", "zip/1/2", "zip/1/2/3", "zip/1/2/3/4", "zip/1/2/3/4/bar.txt"},
        ),
        (
            ["zap/1/2/3/4/bar.txt", "zap/1/2/c/bar.txt", "zap/1/2/magic.txt"],
            ["zap/1/2/magic.txt"],
            {"zap/1/2/3", "zap/1/2/3/4", "zap/1/2/3/4/bar.txt", "zap/1/2/c", "zap/1/2/c/bar.txt"},
        ),
    ],
    ids=["file", "directory", "deep-directory", "kept-parents-stay"],
)
def test_paths_to_remove(fd: int, first: list[str], second: list[str], expected: set[str]) -> None:
    version = write(fd, {path: file("x") for path in first}).version
    assert paths_to_remove(fd, version, second) == expected


def test_paths_to_remove_of_a_missing_version_is_empty(fd: int) -> None:
    assert paths_to_remove(fd, "..gone", ["x"]) == set()


def test_set_perms_is_called_once_with_the_finished_version(fd: int, root: Path) -> None:
    calls: list[tuple[str, bool, bool]] = []

    def set_perms(version: str) -> None:
        calls.append((version, (root / version / "foo").is_file(), (root / "..data").exists()))

    result = write(fd, {"foo": file("1")}, set_perms=set_perms)
    assert calls == [(result.version, True, False)]
    assert not write(fd, {"foo": file("1")}, set_perms=set_perms).changed
    assert len(calls) == 1


def test_an_error_from_set_perms_keeps_the_old_version(fd: int, root: Path) -> None:
    def refuse(version: str) -> None:
        raise OSError(errno.EPERM, "no", version)

    old = write(fd, {"foo": file("1")})
    with pytest.raises(PermissionError):
        write(fd, {"foo": file("2"), "bar": file("3")}, set_perms=refuse)
    assert machinery(root) == sorted(["..data", old.version])
    assert shown(root) == {"foo": b"1"}


def test_links_lost_after_a_complete_write_come_back(fd: int, root: Path) -> None:
    write(fd, {"foo": file("1"), "x/y": file("2")})
    (root / "foo").unlink()
    (root / "x").unlink()
    assert needs_write(fd, {"foo": file("1"), "x/y": file("2")})
    assert not write(fd, {"foo": file("1"), "x/y": file("2")}).changed
    assert shown(root) == {"foo": b"1", "x/y": b"2"}


def test_what_is_no_link_of_ours_is_left_alone(fd: int, root: Path) -> None:
    (root / "nested").mkdir()
    (root / "other").symlink_to("elsewhere")
    write(fd, {"nested": file("1"), "other": file("2"), "foo": file("3")})
    write(fd, {"foo": file("4")})
    assert (root / "nested").is_dir()
    assert not (root / "other").is_symlink()  # step 11 goes by name, as upstream
    assert (root / "foo").read_bytes() == b"4"


def test_fs_user_owns_file_and_link(fd: int, root: Path) -> None:
    write(fd, {"token": file("1", 0o600, fs_user=1234), "plain": file("2")})
    assert (root / "token").lstat().st_uid == (root / "token").stat().st_uid == 1234
    assert (root / "plain").lstat().st_uid == (root / "plain").stat().st_uid == 0


@pytest.mark.parametrize(
    ("mode", "expected"), [(0o400, 0o440), (0o644, 0o644), (0o600, 0o640), (0o777, 0o777), (0o000, 0o440)]
)
def test_fs_group_opens_the_volume_to_the_group(fd: int, root: Path, mode: int, expected: int) -> None:
    root.chmod(0o1777)
    version = write(fd, {"a/b": file("1", mode)}, set_perms=lambda _: apply_fs_group(fd, 2000, read_only=True)).version
    target = root / version
    assert (mode_of(root), mode_of(target), mode_of(target / "a")) == (0o3777, 0o2755, 0o2755)
    assert mode_of(target / "a/b") == expected
    assert {path.lstat().st_gid for path in [root, target, target / "a", target / "a/b"]} == {2000}
    assert mode_of(root / "a/b") == expected


@pytest.mark.parametrize("is_first", [True, False], ids=["first", "update"])
@pytest.mark.parametrize(
    "name",
    [
        pytest.param("mkdir", id="5-version-directory"),
        pytest.param("write", id="6-file"),
        pytest.param("chmod", id="5-mode"),
        pytest.param("symlink", id="8-data-tmp"),
        pytest.param("rename", id="9-switch"),
    ],
)
def test_step_that_fails_leaves_what_was_and_the_next_write_succeeds(
    fd: int, root: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_first: bool
) -> None:
    """The error is passed on, ``..data`` is not touched. Source: the table of §3.2."""
    before = {} if is_first else {"stays": "1", "gone": "1"}
    if not is_first:
        write(fd, files(before))
    links = set(os.listdir(root))

    class FailingOs:
        def __getattr__(self, attribute: str) -> object:
            if attribute != name:
                return getattr(os, attribute)

            def fail(*args: object, **kwargs: object) -> object:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

            return fail

    monkeypatch.setattr(atomicwriter, "os", FailingOs())
    with pytest.raises(OSError, match="No space left on device"):
        write(fd, files({"stays": "2", "new": "2"}))
    monkeypatch.undo()
    assert {each for each in os.listdir(root) if not each.startswith("..2")} == {
        each for each in links if not each.startswith("..2")
    }
    assert "..data_tmp" not in os.listdir(root)
    if not is_first:
        assert shown(root) == {"stays": b"1", "gone": b"1"}
    version = write(fd, files({"stays": "3"})).version
    assert machinery(root) == sorted(["..data", version])
    assert shown(root) == {"stays": b"3"}


def test_what_stands_in_place_of_the_link_stops_the_writer(fd: int, root: Path) -> None:
    """§3.2, step 2: any error but NotExist is returned, and nothing changed."""
    (root / "..data").mkdir()
    with pytest.raises(OSError, match="Invalid argument"):
        write(fd, {"foo": file("1")})
    assert os.listdir(root) == ["..data"]


@pytest.mark.parametrize("died_after", range(1, 13))
def test_killed_after_any_step_then_written_again(
    fd: int, root: Path, monkeypatch: pytest.MonkeyPatch, died_after: int
) -> None:
    """Whatever system call the writer died at, the old or the new version is whole, and the next write heals the rest."""

    class Killed(BaseException):
        pass

    before, after = {"gone": "1", "stays": "1"}, {"stays": "2", "new": "2"}
    write(fd, files(before))
    calls = 0

    class DyingOs:
        def __getattr__(self, name: str) -> object:
            real = getattr(os, name)
            if name not in {"mkdir", "write", "chmod", "symlink", "rename", "unlink", "rmdir"}:
                return real

            def counted(*args: object, **kwargs: object) -> object:
                nonlocal calls
                calls += 1
                if calls > died_after:
                    raise Killed  # from here on every call fails: clean-up too, as after SIGKILL
                return real(*args, **kwargs)

            return counted

    monkeypatch.setattr(atomicwriter, "os", DyingOs())
    try:
        write(fd, files(after))
    except Killed:
        pass
    monkeypatch.undo()
    version = root / os.readlink(root / "..data")
    seen = {path.name: path.read_text() for path in version.iterdir()}
    assert seen in (before, after)
    final = {"stays": "3", "new": "2"}
    write(fd, files(final))
    assert sorted(os.listdir(root)) == sorted(["..data", os.readlink(root / "..data"), "new", "stays"])
    assert shown(root) == {path: text.encode() for path, text in final.items()}


def test_stale_data_tmp_does_not_stop_the_next_write(fd: int, root: Path) -> None:
    write(fd, {"foo": file("1")})
    (root / "..data_tmp").symlink_to("..2020_01_01_00_00_00.1")
    result = write(fd, {"foo": file("2")})
    assert machinery(root) == sorted(["..data", result.version])


def test_events_of_an_update_come_in_the_kubelets_order(fd: int, root: Path) -> None:
    """Source: fuse.md §4, the reference row."""
    old = write(fd, {"foo": file("1"), "gone": file("1")}).version
    interesting = flags.CREATE | flags.ATTRIB | flags.MOVED_FROM | flags.MOVED_TO | flags.DELETE
    with INotify() as inotify:
        inotify.add_watch(str(root), interesting)
        new = write(fd, {"foo": file("2"), "new": file("2")}).version
        events = [
            (event.name, next(flag.name for flag in flags.from_mask(event.mask & interesting)))
            for event in inotify.read(timeout=0)
        ]
    assert events == [
        (new, "CREATE"),
        (new, "ATTRIB"),
        ("..data_tmp", "CREATE"),
        ("..data_tmp", "MOVED_FROM"),
        ("..data", "MOVED_TO"),
        ("new", "CREATE"),
        ("gone", "DELETE"),
        (old, "DELETE"),
    ]


NAMES = st.sampled_from(["a", "b", "c", "d/x", "d/y", "e/f/g"])
PAYLOADS = st.lists(st.sets(NAMES), min_size=2, max_size=6)
"""Keys of one payload after the other. The value of each is the payload's number, so a mix shows."""


class WatchedOs:
    """``os`` to the writer: before and after each call that changes something, *look* is called."""

    CHANGING = frozenset({"mkdir", "write", "chmod", "chown", "symlink", "rename", "unlink", "rmdir", "open"})

    def __init__(self, look: Callable[[], None]) -> None:
        self._look = look

    def __getattr__(self, name: str) -> object:
        real = getattr(os, name)
        if name not in self.CHANGING:
            return real

        def watched(*args: object, **kwargs: object) -> object:
            self._look()
            result = real(*args, **kwargs)
            self._look()
            return result

        return watched


def firsts(paths: Iterable[str]) -> set[str]:
    return {path.split("/", 1)[0] for path in paths}


@contextmanager
def volume_on(store_fd: int) -> Iterator[tuple[Path, int]]:
    root = Path(tempfile.mkdtemp(dir=f"/proc/self/fd/{store_fd}"))
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    try:
        yield root, fd
    finally:
        os.close(fd)
        atomicwriter.remove_tree(store_fd, root.name)


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key_sets=PAYLOADS)
def test_between_any_two_system_calls_a_reader_finds_one_whole_version(store_fd: int, key_sets: list[set[str]]) -> None:
    """Whoever looks at any moment sees the version before or the one after, and every key of both by its name."""
    payloads = [{key: str(number) for key in keys} for number, keys in enumerate(key_sets)]
    with volume_on(store_fd) as (root, fd), pytest.MonkeyPatch.context() as patch:
        write(fd, files(payloads[0]))
        for before, after in pairwise(payloads):
            allowed = [{path: text.encode() for path, text in each.items()} for each in (before, after)]
            looks = 0

            def look(allowed: list[dict[str, bytes]] = allowed) -> None:
                nonlocal looks
                looks += 1
                current = shown(root / "..data")
                assert current in allowed
                # Until the switch nothing of the version before is missing; from then on nothing that stays.
                for key in allowed[0] if current == allowed[0] else allowed[0].keys() & allowed[1].keys():
                    assert (root / key).read_bytes() == current[key]
                # §3.2: links of new keys come after the switch, those of removed ones go after it.
                dangling = {name for name in os.listdir(root) if name[:2] != ".." and not (root / name).exists()}
                assert dangling <= firsts(allowed[0]) - firsts(allowed[1])

            patch.setattr(atomicwriter, "os", WatchedOs(look))
            write(fd, files(after))
            patch.undo()
            assert looks or before.keys() == after.keys() == set()
            assert shown(root) == allowed[1]
            assert not [name for name in os.listdir(root) if not (root / name).exists()]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key_sets=PAYLOADS)
def test_a_concurrent_reader_never_sees_a_mix(store_fd: int, key_sets: list[set[str]]) -> None:
    """The same with a thread that reads while another writes, which is how a container does.

    What it finds is a whole payload, and a key that stays is there - unless the version it had begun to read was retired
    meanwhile, which is upstream's way, too.
    """
    staying = set.intersection(*key_sets)
    payloads = [{key: str(number) for key in keys} for number, keys in enumerate(key_sets)]
    problems: list[str] = []
    done = threading.Event()

    def look(root: Path) -> None:
        version = os.readlink(root / "..data")
        lost, found = [], {}
        for key in staying:
            try:
                (root / key).read_text()
            except FileNotFoundError:
                lost.append(key)
        try:
            found = {path: data.decode() for path, data in shown(root / version).items()}
        except FileNotFoundError:
            pass  # retired while we read
        is_retired = os.readlink(root / "..data") != version
        if not is_retired and (lost or found not in payloads):
            problems.append(f"missing {lost}, found {found}")
        elif len(set(found.values())) > 1:
            problems.append(f"a mix: {found}")

    with volume_on(store_fd) as (root, fd):
        write(fd, files(payloads[0]))

        def read() -> None:
            while not done.is_set():
                look(root)
            look(root)

        reader = threading.Thread(target=read)
        reader.start()
        try:
            for payload in payloads[1:]:
                write(fd, files(payload))
        finally:
            done.set()
            reader.join(10)
        assert not reader.is_alive()
        assert problems == []
        assert shown(root) == {path: text.encode() for path, text in payloads[-1].items()}


def test_no_descriptor_stays_open(fd: int) -> None:
    before = len(os.listdir("/proc/self/fd"))
    write(fd, {"a/b": file("1"), "c": file("2")})
    write(fd, {"a/d": file("1")})
    assert len(os.listdir("/proc/self/fd")) == before


def test_missing_directory_is_an_error(root: Path) -> None:
    fd = os.open(root, os.O_PATH | os.O_DIRECTORY)
    root.rmdir()
    try:
        with pytest.raises(FileNotFoundError):
            write(fd, {"foo": file("1")})
    finally:
        os.close(fd)
