"""``kubelet-secrets agent``: the node alone. The process of this command is the keeper (``keeper.py``)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import click

from kubelet_secrets.cli.node_options import audit_journal, default_node_name, node_options
from kubelet_secrets.cli.registration_options import agent_options, registration_options

DEFAULT_ADDRESS = "0.0.0.0"  # as the kubelet: the API server has to reach it
DEFAULT_KUBELET_PORT = 10250
DEFAULT_HEALTHZ_PORT = 10248


@click.command()
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Credentials for the API server, of the identity system:node:<node name>. With --bootstrap-kubeconfig: written when "
    "missing or expired.  [default with --bootstrap-kubeconfig: kubeconfig in the root directory; in a pod: the pod's]",
)
@click.option(
    "--bootstrap-kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Credentials that may ask for a client certificate: a bootstrap token. May be gone once the node has joined.",
)
@click.option(
    "--cert-dir",
    type=click.Path(path_type=Path, file_okay=False),
    default=None,
    help="Where the node's certificates and keys are kept, 0600, and replaced in time.  [default: pki in the root directory]",
)
@click.option(
    "--client-ca-file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="Authority of the client certificates that the kubelet's API accepts, the API server's among them.  [default: the "
    "kubeconfig's, when it has signed the node's own certificate; otherwise tokens only]",
)
@click.option(
    "--rotate-server-certificates",
    is_flag=True,
    help="Ask the cluster for the certificate that the node's own API shows, and replace it in time. It has to be approved.",
)
@registration_options
@node_options
@click.pass_obj
def agent(
    verbose: int | None,
    /,
    kubeconfig: Path | None,
    bootstrap_kubeconfig: Path | None,
    cert_dir: Path | None,
    client_ca_file: Path | None,
    node_name: str | None,
    **node: Any,
) -> None:
    """Run the node: bring Secrets to the pods bound to it, until SIGTERM or Ctrl-C.

    With --bootstrap-kubeconfig it joins first, as a kubelet does: it asks for a client certificate, and waits until the request
    is approved and signed. From then on the certificate is replaced at 70 to 90 % of its life.

    When it stops, its containers are stopped and every mount is gone. Killing the agent process alone (it is a child of this
    one) disturbs no container.
    """
    from kubelet_secrets.keeper import KeeperOptions, run_keeper
    from kubelet_secrets.runtime.cgroups import instance_name

    root_dir, name = Path(os.path.abspath(node["root_dir"])), node_name or default_node_name()
    if kubeconfig is None:
        if bootstrap_kubeconfig is not None:
            kubeconfig = root_dir / "kubeconfig"
        elif "KUBERNETES_SERVICE_HOST" not in os.environ:
            raise click.UsageError("Missing option '--kubeconfig' or '--bootstrap-kubeconfig'")
    elif bootstrap_kubeconfig is None and (kubeconfig.is_dir() or not kubeconfig.exists()):
        raise click.BadParameter(f"File '{kubeconfig}' does not exist.", param_hint="'--kubeconfig'")
    raise SystemExit(
        run_keeper(
            KeeperOptions(
                root_dir=root_dir,
                arguments=_own_arguments(),
                image_dir=Path(os.path.abspath(node["image_dir"])),
                store_size_bytes=node["store_size"],
                store_files=node["store_files"],
                scratch_size_bytes=node["scratch_size"],
                logs_size_bytes=node["logs_size"],
                cgroup_instance=instance_name(name, root_dir),
                agent_options={
                    "kubeconfig": _absolute(kubeconfig),
                    "bootstrap_kubeconfig": _absolute(bootstrap_kubeconfig),
                    "rotates_server_certificates": node["rotate_server_certificates"],
                    "cert_dir": os.path.abspath(cert_dir or root_dir / "pki"),
                    "node_name": name,
                    **agent_options(node),
                    "root_dir": str(root_dir),
                    "image_dir": os.path.abspath(node["image_dir"]),
                    "socket": os.path.abspath(node["socket"]),
                    "runtime": node["runtime"],
                    "change_detection": node["change_detection"],
                    "projects_trust_bundles": node["cluster_trust_bundle_projection"],
                    "emulates_delays": node["emulate_kubelet_delays"],
                    "pod_manifest_path": _absolute(node["pod_manifest_path"]),
                    "store_size_bytes": node["store_size"],
                    "store_files": node["store_files"],
                    "pod_store_size_bytes": node["pod_store_size"],
                    "pod_store_files": node["pod_store_files"],
                    "max_pods": node["max_pods"],
                    "allowed_unsafe_sysctls": list(node["allowed_unsafe_sysctls"]),
                    "cluster_dns": list(node["cluster_dns"]),
                    "cluster_domain": node["cluster_domain"],
                    "resolv_conf": os.path.abspath(node["resolv_conf"]),
                    "eviction_hard": node["eviction_hard"],
                    "image_gc_high_percent": node["image_gc_high_threshold"],
                    "image_gc_low_percent": node["image_gc_low_threshold"],
                    "max_parallel_image_pulls": node["max_parallel_image_pulls"],
                    "registry_qps": node["registry_qps"],
                    "registry_burst": node["registry_burst"],
                    "image_verification": node["image_verification"],
                    "image_allow_list": list(node["image_allow_list"]),
                    "kubelet_address": node["kubelet_address"] or DEFAULT_ADDRESS,
                    "kubelet_port": DEFAULT_KUBELET_PORT if node["kubelet_port"] is None else node["kubelet_port"],
                    "healthz_address": node["healthz_bind_address"],
                    "healthz_port": DEFAULT_HEALTHZ_PORT if node["healthz_port"] is None else node["healthz_port"],
                    "client_ca_file": _absolute(client_ca_file),
                    "cni_conf_dir": _absolute(node["cni_conf_dir"]),
                    "cni_bin_dirs": [os.path.abspath(each) for each in node["cni_bin_dirs"]],
                    "audit_file": _absolute(node["audit_file"]),
                    "audit_journal": audit_journal(node["audit_journal"]),
                    "stop_grace_s": node["stop_grace"],
                    "verbose": verbose or 0,
                },
            )
        )
    )


def _own_arguments() -> tuple[str, ...]:
    """What follows ``agent`` on the command line; before it are options without values."""
    return tuple(sys.argv[sys.argv.index("agent") + 1 :]) if "agent" in sys.argv else ()


def _absolute(path: Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)
