"""What a real API server has refused the node of these tests, by its own record.

Its name makes it the last module: everything that the node has been through is in the record.
"""

from __future__ import annotations

from tests.testing.auditlog import refusals, unexcused
from tests.testing.conftest import PlaneNode


def test_node_asked_for_nothing_that_it_may_not(node: PlaneNode) -> None:
    found = list(refusals(node.audit_log, f"system:node:{node.node_name}"))
    assert unexcused(found) == []
    assert found  # there was no lease yet, at least: the record is this node's
