"""Projected volumes: sources, collisions, aggregated errors.

Source: pkg/volume/projected/projected_test.go, TestCollectData…; semantics §4.1, §4.2, §4.3.
"""

from __future__ import annotations

from typing import Any

import pytest

from kubelet_secrets.api.core import ConfigMap, Pod, Secret, ServiceAccountTokenProjection, Volume
from kubelet_secrets.api.decode import convert
from kubelet_secrets.api.sources import NodeInfo, ObjectSnapshot
from kubelet_secrets.errors import CacheNotSynced, InvalidPath, SetUpError
from kubelet_secrets.sensitive import SensitiveBytes
from kubelet_secrets.volume.payload import Payload, make_volume_payload
from kubelet_secrets.volume.projected import ProjectedSetUpError
from kubelet_secrets.volume.trustbundles import TrustBundle, TrustBundles
from tests.volume.test_trustbundles import ANCHOR_A

OBJECTS = ObjectSnapshot(
    secrets={"s": convert({"metadata": {"name": "s"}, "stringData": {"foo": "secret", "bar": "secret"}}, Secret)},
    config_maps={"c": convert({"metadata": {"name": "c"}, "data": {"foo": "config"}}, ConfigMap)},
)


class Tokens:
    def __init__(self, error: SetUpError | None = None) -> None:
        self.asked: list[ServiceAccountTokenProjection] = []
        self.error = error

    def get_token(self, projection: ServiceAccountTokenProjection) -> SensitiveBytes:
        self.asked.append(projection)
        if self.error is not None:
            raise self.error
        return SensitiveBytes(b"t0k3n")


def payload_of(
    *sources: dict[str, Any], spec: dict[str, Any] | None = None, default_mode: int = 0o644, **more: Any
) -> Payload:
    pod = convert(
        {
            "metadata": {"name": "p", "namespace": "ns", "labels": {"a": "b"}},
            "spec": {"serviceAccountName": "sa", "containers": [{"name": "c"}], **(spec or {})},
        },
        Pod,
    )
    volume = convert({"name": "v", "projected": {"defaultMode": default_mode, "sources": list(sources)}}, Volume)
    return make_volume_payload(volume, pod, more.pop("objects", OBJECTS), node=NodeInfo(), **more)


def contents(payload: Payload) -> dict[str, bytes]:
    return {path: file.data.reveal() for path, file in payload.items()}


WHOLE_SECRET = {"secret": {"name": "s"}}
WHOLE_CONFIG_MAP = {"configMap": {"name": "c"}}
LABELS = {"downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]}}
TOKEN = {"serviceAccountToken": {"path": "token", "audience": "api"}}


def test_all_sources_together() -> None:
    tokens = Tokens()
    payload = payload_of(
        WHOLE_SECRET,
        LABELS,
        TOKEN,
        {"configMap": {"name": "c", "items": [{"key": "foo", "path": "d/cfg"}]}},
        tokens=tokens,
    )
    assert contents(payload) == {
        "foo": b"secret",
        "bar": b"secret",
        "labels": b'a="b"',
        "token": b"t0k3n",
        "d/cfg": b"config",
    }
    assert tokens.asked == [ServiceAccountTokenProjection(path="token", audience="api")]
    assert str(payload["token"].origin) == "token of serviceaccount/sa for audience api"


def test_later_source_overwrites_an_earlier_one() -> None:
    payload = payload_of(WHOLE_SECRET, WHOLE_CONFIG_MAP)
    assert contents(payload) == {"foo": b"config", "bar": b"secret"}
    assert [str(origin) for origin in payload["foo"].replaced] == ["secret/s key foo"]
    assert contents(payload_of(WHOLE_CONFIG_MAP, WHOLE_SECRET))["foo"] == b"secret"


def test_mode_of_an_item_goes_before_the_volumes() -> None:
    payload = payload_of(
        {
            "secret": {
                "name": "s",
                "items": [{"key": "foo", "path": "foo", "mode": 0o400}, {"key": "bar", "path": "bar"}],
            }
        },
        default_mode=0o600,
    )
    assert {path: file.mode for path, file in payload.items()} == {"foo": 0o400, "bar": 0o600}


@pytest.mark.parametrize(
    "source",
    [
        pytest.param({"secret": {"name": "none", "optional": True}}, id="secret"),
        pytest.param({"configMap": {"name": "none", "optional": True}}, id="configMap"),
        pytest.param(
            {"secret": {"name": "s", "optional": True, "items": [{"key": "zab", "path": "zab"}]}}, id="secret key"
        ),
        pytest.param(
            {"configMap": {"name": "c", "optional": True, "items": [{"key": "zab", "path": "zab"}]}}, id="configMap key"
        ),
        pytest.param({}, id="nothing set"),
    ],
)
def test_optional_source_that_is_missing_is_left_out(source: dict[str, Any]) -> None:
    assert payload_of(source) == {}


@pytest.mark.parametrize(
    ("sources", "message"),
    [
        pytest.param([{"secret": {"name": "a"}}, WHOLE_SECRET], 'secret "a" not found', id="one error is bare"),
        pytest.param(
            [{"secret": {"name": "a"}}, WHOLE_SECRET, {"configMap": {"name": "b"}}],
            '[secret "a" not found, configmap "b" not found]',
            id="every source is tried",
        ),
        pytest.param(
            [{"configMap": {"name": "b"}}, {"secret": {"name": "a"}}, {"configMap": {"name": "b"}}],
            '[configmap "b" not found, secret "a" not found]',
            id="duplicates collapse",
        ),
        pytest.param(
            [{"secret": {"name": "a"}}, {"secret": {"name": "a"}}],
            'secret "a" not found',
            id="one distinct error is bare",
        ),
        pytest.param(
            [
                {"secret": {"name": "s", "items": [{"key": "zab", "path": "z"}]}},
                {"configMap": {"name": "c", "items": [{"key": "zab", "path": "z"}]}},
            ],
            "[references non-existent secret key: zab, configmap references non-existent config key: zab]",
            id="keys",
        ),
        pytest.param(
            [
                {
                    "downwardAPI": {
                        "items": [
                            {"path": "a", "fieldRef": {"fieldPath": "x"}},
                            {"path": "b", "fieldRef": {"fieldPath": "y"}},
                        ]
                    }
                },
                {"secret": {"name": "a"}},
            ],
            '[unsupported fieldPath: x, unsupported fieldPath: y, secret "a" not found]',
            id="nested aggregates are flat",
        ),
        pytest.param(
            [{"podCertificate": {"signerName": "x"}}],
            "PodCertificate projection is not enabled on this node",
            id="podCertificate",
        ),
        pytest.param(
            [{"clusterTrustBundle": {"path": "p"}}],
            "ClusterTrustBundle projection requires either name or signerName to be set",
            id="bundle without name",
        ),
        pytest.param(
            [{"clusterTrustBundle": {"path": "p", "name": "b"}}],
            "ClusterTrustBundle projection is not supported in static kubelet mode",
            id="bundles switched off",
        ),
    ],
)
def test_failed_sources(sources: list[dict[str, Any]], message: str) -> None:
    with pytest.raises(ProjectedSetUpError) as caught:
        payload_of(*sources)
    assert str(caught.value) == message


def test_bad_path_is_told_only_when_every_source_could_be_read() -> None:
    bad = {"secret": {"name": "s", "items": [{"key": "foo", "path": "../x"}]}}
    with pytest.raises(ProjectedSetUpError, match=r'^secret "a" not found$'):
        payload_of(bad, {"secret": {"name": "a"}})
    with pytest.raises(InvalidPath, match=r"must not contain '\.\.'"):
        payload_of(bad)


def test_optional_source_that_cannot_be_read_fails() -> None:
    objects = ObjectSnapshot(config_maps={"c": CacheNotSynced("configmap")})
    with pytest.raises(SetUpError, match="failed to sync configmap cache"):
        payload_of({"configMap": {"name": "c", "optional": True}}, objects=objects)


@pytest.mark.parametrize(
    "message",
    [
        'failed to fetch token: serviceaccounts "sa" not found',
        'token "sa"/"ns" expired and refresh failed: timeout',
    ],
)
def test_token_error_is_passed_on(message: str) -> None:
    with pytest.raises(SetUpError) as caught:
        payload_of(TOKEN, tokens=Tokens(SetUpError(message)))
    assert str(caught.value) == message


def run_as(user: int) -> dict[str, Any]:
    return {"securityContext": {"runAsUser": user}}


@pytest.mark.parametrize(
    ("spec", "mode", "fs_user"),
    [
        pytest.param({}, 0o644, None, id="neither"),
        pytest.param({"securityContext": {"runAsUser": 1000}}, 0o600, 1000, id="fsUser"),
        pytest.param({"securityContext": {"fsGroup": 10000}}, 0o600, None, id="fsGroup"),
        pytest.param({"securityContext": {"runAsUser": 1000, "fsGroup": 10000}}, 0o600, 1000, id="both"),
    ],
)
def test_tokens_and_bundles_are_private_as_soon_as_the_reader_is_known(
    spec: dict[str, Any], mode: int, fs_user: int | None
) -> None:
    bundles = TrustBundles([TrustBundle(name="b", trust_bundle=ANCHOR_A)])
    bundle = {"clusterTrustBundle": {"path": "ca.pem", "name": "b"}}
    payload = payload_of(TOKEN, bundle, WHOLE_CONFIG_MAP, spec=spec, tokens=Tokens(), trust_bundles=bundles)
    for path in ("token", "ca.pem"):
        assert (payload[path].mode, payload[path].fs_user) == (mode, fs_user)
    assert (payload["foo"].mode, payload["foo"].fs_user) == (0o644, None)
    assert str(payload["ca.pem"].origin) == "clustertrustbundle/b"
