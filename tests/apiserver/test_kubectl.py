"""The real kubectl against the embedded server: what people and scripts type has to work and to say the same.

The same behaviours stand once more in ``test_http_behaviour.py``, over plain HTTP, for machines without kubectl.
"""

from __future__ import annotations

import base64
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio

from kubelet_secrets.apiserver.process import ServerHandle
from tests.apiserver.kubectl import OLDEST, Kubectl, find_kubectl, open_kubectl

_PATH = find_kubectl()
pytestmark = [
    pytest.mark.kubectl,
    pytest.mark.skipif(_PATH is None, reason=f"needs kubectl {'.'.join(map(str, OLDEST))} or later on PATH"),
]

MANIFEST = """
apiVersion: v1
kind: Secret
metadata: {name: app, labels: {tier: web}}
stringData: {user: me, password: first}
---
apiVersion: v1
kind: Pod
metadata: {name: web}
spec:
  containers:
  - name: main
    image: example.com/app:v1
    env: [{name: MODE, value: a}]
"""


@pytest.fixture
async def kubectl(server: ServerHandle, tmp_path: Path) -> AsyncIterator[Kubectl]:
    assert _PATH is not None
    async with open_kubectl(_PATH, server, tmp_path) as run:
        yield run


# --- create --------------------------------------------------------------------------------------------------------


async def test_create_generic_secret(kubectl: Kubectl) -> None:
    made = await kubectl("create", "secret", "generic", "db", "--from-literal=password=pw", "--from-literal=user=me")
    assert made.out == "secret/db created\n"
    secret = (await kubectl("get", "secret", "db", "-o", "json")).json
    assert secret["data"] == {"password": "cHc=", "user": "bWU="}
    assert secret["type"] == "Opaque"
    again = await kubectl.fail("create", "secret", "generic", "db")
    assert again == 'error: failed to create secret secrets "db" already exists'


async def test_create_tls_secret(kubectl: Kubectl, server: ServerHandle, tmp_path: Path) -> None:
    pair = server.authority.issue_client("anyone")
    (tmp_path / "tls.crt").write_bytes(pair.certificate_pem)
    (tmp_path / "tls.key").write_bytes(pair.key_pem.reveal())
    await kubectl("create", "secret", "tls", "web", f"--cert={tmp_path}/tls.crt", f"--key={tmp_path}/tls.key")
    secret = (await kubectl("get", "secret", "web", "-o", "json")).json
    assert secret["type"] == "kubernetes.io/tls"
    assert set(secret["data"]) == {"tls.crt", "tls.key"}


async def test_create_registry_secret(kubectl: Kubectl) -> None:
    options = ("--docker-server=r.example", "--docker-username=u", "--docker-password=p")
    await kubectl("create", "secret", "docker-registry", "reg", *options)
    secret = (await kubectl("get", "secret", "reg", "-o", "json")).json
    assert secret["type"] == "kubernetes.io/dockerconfigjson"
    assert list(secret["data"]) == [".dockerconfigjson"]


async def test_create_other_kinds(kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "team")
    await kubectl("create", "configmap", "settings", "--from-literal=a=b", "-n", "team")
    await kubectl("create", "serviceaccount", "robot", "-n", "team")
    await kubectl("create", "role", "reader", "--verb=get", "--resource=secrets", "-n", "team")
    await kubectl("create", "rolebinding", "reads", "--role=reader", "--serviceaccount=team:robot", "-n", "team")
    await kubectl("create", "service", "clusterip", "web", "--tcp=80:8080", "-n", "team")
    kinds = ("configmap/settings", "serviceaccount/robot", "role/reader", "rolebinding/reads", "service/web")
    names = (await kubectl("get", *kinds, "-n", "team", "-o", "name")).lines
    assert [name.rpartition("/")[2] for name in names] == ["settings", "robot", "reader", "reads", "web"]


async def test_create_token(kubectl: Kubectl) -> None:
    token = (await kubectl("create", "token", "default", "--duration=20m", "--audience=vault")).out.strip()
    payload = token.split(".")[1]
    claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    assert claims["sub"] == "system:serviceaccount:default:default"
    assert claims["aud"] == ["vault"]
    assert claims["exp"] - claims["iat"] == 1200


async def test_create_from_manifest_and_its_refusals(kubectl: Kubectl) -> None:
    made = await kubectl("create", "-f", "-", stdin=MANIFEST)
    assert made.lines == ["secret/app created", "pod/web created"]
    message = await kubectl.fail("create", "-f", "-", stdin=MANIFEST.replace("stringData", "strngData"))
    assert (
        'Error from server (BadRequest): error when creating "STDIN": Secret in version "v1" cannot be handled as a Secret: '
        'strict decoding error: unknown field "strngData"'
    ) in message
    message = await kubectl.fail("create", "-f", "-", stdin=MANIFEST.replace("name: main", "nme: main"))
    assert 'unknown field "spec.containers[0].nme"' in message


async def test_unknown_fields_are_a_warning_on_request(kubectl: Kubectl) -> None:
    manifest = MANIFEST.replace("stringData:", "bogus: 1\nstringData:")
    made = await kubectl("create", "-f", "-", "--validate=warn", stdin=manifest)
    assert 'Warning: unknown field "bogus"' in made.err
    await kubectl("delete", "-f", "-", stdin=MANIFEST)
    made = await kubectl("create", "-f", "-", "--validate=ignore", stdin=manifest)
    assert made.err == ""


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        (
            'apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\nstringData: {"a b": x}\n',
            'The Secret "bad" is invalid: data[a b]: Invalid value: "a b": a valid config key must consist of alphanumeric '
            "characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME',  or 'key-name', regex used for validation is "
            "'[-._a-zA-Z0-9]+')",
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ntype: kubernetes.io/basic-auth\n",
            'The Secret "bad" is invalid: \n* data[username]: Required value\n* data[password]: Required value',
        ),
        (
            "apiVersion: v1\nkind: Secret\nmetadata: {name: bad}\ndata: {a: canary!}\n",
            'Error from server (BadRequest): error when creating "STDIN": Secret in version "v1" cannot be handled as a '
            "Secret: illegal base64 data at input byte 6",
        ),
    ],
)
async def test_invalid_objects_are_refused_in_upstreams_words(kubectl: Kubectl, manifest: str, message: str) -> None:
    assert await kubectl.fail("create", "-f", "-", stdin=manifest) == message


async def test_run_and_dry_run(kubectl: Kubectl) -> None:
    assert (
        await kubectl("run", "once", "--image=busybox", "--restart=Never", "--", "true")
    ).out == "pod/once created\n"
    await kubectl("create", "secret", "generic", "dry", "--from-literal=a=b", "--dry-run=server")
    assert await kubectl.fail("get", "secret", "dry") == 'Error from server (NotFound): secrets "dry" not found'
    shown = (await kubectl("apply", "-f", "-", "--dry-run=server", "-o", "json", stdin=MANIFEST)).json
    pod = next(item for item in shown["items"] if item["kind"] == "Pod")
    assert pod["spec"]["restartPolicy"] == "Always"
    assert (await kubectl("get", "pods", "-o", "name")).lines == ["pod/once"]


# --- apply ---------------------------------------------------------------------------------------------------------


async def test_apply_creates_changes_and_prunes_fields(kubectl: Kubectl) -> None:
    assert (await kubectl("apply", "-f", "-", stdin=MANIFEST)).lines == ["secret/app created", "pod/web created"]
    same = await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert same.lines[1] == "pod/web unchanged"
    await kubectl("label", "secret", "app", "owner=me")
    changed = (
        MANIFEST.replace("app:v1", "app:v2").replace("labels: {tier: web}", "labels: {}").replace("first", "second")
    )
    assert (await kubectl("apply", "-f", "-", stdin=changed)).lines == ["secret/app configured", "pod/web configured"]
    secret = (await kubectl("get", "secret", "app", "-o", "json")).json
    assert secret["metadata"]["labels"] == {"owner": "me"}
    assert secret["data"]["password"] == "c2Vjb25k"
    pod = (await kubectl("get", "pod", "web", "-o", "json")).json
    assert pod["spec"]["containers"][0]["image"] == "example.com/app:v2"


async def test_apply_may_not_change_what_is_immutable(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    message = await kubectl.fail("apply", "-f", "-", stdin=MANIFEST.replace("value: a", "value: canary"))
    assert message.startswith('The Pod "web" is invalid: spec: Forbidden: pod updates may not change fields other than')
    frozen = MANIFEST.replace("stringData:", "immutable: true\nstringData:")
    await kubectl("apply", "-f", "-", stdin=frozen)
    message = await kubectl.fail("apply", "-f", "-", stdin=frozen.replace("first", "canary"))
    assert message == 'The Secret "app" is invalid: data: Forbidden: field is immutable when `immutable` is set'


async def test_diff_shows_what_apply_would_do(kubectl: Kubectl) -> None:
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    assert (await kubectl("diff", "-f", "-", stdin=MANIFEST.partition("---")[2])).out == ""
    shown = await kubectl.try_run("diff", "-f", "-", stdin=MANIFEST.replace("app:v1", "app:v2"))
    assert shown.code == 1
    assert "+    image: example.com/app:v2" in shown.out


async def test_apply_on_the_server(kubectl: Kubectl) -> None:
    apply = ("apply", "--server-side", "-f", "-")
    config = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '1', b: '1'}\n"
    assert (await kubectl(*apply, stdin=config)).out == "configmap/c serverside-applied\n"
    await kubectl(*apply, stdin=config.replace("b: '1'", "c: '1'"))
    assert (await kubectl("get", "cm", "c", "-o", "json")).json["data"] == {"a": "1", "c": "1"}
    other = "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: c}\ndata: {a: '2'}\n"
    message = await kubectl.fail(*apply, "--field-manager=other", stdin=other)
    assert message.startswith('error: Apply failed with 1 conflict: conflict with "kubectl": .data.a')
    await kubectl(*apply, "--field-manager=other", "--force-conflicts", stdin=other)
    assert (await kubectl("get", "cm", "c", "-o", "json")).json["data"] == {"a": "2", "c": "1"}


async def test_moving_from_client_side_to_server_side_apply(kubectl: Kubectl) -> None:
    """kubectl hands the ownership of its client-side apply over to its server-side manager; nothing must get lost."""
    await kubectl("apply", "-f", "-", stdin=MANIFEST)
    done = await kubectl("apply", "--server-side", "-f", "-", stdin=MANIFEST)
    assert done.lines == ["secret/app serverside-applied", "pod/web serverside-applied"]
    assert done.err == ""
    pod = (await kubectl("get", "pod", "web", "-o", "json", "--show-managed-fields")).json
    managers = {(entry["manager"], entry["operation"]) for entry in pod["metadata"]["managedFields"]}
    assert ("kubectl", "Apply") in managers
    assert ("kubectl-client-side-apply", "Update") not in managers
    assert pod["spec"]["serviceAccountName"] == "default"


# --- get -----------------------------------------------------------------------------------------------------------


async def test_get_in_every_form(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    table = (await kubectl("get", "secrets")).lines
    assert table[0].split() == ["NAME", "TYPE", "DATA", "AGE"]
    assert table[1].split()[:3] == ["app", "Opaque", "2"]
    wide = (await kubectl("get", "pods", "-o", "wide")).lines
    assert wide[0].split() == [
        *("NAME", "READY", "STATUS", "RESTARTS", "AGE", "IP", "NODE", "NOMINATED", "NODE", "READINESS", "GATES")
    ]
    assert wide[1].split()[:4] == ["web", "0/1", "Pending", "0"]
    assert "password: Zmlyc3Q=" in (await kubectl("get", "secret", "app", "-o", "yaml")).out
    assert (await kubectl("get", "secret", "app", "-o", "jsonpath={.data.user}")).out == "bWU="
    assert (await kubectl("get", "secrets,pods", "-o", "name")).lines == ["secret/app", "pod/web"]
    columns = await kubectl("get", "pods", "-o", "custom-columns=N:.metadata.name,I:.spec.containers[0].image")
    assert columns.lines[1].split() == ["web", "example.com/app:v1"]
    everywhere = (await kubectl("get", "secrets", "-A", "--no-headers")).lines
    assert everywhere[0].split()[:2] == ["default", "app"]
    assert await kubectl.fail("get", "secret", "none") == 'Error from server (NotFound): secrets "none" not found'


async def test_selectors(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    await kubectl("create", "secret", "generic", "plain")
    assert (await kubectl("get", "secrets", "-l", "tier=web", "-o", "name")).lines == ["secret/app"]
    assert (await kubectl("get", "secrets", "-l", "tier notin (web)", "-o", "name")).lines == ["secret/plain"]
    by_name = ("get", "secrets", "--field-selector", "metadata.name=plain", "-o", "name")
    assert (await kubectl(*by_name)).lines == ["secret/plain"]
    assert (await kubectl("get", "secrets", "--field-selector", "type!=Opaque", "-o", "name")).lines == []
    message = await kubectl.fail("get", "secrets", "--field-selector", "spec.x=y")
    assert message == (
        'Error from server (BadRequest): Unable to find "/v1, Resource=secrets" that match label selector "", field selector '
        '"spec.x=y": field label not supported: spec.x'
    )


async def test_watch_prints_what_happens(kubectl: Kubectl) -> None:
    await kubectl("create", "configmap", "watched", "--from-literal=a=b")
    shown = "jsonpath={.data}{'\\n'}"
    async with kubectl.follow("get", "configmap", "watched", "-w", "-o", shown) as lines:
        assert await anext(lines) == '{"a":"b"}'
        await kubectl("patch", "configmap", "watched", "-p", '{"data":{"c":"d"}}')
        assert await anext(lines) == '{"a":"b","c":"d"}'


async def test_watch_prints_tables(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    async with kubectl.follow("get", "pods", "-w", "--no-headers") as lines:
        assert (await anext(lines)).split()[:3] == ["web", "0/1", "Pending"]
        ready = '{"status":{"containerStatuses":[{"name":"main","state":{"waiting":{"reason":"ErrImagePull"}}}]}}'
        await kubectl("patch", "pod", "web", "--subresource=status", "--type=merge", "-p", ready)
        assert (await anext(lines)).split()[:3] == ["web", "0/1", "ErrImagePull"]


async def test_describe_and_explain(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    described = await kubectl("describe", "secret", "app")
    assert "password:  5 bytes" in described.out
    assert "first" not in described.out
    assert "Image:" in (await kubectl("describe", "pod", "web")).out
    explained = await kubectl("explain", "secret.immutable")
    assert "FIELD: immutable <boolean>" in explained.out
    assert "secretName" in (await kubectl("explain", "pod.spec.volumes.secret")).out
    resources = (await kubectl("api-resources", "-o", "name")).lines
    assert {"secrets", "pods", "leases.coordination.k8s.io"} <= set(resources)


# --- change --------------------------------------------------------------------------------------------------------


async def test_three_types_of_patch(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    containers = json.dumps({"spec": {"containers": [{"name": "main", "image": "example.com/app:v3"}]}})
    await kubectl("patch", "pod", "web", "-p", containers)
    pod = (await kubectl("get", "pod", "web", "-o", "json")).json
    assert [(c["name"], c["image"], c["env"]) for c in pod["spec"]["containers"]] == [
        ("main", "example.com/app:v3", [{"name": "MODE", "value": "a"}])
    ]
    await kubectl("patch", "secret", "app", "--type=merge", "-p", '{"data":{"user":null,"extra":"eA=="}}')
    operations = json.dumps(
        [{"op": "remove", "path": "/data/extra"}, {"op": "add", "path": "/data/more", "value": "eQ=="}]
    )
    await kubectl("patch", "secret", "app", "--type=json", "-p", operations)
    assert set((await kubectl("get", "secret", "app", "-o", "json")).json["data"]) == {"password", "more"}
    message = await kubectl.fail("patch", "secret", "app", "--type=json", "-p", '[{"op":"remove","path":"/data/none"}]')
    assert message == "The request is invalid: the server rejected our request due to an error in our request"


async def test_label_annotate_edit_replace(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    await kubectl("label", "secret", "app", "team=red")
    assert "already has a value" in await kubectl.fail("label", "secret", "app", "team=blue")
    await kubectl("annotate", "secret", "app", "note=old")
    edited = await kubectl("edit", "secret", "app", environment={"KUBE_EDITOR": "sed -i s/old/new/"})
    assert edited.out == "secret/app edited\n"
    metadata = (await kubectl("get", "secret", "app", "-o", "json")).json["metadata"]
    assert metadata["labels"]["team"] == "red"
    assert metadata["annotations"]["note"] == "new"
    secret = (await kubectl("get", "secret", "app", "-o", "json")).json
    secret["data"] = {"only": "eA=="}
    assert (await kubectl("replace", "-f", "-", stdin=json.dumps(secret))).out == "secret/app replaced\n"
    stale = await kubectl.fail("replace", "-f", "-", stdin=json.dumps(secret))
    assert "the object has been modified; please apply your changes to the latest version and try again" in stale


async def test_delete_and_wait(kubectl: Kubectl) -> None:
    await kubectl("create", "-f", "-", stdin=MANIFEST)
    await kubectl("wait", "--for=jsonpath={.status.phase}=Pending", "pod/web", "--timeout=10s")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kubectl, "wait", "--for=delete", "secret/app", "--timeout=10s")
        assert (await kubectl("delete", "secret", "app")).deleted == ['secret "app" deleted']
    await kubectl("delete", "pod", "web", "--timeout=10s")
    assert (await kubectl("get", "pods,secrets", "-o", "name")).lines == []
    assert await kubectl.fail("delete", "secret", "app") == 'Error from server (NotFound): secrets "app" not found'


async def test_delete_by_selector_and_namespace(kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "gone")
    await kubectl("create", "-n", "gone", "-f", "-", stdin=MANIFEST)
    await kubectl("delete", "secrets", "-n", "gone", "-l", "tier=web")
    assert (await kubectl("get", "secrets", "-n", "gone", "-o", "name")).lines == []
    await kubectl("delete", "namespace", "gone", "--timeout=20s")
    assert "not found" in await kubectl.fail("get", "namespace", "gone")
