"""Numbers about pods, containers and volumes for ``/metrics``, under the kubelet's names. Pure.

Source: pkg/kubelet/metrics/metrics.go; pkg/kubelet/volumemanager/metrics.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from kubelet_secrets.api.core import Volume
from kubelet_secrets.api.staticpod import is_static_pod
from kubelet_secrets.kubeletapi.metrics import Metric, Sample
from kubelet_secrets.pod.views import ContainerView, PodView

_PLUGINS = {
    "secret": "kubernetes.io/secret",
    "config_map": "kubernetes.io/configmap",
    "projected": "kubernetes.io/projected",
    "downward_api": "kubernetes.io/downward-api",
    "empty_dir": "kubernetes.io/empty-dir",
    "host_path": "kubernetes.io/host-path",
}


def pod_metrics(views: Sequence[PodView]) -> list[Metric]:
    """What the node runs now."""
    states: Counter[str] = Counter()
    volumes: Counter[tuple[str, str]] = Counter()
    for view in views:
        for container in view.containers:
            states["running" if is_running(container) else "exited" if container.instance else "created"] += 1
        plugins = {each.name: _plugin(each) for each in view.pod.spec.volumes}
        for name, state in view.volumes.items():
            volumes["desired_state_of_world", plugins.get(name, "")] += 1
            volumes["actual_state_of_world", plugins.get(name, "")] += state.is_ready
    running = sum(1 for view in views if any(is_running(each) for each in view.containers))
    return [
        Metric("kubelet_running_pods", "gauge", "Number of pods that have a running pod sandbox", (Sample(running),)),
        Metric(
            "kubelet_running_containers",
            "gauge",
            "Number of containers currently running",
            tuple(Sample(count, {"container_state": state}) for state, count in sorted(states.items())),
        ),
        Metric(
            "kubelet_desired_pods",
            "gauge",
            "The number of pods the kubelet is being instructed to run.",
            tuple(
                Sample(sum(1 for view in views if is_static_pod(view.pod) is is_static), {"static": text})
                for is_static, text in ((False, ""), (True, "true"))
            ),
        ),
        Metric(
            "volume_manager_total_volumes",
            "gauge",
            "Number of volumes in Volume Manager",
            tuple(
                Sample(count, {"state": state, "plugin_name": plugin})
                for (state, plugin), count in sorted(volumes.items())
            ),
        ),
    ]


def is_running(container: ContainerView) -> bool:
    return container.instance is not None and container.instance.is_running


def _plugin(volume: Volume) -> str:
    return next((name for field, name in _PLUGINS.items() if getattr(volume, field, None) is not None), "")
