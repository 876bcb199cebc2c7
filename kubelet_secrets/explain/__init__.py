"""The offline answer: what each container of some manifests would see, where it comes from, and what would go wrong.

Pure, and made from the same decisions as the node's (``volume.payload``, ``envvars.environment``): what is told here is what a
container gets. Called by ``cli/explain.py`` and by tests. It reads no file, asks no API server and no clock.

What only a running node knows - pod addresses, uids, token contents, files that containers write - is marked as such.
"""

from kubelet_secrets.explain.explanation import explain
from kubelet_secrets.explain.model import (
    ContainerView,
    Explanation,
    FileView,
    MountView,
    PodView,
    Problem,
    Severity,
    VariableView,
)

__all__ = [
    "ContainerView",
    "Explanation",
    "FileView",
    "MountView",
    "PodView",
    "Problem",
    "Severity",
    "VariableView",
    "explain",
]
