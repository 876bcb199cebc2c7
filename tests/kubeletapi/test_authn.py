"""Who asks the kubelet, and what is known of them while the API server is away."""

from __future__ import annotations

import dataclasses
import ssl
from collections.abc import Mapping
from typing import Any

import pytest
import trio
import trio.testing
import trustme

from kubelet_secrets.api.meta import Resource
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.client.tls import load_key_pair
from kubelet_secrets.errors import ApiUnavailable
from kubelet_secrets.kubeletapi.authn import Authenticator, UserInfo, certificate_user
from kubelet_secrets.kubeletapi.authz import Authorizer, NotAuthorizable, attributes_of, error_text
from kubelet_secrets.kubeletapi.http1 import HttpRequest


async def test_certificate_is_a_name_and_groups() -> None:
    """Through a real handshake: what ``ssl`` tells of a certificate that it has verified."""
    clients, servers = CertificateAuthority.create(), trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    servers.issue_cert("kubelet").configure_cert(server)
    server.load_verify_locations(cadata=clients.certificate_pem.decode())
    server.verify_mode = ssl.CERT_OPTIONAL
    client = ssl.create_default_context()
    servers.configure_trust(client)
    pair = clients.issue_client("jane", ("dev", "ops"))
    load_key_pair(client, pair.certificate_pem, pair.key_pem)
    left, right = trio.testing.memory_stream_pair()
    answering = trio.SSLStream(right, server, server_side=True)
    asking = trio.SSLStream(left, client, server_hostname="kubelet")
    with trio.fail_after(60):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(answering.do_handshake)
            await asking.do_handshake()
    assert certificate_user(answering.getpeercert()) == UserInfo("jane", ("dev", "ops", "system:authenticated"))
    assert certificate_user({}) == UserInfo("", ("system:authenticated",))


class Away:
    """An API server that does not answer."""

    async def create(self, resource: Resource, namespace: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        raise ApiUnavailable("connection refused")


class Answering:
    """One that says what a test wants, and counts."""

    def __init__(self, **status: Any) -> None:
        self.status = status
        self.asked: list[Mapping[str, Any]] = []

    async def create(self, resource: Resource, namespace: str, obj: Mapping[str, Any]) -> dict[str, Any]:
        self.asked.append(obj)
        return {"status": self.status}


def request(**headers: str) -> HttpRequest:
    return HttpRequest(method="GET", path="/pods", query={}, headers=headers, certificate=None)


async def test_token_is_reviewed_once_in_two_minutes(autojump_clock: trio.testing.MockClock) -> None:
    server = Answering(authenticated=True, user={"username": "jane", "groups": ["dev"]})
    authenticator = Authenticator(server)
    for _ in range(2):
        assert await authenticator.authenticate(request(authorization="Bearer t")) == UserInfo("jane", ("dev",))
    assert len(server.asked) == 1
    await trio.sleep(121)
    await authenticator.authenticate(request(authorization="Bearer t"))
    assert len(server.asked) == 2
    assert await authenticator.authenticate(request(authorization="Basic t")) is None
    assert await authenticator.authenticate(request()) is None


async def test_certificate_that_names_nobody_is_nobody() -> None:
    """Source: x509.CommonNameUserConversion."""
    nameless = dataclasses.replace(request(), certificate={"subject": ((("organizationName", "system:masters"),),)})
    assert await Authenticator(Away()).authenticate(nameless) is None


async def test_what_was_allowed_stays_so_while_the_api_server_is_away(autojump_clock: trio.testing.MockClock) -> None:
    """Five minutes, as upstream; then nobody can say, which is no denial."""
    server = Answering(allowed=True)
    authorizer = Authorizer(server, "n1")
    user, attributes = UserInfo("jane"), attributes_of("GET", "/pods")
    assert await authorizer.is_allowed(user, attributes)
    authorizer._client = Away()
    await trio.sleep(299)
    assert await authorizer.is_allowed(user, attributes)
    await trio.sleep(2)
    with pytest.raises(NotAuthorizable):
        await authorizer.is_allowed(user, attributes)
    assert error_text(user, attributes) == (
        "Authorization error (user=jane, verb=get, resource=nodes, subresource(s)=[pods proxy])"
    )
