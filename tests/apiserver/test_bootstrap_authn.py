"""Bootstrap tokens: each rule that a token has to keep, and the identity it gives.

Source: plugin/pkg/auth/authenticator/token/bootstrap/bootstrap_test.go; semantics §1.6.
"""

from __future__ import annotations

import base64
import logging
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from kubelet_secrets.api.times import rfc3339
from kubelet_secrets.apiserver.bootstrap_authn import TokenRefused, judge
from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.harness import Http, http_client

ID, SECRET = "foobar", "s3cretvalue12345"
NOW = datetime(2026, 5, 1, 12, tzinfo=UTC)
SECRETS = "/api/v1/namespaces/kube-system/secrets"
REVIEWS = "/apis/authentication.k8s.io/v1/selfsubjectreviews"
PREFIX = f"Bootstrap secret kube-system/bootstrap-token-{ID} matching bearer token"


def _secret(metadata: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """A good token's Secret. *changes*: keys with underscores for dashes, None to leave one out; ``type`` is the type."""
    kind = changes.pop("type", "bootstrap.kubernetes.io/token")
    data = {"token-id": ID, "token-secret": SECRET, "usage-bootstrap-authentication": "true"}
    data |= {key.replace("_", "-"): value for key, value in changes.items()}
    encoded = {key: base64.b64encode(value.encode()).decode() for key, value in data.items() if value is not None}
    head = {"name": f"bootstrap-token-{ID}", "namespace": "kube-system", **(metadata or {})}
    return {"kind": "Secret", "apiVersion": "v1", "metadata": head, "type": kind, "data": encoded}


@pytest.mark.parametrize(
    ("secret", "groups"),
    [
        pytest.param(_secret(), ["system:bootstrappers"], id="valid"),
        pytest.param(
            _secret(auth_extra_groups="system:bootstrappers:foo,system:bootstrappers:bar,system:bootstrappers:foo"),
            ["system:bootstrappers", "system:bootstrappers:bar", "system:bootstrappers:foo"],
            id="extra-groups-sorted-once",
        ),
        pytest.param(_secret(expiration=rfc3339(NOW + timedelta(seconds=1))), ["system:bootstrappers"], id="in-time"),
        pytest.param(_secret(expiration="2026-05-01T14:00:01+02:00"), ["system:bootstrappers"], id="another-zone"),
        pytest.param(_secret(expiration=""), ["system:bootstrappers"], id="no-expiration"),
    ],
)
def test_token_gives_user_and_groups(secret: dict[str, Any], groups: list[str]) -> None:
    user = judge(secret, ID, SECRET, NOW)
    assert (user.name, list(user.groups)) == (f"system:bootstrap:{ID}", groups)


@pytest.mark.parametrize(
    ("secret", "reason"),
    [
        pytest.param(
            _secret({"deletionTimestamp": rfc3339(NOW)}), "is deleted and awaiting removal", id="being-deleted"
        ),
        pytest.param(
            _secret(type="Opaque"), "has invalid type, expected bootstrap.kubernetes.io/token.", id="another-type"
        ),
        pytest.param(
            {**_secret(), "data": None}, "has invalid type, expected bootstrap.kubernetes.io/token.", id="empty"
        ),
        pytest.param(
            _secret(token_secret="another1another1"), "has invalid value for key token-secret.", id="wrong-secret"
        ),
        pytest.param(_secret(token_secret=None), "has invalid value for key token-secret.", id="no-secret"),
        pytest.param(_secret(token_id="foobaz"), "has invalid value for key token-id.", id="wrong-id"),
        pytest.param(_secret(token_id=None), "has invalid value for key token-id.", id="no-id"),
        pytest.param(_secret(expiration=rfc3339(NOW)), "has expired.", id="expires-now"),
        pytest.param(_secret(expiration="2025-01-01T00:00:00Z"), "has expired.", id="expired"),
        pytest.param(_secret(expiration="tomorrow"), "has expired.", id="unreadable-expiration"),
        pytest.param(_secret(expiration="2030-01-01"), "has expired.", id="a-date-is-no-time"),
        pytest.param(
            _secret(usage_bootstrap_authentication=None),
            "not marked usage-bootstrap-authentication=true.",
            id="no-usage",
        ),
        pytest.param(
            _secret(usage_bootstrap_authentication="True"),
            "not marked usage-bootstrap-authentication=true.",
            id="only-the-exact-word",
        ),
        pytest.param(
            _secret(usage_bootstrap_authentication=None, usage_bootstrap_signing="true"),
            "not marked usage-bootstrap-authentication=true.",
            id="signing-is-another-usage",
        ),
        pytest.param(
            _secret(auth_extra_groups="foo"),
            'has invalid value for key auth-extra-groups: bootstrap group "foo" is invalid (must match '
            r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z).",
            id="extra-group-without-prefix",
        ),
        pytest.param(
            _secret(auth_extra_groups="system:bootstrappers:ok,system:masters"),
            'has invalid value for key auth-extra-groups: bootstrap group "system:masters" is invalid (must match '
            r"\Asystem:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]\z).",
            id="one-bad-extra-group-spoils-all",
        ),
    ],
)
def test_token_is_refused(secret: dict[str, Any], reason: str) -> None:
    with pytest.raises(TokenRefused) as caught:
        judge(secret, ID, SECRET, NOW)
    assert str(caught.value) == f"{PREFIX} {reason}"


async def _whoami(server: ServerHandle, token: str) -> tuple[int, Any]:
    async with http_client(server, None, token) as bearer:
        answer = await bearer.post(REVIEWS, {})
        return answer.status, answer.json.get("status", {}).get("userInfo") if answer.status == 201 else None


async def test_token_over_http(server: ServerHandle, admin: Http, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "kubelet_secrets")
    made = await admin.post(SECRETS, _secret(auth_extra_groups="system:bootstrappers:kubeadm:default-node-token"))
    assert made.status == 201, made.body
    status, info = await _whoami(server, f"{ID}.{SECRET}")
    assert status == 201
    assert info == {
        "username": f"system:bootstrap:{ID}",
        "groups": [
            "system:bootstrappers",
            "system:bootstrappers:kubeadm:default-node-token",
            "system:authenticated",
        ],
    }
    for token in (
        f"{ID}.{SECRET[:-1]}0",
        f"foobaz.{SECRET}",
        f"{ID}0.{SECRET}",
        f"{ID}.{SECRET}0",
        f"{ID.upper()}.{SECRET}",
    ):
        assert await _whoami(server, token) == (401, None)
    await admin.delete(f"{SECRETS}/bootstrap-token-{ID}")
    assert await _whoami(server, f"{ID}.{SECRET}") == (401, None)
    assert f"{PREFIX} has invalid value for key token-secret." in caplog.messages
    assert SECRET not in caplog.text


async def test_group_of_a_token_is_what_a_role_is_bound_to(server: ServerHandle, admin: Http) -> None:
    await admin.post(SECRETS, _secret())
    requests = "/apis/certificates.k8s.io/v1/certificatesigningrequests"
    async with http_client(server, None, f"{ID}.{SECRET}") as joining:
        assert (await joining.get(requests)).status == 403
        binding = {
            "metadata": {"name": "every-token"},
            "roleRef": {"kind": "ClusterRole", "name": "system:node-bootstrapper"},
            "subjects": [{"kind": "Group", "name": "system:bootstrappers"}],
        }
        await admin.post("/apis/rbac.authorization.k8s.io/v1/clusterrolebindings", binding)
        assert (await joining.get(requests)).status == 200
        assert (await joining.get("/api/v1/secrets")).status == 403
