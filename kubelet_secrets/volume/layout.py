"""Where volumes appear on the host: the kubelet's own directory layout, as paths, and how such directories are made.

::

    <pods>/<uid>/volumes/<plugin>/<volume>                              what containers are given
    <pods>/<uid>/volume-subpaths/<volume>/<container>/<mount index>     bind targets for subPath
    <pods>/<uid>/plugins/kubernetes.io~empty-dir/wrapped_<volume>/ready set up once, completely

Source: pkg/kubelet/kubelet_getters.go, pkg/volume/util/subpath; semantics §2.6.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

EMPTY_DIR_PLUGIN = "kubernetes.io~empty-dir"
_VOLUMES = "volumes"


@dataclass(frozen=True, slots=True)
class PodsLayout:
    """Paths below one node's ``pods`` directory."""

    pods_dir: Path

    def pod_dir(self, pod_uid: str) -> Path:
        return self.pods_dir / _segment(pod_uid)

    def volumes_dir(self, pod_uid: str) -> Path:
        return self.pod_dir(pod_uid) / _VOLUMES

    def volume_dir(self, pod_uid: str, plugin: str, volume: str) -> Path:
        """*plugin* as a directory name: ``kubernetes.io~secret``."""
        return self.volumes_dir(pod_uid) / plugin / _segment(volume)

    def ready_dir(self, pod_uid: str, plugin: str, volume: str) -> Path:
        name = _segment(volume) if plugin == EMPTY_DIR_PLUGIN else f"wrapped_{_segment(volume)}"
        return self.pod_dir(pod_uid) / "plugins" / EMPTY_DIR_PLUGIN / name

    def sub_paths_dir(self, pod_uid: str, volume: str) -> Path:
        return self.pod_dir(pod_uid) / "volume-subpaths" / _segment(volume)

    def sub_path(self, pod_uid: str, volume: str, container: str, index: int) -> Path:
        return self.sub_paths_dir(pod_uid, volume) / _segment(container) / str(index)

    def volume_of(self, path: str) -> tuple[str, str] | None:
        """(pod uid, volume) when *path* is a volume's directory, else None."""
        try:
            parts = Path(path).relative_to(self.pods_dir).parts
        except ValueError:
            return None
        return (parts[0], parts[3]) if len(parts) == 4 and parts[1] == _VOLUMES else None


def _segment(name: str) -> str:
    if not name or "/" in name or name in (".", ".."):
        raise ValueError(f"not one element of a path: {name!r}")
    return name


def make_directories(path: Path) -> None:
    """``mkdir -p``, 0750 like the kubelet's. *path* is looked at: it must not be a mountpoint of the agent's own filesystem."""
    missing = []
    while not path.exists():
        missing.append(path)
        path = path.parent
    for directory in reversed(missing):
        directory.mkdir(mode=0o750, exist_ok=True)


def mark_ready(ready_dir: Path) -> None:
    """Note on the host that a volume was set up. Source: pkg/volume/util, SetReady."""
    make_directories(ready_dir)
    (ready_dir / "ready").touch(mode=0o644)
