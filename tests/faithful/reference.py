"""Which cases a kubelet in the agent's place cannot pass, and why: it is older, or it has words of its own.

Source of the versions: https://kubernetes.io/docs/reference/command-line-tools-reference/feature-gates/.
"""

from __future__ import annotations

import pytest

from kubelet_secrets.client.version import Version
from kubelet_secrets.testing.controlplane import program_version
from kubelet_secrets.testing.kubelet import find_kubelet

SINCE = {
    "sidecar": Version(1, 29),
    "fields": Version(1, 29),  # status.hostIPs
    "env-from-odd-prefixes": Version(1, 32),
    "unicode": Version(1, 32),
    "trust-bundle-switched-off": Version(1, 33),
    "resources-of-the-pod": Version(1, 34),
}
OWN_WORDS = {
    "projected-file-and-directory": "a kubelet tells paths of the node",
    "env-nul-byte": "a kubelet leaves it to the runtime",
    "argument-not-utf8": "a kubelet leaves it to the runtime",
}


@pytest.fixture(autouse=True)
def possible(request: pytest.FixtureRequest) -> None:
    """Skip a case that means nothing for the kubelet that is under test, if one is."""
    assets = find_kubelet()
    callspec = getattr(request.node, "callspec", None)
    if assets is None or callspec is None:
        return
    case = str(callspec.params.get("case", ""))
    node = program_version(assets.program("kubelet"))
    if case in SINCE and node < SINCE[case]:
        pytest.skip(f"needs Kubernetes ≥ {SINCE[case]} ({case}): the node is {node}")
    if case in OWN_WORDS:
        pytest.skip(OWN_WORDS[case])
