"""The table of what a kubelet cannot pass names cases that there are."""

from __future__ import annotations

from tests.faithful import cases
from tests.faithful.reference import OWN_WORDS, SINCE


def test_cases_that_are_skipped_exist() -> None:
    assert {*SINCE, *OWN_WORDS} <= {*cases.VOLUMES, *cases.ENVIRONMENTS, *cases.REFUSED_BY_THE_NODE}
