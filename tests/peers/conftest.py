"""Programs made of Kubernetes' own code, as peers. ``scripts/peer-test`` builds them and says where they are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "KS_PEERS"


@pytest.fixture(scope="session")
def peers() -> Path:
    """The directory with the programs."""
    directory = os.environ.get(VARIABLE)
    if not directory:
        pytest.skip(f"needs Kubernetes' own code: scripts/peer-test sets {VARIABLE}")
    return Path(directory)
