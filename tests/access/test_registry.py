from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path

import pytest

from kubelet_secrets.access.registry import ContainerRegistry

from .test_policy import APP, SIDECAR


def test_the_next_agent_knows_the_containers_at_once(tmp_path: Path) -> None:
    state_file = tmp_path / "containers.json"
    registry = ContainerRegistry(state_file)
    registry.register(replace(APP, mnt_ns=None))
    registry.register(SIDECAR)
    registry.learn_mount_namespace(APP.container_id, 1001)
    again = ContainerRegistry(state_file)
    assert again.containers() == [SIDECAR, APP]
    assert again.find_by_mount_namespace(1001) == APP
    again.unregister(SIDECAR.container_id)
    assert ContainerRegistry(state_file).containers() == [APP]
    assert [path.name for path in tmp_path.iterdir()] == ["containers.json"]
    assert state_file.stat().st_mode & 0o777 == 0o600


def test_an_unreadable_state_is_an_empty_registry(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    state_file = tmp_path / "containers.json"
    state_file.write_text('[{"pod_uid": 1}]')
    with caplog.at_level(logging.WARNING):
        assert len(ContainerRegistry(state_file)) == 0
    assert "is not a container registry" in caplog.text
