"""Mounts that the container runtime cannot make, because they lie in another mount where there is nothing to mount upon.

Pure. A kubelet makes such places inside a read-only volume beforehand, but counts them from the volume's root: below a mount
that shows only a part of a volume (subPath) they are missing, and the runtime cannot make them there. And it makes directories,
on which no file can be mounted. In an emptyDir it makes none.

Source: pkg/volume/util/nested_volumes.go, which looks at no subPath; semantics §2.2 step 5, §5.4.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from kubelet_secrets.explain.model import MountView, Problem, Severity
from kubelet_secrets.volume.mountpoints import topmost


@dataclass(frozen=True, slots=True, kw_only=True)
class Placed:
    """A mount, and what it shows."""

    index: int  # in the container's volumeMounts
    view: MountView
    files: Collection[str] | None  # paths in the container; None where only a running node knows
    stays_empty: bool = False  # an emptyDir that nobody can have put anything into when this container starts

    @property
    def kind(self) -> str:
        """What is mounted: "file" or "directory"; empty where only a running node knows."""
        if self.files is None:
            return "" if self.view.sub_path else "directory"
        return "file" if set(self.files) == {self.view.path} else "directory"


def nesting_problems(placed: Sequence[Placed], where: str) -> Iterator[Problem]:
    """One problem for each of a container's mounts that has no place.

    Args:
        placed: in the order of the spec.
        where: the container, for problems.
    """
    for each in placed:
        if obstacle := _obstacle_at(placed, each) or _obstacle_in(placed, each):
            yield Problem(
                severity=Severity.BLOCKS,
                code="mount-impossible",
                message=f"nothing can be mounted at {each.view.path}: {obstacle}",
                where=f"{where}.volumeMounts[{each.index}].mountPath",
                hint="mount it at a path of its own, or the outer volume as a whole",
            )


def _obstacle_at(placed: Sequence[Placed], mount: Placed) -> str:
    """An earlier mount at the same place that is a file where this is a directory, or the reverse."""
    for other in placed:
        is_before = other.view.path == mount.view.path and other.index < mount.index
        if is_before and {other.kind, mount.kind} == {"file", "directory"}:
            return f"volume {other.view.volume} is mounted there, as a {other.kind}"
    return ""


def _obstacle_in(placed: Sequence[Placed], mount: Placed) -> str:
    """The volume that this lies in, where that is read-only and has no place for it."""
    outer = [other for other in placed if other.view.path != mount.view.path]
    found = topmost([other.view.path for other in outer], mount.view.path)
    below = outer[found] if found is not None else None
    if below is None:
        return ""
    what = f"volume {below.view.volume}, read-only at {below.view.path}"
    if below.stays_empty and below.view.read_only:
        return f"{what}, is empty"
    if below.files is None:
        return ""
    if not below.view.sub_path:
        # The kubelet makes a directory for every mount beneath, whatever will be mounted on it.
        return f"{what}, has a directory there, and this is a file" if mount.kind == "file" else ""
    if _has_place(below.files, mount):
        return ""
    return f"subPath {below.view.sub_path} of {what}, has no {mount.kind or 'directory'} there"


def _has_place(files: Collection[str], mount: Placed) -> bool:
    if mount.kind == "file":
        return mount.view.path in files
    return any(path.startswith(f"{mount.view.path}/") for path in files)
