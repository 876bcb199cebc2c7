"""Service account tokens: asked for, issued, bound, used, refused. Source: semantics §4.2, §10.3; upstream's token_test.go."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from kubelet_secrets.apiserver.account_authn import ServiceAccountAuthenticator
from kubelet_secrets.apiserver.authn import Credentials
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.apiserver.tokens import DEFAULT_ISSUER, TokenIssuer, load_issuer
from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.harness import PODS, Http, http_client, pod

ACCOUNT = "/api/v1/namespaces/default/serviceaccounts/default"
TOKEN = f"{ACCOUNT}/token"
YEAR_S = 365 * 24 * 3600


@pytest.fixture
async def node(server: ServerHandle) -> AsyncIterator[Http]:
    async with http_client(server, server.authority.issue_node("n1")) as client:
        yield client


def request(**spec: Any) -> dict[str, Any]:
    return {"kind": "TokenRequest", "apiVersion": "authentication.k8s.io/v1", "spec": spec}


def bound_to(made: dict[str, Any], **other: Any) -> dict[str, Any]:
    metadata = made["metadata"]
    return {"kind": "Pod", "apiVersion": "v1", "name": metadata["name"], "uid": metadata["uid"], **other}


def claims_of(token: str) -> dict[str, Any]:
    claims: dict[str, Any] = jwt.decode(token, options={"verify_signature": False})
    return claims


# --- issuing ---------------------------------------------------------------------------------------------------------


async def test_token_bound_to_a_pod_names_account_pod_and_node(admin: Http) -> None:
    await admin.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
    node_uid = (await admin.get("/api/v1/nodes/n1")).json["metadata"]["uid"]
    account_uid = (await admin.get(ACCOUNT)).json["metadata"]["uid"]
    web = (await admin.post(PODS, pod("web", node="n1"))).json
    answer = await admin.post(TOKEN, request(audiences=["vault"], expirationSeconds=600, boundObjectRef=bound_to(web)))
    assert answer.status == 201
    made = answer.json
    assert (made["kind"], made["metadata"]["name"], made["spec"]["audiences"]) == ("TokenRequest", "default", ["vault"])
    claims = claims_of(made["status"]["token"])
    assert claims["kubernetes.io"] == {
        "namespace": "default",
        "serviceaccount": {"name": "default", "uid": account_uid},
        "pod": {"name": "web", "uid": web["metadata"]["uid"]},
        "node": {"name": "n1", "uid": node_uid},
    }
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert (claims["iss"], claims["aud"]) == (DEFAULT_ISSUER, ["vault"])
    assert claims["exp"] - claims["iat"] == 600
    assert claims["nbf"] == claims["iat"]
    assert jwt.get_unverified_header(made["status"]["token"]).keys() == {"alg", "kid"}


async def test_defaults_are_an_hour_and_the_servers_audience(admin: Http) -> None:
    made = (await admin.post(TOKEN, {})).json
    assert made["spec"] == {"expirationSeconds": 3600, "audiences": [DEFAULT_ISSUER]}
    claims = claims_of(made["status"]["token"])
    assert claims["exp"] - claims["iat"] == 3600
    assert "pod" not in claims["kubernetes.io"]


async def test_projected_token_for_the_api_server_lives_a_year_and_warns_after_an_hour(admin: Http) -> None:
    """3607 s is the sign of the volume that admission adds: clients that never read the file again keep working."""
    web = (await admin.post(PODS, pod("web"))).json
    made = (await admin.post(TOKEN, request(expirationSeconds=3607, boundObjectRef=bound_to(web)))).json
    claims = claims_of(made["status"]["token"])
    assert claims["exp"] - claims["iat"] == YEAR_S
    assert claims["kubernetes.io"]["warnafter"] - claims["iat"] == 3607
    assert made["spec"]["expirationSeconds"] == 3607  # what the node refreshes by
    for other in ({"audiences": ["vault"], "boundObjectRef": bound_to(web)}, {}):
        made = (await admin.post(TOKEN, request(expirationSeconds=3607, **other))).json
        claims = claims_of(made["status"]["token"])
        assert claims["exp"] - claims["iat"] == 3607


@pytest.mark.parametrize(
    ("path", "body", "status", "message"),
    [
        pytest.param(
            TOKEN,
            request(expirationSeconds=599),
            422,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 599: '
            "may not specify a duration less than 10 minutes",
            id="too-short",
        ),
        pytest.param(
            TOKEN,
            request(expirationSeconds=2**32 + 1),
            422,
            'TokenRequest.authentication.k8s.io "" is invalid: spec.expirationSeconds: Invalid value: 4294967297: '
            "may not specify a duration larger than 2^32 seconds",
            id="too-long",
        ),
        pytest.param(
            "/api/v1/namespaces/default/serviceaccounts/none/token",
            request(),
            404,
            'serviceaccounts "none" not found',
            id="no-account",
        ),
        pytest.param(
            TOKEN,
            {**request(), "metadata": {"name": "other"}},
            422,
            'TokenRequest.authentication.k8s.io "default" is invalid: metadata.name: Invalid value: "other": '
            "must match the service account name if specified",
            id="other-name",
        ),
        pytest.param(
            TOKEN,
            request(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "none"}),
            404,
            'pods "none" not found',
            id="no-pod",
        ),
        pytest.param(
            TOKEN,
            request(boundObjectRef={"kind": "Job", "apiVersion": "batch/v1", "name": "j"}),
            400,
            "cannot bind token to object of type batch/v1, Kind=Job",
            id="bound-to-another-kind",
        ),
        pytest.param(
            TOKEN,
            request(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "web", "uid": "other"}),
            409,
            'Operation cannot be fulfilled on Pod "web": the UID in the bound object reference (other) does not match '
            "the UID in record. The object might have been deleted and then recreated",
            id="recreated-pod",
        ),
        pytest.param(
            "/api/v1/namespaces/default/serviceaccounts/robot/token",
            request(boundObjectRef={"kind": "Pod", "apiVersion": "v1", "name": "web"}),
            400,
            'cannot bind token for serviceaccount "robot" to pod running with different serviceaccount name.',
            id="pod-of-another-account",
        ),
        pytest.param(
            TOKEN,
            {"kind": "Secret", "apiVersion": "v1"},
            400,
            "the API version and kind in the data (v1, Secret) do not match the expected ones "
            "(authentication.k8s.io/v1, TokenRequest)",
            id="another-kind",
        ),
        pytest.param(
            TOKEN,
            request(expirationSeconds="soon"),
            400,
            'TokenRequest in version "v1" cannot be handled as a TokenRequest: json: cannot unmarshal string into Go '
            "struct field TokenRequest.spec.expirationSeconds of type int64",
            id="wrong-type",
        ),
    ],
)
async def test_refused_requests(admin: Http, path: str, body: dict[str, Any], status: int, message: str) -> None:
    await admin.post("/api/v1/namespaces/default/serviceaccounts", {"metadata": {"name": "robot"}})
    await admin.post(PODS, pod("web"))
    answer = await admin.post(path, body)
    assert (answer.status, answer.message) == (status, message)


# --- nodes -----------------------------------------------------------------------------------------------------------


async def test_node_gets_a_token_for_its_pod(admin: Http, node: Http) -> None:
    mine = (await admin.post(PODS, pod("mine", node="n1"))).json
    answer = await node.post(TOKEN, request(expirationSeconds=3607, boundObjectRef=bound_to(mine)))
    assert answer.status == 201


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        pytest.param({}, "node requested token not bound to a pod", id="unbound"),
        pytest.param(
            {"boundObjectRef": {"kind": "Node", "apiVersion": "v1", "name": "n1", "uid": "u"}},
            "node requested token not bound to a pod",
            id="bound-to-a-node",
        ),
        pytest.param(
            {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "mine"}},
            "node requested token with a pod binding without a uid",
            id="no-uid",
        ),
        pytest.param(
            {"boundObjectRef": {"kind": "Pod", "apiVersion": "v1", "name": "mine", "uid": "other"}},
            "the UID in the bound object reference (other) does not match the UID in record. "
            "The object might have been deleted and then recreated",
            id="other-uid",
        ),
        pytest.param(
            {"boundObjectRef": "theirs"},
            "node requested token bound to a pod scheduled on a different node",
            id="pod-of-another-node",
        ),
        pytest.param(
            {"boundObjectRef": "mine", "audiences": ["a", "b"]},
            "node may only request 0 or 1 audiences",
            id="two-audiences",
        ),
        pytest.param(
            {"boundObjectRef": "mine", "audiences": ["vault"]},
            'audience "vault" not found in pod spec volume, system:node:n1 is not authorized to request tokens for '
            "this audience",
            id="foreign-audience",
        ),
    ],
)
async def test_node_restriction_on_tokens(admin: Http, node: Http, spec: dict[str, Any], message: str) -> None:
    """§10.3"""
    made = {name: (await admin.post(PODS, pod(name, node=on))).json for name, on in (("mine", "n1"), ("theirs", "n2"))}
    if isinstance(spec.get("boundObjectRef"), str):
        spec = {**spec, "boundObjectRef": bound_to(made[spec["boundObjectRef"]])}
    answer = await node.post(TOKEN, request(**spec))
    assert (answer.status, answer.message) == (403, f'serviceaccounts "default" is forbidden: {message}')


async def test_node_may_ask_for_an_audience_that_a_volume_names(admin: Http, node: Http) -> None:
    source = {"serviceAccountToken": {"path": "token", "audience": "vault"}}
    volumes = [{"name": "v", "projected": {"sources": [source]}}]
    mine = (await admin.post(PODS, pod("mine", node="n1", volumes=volumes))).json
    answer = await node.post(TOKEN, request(audiences=["vault"], boundObjectRef=bound_to(mine)))
    assert answer.status == 201


# --- use -------------------------------------------------------------------------------------------------------------


async def _token(admin: Http, **spec: Any) -> str:
    return str((await admin.post(TOKEN, request(**spec))).json["status"]["token"])


async def test_token_authenticates_its_account(server: ServerHandle, admin: Http) -> None:
    async with http_client(server, None, await _token(admin)) as robot:
        assert (await robot.get("/api/v1")).status == 200
        answer = await robot.get("/api/v1/namespaces/default/secrets")
        assert answer.message == (
            'secrets is forbidden: User "system:serviceaccount:default:default" cannot list resource "secrets" in API '
            'group "" in the namespace "default"'
        )
        keys = (await robot.get("/openid/v1/jwks")).json["keys"]
        assert keys[0]["kid"] == jwt.get_unverified_header(await _token(admin))["kid"]
        found = (await robot.get("/.well-known/openid-configuration")).json
        assert (found["issuer"], found["jwks_uri"]) == (DEFAULT_ISSUER, f"{server.url}/openid/v1/jwks")
        assert found["id_token_signing_alg_values_supported"] == [keys[0]["alg"]]


async def test_published_key_verifies_the_signature(admin: Http) -> None:
    """What a relying party does, with nothing but the key set."""
    keys = (await admin.get("/openid/v1/jwks")).json
    token = await _token(admin, audiences=["vault"])
    key = jwt.PyJWKSet.from_dict(keys)[jwt.get_unverified_header(token)["kid"]]
    assert jwt.decode(token, key, audience="vault")["sub"] == "system:serviceaccount:default:default"


async def test_user_carries_pod_node_and_credential(server: ServerHandle, admin: Http) -> None:
    await admin.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
    web = (await admin.post(PODS, pod("web", node="n1"))).json
    issuer = TokenIssuer.create()
    authenticator = ServiceAccountAuthenticator(issuer, server.registry)
    claims = claims_of(await _token(admin, boundObjectRef=bound_to(web)))
    user = await authenticator.authenticate(Credentials(None, issuer.sign(claims).reveal().decode()))
    assert user is not None
    assert user.name == "system:serviceaccount:default:default"
    assert user.groups == ("system:serviceaccounts", "system:serviceaccounts:default")
    assert user.uid == claims["kubernetes.io"]["serviceaccount"]["uid"]
    assert user.extra == {
        "authentication.kubernetes.io/credential-id": (f"JTI={claims['jti']}",),
        "authentication.kubernetes.io/pod-name": ("web",),
        "authentication.kubernetes.io/pod-uid": (web["metadata"]["uid"],),
        "authentication.kubernetes.io/node-name": ("n1",),
        "authentication.kubernetes.io/node-uid": (claims["kubernetes.io"]["node"]["uid"],),
    }


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda claims: {**claims, "exp": claims["iat"] - 1}, id="expired"),
        pytest.param(lambda claims: {**claims, "aud": ["vault"]}, id="for-somebody-else"),
        pytest.param(lambda claims: {**claims, "iss": "https://elsewhere"}, id="other-issuer"),
        pytest.param(lambda claims: {**claims, "sub": "system:serviceaccount:default:root"}, id="other-subject"),
        pytest.param(lambda claims: {**claims, "kubernetes.io": None}, id="no-private-claims"),
        pytest.param(
            lambda claims: {
                **claims,
                "kubernetes.io": {"namespace": "default", "serviceaccount": {"name": "default", "uid": "old"}},
            },
            id="recreated-account",
        ),
        pytest.param(
            lambda claims: {
                **claims,
                "kubernetes.io": {**claims["kubernetes.io"], "pod": {"name": "gone", "uid": "u"}},
            },
            id="pod-gone",
        ),
    ],
)
async def test_bad_tokens_are_nobodys(server: ServerHandle, admin: Http, spoil: Any) -> None:
    issuer = TokenIssuer.create()
    authenticator = ServiceAccountAuthenticator(issuer, server.registry)
    claims = claims_of(await _token(admin))
    good = issuer.sign(claims).reveal().decode()
    assert await authenticator.authenticate(Credentials(None, good)) is not None
    bad = issuer.sign(spoil(claims)).reveal().decode()
    assert await authenticator.authenticate(Credentials(None, bad)) is None


async def test_token_ends_with_its_pod(server: ServerHandle, admin: Http) -> None:
    web = (await admin.post(PODS, pod("web"))).json
    async with http_client(server, None, await _token(admin, boundObjectRef=bound_to(web))) as robot:
        assert (await robot.get("/api/v1")).status == 200
        await admin.delete(f"{PODS}/web", {"gracePeriodSeconds": 0})
        assert (await robot.get("/api/v1")).status == 401


async def test_forged_signature_is_refused(server: ServerHandle, admin: Http) -> None:
    claims = claims_of(await _token(admin))
    forged = TokenIssuer.create().sign(claims).reveal().decode()
    unsigned = jwt.encode(claims, None, algorithm="none")
    for token in (forged, unsigned):
        async with http_client(server, None, token) as impostor:
            assert (await impostor.get("/api/v1")).status == 401


# --- the volume that admission adds ----------------------------------------------------------------------------------


async def test_every_pod_gets_its_token_volume(admin: Http) -> None:
    """§4.2, kube-api-access: source and mount as upstream's, also for init containers."""
    body = pod("web", initContainers=[{"name": "i", "image": "img"}])
    spec = (await admin.post(PODS, body)).json["spec"]
    (volume,) = spec["volumes"]
    assert volume["name"].startswith("kube-api-access-")
    assert volume["projected"] == {
        "defaultMode": 420,
        "sources": [
            {"serviceAccountToken": {"path": "token", "expirationSeconds": 3607}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {
                "downwardAPI": {
                    "items": [
                        {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
                    ]
                }
            },
        ],
    }
    for container in (*spec["initContainers"], *spec["containers"]):
        assert container["volumeMounts"] == [
            {
                "name": volume["name"],
                "readOnly": True,
                "mountPath": "/var/run/secrets/kubernetes.io/serviceaccount",
            }
        ]


@pytest.mark.parametrize("holder", ["pod", "account"])
async def test_token_volume_can_be_declined(admin: Http, holder: str) -> None:
    body = pod("web")
    if holder == "pod":
        body["spec"]["automountServiceAccountToken"] = False
    else:
        await admin.patch(ACCOUNT, {"automountServiceAccountToken": False})
    assert "volumes" not in (await admin.post(PODS, body)).json["spec"]


# --- the key ---------------------------------------------------------------------------------------------------------


def test_key_is_kept_for_its_owner_alone(tmp_path: Path) -> None:
    first = load_issuer(tmp_path / "pki")
    assert (tmp_path / "pki" / "sa.key").stat().st_mode & 0o777 == 0o600
    assert load_issuer(tmp_path / "pki").jwks() == first.jwks()
    assert "key" in repr(first)
    assert "PRIVATE" not in repr(first)


def _pem(key: rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def test_rsa_key_of_a_real_cluster_is_used_as_such() -> None:
    issuer = TokenIssuer(SensitiveBytes(_pem(rsa.generate_private_key(65537, 2048))))
    token = issuer.sign({"sub": "x"}).reveal().decode()
    assert jwt.get_unverified_header(token)["alg"] == "RS256"
    assert issuer.jwks()["keys"][0]["kty"] == "RSA"


@pytest.mark.parametrize("content", [b"nonsense", _pem(ed25519.Ed25519PrivateKey.generate())], ids=["text", "ed25519"])
def test_other_keys_are_refused_in_one_line(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "sa.key").write_bytes(content)
    with pytest.raises(HostError, match="not an RSA or ECDSA key in PEM"):
        load_issuer(tmp_path)
