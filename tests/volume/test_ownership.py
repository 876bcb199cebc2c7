"""Modes and owners as a container sees them.

Source: pkg/volume/volume_linux_test.go; pkg/volume/util/util_test.go, TestFsUserFrom; semantics §2.4, §4.2.
"""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.origin import LITERAL
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.ownership import (
    DIRECTORY_MODE,
    PLAIN_ROOT_MODE,
    TMPFS_ROOT_MODE,
    EntryKind,
    Ownership,
    directory_ownership,
    file_ownership,
    fs_user_from,
    with_fs_group,
)
from kubelet_secrets.volume.projection import FileProjection


@pytest.mark.parametrize(
    ("mode", "kind", "read_only", "final"),
    [
        pytest.param(0o400, EntryKind.FILE, True, 0o440, id="0400"),
        pytest.param(0o644, EntryKind.FILE, True, 0o644, id="0644"),
        pytest.param(0o600, EntryKind.FILE, True, 0o640, id="0600"),
        pytest.param(0o777, EntryKind.FILE, True, 0o777, id="0777"),
        pytest.param(0o000, EntryKind.FILE, True, 0o440, id="0000"),
        pytest.param(0o644, EntryKind.FILE, False, 0o664, id="read-write file"),
        pytest.param(TMPFS_ROOT_MODE, EntryKind.DIRECTORY, True, 0o3777, id="tmpfs root"),
        pytest.param(PLAIN_ROOT_MODE, EntryKind.DIRECTORY, True, 0o2777, id="plain root"),
        pytest.param(DIRECTORY_MODE, EntryKind.DIRECTORY, True, 0o2755, id="timestamp directory"),
        pytest.param(0o700, EntryKind.DIRECTORY, False, 0o2770, id="read-write directory"),
        pytest.param(0o777, EntryKind.SYMLINK, True, 0o777, id="symlink"),
    ],
)
def test_with_fs_group(mode: int, kind: EntryKind, read_only: bool, final: int) -> None:
    assert with_fs_group(mode, kind, read_only=read_only) == final


@pytest.mark.parametrize(
    ("fs_user", "fs_group", "written", "expected"),
    [
        pytest.param(None, None, 0o644, Ownership(mode=0o644), id="neither"),
        pytest.param(1000, None, 0o600, Ownership(mode=0o600, uid=1000), id="fsUser"),
        pytest.param(None, 10000, 0o600, Ownership(mode=0o640, gid=10000), id="fsGroup"),
        pytest.param(1000, 10000, 0o600, Ownership(mode=0o640, uid=1000, gid=10000), id="both"),
    ],
)
def test_token_file(fs_user: int | None, fs_group: int | None, written: int, expected: Ownership) -> None:
    """Source: semantics §4.2, the table of final modes and owners."""
    file = FileProjection(data=SensitiveBytes(b""), mode=written, fs_user=fs_user, origin=LITERAL)
    assert file_ownership(file, fs_group=fs_group) == expected


def test_directories() -> None:
    assert directory_ownership(DIRECTORY_MODE, fs_group=None) == Ownership(mode=0o755)
    assert directory_ownership(DIRECTORY_MODE, fs_group=7) == Ownership(mode=0o2755, gid=7)
    assert str(Ownership(mode=0o2755, gid=7)) == "2755 0:7"


def container(name: str, user: int | None = None) -> dict[str, Any]:
    return {"name": name, "securityContext": {"runAsUser": user} if user is not None else None}


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        pytest.param({}, None, id="no containers"),
        pytest.param({"containers": [container("a")]}, None, id="no runAsUser"),
        pytest.param(
            {"initContainers": [container("i", 999)], "containers": [container("a", 1000)]}, None, id="init differs"
        ),
        pytest.param(
            {"containers": [container("a", 1000)], "ephemeralContainers": [container("e", 1001)]},
            None,
            id="ephemeral differs",
        ),
        pytest.param(
            {"initContainers": [container("i", 1000)], "containers": [container("a", 1000)]}, 1000, id="all the same"
        ),
        pytest.param(
            {
                "initContainers": [container("i", 1000)],
                "containers": [container("a", 1000)],
                "ephemeralContainers": [container("e", 1000)],
            },
            1000,
            id="all the same with ephemeral",
        ),
        pytest.param({"containers": [container("a", 1000), container("b")]}, None, id="one is not set"),
        pytest.param(
            {"securityContext": {"runAsUser": 5}, "containers": [container("a"), container("b", 5)]}, 5, id="pod's own"
        ),
        pytest.param(
            {"securityContext": {"runAsUser": 5}, "containers": [container("a", 6)]}, 6, id="container overrides"
        ),
        pytest.param({"containers": [container("a", 0)]}, 0, id="root counts as set"),
    ],
)
def test_fs_user_from(spec: dict[str, Any], expected: int | None) -> None:
    assert fs_user_from(convert({"spec": spec}, Pod)) == expected
