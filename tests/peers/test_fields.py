"""Who owns which field, by the field manager of k8s.io/apimachinery (``fields/main.go``) and by this server."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.peers.lives import Lives, outcome_of, outcomes_here
from tests.peers.record import record_lives

_LIVES = 500


@pytest.mark.parametrize("seed", range(4))
def test_lives_of_objects(peers: Path, seed: int) -> None:
    supply = Lives(seed)
    lives = [supply.next() for _ in range(_LIVES)]
    for steps, outcomes in zip(lives, record_lives(peers / "fields", lives), strict=True):
        assert outcomes_here(steps) == [outcome_of(outcome) for outcome in outcomes], steps
