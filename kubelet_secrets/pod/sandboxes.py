"""``SandboxSettings`` from a pod. Pure; called by ``pod/worker.py`` before it asks the runtime for the sandbox.

Source: pkg/kubelet/kuberuntime/kuberuntime_sandbox.go, generatePodSandboxConfig; pkg/kubelet/network/dns.
"""

from __future__ import annotations

from collections.abc import Sequence

from kubelet_secrets.api.core import Pod, PodSpec
from kubelet_secrets.pod.podlimits import pod_resources
from kubelet_secrets.runtime.cni import PortMapping
from kubelet_secrets.runtime.podfiles import Dns, parse_resolv_conf, pod_dns, resolv_conf
from kubelet_secrets.runtime.sandbox import SandboxSettings

MISSING_CLUSTER_DNS = (
    'kubelet does not have ClusterDNS IP configured and cannot create Pod using "ClusterFirst" policy. '
    'Falling back to "Default" policy.'
)
MAX_HOSTNAME_LENGTH = 63
MAX_FQDN_LENGTH = 64


def pod_hostname(pod: Pod) -> str:
    """The name the pod's uts namespace gets: spec.hostname, else the pod's name, cut to what a hostname may be."""
    return (pod.spec.hostname or pod.metadata.name)[:MAX_HOSTNAME_LENGTH].rstrip("-.")


def make_sandbox_settings(
    pod: Pod, *, host_ips: Sequence[str], node_resolv_conf: str, cluster_domain: str, cluster_dns: Sequence[str] = ()
) -> SandboxSettings:
    """What the sandbox of *pod* shall be like.

    Args:
        node_resolv_conf: the text of the node's own ``/etc/resolv.conf``.
        cluster_domain: ``cluster.local``.
    """
    spec = pod.spec
    hostname = pod_hostname(pod)
    domain = f"{hostname}.{spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}" if spec.subdomain else ""
    dns = pod_dns(
        spec.dns_policy,
        host=parse_resolv_conf(node_resolv_conf),
        config=_dns_config(pod),
        namespace=pod.metadata.namespace,
        host_network=spec.host_network,
        cluster_dns=cluster_dns,
        cluster_domain=cluster_domain,
    )
    return SandboxSettings(
        pod_uid=pod.metadata.uid,
        namespace=pod.metadata.namespace,
        name=pod.metadata.name,
        hostname=domain if domain and spec.set_hostname_as_fqdn else hostname,
        domain=domain,
        host_network=spec.host_network,
        host_ipc=spec.host_ipc,
        host_pid=spec.host_pid,
        share_process_namespace=bool(spec.share_process_namespace),
        host_aliases=tuple((alias.ip, alias.hostnames) for alias in spec.host_aliases),
        resolv_conf=resolv_conf(dns),
        sysctls={each.name: each.value for each in spec.security_context.sysctls},
        port_mappings=_port_mappings(spec),
        resources=pod_resources(pod),
        host_ips=tuple(host_ips),
    )


def wants_cluster_dns(pod: Pod) -> bool:
    """Whether *pod* is to have the cluster's DNS. Source: pkg/kubelet/network/dns, getPodDNSType."""
    policy = pod.spec.dns_policy or "ClusterFirst"
    return policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not pod.spec.host_network)


def sandbox_refusal(pod: Pod, *, cluster_domain: str) -> str:
    """Why this node cannot make the sandbox of *pod* at all; empty when it can. The texts are the kubelet's and containerd's.

    A pod that asks for a stronger wall than there is must not run behind a weaker one.
    """
    spec = pod.spec
    if spec.runtime_class_name:
        return f'failed to get sandbox runtime: no runtime for "{spec.runtime_class_name}" is configured'
    if spec.host_users is False:
        return 'can\'t set `spec.hostUsers: false`, RuntimeClass handler "" does not support user namespaces'
    if spec.subdomain and spec.set_hostname_as_fqdn:
        name = f"{pod_hostname(pod)}.{spec.subdomain}.{pod.metadata.namespace}.svc.{cluster_domain}"
        if len(name) > MAX_FQDN_LENGTH:
            return (
                f"Failed to construct FQDN from pod hostname and cluster domain, FQDN {name} is too long "
                f"({MAX_FQDN_LENGTH} characters is the max, {len(name)} characters requested)"
            )
    return ""


def _port_mappings(spec: PodSpec) -> tuple[PortMapping, ...]:
    """Of the regular containers, and of init containers that keep running. Source: kuberuntime, makePortMappings."""
    sidecars = [each for each in spec.init_containers if each.restart_policy == "Always"]
    return tuple(
        PortMapping(
            host_port=port.host_port, container_port=port.container_port, protocol=port.protocol, host_ip=port.host_ip
        )
        for container in (*sidecars, *spec.containers)
        for port in container.ports
        if port.host_port and not spec.host_network
    )


def _dns_config(pod: Pod) -> Dns:
    config = pod.spec.dns_config or {}
    options = config.get("options") or ()
    return Dns(
        nameservers=tuple(str(each) for each in config.get("nameservers") or ()),
        searches=tuple(str(each) for each in config.get("searches") or ()),
        options={str(each.get("name", "")): each.get("value") for each in options},
    )
