"""What ``up`` shares with other nodes of the machine."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from kubelet_secrets import stack


def test_directory_is_made_though_the_last_other_node_takes_its_parent_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "kubelet-secrets" / "node"
    mkdir, removed = os.mkdir, 0

    def overtaken(made: Path, mode: int = 0o777) -> None:
        nonlocal removed
        mkdir(made, mode)
        if Path(made) == path.parent and removed < 3:
            removed += 1
            os.rmdir(made)

    monkeypatch.setattr(os, "mkdir", overtaken)
    stack._make_directory(path)
    assert (removed, path.is_dir()) == (3, True)


def test_what_is_no_directory_is_said_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        stack._make_directory(tmp_path / "file" / "node")
