from __future__ import annotations

from kubelet_secrets.apiserver import discovery, resources


def test_versions_and_groups() -> None:
    versions = discovery.answer("/api")
    assert versions is not None
    assert versions["versions"] == ["v1"]
    groups = discovery.answer("/apis")
    assert groups is not None
    names = [group["name"] for group in groups["groups"]]
    assert "coordination.k8s.io" in names
    assert "" not in names
    assert len(names) == len(set(names))


def test_every_served_resource_is_listed_where_it_lives() -> None:
    for row in resources.SERVED:
        path = row.resource.path().rpartition("/")[0]
        listed = discovery.answer(path)
        assert listed is not None, path
        (entry,) = [entry for entry in listed["resources"] if entry["name"] == row.plural]
        assert entry["kind"] == row.kind
        assert entry["verbs"] == list(row.verbs)
        assert entry.get("shortNames", []) == list(row.short_names)
        for sub in row.subresources:
            assert any(entry["name"] == f"{row.plural}/{sub.name}" for entry in listed["resources"])


def test_a_subresource_of_another_group_says_so() -> None:
    listed = discovery.answer("/api/v1/")
    assert listed is not None
    (eviction,) = [entry for entry in listed["resources"] if entry["name"] == "pods/eviction"]
    assert (eviction["group"], eviction["version"], eviction["kind"]) == ("policy", "v1", "Eviction")


def test_what_is_not_served_has_no_answer() -> None:
    for path in ("/api/v2", "/apis/apps", "/apis/apps/v1", "/apis/coordination.k8s.io/v2", "/apis//v1", "/elsewhere"):
        assert discovery.answer(path) is None, path


def test_aggregated_discovery_holds_the_same_resources() -> None:
    found = {
        (version["resources"][index]["resource"])
        for path in ("/api", "/apis")
        for group in (discovery.aggregated(path) or {})["items"]
        for version in group["versions"]
        for index in range(len(version["resources"]))
    }
    assert found == {row.plural for row in resources.SERVED}
    assert discovery.aggregated("/api/v1") is None
