"""Tokens that are kept in Secrets: filled, good as long as Secret and account are there, taken away with the account."""

from __future__ import annotations

import base64
from typing import Any

import jwt
import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.apiserver.token_secrets import ACCOUNT_NAME, ACCOUNT_UID, SECRET_TYPE
from kubelet_secrets.apiserver.tokens import InvalidToken, Reference, TokenIssuer, make_legacy_claims
from tests.apiserver.harness import SECRETS, Http, http_client

ACCOUNTS = "/api/v1/namespaces/default/serviceaccounts"
REVIEWS = "/apis/authentication.k8s.io/v1/tokenreviews"


def token_secret(name: str, account: str = "robot", **annotations: str) -> dict[str, Any]:
    noted = {ACCOUNT_NAME: account, **annotations}
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": name, "annotations": noted},
        "type": SECRET_TYPE,
    }


async def make_filled(admin: Http, name: str = "robot-token") -> dict[str, Any]:
    """The Secret of the account ``robot`` once its token is in it."""
    if (await admin.get(f"{ACCOUNTS}/robot")).status == 404:
        assert (await admin.post(ACCOUNTS, {"metadata": {"name": "robot"}})).status == 201
    async with admin.watch(f"{SECRETS}?watch=1&fieldSelector=metadata.name%3D{name}") as watch:
        assert (await admin.post(SECRETS, token_secret(name))).status == 201
        with trio.fail_after(60):
            while True:
                _, found = await watch.next()
                if "token" in (found.get("data") or {}):
                    return found


def token_in(secret: dict[str, Any]) -> str:
    return base64.b64decode(secret["data"]["token"]).decode()


async def test_secret_is_filled_for_its_account(admin: Http, server: ServerHandle) -> None:
    found = await make_filled(admin)
    uid = (await admin.get(f"{ACCOUNTS}/robot")).json["metadata"]["uid"]
    assert found["metadata"]["annotations"] == {ACCOUNT_NAME: "robot", ACCOUNT_UID: uid}
    assert found["data"].keys() == {"ca.crt", "namespace", "token"}
    assert base64.b64decode(found["data"]["namespace"]) == b"default"
    assert base64.b64decode(found["data"]["ca.crt"]) == server.ca_pem
    assert jwt.decode(token_in(found), options={"verify_signature": False}) == {
        "iss": "kubernetes/serviceaccount",
        "kubernetes.io/serviceaccount/namespace": "default",
        "kubernetes.io/serviceaccount/secret.name": "robot-token",
        "kubernetes.io/serviceaccount/service-account.name": "robot",
        "kubernetes.io/serviceaccount/service-account.uid": uid,
        "sub": "system:serviceaccount:default:robot",
    }


async def test_token_is_good_until_its_secret_goes(admin: Http, server: ServerHandle) -> None:
    token = token_in(await make_filled(admin))
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    user = (await admin.post(REVIEWS, review)).json["status"]["user"]
    assert user["username"] == "system:serviceaccount:default:robot"
    assert user["groups"] == ["system:serviceaccounts", "system:serviceaccounts:default", "system:authenticated"]
    for_another = {**review, "spec": {"token": token, "audiences": ["vault"]}}
    assert "authenticated" not in (await admin.post(REVIEWS, for_another)).json["status"]
    async with http_client(server, None, token) as robot:
        assert (await robot.get("/api")).status == 200
        assert (await robot.get(SECRETS)).status == 403
        await admin.delete(f"{SECRETS}/robot-token")
        assert (await robot.get("/api")).status == 401
        # Another token of the same account and name does not bring the old one back.
        assert token_in(await make_filled(admin)) != token
        assert (await robot.get("/api")).status == 401


async def test_secret_goes_with_its_account(admin: Http) -> None:
    await make_filled(admin)
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        await watch.next()
        await admin.delete(f"{ACCOUNTS}/robot")
        with trio.fail_after(60):
            assert await watch.next_names(1) == [("DELETED", "robot-token")]


@pytest.mark.parametrize("secret", [token_secret("x", "nobody"), token_secret("x", "default", **{ACCOUNT_UID: "old"})])
async def test_secret_of_no_account_does_not_stay(admin: Http, secret: dict[str, Any]) -> None:
    async with admin.watch(f"{SECRETS}?watch=1") as watch:
        await admin.post(SECRETS, secret)
        with trio.fail_after(60):
            assert await watch.next_names(2) == [("ADDED", "x"), ("DELETED", "x")]


@pytest.mark.parametrize("change", [{"sub": "system:serviceaccount:default:other"}, {"iss": "other"}, {"sub": None}])
def test_claims_that_do_not_fit(change: dict[str, Any]) -> None:
    issuer = TokenIssuer.create()
    claims = make_legacy_claims("default", Reference("robot", "u"), "s")
    assert issuer.verify_legacy(issuer.sign(claims).reveal().decode()).account == Reference("robot", "u")
    changed = {name: value for name, value in {**claims, **change}.items() if value is not None}
    with pytest.raises(InvalidToken):
        issuer.verify_legacy(issuer.sign(changed).reveal().decode())
    foreign = TokenIssuer.create().sign(claims).reveal().decode()
    with pytest.raises(InvalidToken):
        issuer.verify_legacy(foreign)
