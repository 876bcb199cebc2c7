"""ClusterTrustBundles, where the node's gate is on: the same answer from explain and from the container. §4.1"""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from datetime import UTC, datetime

import pytest
import trio

from kubelet_secrets.api.meta import CLUSTER_TRUST_BUNDLES
from kubelet_secrets.explain import explain
from kubelet_secrets.manifests import parse_manifest
from tests.e2e.stacks import Cluster, Stack, open_cluster
from tests.explain.builders import days, make_certificate, make_key
from tests.faithful.cases import MOUNT, volume
from tests.faithful.looking import apply, foretold, look, make_namespace, wait_pod

MERGE = "application/merge-patch+json"


def certificate() -> str:
    return make_certificate(make_key(), not_before=days(-1), not_after=days(1))


def bundle(name: str, *certificates: str, signer: str = "", labels: str = "{}") -> str:
    content = textwrap.indent("# a remark\n" + "".join(certificates), "    ")
    head = "\n---\napiVersion: certificates.k8s.io/v1beta1\nkind: ClusterTrustBundle\n"
    head += f"metadata: {{name: '{name}', labels: {labels}}}\n"
    return f"{head}spec:\n  signerName: '{signer}'\n  trustBundle: |\n{content}\n"


@pytest.fixture(scope="module")
def trusting(make_stack: Callable[..., Stack]) -> Stack:
    return make_stack("--cluster-trust-bundle-projection")


def projection(*sources: str) -> str:
    return volume(f"projected: {{sources: [{', '.join(f'{{clusterTrustBundle: {each}}}' for each in sources)}]}}")


async def check(cluster: Cluster, namespace: str, text: str) -> dict[str, bytes | None]:
    """Run *text*, compare, and return the contents of the volume."""
    (told,) = explain(
        parse_manifest(text.encode(), source="case.yaml"),
        now=datetime.now(UTC),
        namespace=namespace,
        projects_trust_bundles=True,
    ).pods
    await make_namespace(cluster, namespace)
    await apply(cluster, text, namespace)
    pod = await wait_pod(cluster, namespace, "web")
    expected = foretold(told.containers[0])
    seen = (await look(cluster, pod, "app")).without_run_time(expected)
    assert seen.files == expected.files
    return {path: file.content for path, file in seen.files.items() if path.startswith("/v/")}


async def test_by_name_by_signer_and_optional(trusting: Stack) -> None:
    one, two, three = certificate(), certificate(), certificate()
    bundles = (
        bundle("plain", one, two, one)
        + bundle("example.com:ca:a", two, signer="example.com/ca", labels="{tier: prod}")
        + bundle("example.com:ca:b", three, signer="example.com/ca", labels="{tier: test}")
    )
    text = bundles + projection(
        "{name: plain, path: plain.pem}",
        "{signerName: example.com/ca, labelSelector: {}, path: all.pem}",
        "{signerName: example.com/ca, labelSelector: {matchLabels: {tier: test}}, path: test.pem}",
        "{signerName: example.com/ca, path: none.pem, optional: true}",
        "{name: nope, path: nope.pem, optional: true}",
    )
    async with open_cluster(trusting) as cluster:
        contents = await check(cluster, "bundles", text)
        assert {path: (content or b"").count(b"BEGIN") for path, content in contents.items()} == {
            "/v/plain.pem": 2,
            "/v/all.pem": 2,
            "/v/test.pem": 1,
            "/v/none.pem": 0,
            "/v/nope.pem": 0,
        }
        assert (contents["/v/test.pem"] or b"").decode() == three

        change = {"spec": {"trustBundle": one}}
        await cluster.client.patch(CLUSTER_TRUST_BUNDLES, "", "example.com:ca:b", change, content_type=MERGE)
        pod = await wait_pod(cluster, "bundles", "web")
        with trio.fail_after(60):
            shown = await look(cluster, pod, "app")
            while shown.files["/v/test.pem"].content != one.encode():
                await trio.sleep(0.05)
                shown = await look(cluster, pod, "app")


async def test_private_where_the_pod_says_who_reads(trusting: Stack) -> None:
    """As tokens, §4.2."""
    text = bundle("private", certificate()) + projection("{name: private, path: ca.pem}")
    text = text.replace("spec:\n  terminationGrace", "spec:\n  securityContext: {fsGroup: 7}\n  terminationGrace")
    assert MOUNT[1:-1] in text
    async with open_cluster(trusting) as cluster:
        await check(cluster, "private-bundle", text)
