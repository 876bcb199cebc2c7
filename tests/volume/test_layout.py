"""Where the kubelet has its volumes. Source: pkg/kubelet/kubelet_getters.go, pkg/volume/util/subpath; semantics §2.6."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubelet_secrets.api.core import Volume
from kubelet_secrets.api.decode import convert
from kubelet_secrets.volume.layout import PodsLayout, make_directories, mark_ready
from kubelet_secrets.volume.payload import plugin_directory

from .files import mode_of

LAYOUT = PodsLayout(Path("/var/lib/kubelet/pods"))
POD = "/var/lib/kubelet/pods/u-1"


@pytest.mark.parametrize(
    ("source", "directory", "ready"),
    [
        pytest.param({"secret": {}}, "volumes/kubernetes.io~secret/v", "wrapped_v", id="secret"),
        pytest.param({"configMap": {}}, "volumes/kubernetes.io~configmap/v", "wrapped_v", id="configMap"),
        pytest.param({"downwardAPI": {}}, "volumes/kubernetes.io~downward-api/v", "wrapped_v", id="downwardAPI"),
        pytest.param({"projected": {}}, "volumes/kubernetes.io~projected/v", "wrapped_v", id="projected"),
        pytest.param({"emptyDir": {}}, "volumes/kubernetes.io~empty-dir/v", "v", id="emptyDir"),
    ],
)
def test_directories_of_a_volume(source: dict[str, object], directory: str, ready: str) -> None:
    plugin = plugin_directory(convert({"name": "v", **source}, Volume))
    path = LAYOUT.volume_dir("u-1", plugin, "v")
    assert str(path) == f"{POD}/{directory}"
    assert LAYOUT.volume_of(str(path)) == ("u-1", "v")
    assert str(LAYOUT.ready_dir("u-1", plugin, "v")) == f"{POD}/plugins/kubernetes.io~empty-dir/{ready}"


def test_directories_of_a_pod() -> None:
    assert str(LAYOUT.pod_dir("u-1")) == POD
    assert str(LAYOUT.sub_path("u-1", "v", "app", 3)) == f"{POD}/volume-subpaths/v/app/3"


@pytest.mark.parametrize(
    "path",
    ["/elsewhere/u-1/volumes/p/v", POD, f"{POD}/volumes/p", f"{POD}/volumes/p/v/x", f"{POD}/plugins/p/v", ""],
)
def test_what_is_no_volume(path: str) -> None:
    assert LAYOUT.volume_of(path) is None


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "/"])
def test_a_name_cannot_lead_elsewhere(name: str) -> None:
    with pytest.raises(ValueError, match="not one element of a path"):
        LAYOUT.pod_dir(name)
    with pytest.raises(ValueError, match="not one element of a path"):
        LAYOUT.volume_dir("u-1", "kubernetes.io~secret", name)
    with pytest.raises(ValueError, match="not one element of a path"):
        LAYOUT.sub_path("u-1", "v", name, 0)


def test_modes_of_what_is_made(tmp_path: Path) -> None:
    old_umask = os.umask(0o022)
    try:
        make_directories(tmp_path / "a/b")
        mark_ready(tmp_path / "a/ready-dir")
        mark_ready(tmp_path / "a/ready-dir")
    finally:
        os.umask(old_umask)
    assert [mode_of(tmp_path / path) for path in ("a", "a/b", "a/ready-dir")] == [0o750] * 3
    assert (tmp_path / "a/ready-dir/ready").read_bytes() == b""
