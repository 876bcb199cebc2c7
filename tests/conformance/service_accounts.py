"""[sig-auth] ServiceAccounts, and the Node authorizer as it is seen by whom it restricts.

Source: kubernetes test/e2e/auth/{service_accounts,node_authz}.go; semantics §14.13. Not here: InClusterConfig with token
rotation and OIDC discovery, whose containers ask the API server over a cluster's network.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from functools import partial
from typing import Any

from kubelet_secrets.api.meta import CONFIG_MAPS, NODES, SECRETS, SERVICE_ACCOUNTS
from kubelet_secrets.client.answers import EventType, WatchEvent
from tests.conformance.framework import PAUSE, Case, Framework, Json, agnhost, busybox, mount, pod_body, unique
from tests.podexec import impersonate

MOUNT_PATH = "/var/run/secrets/kubernetes.io/serviceaccount"
TOKEN = "/test-volume/token"
JWT = r"[A-Za-z0-9-_=]+\.[A-Za-z0-9-_=]+\.?[A-Za-z0-9-_.+/=]*"


async def _no_generated_secret(f: Framework) -> None:
    """Upstream looks after ten seconds; here a pod that has run with the account is what should have brought one."""
    pod = await f.create_pod(pod_body(unique("account-user-"), [busybox("main", "true")]))
    await f.wait_success(pod)
    account = await f.client.get(SERVICE_ACCOUNTS, f.namespace, "default", dict)
    assert not account.get("secrets")


async def _api_token(f: Framework) -> None:
    await f.create(SERVICE_ACCOUNTS, "mount-test", {})
    pod = await f.create_pod(
        pod_body(
            unique("pod-service-account-"),
            [busybox("test", "sleep", "100000")],
            serviceAccountName="mount-test",
            terminationGracePeriodSeconds=0,
        )
    )
    found = await f.wait_running(pod)
    token, ca, namespace = [
        await f.exec(pod, "test", f"cat {MOUNT_PATH}/{file}") for file in ("token", "ca.crt", "namespace")
    ]
    root_ca = await f.client.get(CONFIG_MAPS, f.namespace, "kube-root-ca.crt", dict)
    assert (ca, namespace) == (root_ca["data"]["ca.crt"].strip(), f.namespace)
    status = await _review(f, token)
    assert (status["authenticated"], status.get("error", "")) == (True, "")
    user = status["user"]
    assert user["username"] == f"system:serviceaccount:{f.namespace}:mount-test"
    wanted = {"system:authenticated", "system:serviceaccounts", f"system:serviceaccounts:{f.namespace}"}
    assert wanted <= set(user["groups"])
    node = await f.client.get(NODES, "", f.cluster.node_name, dict)
    prefix, extra = "authentication.kubernetes.io", user["extra"]
    assert extra[f"{prefix}/credential-id"][0].startswith("JTI=")
    assert {key: extra[f"{prefix}/{key}"] for key in ("node-name", "node-uid", "pod-name", "pod-uid")} == {
        "node-name": [f.cluster.node_name],
        "node-uid": [node["metadata"]["uid"]],
        "pod-name": [pod],
        "pod-uid": [found["metadata"]["uid"]],
    }


async def _review(f: Framework, token: str) -> Json:
    review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
    answer: Json = await f.client.request_json("POST", "/apis/authentication.k8s.io/v1/tokenreviews", body=review)
    status: Json = answer["status"]
    return status


async def _opting_out(f: Framework) -> None:
    """The pod's word counts, then the account's; without either there is a token."""
    await f.create(SERVICE_ACCOUNTS, "mount", {"automountServiceAccountToken": True})
    await f.create(SERVICE_ACCOUNTS, "nomount", {"automountServiceAccountToken": False})
    for account in ("default", "mount", "nomount"):
        for of_pod in (None, True, False):
            spec: Json = {} if of_pod is None else {"automountServiceAccountToken": of_pod}
            pod = pod_body(unique("pod-service-account-"), [agnhost("token-test")], serviceAccountName=account, **spec)
            name = await f.create_pod(pod)
            mounts = (await f.get(name))["spec"]["containers"][0].get("volumeMounts", ())
            has_token = any(each["mountPath"] == MOUNT_PATH for each in mounts)
            assert has_token == (account != "nomount" if of_pod is None else of_pod), (account, of_pod)


def _token_pod(*flags: str, **context: Any) -> Json:
    projected = {"sources": [{"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}}]}
    return pod_body(
        unique("test-pod-"),
        [
            agnhost(
                "agnhost-container", "mounttest", *flags, mounts=[mount("test-volume", "/test-volume", readOnly=True)]
            )
        ],
        volumes=[{"name": "test-volume", "projected": projected}],
        securityContext=context,
    )


async def _projected_token(f: Framework) -> None:
    await f.check_output(_token_pod(f"--file_content={TOKEN}"), f'content of file "{TOKEN}": {JWT}', regexp=True)


async def _ownership(f: Framework) -> None:
    flags = [f"--file_perm={TOKEN}", f"--file_owner={TOKEN}", f"--file_content={TOKEN}"]
    for context, perms, uid, gid in (
        ({"runAsUser": 1000}, "-rw-------", 1000, 0),
        ({"fsGroup": 10000}, "-rw-r-----", 0, 10000),
        ({"runAsUser": 1000, "fsGroup": 10000}, "-rw-r-----", 1000, 10000),
        ({}, "-rw-r--r--", 0, 0),
    ):
        await f.check_output(
            _token_pod(*flags, **context),
            f'perms of file "{TOKEN}": {perms}',
            f'content of file "{TOKEN}": {JWT}',
            f'owner UID of "{TOKEN}": {uid}\n',
            f'owner GID of "{TOKEN}": {gid}\n',
            regexp=True,
        )


async def _lifecycle(f: Framework) -> None:
    label = unique("")
    selector = f"test-serviceaccount-static={label}"
    name = "testserviceaccount"
    made = await f.create(SERVICE_ACCOUNTS, name, {"metadata": {"labels": {"test-serviceaccount-static": label}}})
    found = await f.client.get(SERVICE_ACCOUNTS, f.namespace, name, dict)
    assert made["metadata"]["uid"] == found["metadata"]["uid"]
    async with f.client.watch(SERVICE_ACCOUNTS, f.namespace, dict, label_selector=selector) as events:
        await _wait_event(events, EventType.ADDED)
        await f.client.patch(SERVICE_ACCOUNTS, f.namespace, name, {"automountServiceAccountToken": False})
        await _wait_event(events, EventType.MODIFIED)
        (listed,) = await f.client.list(SERVICE_ACCOUNTS, "", dict, label_selector=selector)
        assert (listed["metadata"]["namespace"], listed["automountServiceAccountToken"]) == (f.namespace, False)
        await f.client.request_json("DELETE", SERVICE_ACCOUNTS.path(f.namespace))
        await _wait_event(events, EventType.DELETED)


async def _wait_event(events: AsyncIterator[WatchEvent[Json]], kind: EventType) -> None:
    """Others may be between them: until 1.24 the account got the name of a Secret, some time after it was made."""
    async for event in events:
        if event.type is kind:
            return
    raise AssertionError(f"the watch has ended without {kind}")


async def _root_ca(f: Framework) -> None:
    f.needs_controllers()
    name = "kube-root-ca.crt"
    before = await f.client.get(CONFIG_MAPS, f.namespace, name, dict)

    async def is_as_before() -> bool:
        found = [
            each for each in await f.client.list(CONFIG_MAPS, f.namespace, dict) if each["metadata"]["name"] == name
        ]
        return [each["data"] for each in found] == [before["data"]]

    await f.client.delete(CONFIG_MAPS, f.namespace, name)
    await f.eventually(is_as_before)
    await f.replace(CONFIG_MAPS, name, {"data": {"ca.crt": ""}})
    await f.eventually(is_as_before)


async def _update_account(f: Framework) -> None:
    await f.create(SERVICE_ACCOUNTS, "e2e-sa", {"automountServiceAccountToken": False})
    updated = await f.replace(SERVICE_ACCOUNTS, "e2e-sa", {"automountServiceAccountToken": True})
    assert updated["automountServiceAccountToken"] is True


async def _token_review(f: Framework) -> None:
    """A token that nothing but the account is bound to."""
    await f.create(SERVICE_ACCOUNTS, "e2e-sa", {})
    path = SERVICE_ACCOUNTS.path(f.namespace, "e2e-sa", "token")
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"expirationSeconds": 3600}}
    token = (await f.client.request_json("POST", path, body=request))["status"]["token"]
    status = await _review(f, token)
    assert (status["authenticated"], status["user"]["username"]) == (
        True,
        f"system:serviceaccount:{f.namespace}:e2e-sa",
    )


# --- the Node authorizer ----------------------------------------------------------------------------------------------------


async def _as_node(f: Framework, method: str, path: str, body: Json | None = None) -> int:
    """The status with which the API server answers the node itself."""
    return await impersonate(f.config, f"system:node:{f.cluster.node_name}", ["system:nodes"], method, path, body)


async def _forbidden(f: Framework, resource: Any, *, exists: bool) -> None:
    if exists:
        await f.create(resource, "node-auth", {"data": {}})
    assert await _as_node(f, "GET", resource.path(f.namespace, "node-auth")) == 403


async def _allowed(f: Framework) -> None:
    secret = await f.create_secret("node-auth-secret", {"data": "keep it secret"})
    path = SECRETS.path(f.namespace, secret)
    assert await _as_node(f, "GET", path) == 403
    pause = {"name": "pause", "image": PAUSE}
    volumes = [{"name": secret, "secret": {"secretName": secret}}]
    await f.create_pod(
        pod_body("pause", [pause], volumes=volumes, nodeName=f.cluster.node_name, restartPolicy="Always")
    )

    async def may_read() -> bool:
        return await _as_node(f, "GET", path) == 200

    await f.eventually(may_read)


async def _other_node(f: Framework, method: str) -> None:
    body = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "foo"}} if method == "POST" else None
    assert await _as_node(f, method, NODES.path("", "" if body else "foo"), body) == 403


CASES = [
    *(
        Case(f"[sig-auth] ServiceAccounts {text}", run, labels)
        for text, run, labels in (
            ("no secret-based service account token should be auto-generated", _no_generated_secret, ""),
            ("should mount an API token into pods", _api_token, "C"),
            ("should allow opting out of API token automount", _opting_out, "C"),
            ("should mount projected service account token", _projected_token, "C"),
            ("should set ownership and permission when RunAsUser or FsGroup is present", _ownership, ""),
            ("should run through the lifecycle of a ServiceAccount", _lifecycle, "C"),
            ("should guarantee kube-root-ca.crt exist in any namespace", _root_ca, "C"),
            ("should update a ServiceAccount", _update_account, "C"),
            ("should create a serviceAccountToken and ensure a successful TokenReview", _token_review, "C"),
        )
    ),
    *(
        Case(f"[sig-auth] [Feature:NodeAuthorizer] {text}", run)
        for text, run in (
            (
                "Getting a non-existent secret should exit with the Forbidden error, not a NotFound error",
                partial(_forbidden, resource=SECRETS, exists=False),
            ),
            (
                "Getting an existing secret should exit with the Forbidden error",
                partial(_forbidden, resource=SECRETS, exists=True),
            ),
            (
                "Getting a non-existent configmap should exit with the Forbidden error, not a NotFound error",
                partial(_forbidden, resource=CONFIG_MAPS, exists=False),
            ),
            (
                "Getting an existing configmap should exit with the Forbidden error",
                partial(_forbidden, resource=CONFIG_MAPS, exists=True),
            ),
            ("Getting a secret for a workload the node has access to should succeed", _allowed),
            ("A node shouldn't be able to create another node", partial(_other_node, method="POST")),
            ("A node shouldn't be able to delete another node", partial(_other_node, method="DELETE")),
        )
    ),
]
