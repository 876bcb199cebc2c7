"""[sig-node] Container Runtime with new images; e2e_node: Ensure Credential Pulled Images (KEP-2535).

Not here: credential providers; KEP-2535 with other settings than the default, NeverVerifyPreloadedImages (tables of
tests/runtime/test_pullrecords.py).

Source: kubernetes test/e2e/common/node/{runtime,image_credential_pulls}.go, test/e2e_node/image_credential_pulls.go;
semantics §14.12, §9.
"""

from __future__ import annotations

import base64
import json
from functools import partial

from kubelet_secrets.api.meta import SECRETS
from tests.conformance.framework import AGNHOST, Case, Framework, Json, pod_body, unique

INVALID = {"auths": {"somerepo.com": {"auth": "aW52YWxpZHVzZXI6aW52YWxpZHBhc3N3b3Jk"}}}


async def _create_secret(f: Framework, docker_config: Json) -> str:
    name = unique("image-pull-secret-")
    data = {".dockerconfigjson": base64.b64encode(json.dumps(docker_config).encode()).decode()}
    await f.create(SECRETS, name, {"type": "kubernetes.io/dockerconfigjson", "data": data})
    return name


async def _pull(f: Framework, image: str, *, runs: bool, secret: str = "", policy: str = "Always") -> None:
    """Source: ImagePullTest."""
    container = {
        "name": "image-pull-test",
        "image": image,
        "imagePullPolicy": policy,
        "command": ["/bin/sh", "-c", "trap exit TERM; while true; do sleep 1; done"],
    }
    fields: Json = {"imagePullSecrets": [{"name": secret}]} if secret else {}
    pod = await f.create_pod(pod_body(unique("image-pull-test-"), [container], **fields))
    refusals = ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull")

    def is_as_wanted(found: Json) -> bool:
        for status in found["status"].get("containerStatuses") or ():
            if runs:
                return found["status"]["phase"] == "Running" and "running" in status["state"]
            assert "running" not in status["state"], status
            return found["status"]["phase"] == "Pending" and status["state"]["waiting"]["reason"] in refusals
        return False

    await f.wait(pod, is_as_wanted)
    await f.delete_pod(pod)


async def _private(f: Framework, *, with_secret: bool) -> None:
    registry = f.cluster.registry
    assert registry is not None
    secret = await _create_secret(f, registry.docker_config) if with_secret else ""
    await _pull(f, registry.image, runs=with_secret, secret=secret)


async def _public(f: Framework) -> None:
    """Upstream pulls agnhost anew. Here no registry has it: the image that was imported is run."""
    await _pull(f, AGNHOST, runs=True, policy="IfNotPresent")


async def _pulled_before(f: Framework, policy: str, secret: str) -> None:
    """A pod has pulled the image with a secret; another comes, with none, an invalid one, the same one, a copy of it."""
    registry = f.cluster.registry
    assert registry is not None
    first = await _create_secret(f, registry.docker_config)
    await _pull(f, registry.image, runs=True, secret=first, policy="IfNotPresent")
    mine = {"none": "", "same": first}.get(secret)
    if mine is None:
        mine = await _create_secret(f, registry.docker_config if secret == "copy" else INVALID)
    await _pull(f, registry.image, runs=secret in ("same", "copy"), secret=mine, policy=policy)


def _cases() -> list[Case]:
    suite = "Container Runtime blackbox test when running a container with a new image"
    rows = (
        (
            "should not be able to pull image from invalid registry",
            partial(_pull, image="localhost:1/invalid/alpine:3.1", runs=False),
        ),
        ("should be able to pull image", _public),
        ("should not be able to pull from private registry without secret", partial(_private, with_secret=False)),
        ("should be able to pull from private registry with secret", partial(_private, with_secret=True)),
    )
    cases = [Case(f"{suite} {text}", run, "N") for text, run in rows]
    suite = "Ensure Credential Pulled Images pulling images with credentials"
    texts = {
        "none": "pod without PullSecret cannot access previously pulled private image",
        "invalid": "pod with invalid PullSecret cannot access previously pulled private image",
        "same": "pod with the same PullSecret can access previously pulled image",
        "copy": "pod with the same credentials in a different secret can access previously pulled image",
    }
    for policy in ("IfNotPresent", "Never"):
        for secret, text in texts.items():
            cases.append(Case(f"{suite} {policy} {text}", partial(_pulled_before, policy=policy, secret=secret)))
    return cases


CASES = _cases()
