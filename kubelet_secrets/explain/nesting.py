"""Mounts that the container runtime cannot make, because they lie in another mount where there is nothing to mount upon.

Pure. A kubelet makes such places inside a read-only volume beforehand, but counts them from the volume's root: below a mount
that shows only a part of a volume (subPath) they are missing, and the runtime cannot make them there.

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

    @property
    def is_file(self) -> bool:
        return self.files is not None and set(self.files) == {self.view.path}


def nesting_problems(placed: Sequence[Placed], where: str) -> Iterator[Problem]:
    """One problem for each of a container's mounts that has no place.

    Args:
        placed: in the order of the spec.
        where: the container, for problems.
    """
    for each in placed:
        outer = [other for other in placed if other.view.path != each.view.path]
        found = topmost([other.view.path for other in outer], each.view.path)
        if found is None:
            continue
        below = outer[found]
        if below.files is None or not below.view.sub_path or _has_place(below.files, each):
            continue
        kind = "file" if each.is_file else "directory"
        yield Problem(
            severity=Severity.BLOCKS,
            code="mount-impossible",
            message=f"nothing can be mounted at {each.view.path}: subPath {below.view.sub_path} of volume "
            f"{below.view.volume}, read-only at {below.view.path}, has no {kind} there",
            where=f"{where}.volumeMounts[{each.index}].mountPath",
            hint="mount it at a path of its own, or the outer volume as a whole",
        )


def _has_place(files: Collection[str], mount: Placed) -> bool:
    if mount.is_file:
        return mount.view.path in files
    return any(path.startswith(f"{mount.view.path}/") for path in files)
