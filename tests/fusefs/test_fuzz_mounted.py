"""Arbitrary updates through a real mount, beside a tmpfs that the same AtomicWriter writes to: what a reader can tell apart."""

from __future__ import annotations

import itertools
import os
import stat
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from kubelet_secrets.fusefs import mounts
from kubelet_secrets.volume import atomicwriter
from tests.fusefs.running_node import RunningNode, running_node
from tests.fusefs.serving_agent import entries

pytestmark = pytest.mark.fuse

UID = "0a1b2c3d-0000-4000-8000-00000000000f"
PAYLOADS = st.dictionaries(
    st.sampled_from(["a", "b", "tls/key", "tls/crt", "x" * 200]), st.sampled_from(["", "1", "2" * 5000]), max_size=4
)


def snapshot(root: Path) -> dict[str, Any]:
    """All that stat, readdir, readlink and read tell, but for times and the versions' own names."""
    versions: dict[str, str] = {}
    found: dict[str, Any] = {}
    for directory, directories, files in os.walk(root):
        for name in sorted((*directories, *files)):
            path = Path(directory, name)
            entry = path.lstat()
            if name.startswith("..2"):
                versions.setdefault(name, "..version")
            shown = str(path.relative_to(root))
            content: object = None
            if stat.S_ISLNK(entry.st_mode):
                content = os.readlink(path)
            elif stat.S_ISREG(entry.st_mode):
                content = path.read_bytes()
            for version, label in versions.items():
                shown = shown.replace(version, label)
                content = content.replace(version, label) if isinstance(content, str) else content
            found[shown] = (entry.st_mode, entry.st_uid, entry.st_gid, entry.st_nlink, content)
    return found


def test_any_sequence_of_updates_looks_as_on_a_tmpfs(tmp_path_factory: pytest.TempPathFactory) -> None:
    names = (f"v{number}" for number in itertools.count())
    with running_node(tmp_path_factory.mktemp("fuzzed") / "root") as node:

        class Machine(BesideMountedTmpfs):
            pass

        Machine.node, Machine.names = node, names
        run_state_machine_as_test(  # type: ignore[no-untyped-call]
            Machine,
            settings=settings(
                max_examples=4, stateful_step_count=10, deadline=None, suppress_health_check=list(HealthCheck)
            ),
        )


class BesideMountedTmpfs(RuleBasedStateMachine):
    node: RunningNode
    names: Any
    held = Bundle("held")

    @initialize(files=PAYLOADS)
    def begin(self, files: dict[str, str]) -> None:
        self.volume = next(self.names)
        self.has_crashed = False
        self.model = Path(tempfile.mkdtemp())
        mounts.attach_tmpfs(self.model, size_bytes=4 << 20)
        self.model.chmod(0o777)
        self.handles: list[tuple[int, int]] = []
        self.node.call("create", pod=UID, volume=self.volume, files=files)
        self.write_model(files)
        self.shown = self.node.root / "pods" / self.volume
        self.shown.mkdir(parents=True)
        self.node.call("attach", pod=UID, volume=self.volume, target=str(self.shown), path="")

    def write_model(self, files: dict[str, str]) -> None:
        fd = os.open(self.model, os.O_RDONLY | os.O_DIRECTORY)
        try:
            atomicwriter.write(fd, entries(files, 0o644))
        finally:
            os.close(fd)

    def teardown(self) -> None:
        if not hasattr(self, "handles"):
            return
        for handle in itertools.chain.from_iterable(self.handles):
            os.close(handle)
        mounts.umount_all_below(self.model)
        self.model.rmdir()
        mounts.umount_all_below(self.shown)
        self.shown.rmdir()
        self.node.call("purge", pod=UID)

    @rule(files=PAYLOADS)
    def update(self, files: dict[str, str]) -> None:
        self.node.call("update", pod=UID, volume=self.volume, files=files)
        self.write_model(files)

    @rule(target=held, number=st.integers(0, 9))
    def hold(self, number: int) -> int:
        files = sorted(
            path.relative_to(self.model / "..data") for path in self.model.glob("..data/**/*") if path.is_file()
        )
        chosen = files[number % len(files)] if files else Path("..data")
        flags = os.O_RDONLY | os.O_CLOEXEC
        self.handles.append((os.open(self.shown / chosen, flags), os.open(self.model / chosen, flags)))
        return len(self.handles) - 1

    @rule(index=held)
    def read_held(self, index: int) -> None:
        ours, model = self.handles[index]
        if stat.S_ISDIR(os.fstat(model).st_mode):
            assert sorted(os.listdir(ours)) == sorted(os.listdir(model))
        else:
            assert os.pread(ours, 10_000, 0) == os.pread(model, 10_000, 0)
            assert os.fstat(ours).st_size == os.fstat(model).st_size

    @precondition(lambda self: not self.has_crashed)  # a new agent takes its time on a busy machine
    @rule()
    def crash(self) -> None:
        self.has_crashed = True
        self.node.kill_agent()

    @invariant()
    def looks_the_same(self) -> None:
        if hasattr(self, "shown"):
            assert snapshot(self.shown) == snapshot(self.model)
