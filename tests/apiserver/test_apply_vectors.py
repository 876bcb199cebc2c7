"""Applies and updates by several managers, step by step as kube-apiserver's own field manager did them.

``tests/peers/record.py`` recorded these lives with k8s.io/apimachinery 0.36.4 and its structured-merge-diff; ``tests/peers``
has more of them where that code is at hand.
"""

from __future__ import annotations

import gzip
import json

from tests.peers.lives import STEPS, outcomes_here
from tests.peers.record import VECTORS

RECORDED = json.loads(gzip.decompress((VECTORS / "lives.json.gz").read_bytes()))


def test_lives_of_objects() -> None:
    assert len(RECORDED) >= 100
    for life in RECORDED:
        assert len(life["steps"]) == STEPS
        assert outcomes_here(life["steps"]) == life["outcomes"], life["steps"]
