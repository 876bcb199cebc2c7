"""``kubelet-secrets agent``: the node alone. The process of this command is the keeper (``keeper.py``)."""

from __future__ import annotations

import os
import socket as socket_module
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kubelet_secrets.cli.image import image_dir_option
from kubelet_secrets.cli.registration_options import agent_options, registration_options
from kubelet_secrets.control.protocol import DEFAULT_SOCKET

DEFAULT_ADDRESS = "0.0.0.0"  # as the kubelet: the API server has to reach it
DEFAULT_KUBELET_PORT = 10250
DEFAULT_CNI_BIN_DIRS = ("/opt/cni/bin", "/usr/lib/cni")
DEFAULT_ROOT_DIR = Path("/var/lib/kubelet-secrets")
SMALLEST_STORE_BYTES = 64 * 1024
SMALLEST_STORE_FILES = 100

F = TypeVar("F", bound=Callable[..., Any])


def default_node_name() -> str:
    """The host's name in lower case, as the kubelet takes it. Source: pkg/util/node, GetHostname."""
    return socket_module.gethostname().strip().lower()


def audit_journal(value: str) -> str:
    """``--audit-journal`` with its path made absolute."""
    return value if value in ("auto", "off") else os.path.abspath(value)


class Size(click.ParamType[int]):
    """A number of bytes as Kubernetes writes it: ``512Mi``."""

    name = "size"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        from kubelet_secrets.api.quantity import InvalidQuantity
        from kubelet_secrets.api.quantity import value as whole

        if isinstance(value, int):
            return value
        try:
            size_bytes = whole(value)
        except InvalidQuantity as error:
            self.fail(f"{value!r}: {error}", param, ctx)
        if size_bytes < SMALLEST_STORE_BYTES:
            self.fail(f"{value!r} is less than {SMALLEST_STORE_BYTES} bytes", param, ctx)
        return size_bytes


def _image_patterns(_context: click.Context, option: click.Parameter, patterns: tuple[str, ...]) -> tuple[str, ...]:
    if patterns:
        from kubelet_secrets.runtime.pullrecords import parse_allow_list

        try:
            parse_allow_list(patterns)
        except ValueError as error:
            raise click.BadParameter(str(error), param=option) from None
    return patterns


def _addresses(_context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """IP addresses, also several in one word, as the kubelet takes them."""
    from ipaddress import ip_address

    found = [part for value in values for part in value.split(",") if part]
    for each in found:
        try:
            ip_address(each)
        except ValueError:
            raise click.BadParameter(f"{each!r} is no IP address", param=option) from None
    return tuple(found)


_NODE_OPTIONS = (
    click.option(
        "--node-name",
        "--hostname-override",
        "node_name",
        default=None,
        help="Name of the Node object.  [default: this host's name]",
    ),
    click.option(
        "--root-dir",
        type=click.Path(path_type=Path, file_okay=False, readable=False),
        default=DEFAULT_ROOT_DIR,
        show_default=True,
        help="Where the node's mounts are attached. One agent per directory.",
    ),
    click.option(
        "--socket",
        type=click.Path(path_type=Path, dir_okay=False, readable=False),
        default=Path(DEFAULT_SOCKET),
        envvar="KUBELET_SECRETS_SOCKET",
        show_default=True,
        help="The control socket that env, tree and audit ask.",
    ),
    click.option(
        "--runtime", type=click.Choice(["runc", "crun"]), default="runc", show_default=True, help="The OCI runtime."
    ),
    image_dir_option,
    click.option(
        "--store-size",
        type=Size(),
        default="512Mi",
        show_default=True,
        help="Memory that the files of all Secrets on this node may take, two versions of each while it changes.",
    ),
    click.option(
        "--store-files",
        type=click.IntRange(min=SMALLEST_STORE_FILES),
        default=400_000,
        show_default=True,
        help="How many files, directories and links those may be.",
    ),
    click.option(
        "--pod-store-size",
        type=Size(),
        default="128Mi",
        show_default=True,
        help="Memory that the Secret, ConfigMap and projected volumes of one pod may take.",
    ),
    click.option(
        "--pod-store-files",
        type=click.IntRange(min=SMALLEST_STORE_FILES),
        default=100_000,
        show_default=True,
        help="How many files, directories and links those may be.",
    ),
    click.option(
        "--scratch-size",
        type=Size(),
        default="1Gi",
        show_default=True,
        help="Memory that all containers together may write to their root filesystems.",
    ),
    click.option(
        "--logs-size",
        type=Size(),
        default="256Mi",
        show_default=True,
        help="Memory that the output of all containers may take; of one container the last 10Mi are kept.",
    ),
    click.option(
        "--config-map-and-secret-change-detection-strategy",
        "change_detection",
        type=click.Choice(["Watch", "Cache", "Get"]),
        default="Watch",
        show_default=True,
        help="How changes of Secrets and ConfigMaps are noticed: the kubelet's setting of that name.",
    ),
    click.option(
        "--cluster-trust-bundle-projection",
        is_flag=True,
        help="Project ClusterTrustBundles into volumes: the feature gate of that name, off by default as in the kubelet.",
    ),
    click.option(
        "--emulate-kubelet-delays",
        is_flag=True,
        help="Bring changes to volumes as late as the kubelet does: at a sync of the pod, every 60 to 90 s.",
    ),
    click.option(
        "--pod-manifest-path",
        type=click.Path(path_type=Path),
        default=None,
        help="A directory of static pods, or the file of one: run whether or not the API server answers.",
    ),
    click.option(
        "--max-pods",
        type=click.IntRange(min=1),
        default=110,
        show_default=True,
        help="How many pods this node takes; one more fails as OutOfpods.",
    ),
    click.option(
        "--cluster-dns",
        metavar="IP",
        multiple=True,
        callback=_addresses,
        help="Address of the cluster's DNS service, for pods whose dnsPolicy is ClusterFirst. May be repeated. Without it they "
        "have the node's resolver.",
    ),
    click.option(
        "--cluster-domain",
        default="cluster.local",
        show_default=True,
        help="The cluster's domain: in search lists, and in the names of pods with a subdomain.",
    ),
    click.option(
        "--resolv-conf",
        type=click.Path(path_type=Path, dir_okay=False),
        default="/etc/resolv.conf",
        show_default=True,
        help="The node's resolver configuration, which pods' are made from.",
    ),
    click.option(
        "--allowed-unsafe-sysctls",
        metavar="NAME|PREFIX*",
        multiple=True,
        help="Sysctls that pods may set beside the safe ones. May be repeated.",
    ),
    click.option(
        "--image-gc-high-threshold",
        type=click.IntRange(1, 100),
        default=85,
        show_default=True,
        help="Percent of the image store's disk at which unused images are removed; 100: never. Imported ones stay.",
    ),
    click.option(
        "--image-gc-low-threshold",
        type=click.IntRange(0, 100),
        default=80,
        show_default=True,
        help="Percent of the disk down to which they are.",
    ),
    click.option(
        "--max-parallel-image-pulls",
        type=click.IntRange(min=1),
        default=4,
        show_default=True,
        help="How many images are pulled at the same time. A kubelet pulls one unless told otherwise.",
    ),
    click.option(
        "--registry-qps",
        type=click.FloatRange(min=0),
        default=5,
        show_default=True,
        help="Image pulls a second; 0: any number. More are refused, and tried again later.",
    ),
    click.option(
        "--registry-burst",
        type=click.IntRange(min=1),
        default=10,
        show_default=True,
        help="How many may come at once all the same.",
    ),
    click.option(
        "--image-pull-credentials-verification-policy",
        "image_verification",
        type=click.Choice(
            ["NeverVerify", "NeverVerifyPreloadedImages", "NeverVerifyAllowlistedImages", "AlwaysVerify"]
        ),
        default="NeverVerifyPreloadedImages",
        metavar="POLICY",
        show_default=True,
        help="Which images that are here a pod may use without credentials that could pull them: NeverVerify (all), "
        "NeverVerifyPreloadedImages (imported ones), NeverVerifyAllowlistedImages, AlwaysVerify (none). The kubelet's setting "
        "of that name.",
    ),
    click.option(
        "--preloaded-images-verification-allowlist",
        "image_allow_list",
        metavar="IMAGE|PREFIX/*",
        multiple=True,
        callback=_image_patterns,
        help="Those of NeverVerifyAllowlistedImages, without tags. May be repeated.",
    ),
    click.option(
        "--address",
        "kubelet_address",
        default=None,
        help="Where the kubelet's API (logs, exec, metrics) listens.  [default: 0.0.0.0; for up: 127.0.0.1]",
    ),
    click.option(
        "--kubelet-port",
        type=click.IntRange(0, 65535),
        default=None,
        help="Its port; 0 takes any, the Node object tells which.  [default: 10250; for up: 0]",
    ),
    click.option(
        "--cni-conf-dir",
        type=click.Path(path_type=Path, file_okay=False),
        default=None,
        help="Attach pods to the network whose configuration is first in this directory (a cluster's: /etc/cni/net.d). Without "
        "it a pod has an address that only its own containers reach.",
    ),
    click.option(
        "--cni-bin-dir",
        "cni_bin_dirs",
        type=click.Path(path_type=Path, file_okay=False),
        multiple=True,
        default=DEFAULT_CNI_BIN_DIRS,
        show_default=True,
        help="Where CNI plugins are. May be repeated.",
    ),
    click.option(
        "--audit-file",
        type=click.Path(path_type=Path, dir_okay=False),
        default=None,
        help="Keep a copy of the audit trail in this file, 0600; it holds no values. May be rotated at any time.",
    ),
    click.option(
        "--audit-journal",
        metavar="auto|off|SOCKET",
        default="auto",
        show_default=True,
        help="Send the audit trail to journald. auto: when this runs as a systemd unit that logs there.",
    ),
    click.option(
        "--stop-grace",
        type=click.FloatRange(min=0),
        default=3.0,
        show_default=True,
        help="Seconds that containers get between SIGTERM and SIGKILL when the node itself stops.",
    ),
)


def _absolute(path: Path | None) -> str | None:
    return None if path is None else os.path.abspath(path)


def node_options(command: F) -> F:
    """The options that ``agent`` and ``up`` share."""
    for option in reversed(_NODE_OPTIONS):
        command = option(command)
    return command


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
                    "image_gc_high_percent": node["image_gc_high_threshold"],
                    "image_gc_low_percent": node["image_gc_low_threshold"],
                    "max_parallel_image_pulls": node["max_parallel_image_pulls"],
                    "registry_qps": node["registry_qps"],
                    "registry_burst": node["registry_burst"],
                    "image_verification": node["image_verification"],
                    "image_allow_list": list(node["image_allow_list"]),
                    "kubelet_address": node["kubelet_address"] or DEFAULT_ADDRESS,
                    "kubelet_port": DEFAULT_KUBELET_PORT if node["kubelet_port"] is None else node["kubelet_port"],
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
