"""Options that ``agent`` and ``up`` share: what the node is called, where it keeps what, how much it may take, how it serves.

Those about images are ``image_options``', those about the Node object ``registration_options``'.
"""

from __future__ import annotations

import os
import socket as socket_module
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click

from kubelet_secrets.cli.image import image_dir_option
from kubelet_secrets.cli.image_options import IMAGE_OPTIONS
from kubelet_secrets.control.protocol import DEFAULT_SOCKET

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


def _addresses(_context: click.Context, option: click.Parameter, values: tuple[str, ...]) -> tuple[str, ...]:
    """IP addresses, also several in one word, as the kubelet takes them; or "none" alone."""
    from ipaddress import ip_address

    found = [part for value in values for part in value.split(",") if part]
    if found == ["none"]:
        return ("none",)
    for each in found:
        try:
            ip_address(each)
        except ValueError:
            raise click.BadParameter(f"{each!r} is no IP address", param=option) from None
    return tuple(found)


def _thresholds(_context: click.Context, option: click.Parameter, value: str | None) -> str | None:
    from kubelet_secrets.api.evictionsignals import InvalidThreshold, parse_flag

    try:
        parse_flag(value or "")
    except InvalidThreshold as error:
        raise click.BadParameter(str(error), param=option) from None
    return value


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
        metavar="IP|none",
        multiple=True,
        callback=_addresses,
        help="Address of the cluster's DNS service, for pods whose dnsPolicy is ClusterFirst. May be repeated. Without it they "
        "have the node's resolver, and an event MissingClusterDNS says so; none: it does not.  [for up: none]",
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
        "--eviction-hard",
        metavar="SIGNAL<AMOUNT,…",
        default=None,
        callback=_thresholds,
        help="Evict pods when the node falls below one of these: memory.available<100Mi,nodefs.available<10%. Other signals: "
        "nodefs.inodesFree, imagefs.available, imagefs.inodesFree, pid.available.  [default: pressure is told by the Node's "
        "conditions, at the kubelet's thresholds, and nobody is evicted]",
    ),
    *IMAGE_OPTIONS,
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
        "--healthz-bind-address",
        default="127.0.0.1",
        show_default=True,
        help="Where /healthz is answered to anybody who asks.",
    ),
    click.option(
        "--healthz-port",
        type=click.IntRange(0, 65535),
        default=None,
        help="Its port; 0 switches it off. One that is taken is waited for.  [default: 10248; for up: 0]",
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


def node_options(command: F) -> F:
    """The options that ``agent`` and ``up`` share."""
    for option in reversed(_NODE_OPTIONS):
        command = option(command)
    return command
