"""Programs made of Kubernetes' own code, as peers. ``scripts/peer-test`` builds them and says where they are.

Without them the tests are not there, rather than skipped: in an ordinary run a skip means that something is amiss.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest

VARIABLE = "KS_PEERS"
collect_ignore_glob = [] if os.environ.get(VARIABLE) else ["test_*.py"]


@pytest.fixture(scope="session")
def peers() -> Path:
    """The directory with the programs."""
    return Path(os.environ[VARIABLE])
