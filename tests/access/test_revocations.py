"""The revocations in force, and what the next agent knows of them."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from kubelet_secrets.access.revocations import Revocation, RevocationList
from kubelet_secrets.errors import HostError

SINCE = datetime(2026, 1, 2, 15, 4, 5, tzinfo=UTC)
DB = Revocation(pod_uid="pod-1", volume="db", since=SINCE, cause="test")
TLS = Revocation(pod_uid="pod-1", volume="tls", since=SINCE, cause="test")
OTHER = Revocation(pod_uid="pod-2", volume="db", since=SINCE, cause="test")


def test_next_agent_refuses_what_this_one_refused(tmp_path: Path) -> None:
    path = tmp_path / "revocations.json"
    revocations = RevocationList(path)
    for each in (DB, TLS, OTHER):
        assert revocations.add(each)
    revocations.remove("pod-1", "tls")
    assert RevocationList(path).entries() == [DB, OTHER]
    assert path.stat().st_mode & 0o777 == 0o600
    revocations.forget_pod("pod-1")
    assert RevocationList(path).entries() == [OTHER]


def test_only_what_was_named_is_revoked() -> None:
    revocations = RevocationList()
    revocations.add(DB)
    assert revocations.find("pod-1", "db") is DB
    assert revocations.find("pod-1", "tls") is None
    assert revocations.find("pod-2", "db") is None
    assert revocations.entries("pod-2") == []


def test_every_change_and_nothing_else_is_a_new_revision() -> None:
    revocations = RevocationList()
    seen = [revocations.revision]

    def note() -> bool:
        seen.append(revocations.revision)
        return seen[-1] > seen[-2]

    assert revocations.add(DB)
    assert note()
    assert not revocations.add(DB)
    assert not note()
    assert revocations.remove("pod-1", "db")
    assert note()
    assert not revocations.remove("pod-1", "db")
    revocations.forget_pod("pod-1")
    assert not note()


def test_a_second_order_leaves_the_first_as_it_was() -> None:
    revocations = RevocationList()
    revocations.add(DB)
    revocations.add(Revocation(pod_uid="pod-1", volume="db", since=SINCE.replace(year=2027), cause="again"))
    assert revocations.entries() == [DB]


def test_revocation_that_cannot_be_kept_is_in_force_all_the_same(tmp_path: Path) -> None:
    revocations = RevocationList(tmp_path / "absent" / "revocations.json")
    with pytest.raises(HostError, match="end with this agent"):
        revocations.add(DB)
    assert revocations.find("pod-1", "db") is DB


@pytest.mark.parametrize("text", ["", "{}", '[{"pod_uid": "x"}]'])
def test_damaged_list_is_not_taken_for_an_empty_one(tmp_path: Path, text: str) -> None:
    path = tmp_path / "revocations.json"
    path.write_text(text)
    with pytest.raises(HostError, match="not a list of revocations"):
        RevocationList(path)
