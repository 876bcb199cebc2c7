"""kube-apiserver's own record of who asked what: which answers to nodes were refusals, and which of those a kubelet gets too.

Source: https://kubernetes.io/docs/tasks/debug/debug-cluster/audit/; ``audit.k8s.io/v1`` Event at level Metadata.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_POLICY = """\
apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived, ResponseStarted]
rules: [{level: Metadata}]
"""


def flags(directory: Path) -> tuple[Path, list[str]]:
    """Where the record will be, and the flags of a kube-apiserver that keeps it; the policy is put into *directory*."""
    policy, log = directory / "audit-policy.yaml", directory / "audit.log"
    policy.write_text(_POLICY)
    return log, [f"--audit-policy-file={policy}", f"--audit-log-path={log}"]


@dataclass(frozen=True, slots=True)
class Refusal:
    """An answer of 4xx or 5xx to a node."""

    code: int
    verb: str
    resource: str  # "pods/status"
    uri: str
    reason: str  # the authorizer's

    @property
    def excuse(self) -> str:
        """Why a kubelet would have got it as well; "" when it would not."""
        match self.code, self.verb, self.resource:
            case 404, "get", "leases":
                return "the node has no lease yet"
            case 404, "delete" | "patch", "pods" | "pods/status" | "events":
                return "whoever deleted the pod had the API server finish it"
            case 403, "create", "events":
                return "the namespace is going"
            case 403, "list" | "watch" | "get" | "create", "secrets" | "configmaps" | "serviceaccounts/token":
                return "the authorizer's graph lags behind a binding" if "no relationship found" in self.reason else ""
            case 409, "create", "nodes":
                return "the node is back"
            case 410, "watch" | "list", _:
                return "the version has expired"
            case 400 | 422, "watch" | "list", _:
                return "no streaming lists here" if "sendInitialEvents=true" in self.uri else ""
            case _:
                return ""


def refusals(log: Path, user: str) -> Iterator[Refusal]:
    """What *user* was refused, oldest first. A line that is being written is left out."""
    with log.open() as lines:
        for line in lines:
            if f'"username":"{user}"' not in line or not line.endswith("\n"):
                continue
            event: dict[str, Any] = json.loads(line)
            code = int(event.get("responseStatus", {}).get("code", 0))
            if code >= 400:
                yield _refusal(event, code)


def unexcused(found: Sequence[Refusal]) -> list[Refusal]:
    return [each for each in found if not each.excuse]


def _refusal(event: dict[str, Any], code: int) -> Refusal:
    what = event.get("objectRef", {})
    names = (what.get("resource", ""), what.get("subresource", ""))
    return Refusal(
        code=code,
        verb=event["verb"],
        resource="/".join(filter(None, names)),
        uri=event["requestURI"],
        reason=event.get("annotations", {}).get("authorization.k8s.io/reason", ""),
    )
