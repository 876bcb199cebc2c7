"""cluster-info and its signatures, tokens that end, and who may join. Source: pkg/controller/bootstrap/*_test.go,
k8s.io/cluster-bootstrap/token/jws/jws_test.go; semantics §1.6."""

from __future__ import annotations

import base64
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import trio
import yaml

from kubelet_secrets.api.bootstraptoken import DEFAULT_GROUP, BootstrapToken, make_secret
from kubelet_secrets.apiserver.bootstrap_signer import detached_signature
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.harness import Http, http_client
from tests.apiserver.signing import CSRS, KUBELET_SERVING, SERVING_USAGES, addresses, csr, encoded_request
from tests.apiserver.test_csr import wait_for

SECRETS = "/api/v1/namespaces/kube-system/secrets"
CLUSTER_INFO = "/api/v1/namespaces/kube-public/configmaps/cluster-info"


def token(token_id: str = "abcdef", **fields: Any) -> BootstrapToken:
    return BootstrapToken(
        **{"id": token_id, "secret": SensitiveBytes(b"0123456789abcdef"), "groups": (DEFAULT_GROUP,), **fields}
    )


async def signatures(http: Http) -> dict[str, str]:
    data = (await http.get(CLUSTER_INFO)).json["data"]
    return {key: value for key, value in data.items() if key != "kubeconfig"}


async def eventually_signed_by(http: Http, wanted: Callable[[dict[str, str]], bool]) -> dict[str, str]:
    with trio.fail_after(60):
        while not wanted(found := await signatures(http)):  # noqa: ASYNC110  # as a client would look
            await trio.sleep(0.02)
    return found


def test_signature_is_upstreams() -> None:
    """Source: jws_test.go, TestComputeDetachedSig."""
    assert (
        detached_signature(
            "Hello from the other side. I must have called a thousand times.", "joshua", b"my voice is my passcode"
        )
        == "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"
    )


async def test_anybody_reads_where_the_server_is_and_nothing_else(server: ServerHandle) -> None:
    async with http_client(server, None) as nobody:
        answer = await nobody.get(CLUSTER_INFO)
        assert answer.status == 200, answer.body
        config = yaml.safe_load(answer.json["data"]["kubeconfig"])
        (cluster,) = config["clusters"]
        assert cluster["cluster"]["server"] == server.url
        assert base64.b64decode(cluster["cluster"]["certificate-authority-data"]) == server.ca_pem
        assert config["users"] is None
        for path in (CLUSTER_INFO.rpartition("/")[0], "/api/v1/namespaces/kube-public", SECRETS, "/api"):
            assert (await nobody.get(path)).status == 401, path
        assert (await nobody.patch(CLUSTER_INFO, {"data": {}})).status == 403


async def test_tokens_sign_as_they_come_and_go(admin: Http) -> None:
    assert await signatures(admin) == {}
    await admin.post(SECRETS, make_secret(token()))
    signed = await eventually_signed_by(admin, bool)
    kubeconfig = (await admin.get(CLUSTER_INFO)).json["data"]["kubeconfig"]
    assert signed == {"jws-kubeconfig-abcdef": detached_signature(kubeconfig, "abcdef", b"0123456789abcdef")}
    await admin.post(SECRETS, make_secret(token("ghijkl")))
    await eventually_signed_by(admin, lambda found: len(found) == 2)
    await admin.patch(CLUSTER_INFO, {"data": {"kubeconfig": "moved"}})
    moved = detached_signature("moved", "abcdef", b"0123456789abcdef")
    await eventually_signed_by(admin, lambda found: found["jws-kubeconfig-abcdef"] == moved)
    await admin.delete(f"{SECRETS}/bootstrap-token-abcdef")
    left = await eventually_signed_by(admin, lambda found: len(found) == 1)
    assert list(left) == ["jws-kubeconfig-ghijkl"]


@pytest.mark.parametrize(
    "changes",
    [
        pytest.param({"usage-bootstrap-signing": "false"}, id="not-for-signing"),
        pytest.param({"token-secret": ""}, id="no-secret"),
        pytest.param({"token-id": "ghijkl"}, id="another-id"),
        pytest.param({"expiration": "whenever"}, id="unreadable-end"),
    ],
)
async def test_token_that_may_not_sign(server: ServerHandle, admin: Http, changes: dict[str, str]) -> None:
    body = make_secret(token())
    body["stringData"].update(changes)
    # In process: some of these the field rules would refuse.
    await server.registry.create(_secrets(), "kube-system", _stored(body))
    await admin.post(SECRETS, make_secret(token("zzzzzz")))
    signed = await eventually_signed_by(admin, lambda found: "jws-kubeconfig-zzzzzz" in found)
    assert list(signed) == ["jws-kubeconfig-zzzzzz"]


def _secrets() -> Any:
    from kubelet_secrets.apiserver.bootstrap_signer import SECRETS as row

    return row


def _stored(body: dict[str, Any]) -> dict[str, Any]:
    data = {key: base64.b64encode(value.encode()).decode() for key, value in body.pop("stringData").items()}
    return {**body, "data": data}


async def test_expired_token_is_deleted_at_its_time(admin: Http) -> None:
    forever, soon = token("aaaaaa"), token("bbbbbb", expires=datetime.now(UTC) + timedelta(seconds=2))
    for each in (forever, soon):
        assert (await admin.post(SECRETS, make_secret(each))).status == 201
    assert len((await admin.get(SECRETS)).json["items"]) == 2
    with trio.fail_after(60):
        async with admin.watch(f"{SECRETS}?watch=true&fieldSelector=metadata.name={soon.name}") as watch:
            while (await watch.next())[0] != "DELETED":
                pass
    assert [each["metadata"]["name"] for each in (await admin.get(SECRETS)).json["items"]] == [forever.name]
    await eventually_signed_by(admin, lambda found: list(found) == ["jws-kubeconfig-aaaaaa"])


async def test_token_that_gets_more_time_stays(admin: Http) -> None:
    soon = token(expires=datetime.now(UTC) + timedelta(seconds=1))
    await admin.post(SECRETS, make_secret(soon))
    later = make_secret(token(expires=datetime.now(UTC) + timedelta(hours=1)))["stringData"]
    assert (await admin.patch(f"{SECRETS}/{soon.name}", {"stringData": later})).status == 200
    marker = token("zzzzzz", expires=datetime.now(UTC) + timedelta(seconds=2))
    await admin.post(SECRETS, make_secret(marker))
    with trio.fail_after(60):
        async with admin.watch(f"{SECRETS}?watch=true&fieldSelector=metadata.name={marker.name}") as watch:
            while (await watch.next())[0] != "DELETED":
                pass
    assert (await admin.get(f"{SECRETS}/{soon.name}")).status == 200


async def test_token_of_kubeadms_group_joins_and_does_nothing_else(server: ServerHandle, admin: Http) -> None:
    await admin.post(SECRETS, make_secret(token()))
    await admin.post("/api/v1/nodes", {"metadata": {"name": "n1"}})
    async with http_client(server, None, "abcdef.0123456789abcdef") as joining:
        assert (await joining.post(CSRS, csr("x"))).status == 201
        await wait_for(joining, "x", "Approved", certificate=True)
        serving = csr(
            "y", signer=KUBELET_SERVING, usages=SERVING_USAGES, request=encoded_request(names=addresses("n1"))
        )
        assert (await joining.post(CSRS, serving)).status == 201  # whether it is approved is another matter
        assert (await joining.get("/api/v1/nodes/n1")).status == 200  # kubeadm:get-nodes
        for path in ("/api/v1/nodes", SECRETS, "/api/v1/pods", "/api/v1/namespaces/default/configmaps"):
            assert (await joining.get(path)).status == 403, path
    assert not (await admin.get(f"{CSRS}/y")).json.get("status")


async def test_server_that_has_moved_says_so(tmp_path: Any) -> None:
    """The port of a server with a data directory may be another one at the next start."""
    urls = []
    for _ in range(2):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                options = ServerOptions(runs_scheduler=False, data_dir=tmp_path / "data")
                handle: ServerHandle = await nursery.start(serve_apiserver, options)
                async with http_client(handle, handle.authority.issue_admin()) as admin:
                    await admin.post(SECRETS, make_secret(token()))
                    kubeconfig = (await admin.get(CLUSTER_INFO)).json["data"]["kubeconfig"]
                    signed = detached_signature(kubeconfig, "abcdef", b"0123456789abcdef")
                    await eventually_signed_by(
                        admin, lambda found, signed=signed: found == {"jws-kubeconfig-abcdef": signed}
                    )
                assert handle.url in kubeconfig
                urls.append(handle.url)
                handle.shut_down()
    assert len(urls) == 2
