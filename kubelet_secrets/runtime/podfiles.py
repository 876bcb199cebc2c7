"""The three files a pod gets in /etc: hosts, resolv.conf, hostname. Pure: texts in, texts out.

Source: pkg/kubelet/kubelet_pods.go (managedHostsFileContent, hostsEntriesFromHostAliases), pkg/kubelet/network/dns/dns.go
(GetPodDNS, appendDNSConfig).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

_MAX_NAMESERVERS = 3
_MAX_SEARCHES = 32

_LOCALHOST = """\
127.0.0.1\tlocalhost
::1\tlocalhost ip6-localhost ip6-loopback
fe00::0\tip6-localnet
fe00::0\tip6-mcastprefix
fe00::1\tip6-allnodes
fe00::2\tip6-allrouters
"""


def hosts_file(
    ips: Sequence[str],
    hostname: str,
    domain: str = "",
    aliases: Sequence[tuple[str, Sequence[str]]] = (),
    *,
    host_network_text: str | None = None,
) -> str:
    """``/etc/hosts`` of a pod.

    Args:
        domain: the pod's fully qualified domain (hostname.subdomain.namespace.svc…); empty without a subdomain.
        aliases: ``spec.hostAliases`` as (ip, names).
        host_network_text: the node's own file, for a pod on the host's network; then the rest but *aliases* is not used.
    """
    if host_network_text is not None:
        text = "# Kubernetes-managed hosts file (host network).\n" + host_network_text
    else:
        text = "# Kubernetes-managed hosts file.\n" + _LOCALHOST
        for ip in ips:
            text += f"{ip}\t{domain}\t{hostname}\n" if domain else f"{ip}\t{hostname}\n"
    if aliases:
        text += "\n# Entries added by HostAliases.\n"
        for ip, names in aliases:
            text += f"{ip}\t" + "\t".join(names) + "\n"
    return text


@dataclass(frozen=True, slots=True, kw_only=True)
class Dns:
    """What a resolv.conf says."""

    nameservers: tuple[str, ...] = ()
    searches: tuple[str, ...] = ()
    options: Mapping[str, str | None] = field(default_factory=dict)


def parse_resolv_conf(text: str) -> Dns:
    """Read a resolv.conf. The last ``search`` line counts; unknown lines do not.

    Source: pkg/kubelet/network/dns, parseResolvConf.
    """
    nameservers: list[str] = []
    searches: list[str] = []
    options: dict[str, str | None] = {}
    for line in text.splitlines():
        words = line.split("#", 1)[0].split(";", 1)[0].split()
        if not words:
            continue
        if words[0] == "nameserver" and len(words) > 1:
            nameservers.append(words[1])
        elif words[0] == "search":
            searches = [word.removesuffix(".") or "." for word in words[1:]]
        elif words[0] == "options":
            for word in words[1:]:
                name, colon, value = word.partition(":")
                options[name] = value if colon else None
    return Dns(nameservers=tuple(nameservers), searches=tuple(searches), options=options)


def pod_dns(
    policy: str,
    *,
    host: Dns,
    config: Dns,
    namespace: str,
    host_network: bool,
    cluster_dns: Sequence[str] = (),
    cluster_domain: str = "",
) -> Dns:
    """What ``spec.dnsPolicy`` and ``spec.dnsConfig`` make of the node's resolver.

    Args:
        policy: ``ClusterFirst`` (the default), ``ClusterFirstWithHostNet``, ``Default`` or ``None``.
        cluster_dns: addresses of the cluster's DNS service; without any, ClusterFirst falls back to Default, as upstream.

    Source: dns.go, getPodDNSType and GetPodDNS.
    """
    first = policy == "ClusterFirstWithHostNet" or (policy == "ClusterFirst" and not host_network)
    if policy == "None":
        base = Dns()
    elif first and cluster_dns:
        searches: tuple[str, ...] = ()
        if cluster_domain:
            searches = (f"{namespace}.svc.{cluster_domain}", f"svc.{cluster_domain}", cluster_domain)
        base = Dns(
            nameservers=tuple(cluster_dns), searches=_distinct((*searches, *host.searches)), options={"ndots": "5"}
        )
    else:
        base = host
    return Dns(
        nameservers=_distinct((*base.nameservers, *config.nameservers))[:_MAX_NAMESERVERS],
        searches=_distinct((*base.searches, *config.searches))[:_MAX_SEARCHES],
        options={**base.options, **config.options},
    )


def resolv_conf(dns: Dns) -> str:
    """The text containerd writes for a sandbox.

    Source: containerd internal/cri/server/podsandbox, parseDNSOptions.
    """
    text = ""
    if dns.searches:
        text += f"search {' '.join(dns.searches)}\n"
    for server in dns.nameservers:
        text += f"nameserver {server}\n"
    if dns.options:
        words = [name if value is None else f"{name}:{value}" for name, value in dns.options.items()]
        text += f"options {' '.join(words)}\n"
    return text


def _distinct(items: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(items))
