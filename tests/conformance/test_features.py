"""The table of what older API servers lack fits the rows there are."""

from __future__ import annotations

from kubelet_secrets.client.version import NEWEST, Version
from tests.conformance.features import FEATURES, lack
from tests.conformance.test_conformance import CASES


def test_rows_that_need_a_feature_exist_and_say_so() -> None:
    titles = [case.title for case in CASES]
    for feature in FEATURES:
        for row in feature.rows:
            assert any(title.startswith(row) for title in titles), row
    assert not [title for title in titles if lack(title, NEWEST)]
    assert len([title for title in titles if lack(title, Version(1, 20))]) == 28
    (reason,) = {lack(title, Version(1, 34)) for title in titles} - {""}
    assert reason == "needs Kubernetes ≥ 1.35 (fileKeyRef): the API server is 1.34"


def test_a_feature_of_the_node_is_the_nodes() -> None:
    title = "Ensure Credential Pulled Images pulling"
    assert lack(title, Version(1, 20)) == ""
    assert lack(title, NEWEST, Version(1, 34)) == "needs Kubernetes ≥ 1.35 (KEP-2535): the node is 1.34"
    assert lack("FileKeyRef", NEWEST, Version(1, 34)) == "needs Kubernetes ≥ 1.35 (fileKeyRef): the node is 1.34"
