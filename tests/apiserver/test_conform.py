from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.apiserver.conform import conform
from tests.apiserver.harness import PODS, SECRETS, Http, pod, secret


@pytest.mark.parametrize(
    ("kind", "obj", "stored"),
    [
        ("Secret", {"bogus": 1, "data": {"any": "eA=="}}, {"data": {"any": "eA=="}}),
        (
            "Pod",
            {
                "spec": {
                    "containers": [{"name": "c", "imagee": "x", "resources": {"limits": {"cpu": "1000m", "gpu": 2}}}]
                }
            },
            {"spec": {"containers": [{"name": "c", "resources": {"limits": {"cpu": "1", "gpu": "2"}}}]}},
        ),
        (
            "Pod",
            {"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1024Ki"}}]}},
            {"spec": {"volumes": [{"name": "v", "emptyDir": {"sizeLimit": "1Mi"}}]}},
        ),
        (
            "Pod",
            {"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": "http"}}}]}},
            {"spec": {"containers": [{"livenessProbe": {"httpGet": {"port": "http"}}}]}},
        ),
        (
            "ConfigMap",
            {"metadata": {"labels": {"x": "y"}, "managedFields": [{"fieldsV1": {"f:data": {}}}]}},
            {"metadata": {"labels": {"x": "y"}, "managedFields": [{"fieldsV1": {"f:data": {}}}]}},
        ),
        (
            "Pod",
            {
                "metadata": {"finalizers": [None]},
                "spec": {"containers": [None], "securityContext": {"supplementalGroups": [None]}},
            },
            {
                "metadata": {"finalizers": [""]},
                "spec": {"containers": [{}], "securityContext": {"supplementalGroups": [0]}},
            },
        ),
        ("Unheard", {"anything": {"goes": 1}}, {"anything": {"goes": 1}}),
    ],
)
def test_what_decoding_would_leave(kind: str, obj: dict[str, Any], stored: dict[str, Any]) -> None:
    conform(obj, "v1", kind)
    assert obj == stored
    conform(obj, "v1", kind)
    assert obj == stored


async def test_the_server_stores_what_a_typed_server_would(admin: Http) -> None:
    made = await admin.post(f"{SECRETS}?fieldValidation=Ignore", {**secret("s", a="b"), "bogus": 1})
    assert "bogus" not in made.json
    nothing = {"metadata": {"name": "n"}, "data": {"key": None}, "stringData": None}
    assert (await admin.post(SECRETS, nothing)).json["data"] == {"key": ""}
    assert (await admin.post(PODS, pod("p", hostAliases=[{"hostnames": [None]}]))).status == 422
    limits = {"limits": {"cpu": "1000m", "memory": "1024Ki"}}
    await admin.post(PODS, pod("p", containers=[{"name": "c", "image": "i", "resources": limits}]))
    stored = (await admin.get(f"{PODS}/p")).json["spec"]["containers"][0]["resources"]
    assert stored == {"limits": {"cpu": "1", "memory": "1Mi"}, "requests": {"cpu": "1", "memory": "1Mi"}}
