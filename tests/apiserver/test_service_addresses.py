"""Services get addresses; the server has a Service of its own. Source: semantics §6.3."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Any

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.service_addresses import NETWORK
from tests.apiserver.harness import Http, http_client

SERVICES = "/api/v1/namespaces/default/services"


def service(name: str, **spec: Any) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


async def test_server_is_a_service_as_in_any_cluster(server: ServerHandle, admin: Http) -> None:
    """Names and values of KUBERNETES_* are those that programs know."""
    found = (await admin.get(f"{SERVICES}/kubernetes")).json["spec"]
    assert (found["clusterIP"], found["clusterIPs"]) == ("10.96.0.1", ["10.96.0.1"])
    assert [(port["name"], port["port"], port["targetPort"]) for port in found["ports"]] == [
        ("https", 443, server.port)
    ]


async def test_each_service_gets_an_address_of_its_own(admin: Http) -> None:
    addresses = set()
    for index in range(5):
        spec = (await admin.post(SERVICES, service(f"s{index}"))).json["spec"]
        assert (spec["clusterIPs"], spec["ipFamilies"]) == ([spec["clusterIP"]], ["IPv4"])
        assert ipaddress.ip_address(spec["clusterIP"]) in NETWORK
        addresses.add(spec["clusterIP"])
    assert len(addresses) == 5


async def test_address_stays_when_an_update_leaves_it_out(admin: Http) -> None:
    before = (await admin.post(SERVICES, service("s"))).json["spec"]["clusterIP"]
    answer = await admin.put(f"{SERVICES}/s", service("s", ports=[{"port": 81}]))
    assert (answer.status, answer.json["spec"]["clusterIP"]) == (200, before)
    answer = await admin.patch(f"{SERVICES}/s", {"spec": {"clusterIP": "10.96.9.9"}})
    assert answer.status == 422
    assert "field is immutable" in answer.message


async def test_chosen_address_is_given_once(admin: Http) -> None:
    assert (await admin.post(SERVICES, service("one", clusterIP="10.96.0.10"))).status == 201
    answer = await admin.post(SERVICES, service("two", clusterIP="10.96.0.10"))
    assert (answer.status, answer.message) == (
        422,
        'Service "two" is invalid: spec.clusterIPs: Invalid value: ["10.96.0.10"]: failed to allocate IP 10.96.0.10: '
        "provided IP is already allocated",
    )
    none = await admin.post(SERVICES, service("three", clusterIP="10.96.0.11\nX=y"))
    assert none.message == (
        'Service "three" is invalid: spec.clusterIPs[0]: Invalid value: "10.96.0.11\\nX=y": must be a valid IP address, '
        "(e.g. 10.9.8.7 or 2001:db8::ffff)"
    )


@pytest.mark.parametrize(
    ("spec", "address"),
    [({"clusterIP": "None"}, "None"), ({"type": "ExternalName", "externalName": "a.example"}, None)],
    ids=["headless", "external-name"],
)
async def test_services_without_address(admin: Http, spec: dict[str, Any], address: str | None) -> None:
    for name in ("one", "two"):
        made = await admin.post(SERVICES, service(name, **spec))
        assert (made.status, made.json["spec"].get("clusterIP")) == (201, address)


async def test_server_that_moved_has_its_service_move(tmp_path: Path) -> None:
    for _ in range(2):
        with trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                server: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(data_dir=tmp_path / "data"))
                async with http_client(server, server.authority.issue_admin()) as admin:
                    found = (await admin.get(f"{SERVICES}/kubernetes")).json["spec"]
                    assert found["ports"][0]["targetPort"] == server.port
                server.shut_down()
