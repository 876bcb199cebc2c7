"""A node's certificates as the agent sees them: made and read by a child process, held as PEM.

What a certificate is for, and when it is due to be replaced, is said here; asking for it is ``signing.py``, keeping it in files
``certfiles.py``, replacing it in time ``rotation.py``. Called by those and by ``serving.py``.

Source: k8s.io/client-go/util/certificate/certificate_manager.go; pkg/kubelet/certificate/kubelet.go; semantics §10.1.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import trio

from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes

CLIENT_SIGNER = "kubernetes.io/kube-apiserver-client-kubelet"
SERVING_SIGNER = "kubernetes.io/kubelet-serving"
_NODES = "system:nodes"
_KEYMAKER = (sys.executable, "-P", "-m", "kubelet_secrets.node.keymaker")


@dataclass(frozen=True, slots=True)
class KeyPair:
    """A certificate (chain) with its private key, both PEM."""

    certificate_pem: bytes
    key_pem: SensitiveBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Template:
    """What a certificate is to say."""

    signer: str
    common_name: str
    usages: tuple[str, ...]  # as the API spells them: "client auth"
    organizations: tuple[str, ...] = (_NODES,)
    names: tuple[str, ...] = ()  # DNS names and IP addresses


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A PKCS #10 request, and the key it is for."""

    name: str  # of the CertificateSigningRequest of a node that joins: the same for the same key and template
    request_pem: bytes
    key_pem: SensitiveBytes


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """What a certificate says."""

    not_before: datetime
    not_after: datetime
    common_name: str
    organizations: tuple[str, ...]
    names: tuple[str, ...]

    def fits(self, template: Template) -> bool:
        """Whether it says all that *template* wants; it may say more. Source: certSatisfiesTemplate."""
        return (
            self.common_name == template.common_name
            and set(template.organizations) <= set(self.organizations)
            and set(template.names) <= set(self.names)
        )

    def rotation_deadline(self, jitter: float) -> datetime:
        """When to replace it: after 70 % of its life, and up to 90 % with *jitter*, 0 to 1. Source: jitteryDuration."""
        return self.not_before + (self.not_after - self.not_before) * (0.7 + 0.2 * jitter)


def client_template(node_name: str) -> Template:
    """A node's identity."""
    return Template(
        signer=CLIENT_SIGNER, common_name=f"system:node:{node_name}", usages=("digital signature", "client auth")
    )


def serving_template(node_name: str, names: Sequence[str]) -> Template:
    """What the node's HTTP server shows.

    Args:
        names: the addresses in the Node's status.
    """
    return Template(
        signer=SERVING_SIGNER,
        common_name=f"system:node:{node_name}",
        usages=("digital signature", "server auth"),
        names=tuple(names),
    )


async def make_request(template: Template, key_pem: SensitiveBytes | None = None) -> Request:
    """Make a request, with a new key unless *key_pem* is given."""
    answer = await _run(
        "request",
        key=key_pem.reveal().decode() if key_pem is not None else "",
        common_name=template.common_name,
        organizations=template.organizations,
        names=template.names,
        usages=template.usages,
    )
    return Request(
        name=answer["name"],
        request_pem=answer["request"].encode(),
        key_pem=SensitiveBytes(answer["key"].encode()),
    )


async def make_self_signed(common_name: str, names: Sequence[str]) -> KeyPair:
    """A serving certificate for a year that no authority vouches for."""
    answer = await _run("self-sign", common_name=common_name, names=list(names))
    return KeyPair(answer["certificate"].encode(), SensitiveBytes(answer["key"].encode()))


async def read_certificate(certificate_pem: bytes) -> CertificateFacts:
    """Raises: HostError: it is no PEM certificate."""
    answer = await _run("read", certificate=certificate_pem.decode("ascii", "replace"))
    return CertificateFacts(
        not_before=datetime.fromtimestamp(answer["notBefore"], UTC),
        not_after=datetime.fromtimestamp(answer["notAfter"], UTC),
        common_name=answer["commonName"],
        organizations=tuple(answer["organizations"]),
        names=tuple(answer["names"]),
    )


async def _run(job: str, **arguments: Any) -> dict[str, Any]:
    """Have the child do one job. Its standard error is not read: a traceback might show its input.

    Raises:
        HostError: it failed.

    Cancellation: it is killed.
    """
    done = await trio.run_process(
        _KEYMAKER,
        stdin=json.dumps({"do": job, **arguments}).encode(),
        capture_stdout=True,
        stderr=subprocess.DEVNULL,
        check=False,
    )
    if done.returncode != 0:
        raise HostError(f"certificates: the job {job!r} failed with status {done.returncode}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer
