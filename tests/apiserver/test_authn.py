"""Who asks: certificates, tokens, nobody."""

from __future__ import annotations

import hashlib
import ssl
from datetime import timedelta

import pytest
import trio
from cryptography import x509

from kubelet_secrets.apiserver.authn import (
    ANONYMOUS,
    Authenticators,
    CertificateAuthenticator,
    Credentials,
    StaticToken,
    TokenAuthenticator,
)
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.errors import Unauthorized
from tests.apiserver.harness import SECRETS, Http, http_client

TOKEN = StaticToken("s3cr3t-token", "tester", ("system:masters",))


async def test_certificate_gives_name_and_groups() -> None:
    pair = CertificateAuthority.create().issue_client("jane", ("dev", "ops"))
    user = await CertificateAuthenticator().authenticate(Credentials(pair.certificate_pem.decode()))
    assert user is not None
    assert (user.name, user.groups) == ("jane", ("dev", "ops"))


async def test_certificate_ends_though_its_connection_goes_on() -> None:
    """TLS looks at it once, at the handshake; a connection may carry requests long after that."""
    pem = CertificateAuthority.create().issue_client("jane").certificate_pem
    end = x509.load_pem_x509_certificate(pem).not_valid_after_utc
    now = end
    authenticator = CertificateAuthenticator(now=lambda: now)
    assert await authenticator.authenticate(Credentials(pem.decode())) is not None
    now = end + timedelta(seconds=1)
    assert await authenticator.authenticate(Credentials(pem.decode())) is None


async def test_first_authenticator_that_knows_the_credentials_decides() -> None:
    pair = CertificateAuthority.create().issue_client("jane")
    chain = Authenticators((CertificateAuthenticator(), TokenAuthenticator((TOKEN,))))
    both = await chain.authenticate(Credentials(pair.certificate_pem.decode(), TOKEN.token))
    assert both.name == "jane"
    by_token = await chain.authenticate(Credentials(None, TOKEN.token))
    assert by_token.groups == ("system:masters", "system:authenticated")
    assert await chain.authenticate(Credentials(), "/healthz") is ANONYMOUS
    with pytest.raises(Unauthorized):
        await chain.authenticate(Credentials(), "/api/v1")
    with pytest.raises(Unauthorized):
        await chain.authenticate(Credentials(None, "wrong"))
    with pytest.raises(Unauthorized):
        await Authenticators((), anonymous_paths=frozenset()).authenticate(Credentials(), "/healthz")
    assert await Authenticators((), anonymous_paths=None).authenticate(Credentials(), "/api") is ANONYMOUS


def test_credentials_do_not_show_themselves() -> None:
    assert "s3cr3t" not in repr(TOKEN) + repr(Credentials("pem", TOKEN.token))


async def test_tokens_and_anonymous_requests_over_http() -> None:
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(tokens=(TOKEN,)))
            async with http_client(server, None, TOKEN.token) as tester:
                assert (await tester.get(SECRETS)).status == 200
            async with http_client(server, None, "wrong") as stranger:
                answer = await stranger.get("/version")
                assert (answer.status, answer.json["reason"], answer.message) == (401, "Unauthorized", "Unauthorized")
            async with http_client(server, None) as nobody:
                assert (await nobody.get("/healthz")).body == b"ok"
                assert (await nobody.get("/readyz")).body == b"ok"
                assert (await nobody.get("/version")).status == 200
                for path in ("/api/v1", SECRETS, "/nowhere"):
                    assert (await nobody.get(path)).status == 401, path
            server.shut_down()


async def test_certificate_of_a_foreign_authority_is_refused(server: ServerHandle) -> None:
    """The TLS stack answers, before HTTP: upstream would say 401."""
    import httpx2

    foreign = CertificateAuthority.create().issue_client("root", ("system:masters",))
    async with http_client(server, foreign) as impostor:
        with pytest.raises(httpx2.TransportError):
            await impostor.get("/healthz")


async def test_a_client_certificate_names_itself(admin: Http, server: ServerHandle) -> None:
    """Source: x509.go, CommonNameUserConversion."""
    pair = server.authority.issue_client("jane", ("dev",))
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "SelfSubjectReview"}
    async with http_client(server, pair) as jane:
        answer = await jane.post("/apis/authentication.k8s.io/v1/selfsubjectreviews", review)
    der = ssl.PEM_cert_to_DER_cert(pair.certificate_pem.decode())
    identity = f"X509SHA256={hashlib.sha256(der).hexdigest()}"
    assert answer.json["status"]["userInfo"] == {
        "username": "jane",
        "groups": ["dev", "system:authenticated"],
        "extra": {"authentication.kubernetes.io/credential-id": [identity]},
    }


async def test_each_health_check_has_its_path(admin: Http) -> None:
    for path in ("/healthz/ping", "/livez/ping", "/readyz/ping", "/readyz/shutdown"):
        answer = await admin.get(path)
        assert (answer.status, answer.body) == (200, b"ok"), path
    assert (await admin.get("/livez/shutdown")).status == 404
    assert (await admin.get("/healthz/ping/more")).status == 404
