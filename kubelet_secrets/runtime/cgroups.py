"""Cgroups of pods and containers, on v1, hybrid and pure v2 hosts.

The runtime creates and removes a container's own cgroup; this module knows where it is, reads from it, and creates and removes
the parents::

    /kubelet-secrets/<instance>/pod<uid>/<container id>
    /kubelet-secrets/<instance>/monitor            the conmon processes

Paths handed around are relative to the cgroup root ("/kubelet-secrets/…"), as ``/proc/<pid>/cgroup`` prints them: ``access``
compares exactly those. Not a resource manager: limits of containers go into the OCI spec, a pod's are written once.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from kubelet_secrets.errors import HostError
from kubelet_secrets.runtime.cgrouplimits import CONTROLLERS, apply_limits
from kubelet_secrets.runtime.settings import Resources

logger = logging.getLogger(__name__)

ROOT = "/kubelet-secrets"
_RETRIES = 40
_RETRY_S = 0.005
_SWEEP_S = 5.0


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupLayout:
    """Where this host's hierarchies are mounted.

    Attributes:
        unified: the v2 mount, or None; on a hybrid host it has no controllers.
        controllers: v1 controller (``memory``, ``name=systemd``) → mount point; empty on pure v2.
    """

    unified: Path | None = None
    controllers: Mapping[str, Path] = field(default_factory=dict)

    @property
    def is_v2(self) -> bool:
        return self.unified is not None and not self.controllers

    @property
    def hierarchies(self) -> tuple[Path, ...]:
        """Every mount point once; each may hold a directory of ours."""
        found = dict.fromkeys(self.controllers.values())
        if self.unified is not None:
            found[self.unified] = None
        return tuple(found)


def instance_name(node_name: str, root_dir: Path) -> str:
    """A node's name among the cgroups of this host: readable, and different for two nodes of one name."""
    return f"{node_name}-{zlib.crc32(os.fsencode(root_dir)):08x}"


def parse_mountinfo(text: str) -> CgroupLayout:
    """Read the layout out of ``/proc/self/mountinfo``. The first mount of a hierarchy wins.

    Source: proc(5): optional fields end at a lone ``-``; then type, source, super options.
    """
    unified: Path | None = None
    controllers: dict[str, Path] = {}
    for line in text.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split(" ")
        tail = after.split(" ")
        if not separator or len(fields) < 5 or len(tail) < 3:
            continue
        point = Path(fields[4].encode().decode("unicode_escape"))
        if tail[0] == "cgroup2":
            unified = unified or point
        elif tail[0] == "cgroup":
            for option in tail[2].split(","):
                if option not in ("rw", "ro", "xattr") and "=" not in option.removeprefix("name="):
                    controllers.setdefault(option, point)
    return CgroupLayout(unified=unified, controllers=controllers)


class CgroupTree:
    """The cgroups of one node on one host.

    Args:
        instance: this node's name among those on the host; one path component.
    """

    def __init__(self, instance: str, layout: CgroupLayout) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", instance):
            raise HostError(f"{instance!r} cannot name a cgroup: use letters, digits, dots and dashes")
        self.layout = layout
        self.instance_path = f"{ROOT}/{instance}"

    def pod_path(self, pod_uid: str) -> str:
        return f"{self.instance_path}/pod{pod_uid}"

    def container_path(self, pod_uid: str, container_id: str) -> str:
        return f"{self.pod_path(pod_uid)}/{container_id}"

    def processes(self, path: str) -> tuple[int, ...]:
        """Host pids in the cgroup *path* itself, in any hierarchy; empty when it is gone."""
        found: set[int] = set()
        for hierarchy in self.layout.hierarchies:
            try:
                text = _below(hierarchy, path).joinpath("cgroup.procs").read_text()
            except OSError:
                continue
            found.update(int(line) for line in text.split())
        found.discard(0)  # a process that our pid namespace cannot name
        return tuple(sorted(found))

    def kill_all(self, path: str) -> None:
        """SIGKILL whatever still runs in *path*. For containers without a pid namespace of their own."""
        for pid in self.processes(path):
            try:
                fd = os.pidfd_open(pid)
            except OSError:
                continue
            try:
                if pid in self.processes(path):  # still that process, now that the descriptor holds it
                    signal.pidfd_send_signal(fd, signal.SIGKILL)
            except ProcessLookupError:
                pass
            finally:
                os.close(fd)

    def sweep(self) -> int:
        """SIGKILL every process of this node's containers and of their monitors, and remove the cgroups.

        The last resort, for a node without an agent that knows its containers: it was killed, or cannot stop them.

        Returns:
            How many processes there were.
        """
        top = self.instance_path
        paths = {top}
        for hierarchy in self.layout.hierarchies:
            for directory, _, _ in os.walk(_below(hierarchy, top)):
                paths.add(f"/{Path(directory).relative_to(hierarchy)}")
        pids = {pid for path in paths for pid in self.processes(path)}
        deadline_s = time.monotonic() + _SWEEP_S
        while (busy := [path for path in paths if self.processes(path)]) and time.monotonic() < deadline_s:
            for path in busy:
                self.kill_all(path)
            time.sleep(_RETRY_S)
        self.remove(top)
        self.remove_idle()
        return len(pids)

    def oom_kills(self, path: str) -> int:
        """How many processes of *path* the kernel's OOM killer took; 0 when that cannot be told."""
        if self.layout.is_v2:
            assert self.layout.unified is not None
            return _counter(_below(self.layout.unified, path) / "memory.events", "oom_kill")
        memory = self.layout.controllers.get("memory")
        return 0 if memory is None else _counter(_below(memory, path) / "memory.oom_control", "oom_kill")

    def adopt_monitor(self, pid: int) -> None:
        """Move a conmon out of the agent's cgroup, so that stopping the agent's service does not take it along, and into one
        that is not swapped: its buffers hold what containers print.

        Best effort: without it containers still outlive a SIGKILLed agent, only not a service manager that kills by cgroup. On
        v1 ``memory.swappiness`` is a strong wish, on v2 ``memory.swap.max`` a rule.
        """
        path = f"{self.instance_path}/monitor"
        if self.layout.is_v2:
            assert self.layout.unified is not None
            self._enable("memory", path)
            self._adopt(pid, _below(self.layout.unified, path), "memory.swap.max")
            return
        for controller in ("name=systemd", "memory"):
            hierarchy = self.layout.controllers.get(controller)
            if hierarchy is not None:
                self._adopt(pid, _below(hierarchy, path), "memory.swappiness")

    def _adopt(self, pid: int, directory: Path, swap_setting: str) -> None:
        def adopt() -> None:
            directory.mkdir(parents=True, exist_ok=True)
            if (directory / swap_setting).exists():
                (directory / swap_setting).write_text("0")
            directory.joinpath("cgroup.procs").write_text(str(pid))

        try:
            _while_others_remove(adopt)
        except OSError as error:
            logger.debug("conmon %d stays in the agent's cgroup: %s", pid, error.strerror)

    def _enable(self, controller: str, path: str) -> None:
        """Have the cgroups above *path* hand *controller* on; the runtime does the same for containers."""
        assert self.layout.unified is not None
        try:
            for parent in [*reversed(Path(path).parents)]:
                directory = _below(self.layout.unified, str(parent))
                directory.mkdir(exist_ok=True)
                directory.joinpath("cgroup.subtree_control").write_text(f"+{controller}")
        except OSError as error:
            logger.debug("no %s controller for %s: %s", controller, path, error.strerror)

    def place(self, pid: int, path: str) -> None:
        """Move a process into *path*, in every hierarchy, so that it can be found again there.

        Raises:
            OSError: no hierarchy took it.
        """
        failures: list[OSError] = []
        for hierarchy in self.layout.hierarchies:
            directory = _below(hierarchy, path)

            def enter(directory: Path = directory) -> None:
                directory.mkdir(parents=True, exist_ok=True)
                directory.joinpath("cgroup.procs").write_text(str(pid))

            try:
                _while_others_remove(enter)
            except OSError as error:  # a v1 cpuset without cpus takes nobody
                failures.append(error)
        if len(failures) == len(self.layout.hierarchies):
            raise failures[0] if failures else OSError(0, "no cgroup hierarchy is mounted", path)

    def remove(self, path: str) -> None:
        """Remove *path* and the empty cgroups below it, in every hierarchy. What still holds processes stays.

        Blocks for some milliseconds when a process in it has only just ended: call from a worker thread.
        """
        for hierarchy in self.layout.hierarchies:
            _remove_tree(_below(hierarchy, path))

    def make_pod(self, pod_uid: str, resources: Resources | None = None) -> None:
        """Make the parent of a pod's cgroups, in every hierarchy. While it is there :meth:`remove_idle` keeps its parents.

        Args:
            resources: what all its containers may have together; None: no limits.

        Raises:
            OSError: a hierarchy refused.
        """
        path = self.pod_path(pod_uid)
        for hierarchy in self.layout.hierarchies:
            _while_others_remove(partial(_below(hierarchy, path).mkdir, parents=True, exist_ok=True))
        if resources is not None:
            self.limit(path, resources)

    def limit(self, path: str, resources: Resources) -> None:
        """Give the cgroup *path* these limits, as far as this host has the controllers.

        Raises:
            OSError: the kernel refused a value.
        """
        layout = self.layout
        if layout.unified is None or not layout.is_v2:
            found = {name: layout.controllers[name] for name in CONTROLLERS if name in layout.controllers}
        else:
            for controller in CONTROLLERS:
                self._enable(controller, path)
            found = dict.fromkeys(CONTROLLERS, layout.unified)
        directories = {name: _below(hierarchy, path) for name, hierarchy in found.items()}
        apply_limits(directories, resources, is_v2=layout.is_v2)

    def remove_idle(self) -> None:
        """Remove this node's cgroup if no pod and no conmon is in it, and the common root if no other node uses it.

        Blocks as :meth:`remove` does.
        """
        for hierarchy in self.layout.hierarchies:
            for path in (f"{self.instance_path}/monitor", self.instance_path, ROOT):
                _rmdir(_below(hierarchy, path))


def _while_others_remove(make: Callable[[], None]) -> None:
    """Make a cgroup though its parents, or it itself while nobody is in it, may be removed as idle: for another pod, or by
    another node.

    Raises:
        OSError: it is not for that.
    """
    for _ in range(_RETRIES):
        try:
            return make()
        except (FileNotFoundError, FileExistsError):
            continue  # the second: it was there, and is not when pathlib looks what it is
    make()


def _below(hierarchy: Path, path: str) -> Path:
    return hierarchy / path.lstrip("/")


def _counter(file: Path, name: str) -> int:
    try:
        text = file.read_text()
    except OSError:
        return 0
    for line in text.splitlines():
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return 0


def _remove_tree(directory: Path) -> None:
    for child in _children(directory):
        _remove_tree(child)
    _rmdir(directory)


def _children(directory: Path) -> list[Path]:
    try:
        with os.scandir(directory) as entries:
            return [Path(entry.path) for entry in entries if entry.is_dir(follow_symlinks=False)]
    except OSError:
        return []


def _rmdir(directory: Path) -> None:
    for _ in range(_RETRIES):
        try:
            directory.rmdir()
        except FileNotFoundError:
            return
        except OSError as error:
            if not _is_idle(directory):  # in use, by us or by another node
                logger.debug("cgroup %s stays: %s", directory, error.strerror)
                return
            # A process that has just ended counts for a moment after its pidfd has told.
            time.sleep(_RETRY_S)
        else:
            return


def _is_idle(directory: Path) -> bool:
    """No process and no cgroup in it."""
    try:
        if directory.joinpath("cgroup.procs").read_text().strip():
            return False
    except OSError:
        return True
    try:
        with os.scandir(directory) as entries:
            return not any(entry.is_dir(follow_symlinks=False) for entry in entries)
    except OSError:
        return True
