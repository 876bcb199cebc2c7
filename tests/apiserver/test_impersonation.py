"""Acting as somebody else: each part is a permission, and what follows sees the other user only."""

from __future__ import annotations

from pathlib import Path

import pytest

from kubelet_secrets.apiserver.attributes import User
from kubelet_secrets.apiserver.authz import Authorizers, PrivilegedGroups
from kubelet_secrets.apiserver.impersonation import impersonate
from kubelet_secrets.apiserver.process import ServerHandle
from kubelet_secrets.errors import Forbidden, Invalid
from kubelet_secrets.memoryfile import memory_file
from tests.apiserver.harness import Http
from tests.apiserver.kubectl import Kubectl, find_kubectl
from tests.apiserver.test_rbac_server import CLUSTER, CLUSTER_BINDINGS, ROLE_BINDINGS, ROLES, binding, role

ROOT = User("root", ("system:masters", "system:authenticated"))
AUTHORIZERS = Authorizers((PrivilegedGroups(),))


@pytest.mark.parametrize(
    ("headers", "name", "groups"),
    [
        pytest.param([], "root", ["system:masters", "system:authenticated"], id="nobody"),
        pytest.param([("impersonate-user", "jane")], "jane", ["system:authenticated"], id="user"),
        pytest.param(
            [("impersonate-user", "jane"), ("impersonate-group", "a"), ("impersonate-group", "b")],
            "jane",
            ["a", "b", "system:authenticated"],
            id="groups",
        ),
        pytest.param(
            [("impersonate-user", "system:serviceaccount:ns:robot")],
            "system:serviceaccount:ns:robot",
            ["system:serviceaccounts", "system:serviceaccounts:ns", "system:authenticated"],
            id="service-account",
        ),
        pytest.param(
            [("impersonate-user", "system:anonymous")], "system:anonymous", ["system:unauthenticated"], id="anonymous"
        ),
    ],
)
async def test_whom_a_request_is_from(headers: list[tuple[str, str]], name: str, groups: list[str]) -> None:
    user = await impersonate(ROOT, headers, AUTHORIZERS)
    assert (user.name, list(user.groups)) == (name, groups)


async def test_extra_and_uid_are_taken_over() -> None:
    headers = [("impersonate-user", "j"), ("impersonate-uid", "7"), ("impersonate-extra-a%2Fb", "x")]
    user = await impersonate(ROOT, headers, AUTHORIZERS)
    assert (user.uid, user.extra) == ("7", {"a/b": ("x",)})


async def test_groups_without_a_user_are_no_identity() -> None:
    with pytest.raises(Invalid, match="without impersonating a user"):
        await impersonate(ROOT, [("impersonate-group", "a")], AUTHORIZERS)


async def test_without_permission_nobody_acts_as_another() -> None:
    for header, text in (
        ("jane", 'users "jane" is forbidden: User "joe" cannot impersonate resource "users" in API group "" at the '),
        (
            "system:serviceaccount:ns:robot",
            'serviceaccounts "robot" is forbidden: User "joe" cannot impersonate resource "serviceaccounts" in API group '
            '"" in the namespace "ns"',
        ),
    ):
        with pytest.raises(Forbidden) as caught:
            await impersonate(User("joe"), [("impersonate-user", header)], AUTHORIZERS)
        assert text in str(caught.value)


async def _permit(admin: Http) -> None:
    """jane may read the Secret s, and joe may act as jane but as no group."""
    for path, body in (
        (ROLES, role("read-s", ["get"], ["secrets"], ["s"])),
        (ROLE_BINDINGS, binding("b", "Role/read-s")),
        (CLUSTER, role("as-jane", ["impersonate"], ["users"], ["jane"])),
        (CLUSTER_BINDINGS, binding("c", "ClusterRole/as-jane", user="joe")),
    ):
        assert (await admin.post(path, body)).status == 201


_PATH = find_kubectl()


@pytest.mark.kubectl
@pytest.mark.skipif(_PATH is None, reason="needs kubectl on PATH")
async def test_kubectl_as(server: ServerHandle, admin: Http, tmp_path: Path) -> None:
    assert _PATH is not None
    await _permit(admin)
    with memory_file(server.client_kubeconfig("joe").reveal()) as path:
        joe = Kubectl(_PATH, path, tmp_path)
        assert (await joe.try_run("auth", "can-i", "get", "secrets/s")).out == "no\n"
        assert (await joe("auth", "can-i", "get", "secrets/s", "--as=jane")).out == "yes\n"
        assert (await joe("auth", "whoami", "--as=jane", "-o", "json")).json["status"]["userInfo"]["username"] == "jane"
        assert 'groups "dev" is forbidden' in await joe.fail("get", "secrets", "--as=jane", "--as-group=dev")
        assert 'users "june" is forbidden' in await joe.fail("get", "secrets", "--as=june")
    with memory_file(server.admin_kubeconfig().reveal()) as path:
        root = Kubectl(_PATH, path, tmp_path)
        denied = await root.fail("get", "secrets", "--as=jane")
        assert 'User "jane" cannot list resource "secrets"' in denied
