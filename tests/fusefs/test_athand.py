"""The request that agents die over, one after the other."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.fusefs.athand import MAX_DEATHS, AtHand
from tests.fusefs.running_node import running_node

UID = "0a1b2c3d-0000-4000-8000-000000000001"
AGAIN = 1 << 63


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "at-hand"


def die(path: Path, *numbers: int) -> None:
    """One agent after the other takes a request in hand and is gone."""
    for number in numbers:
        assert AtHand(path, resumed=True).begin(number)


def test_request_that_several_agents_died_over_is_refused_once(path: Path) -> None:
    die(path, 6, *[6 | AGAIN] * (MAX_DEATHS - 1))
    last = AtHand(path, resumed=True)
    assert last.begin(8)
    last.end()
    assert not last.begin(6 | AGAIN)
    assert last.begin(6)


@pytest.mark.parametrize(
    "numbers",
    [
        pytest.param([6] * (MAX_DEATHS - 1), id="not-often-enough"),
        pytest.param([6, 6, 8, 6, 6], id="not-in-a-row"),
    ],
)
def test_what_may_be_an_accident_is_answered(path: Path, numbers: list[int]) -> None:
    die(path, *numbers)
    assert AtHand(path, resumed=True).begin(6 | AGAIN)


def test_agent_that_dies_over_none_ends_the_row(path: Path) -> None:
    die(path, *[6] * (MAX_DEATHS - 1))
    agent = AtHand(path, resumed=True)
    agent.begin(6)
    agent.end()
    die(path, 6)
    assert AtHand(path, resumed=True).begin(6)


def test_numbers_of_an_earlier_mount_mean_nothing(path: Path) -> None:
    die(path, *[6] * MAX_DEATHS)
    assert AtHand(path, resumed=False).begin(6)


@pytest.mark.fuse
def test_deadly_request_does_not_end_the_filesystem_for_everybody(tmp_path: Path) -> None:
    with running_node(tmp_path / "root") as node:
        node.call("create", pod=UID, volume="v", files={"key": "one", "deadly": "two"})
        before = node.call("pids")["agent"]
        with pytest.raises(OSError, match="Input/output error"):
            (node.fuse / UID / "v" / "deadly").read_text()
        assert (node.fuse / UID / "v" / "key").read_text() == "one"
        assert node.call("pids")["agent"] != before
        assert node.stop() == 0
        assert node.stderr().count("agents have died over a request") == 1
