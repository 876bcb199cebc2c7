"""Everything that a busy node asks of its API server, held against upstream's schemas and rules.

The API server here is the embedded one; a real one is to take every one of these writes too.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from typing import Any

import pytest
import trio
from cryptography import x509

from kubelet_secrets.api.core import Pod
from kubelet_secrets.api.decode import to_builtins
from kubelet_secrets.api.meta import PODS
from kubelet_secrets.kubeletapi.authn import Authenticator
from kubelet_secrets.kubeletapi.authz import Authorizer, attributes_of
from kubelet_secrets.kubeletapi.http1 import HttpRequest
from kubelet_secrets.node.lease import LeaseKeeper
from kubelet_secrets.node.registration import NodeReporter
from kubelet_secrets.node.status import Observations, describe_images
from kubelet_secrets.pod.events import WARNING, node_reference
from kubelet_secrets.pod.parts import wall_clock
from tests.node.facts import facts
from tests.node.joining import open_joinable
from tests.pod import upstreamrules as rules
from tests.pod.cluster import NODE, Cluster, container, mounted, secret_volume
from tests.pod.test_static_run import static

pytestmark = pytest.mark.runtime


def check(asked: rules.Asked) -> None:
    """One request, whatever it is."""
    rules.check_permitted(asked, NODE)
    rules.check_times(asked.body)
    if asked.body is None:
        assert asked.method == "GET"
        return
    if asked.method == "PATCH":
        assert asked.content_type == "application/strategic-merge-patch+json"
    match asked.method, asked.path.split("/")[3:]:
        case "POST", ["namespaces", _, "events"]:
            rules.check_event(asked.path, asked.body)
        case "PATCH", ["namespaces", _, "events", _]:
            assert asked.body.keys() == {"count", "lastTimestamp", "message"}
        case "POST", ["namespaces", _, "pods"]:
            rules.check_mirror(asked.body, NODE)
        case "PATCH", ["namespaces", _, "pods", _, "status"]:
            rules.check_pod_status_patch(asked.body)
        case "DELETE", ["namespaces", _, "pods", _]:
            rules.check_pod_delete(asked.body)
        case "POST", ["namespaces", _, "serviceaccounts", _, "token"]:
            rules.check_token_request(asked.body)
        case "POST", ["nodes"]:
            rules.check_object("node-v1", asked.body)
            rules.check_node_status(asked.body["status"])
        case "PATCH", ["nodes", _, "status"]:
            assert asked.body.keys() == {"status"}
            rules.check_patch("node-v1", asked.body, {"conditions": "type", "addresses": "type"})
        case "PATCH", ["nodes", _]:
            assert asked.body.keys() == {"metadata"}
            assert asked.body["metadata"].keys() <= {"labels", "annotations"}
        case "POST" | "PUT", ["v1", "namespaces", "kube-node-lease", "leases", *_]:
            rules.check_lease(asked, NODE)
        case "POST", ["v1", "tokenreviews"]:
            rules.check_object("tokenreview-authentication-v1", asked.body)
        case "POST", ["v1", "subjectaccessreviews"]:
            rules.check_object("subjectaccessreview-authorization-v1", asked.body)
        case _:
            raise AssertionError(f"nobody has thought about this: {asked}")


def kinds(asked: Sequence[rules.Asked]) -> set[str]:
    """What was written, coarsely: ``PATCH status``."""
    words = set()
    for each in asked:
        if each.method != "GET":
            parts = each.path.split("/")
            known = ("status", "events", "pods", "token", "nodes", "leases", "tokenreviews", "subjectaccessreviews")
            words.add(f"{each.method} {next(part for part in reversed(parts) if part in known)}")
    return words


async def test_every_write_of_a_busy_node_is_one_that_upstream_takes(lab: Cluster) -> None:
    asked = rules.record(lab.node)
    seen = Observations(images=describe_images([(["busybox:1"], 4096)]))
    reporter = NodeReporter(lab.node, facts(name=NODE), clock=wall_clock, observe=lambda: seen)
    lease = LeaseKeeper(lab.node, NODE, clock=wall_clock, node_uid=lambda: lab.node_uid)
    await lab.put_secret("db", password="hunter2")
    states: list[Pod] = []
    async with trio.open_nursery() as nursery:
        node = await nursery.start(reporter.run)
        lab.node_uid = node.metadata.uid
        nursery.start_soon(lease.run)
        nursery.start_soon(_follow, lab, states)
        async with lab.agent() as agent:
            await _be_busy(lab)
            agent.parts.events.record(node_reference(NODE), WARNING, "ImageGCFailed", "for the test")
            long_name = "x" * 253
            about = node_reference(NODE)
            agent.parts.events.record(
                type(about)(kind="Pod", namespace="default", name=long_name), WARNING, "Long", "name"
            )
            agent.pods.static_pods_read([static()])
            await lab.wait(f"web-{NODE}", lambda pod: pod.status.phase == "Running")
            agent.pods.static_pods_read([])
            await lab.wait_gone(f"web-{NODE}")
            await _end_it_all(lab)
            request = HttpRequest(
                method="GET", path="/pods", query={}, headers={"authorization": "Bearer nobody"}, certificate=None
            )
            assert await Authenticator(lab.node).authenticate(request) is None
            user = await Authenticator(lab.node).authenticate(
                HttpRequest(
                    method="GET", path="/", query={}, headers={}, certificate={"subject": ((("commonName", "u"),),)}
                )
            )
            assert user is not None
            assert not await Authorizer(lab.node, NODE).is_allowed(user, attributes_of("GET", "/pods"))
            await lease.renew()
            await lab.wait_event(long_name, "Long")
        await reporter.report()
        nursery.cancel_scope.cancel()
    for each in asked:
        try:
            check(each)
        except AssertionError as error:
            raise AssertionError(f"{each}: {error}") from error
    assert kinds(asked) == {
        "POST nodes",
        "PATCH status",
        "POST leases",
        "PUT leases",
        "POST events",
        "PATCH events",
        "POST pods",
        "DELETE pods",
        "POST token",
        "POST tokenreviews",
        "POST subjectaccessreviews",
    }
    _check_states([to_builtins(each) for each in states])


async def _be_busy(lab: Cluster) -> None:
    """Pods of every fate."""
    token = {"serviceAccountToken": {"path": "token", "expirationSeconds": 600}}
    await lab.create(
        "runs",
        container(volumeMounts=[mounted(), mounted("/t", "t")], resources={"limits": {"memory": "16Mi"}}),
        container(name="second", readinessProbe={"exec": {"command": ["true"]}, "periodSeconds": 1}),
        initContainers=[container("true", "init"), container(name="side", restartPolicy="Always")],
        volumes=[secret_volume("db"), {"name": "t", "projected": {"sources": [token]}}],
    )
    await lab.create("succeeds", container("true"), restartPolicy="Never")
    await lab.create("fails", container("exit 3"), restartPolicy="OnFailure")
    await lab.create("never", container("exit 3"), container("true", "other"), restartPolicy="Never")
    await lab.create("lacks", container(volumeMounts=[mounted()]), volumes=[secret_volume("absent")])
    await lab.create("unknown", container(image="localhost/absent:1"))
    missing = {"name": "PASSWORD", "valueFrom": {"secretKeyRef": {"name": "absent", "key": "k"}}}
    await lab.create("misconfigured", container(env=[missing]))
    await lab.create("late", container(), activeDeadlineSeconds=1)
    await lab.create("host", container(), hostNetwork=True)
    await lab.wait("runs", lambda pod: all(each.ready for each in pod.status.container_statuses))
    await lab.wait_phase("succeeds", "Succeeded")
    await lab.wait("fails", lambda pod: any(each.restart_count for each in pod.status.container_statuses))
    await lab.wait_phase("never", "Failed")
    await lab.wait_phase("late", "Failed")
    await lab.wait_event("lacks", "FailedMount")
    await lab.wait_event("unknown", "ErrImageNeverPull")
    await lab.wait_event("misconfigured", "Failed")
    await lab.wait_phase("host", "Running")


async def _end_it_all(lab: Cluster) -> None:
    names = [each.metadata.name for each in await lab.admin.list(PODS, "default", Pod)]
    for name in names:
        await lab.admin.delete(PODS, "default", name)
    for name in names:
        await lab.wait_gone(name)


async def _follow(lab: Cluster, states: list[Pod]) -> None:
    """Every state that the API server has of any pod, in order."""
    async with lab.admin.watch(PODS, "default", Pod, send_initial_events=True) as events:
        async for event in events:
            if event.object.status.start_time:
                states += [event.object]  # as it comes: the watch goes on for as long as the test


def _check_states(states: Sequence[dict[str, Any]]) -> None:
    latest: dict[str, dict[str, Any]] = {}
    for pod in states:
        uid, name = pod["metadata"]["uid"], pod["metadata"]["name"]
        try:
            rules.check_pod_status(pod)
            if uid in latest:
                rules.check_transition(latest[uid], pod)
        except AssertionError as error:
            raise AssertionError(f"pod {name}: {error}") from error
        latest[uid] = pod
    assert len(latest) == 10


async def test_requests_for_certificates_are_ones_that_upstream_signs(tmp_path: Any) -> None:
    """Source: pkg/apis/certificates/validation; pkg/apis/certificates (validateKubeletClientCSR)."""
    async with open_joinable(tmp_path) as cluster:
        await cluster.join(await cluster.make_token(), NODE)
        [made] = await cluster.requests()
    sent = {
        "apiVersion": "certificates.k8s.io/v1",
        "kind": "CertificateSigningRequest",
        "metadata": {"name": made["metadata"]["name"]},
        "spec": {key: made["spec"][key] for key in ("request", "signerName", "usages")},
    }
    rules.check_object("certificatesigningrequest-certificates-v1", sent)
    assert made["metadata"]["name"].startswith("node-csr-")
    assert made["spec"]["usages"] == ["digital signature", "client auth"]
    parsed = x509.load_pem_x509_csr(base64.b64decode(made["spec"]["request"]))
    assert parsed.is_signature_valid
    assert sorted(each.rfc4514_string() for each in parsed.subject) == [f"CN=system:node:{NODE}", "O=system:nodes"]
    assert not list(parsed.extensions), "no name or address is a node's to claim in a client certificate"
