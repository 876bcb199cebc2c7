"""The agent: builds every part of a node, hands each what it needs, and runs them. The only reader of the options.

::

    run_agent
    ├── audit            folds verdicts, copies them to file and journal
    ├── fusefs session   answers the kernel; nothing else may start before it does, or after it ends
    ├── writer client    orders for later versions
    ├── registration     the Node object; lease beside it
    ├── rotation         of the node's client certificate, where that is ours
    ├── events
    ├── outages          their end is news to all who pause after failures
    ├── secrets, config maps, services, pods    reflectors
    ├── pod manager      one worker (a nursery) per pod
    │   └── worker … volumes, environments, containers, status
    ├── the kubelet's API, and healthz on loopback
    ├── evictor          where thresholds are set
    └── control socket

Stopped inside out: on SIGTERM the pods' containers are stopped first, while the filesystem still answers their last reads.
Killed at any instant: the next agent finds volumes, sandboxes and containers as they are, and goes on.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import trio

from kubelet_secrets.access.bookkeeping import Bookkeeping
from kubelet_secrets.access.guard import ContainerGuard
from kubelet_secrets.access.journal import journal_socket
from kubelet_secrets.access.registry import ContainerRegistry
from kubelet_secrets.access.revocations import RevocationList
from kubelet_secrets.api.core import Taint
from kubelet_secrets.api.evictionsignals import DEFAULT_THRESHOLDS, parse_flag
from kubelet_secrets.api.sources import NodeInfo
from kubelet_secrets.cache.kinds import CONFIG_MAP_KIND, SECRET_KIND
from kubelet_secrets.cache.manager import ObjectManager, Strategy
from kubelet_secrets.client.rest import open_client
from kubelet_secrets.control.server import serve_control
from kubelet_secrets.fusefs import session
from kubelet_secrets.fusefs.athand import AtHand
from kubelet_secrets.fusefs.frontdesk import FrontDesk
from kubelet_secrets.fusefs.handover import Handover
from kubelet_secrets.fusefs.hardening import Hardening
from kubelet_secrets.fusefs.init import parse_init
from kubelet_secrets.fusefs.mounts import StoreKind
from kubelet_secrets.fusefs.operations import Operations
from kubelet_secrets.fusefs.revoker import Revoker
from kubelet_secrets.fusefs.tree import Tree
from kubelet_secrets.fusefs.unanswered import Unanswered
from kubelet_secrets.fusefs.writerclient import WriterClient
from kubelet_secrets.inspection import Inspection
from kubelet_secrets.kubeletapi import server as kubelet_server
from kubelet_secrets.kubeletapi.authn import Authenticator
from kubelet_secrets.kubeletapi.authz import Authorizer
from kubelet_secrets.kubeletapi.configz import configz
from kubelet_secrets.kubeletapi.diskuse import DiskUse
from kubelet_secrets.kubeletapi.healthz import run_healthz
from kubelet_secrets.kubeletapi.metrics import (
    Metric,
    certificate_metrics,
    eviction_metrics,
    identity_metrics,
    node_metrics,
)
from kubelet_secrets.kubeletapi.routes import KubeletRoutes
from kubelet_secrets.kubeletapi.samples import Sampler
from kubelet_secrets.node.bootstrap import Identity, find_identity
from kubelet_secrets.node.certfiles import SERVER, CertificateFiles
from kubelet_secrets.node.certificates import client_template, serving_template
from kubelet_secrets.node.clientauthority import own_authority
from kubelet_secrets.node.facts import MAX_PODS, read_facts
from kubelet_secrets.node.lease import LeaseKeeper
from kubelet_secrets.node.observer import NodeObserver
from kubelet_secrets.node.outage import follow_returns
from kubelet_secrets.node.pressure import read_signals
from kubelet_secrets.node.registration import NodeReporter
from kubelet_secrets.node.rotation import CertificateRotation
from kubelet_secrets.node.serving import open_serving
from kubelet_secrets.node.status import make_node
from kubelet_secrets.node.ttl import NodeTtl
from kubelet_secrets.pod.admitting import Admission
from kubelet_secrets.pod.bundlecache import TrustBundleCache
from kubelet_secrets.pod.events import NORMAL, WARNING, EventRecorder, node_reference
from kubelet_secrets.pod.evictor import Evictor
from kubelet_secrets.pod.garbage import collect_after
from kubelet_secrets.pod.manager import PodManager
from kubelet_secrets.pod.manifestdir import ManifestDirectory
from kubelet_secrets.pod.parts import IMAGE_PULL_BURST, IMAGE_PULL_QPS, NodeParts, wall_clock
from kubelet_secrets.pod.shutdown import stop_everything
from kubelet_secrets.pod.source import PodSource, ServiceCache
from kubelet_secrets.pod.syncing import SyncPolicy
from kubelet_secrets.pod.tokenbucket import TokenBucket
from kubelet_secrets.pod.tokens import TokenManager
from kubelet_secrets.runtime.cgroups import CgroupTree, instance_name
from kubelet_secrets.runtime.cni import CniNetwork
from kubelet_secrets.runtime.hostfacts import probe_cgroups, probe_host
from kubelet_secrets.runtime.imagegc import ImageGcPolicy
from kubelet_secrets.runtime.images import DEFAULT_PARALLEL_PULLS, ImageStore
from kubelet_secrets.runtime.nodekeyring import read_node_keyring, search_paths
from kubelet_secrets.runtime.oci import OciRuntime
from kubelet_secrets.runtime.pullrecords import Verification, VerificationPolicy, parse_allow_list
from kubelet_secrets.runtime.registry import Registry
from kubelet_secrets.runtime.sandbox import SandboxManager
from kubelet_secrets.runtime.tools import find_tools, read_version
from kubelet_secrets.stateformat import claim_format
from kubelet_secrets.volume.layout import PodsLayout
from kubelet_secrets.volume.manager import VolumeManager
from kubelet_secrets.volume.quota import StoreLimits
from kubelet_secrets.volume.store import Store

log = logging.getLogger(__name__)

# Reading and asking for a certificate takes a process; the first seconds belong to the pods.
ROTATION_DELAY_S = 30.0
SERVING_DELAY_S = 3.0
NO_CLUSTER_DNS = ("none",)


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentOptions:
    """What ``kubelet-secrets agent`` passes on through the keeper. Paths are absolute; there is no secret in it."""

    kubeconfig: Path | None  # None: the service account of the pod that this runs in
    bootstrap_kubeconfig: Path | None = None  # to make *kubeconfig* with, where it is missing or has expired
    cert_dir: Path
    node_name: str
    node_labels: dict[str, str] = field(default_factory=dict)  # checked by the command line, as the two below
    node_taints: tuple[Taint, ...] = ()
    node_ips: tuple[str, ...] = ()  # empty: where the default route leaves from
    max_pods: int = MAX_PODS
    root_dir: Path
    image_dir: Path
    socket: Path
    runtime: str = "runc"
    change_detection: Strategy = Strategy.WATCH
    projects_trust_bundles: bool = False  # the gate ClusterTrustBundleProjection
    emulates_delays: bool = False  # objects reach volumes as late as with the kubelet
    pod_manifest_path: Path | None = None  # static pods
    eviction_hard: str | None = None  # checked; None: pressure is told, and nobody is evicted for it
    image_gc_high_percent: int = 85
    image_gc_low_percent: int = 80
    max_parallel_image_pulls: int = DEFAULT_PARALLEL_PULLS
    registry_qps: float = IMAGE_PULL_QPS
    registry_burst: int = IMAGE_PULL_BURST
    image_verification: Verification = Verification.NEVER_VERIFY_PRELOADED  # which present images are free to use
    image_allow_list: tuple[str, ...] = ()  # patterns, checked
    kubelet_address: str = "0.0.0.0"  # the kubelet's own default; every request is authenticated
    kubelet_port: int = 0  # 0: any
    healthz_address: str = "127.0.0.1"
    healthz_port: int = 0  # 0: not served
    rotates_server_certificates: bool = False  # ask the cluster for the certificate that the kubelet's API shows
    client_ca_file: Path | None = (
        None  # who vouches for clients of the kubelet's API; None: who has signed the node's identity
    )
    cni_conf_dir: Path | None = None  # None: pods see nothing but themselves
    cni_bin_dirs: tuple[Path, ...] = ()
    audit_file: Path | None = None  # a durable copy of the audit trail
    audit_journal: str = "auto"  # "off", or the path of journald's socket; "auto": journald's, when we log to it
    stop_grace_s: float = 30.0  # for all containers together, when the node is told to stop
    store_size_bytes: int = 512 << 20  # of the node; the store's own size, where its filesystem has one
    store_files: int = 400_000
    pod_store_size_bytes: int = 128 << 20
    pod_store_files: int = 100_000
    allowed_unsafe_sysctls: tuple[str, ...] = ()
    cluster_dns: tuple[str, ...] = ()  # addresses, or NO_CLUSTER_DNS; without any, ClusterFirst is the node's resolver
    cluster_domain: str = "cluster.local"
    resolv_conf: Path = Path("/etc/resolv.conf")


async def run_agent(options: AgentOptions, handover: Handover, hardening: Hardening) -> None:
    """Be a node until SIGTERM.

    Args:
        handover: the keeper's descriptors; ours from now on.

    Raises:
        UsageError, HostError: what the user has to mend. Nothing was started.
    """
    log.info("agent starts: %s", hardening)
    run_dir = options.root_dir / "run"
    claim_format(run_dir)
    tools = find_tools(options.runtime)
    layout = probe_cgroups()
    cgroups = CgroupTree(instance_name(options.node_name, options.root_dir), layout)
    listeners = await kubelet_server.bind(options.kubelet_address, options.kubelet_port)
    facts = read_facts(
        options.node_name,
        root_dir=options.root_dir,
        runtime_version=f"{options.runtime}://{await read_version(tools.runtime)}",
        ips=options.node_ips,
        max_pods=options.max_pods,
        kubelet_port=kubelet_server.port_of(listeners),
    )
    store = Store(handover.store_fd, limits=_store_limits(options, handover))
    # Kept on the run tmpfs: whom an earlier agent let in must not be refused by the first answer of this one.
    registry = ContainerRegistry(run_dir / "containers.json")
    revocations = RevocationList(run_dir / "revocations.json")
    audit = Bookkeeping(
        run_dir / "audit",
        file=options.audit_file,
        journal=journal_socket(options.audit_journal, os.environ),
        resumed=handover.resume,
        now=wall_clock,
    )
    guard = ContainerGuard(registry, audit.log, revocations=revocations)
    writer = WriterClient(socket.socket(fileno=handover.writer_fd), writer_pid=handover.writer_pid)
    tree = Tree(handover.store_fd, resumed=handover.resume)
    revoker = Revoker(revocations, tree, writer, now=wall_clock)
    front_desk = FrontDesk(tree, guard, writer.is_writer)
    operations = Operations(tree, writer.is_writer, resumed=handover.resume)
    (options.root_dir / "pods").mkdir(mode=0o750, exist_ok=True)
    pods_layout = PodsLayout(options.root_dir / "pods")

    async with AsyncExitStack() as undo:
        undo.callback(audit.close)
        undo.callback(guard.close)
        identity = await _find_identity(options, handover)
        client = await undo.enter_async_context(open_client(identity.config))
        # Services wake pods, and pods read services: the closures meet below, before either runs.
        services = ServiceCache(client, changed=lambda: pods.services_changed())
        trust_bundles = TrustBundleCache(client, changed=lambda: pods.trust_bundles_changed())
        network = _network(options)
        images = ImageStore(
            options.image_dir,
            tools=tools,
            registry=Registry(tools, auth_dir=run_dir, scratch_dir=options.image_dir / "tmp"),
            node_keyring=lambda: read_node_keyring(search_paths(options.root_dir)),
            max_parallel_pulls=options.max_parallel_image_pulls,
            verification=VerificationPolicy(options.image_verification, parse_allow_list(options.image_allow_list)),
        )

        def network_problem() -> str:
            return network.problem() if network is not None else ""

        observer = NodeObserver(
            options.root_dir,
            options.image_dir,
            list_images=lambda: [((*each.repo_digests, *each.names), each.size_bytes) for each in images.list()],
            problems=lambda: [problem] if (problem := network_problem()) else [],
            clock=wall_clock,
            thresholds=DEFAULT_THRESHOLDS if options.eviction_hard is None else parse_flag(options.eviction_hard),
        )
        node = node_reference(options.node_name)
        reporter = NodeReporter(
            client,
            facts,
            clock=wall_clock,
            observe=observer,
            labels=options.node_labels,
            taints=options.node_taints,
            record=lambda reason, message: events.record(node, NORMAL, reason, message),
        )

        def node_info() -> NodeInfo:
            return NodeInfo(
                name=options.node_name,
                allocatable=reporter.allocatable,
                is_ipv6_primary=bool(facts.ips) and ":" in facts.ips[0],
            )

        def node_uid() -> str:
            return reporter.node.metadata.uid if reporter.node is not None else ""

        lease = LeaseKeeper(client, options.node_name, clock=wall_clock, node_uid=node_uid)
        ttl = NodeTtl(client, options.node_name)
        strategy = options.change_detection
        secrets = ObjectManager(client, SECRET_KIND, strategy=strategy, ttl_s=lambda: ttl.ttl_s)
        config_maps = ObjectManager(client, CONFIG_MAP_KIND, strategy=strategy, ttl_s=lambda: ttl.ttl_s)
        events = EventRecorder(client, node_name=options.node_name, clock=wall_clock)
        runtime = OciRuntime(
            run_dir, tools=tools, host=probe_host(layout), cgroups=cgroups, pods_dir=pods_layout.pods_dir
        )
        parts = NodeParts(
            client=client,
            secrets=secrets,
            config_maps=config_maps,
            volumes=VolumeManager(store, pods_layout, writer, remover=tree, withdrawal=revoker),
            runtime=runtime,
            sandboxes=SandboxManager(run_dir, cgroups=cgroups, network=network),
            images=images,
            cgroups=cgroups,
            registry=registry,
            admission=Admission(
                client,
                known=lambda: reporter.node or make_node(facts, now=wall_clock()),
                info=node_info,
                allowed_sysctls=options.allowed_unsafe_sysctls,
                pressures=lambda: observer.pressures if options.eviction_hard else (),
            ),
            events=events,
            tokens=TokenManager(client, clock=wall_clock),
            services=lambda: services.services,
            trust_bundles=trust_bundles if options.projects_trust_bundles else None,
            node=node_info,
            node_uid=node_uid,
            host_ips=facts.ips,
            memory_bytes=facts.memory_bytes,
            sync_policy=SyncPolicy(emulates_delays=options.emulates_delays, polls=strategy is not Strategy.WATCH),
            logs_dir=run_dir / "logs",
            network_problem=network_problem,
            seccomp_dir=options.root_dir / "seccomp",
            cluster_dns=() if options.cluster_dns == NO_CLUSTER_DNS else options.cluster_dns,
            is_cluster_dns_missing=not options.cluster_dns,
            cluster_domain=options.cluster_domain,
            resolv_conf=options.resolv_conf,
            image_pull_rate=TokenBucket(options.registry_qps, options.registry_burst),
        )
        pods = PodManager(parts)
        collector = parts.images.collector(
            ImageGcPolicy(
                high_threshold_percent=options.image_gc_high_percent, low_threshold_percent=options.image_gc_low_percent
            ),
            report=lambda reason, message: events.record(node, WARNING, reason, message),
        )
        inspection = Inspection(
            node_name=options.node_name,
            root_dir=str(options.root_dir),
            resumed=handover.resume,
            pods=pods,
            parts=parts,
            store=store,
            audit=audit,
            revocations=revocations,
            revoker=revoker,
        )

        rotations: dict[str, CertificateRotation] = {}
        evictor = Evictor(
            parts,
            pods,
            parse_flag(options.eviction_hard or ""),
            observe=lambda: read_signals(options.root_dir, options.image_dir),
            reclaim=collector.collect_all,
        )

        def upkeep() -> list[Metric]:
            ends = {kind: each.expires_at for kind, each in rotations.items()}
            now = wall_clock()
            lives_s = {kind: (end - now).total_seconds() if end is not None else None for kind, end in ends.items()}
            failures = {kind: each.failures for kind, each in rotations.items()}
            return [*certificate_metrics(lives_s, failures), *eviction_metrics(evictor.evictions)]

        async def serve_kubelet() -> None:
            if options.client_ca_file is not None:
                ca_pem = options.client_ca_file.read_bytes()
            else:
                ca_pem = own_authority(identity.config)
            names = [facts.hostname, *facts.ips]
            files = CertificateFiles(options.cert_dir, SERVER) if options.rotates_server_certificates else None
            serving = await open_serving(options.node_name, names, client_ca_pem=ca_pem, files=files)
            routes = KubeletRoutes(
                pods,
                parts,
                authenticator=Authenticator(client),
                authorizer=Authorizer(client, options.node_name),
                gather=lambda: [
                    *identity_metrics(options.node_name, facts.kubelet_version),
                    *node_metrics(handover.store_fd, audit_records=audit.log.head.seq, lost_events=events.dropped),
                    *upkeep(),
                ],
                sampler=Sampler(
                    node_name=options.node_name,
                    cgroups=cgroups,
                    views=pods.views,
                    root_dir=options.root_dir,
                    image_dir=options.image_dir,
                    scratch_dir=run_dir / "scratch",
                    logs_dir=run_dir / "logs",
                    images_bytes=lambda: sum(each.size_bytes for each in images.list()),
                    clock=wall_clock,
                ),
                disk_use=DiskUse(views=pods.views, places=pods.places),
                configuration=configz(
                    options, port=facts.kubelet_port, rotates_certificates=identity.files is not None
                ),
                record=audit.log.note,
            )
            async with trio.open_nursery() as nursery:
                if files is not None:
                    rotations["server"] = rotation = CertificateRotation(
                        "serving certificate",
                        client,
                        # Who approves it looks at the Node's addresses, so there has to be a Node.
                        lambda: serving_template(options.node_name, names) if reporter.node is not None else None,
                        files,
                        serving.use,
                        clock=wall_clock,
                    )
                    nursery.start_soon(partial(rotation.run, delay_s=SERVING_DELAY_S))
                await kubelet_server.serve(listeners, serving.context, routes)

        async with trio.open_nursery() as base:
            base.start_soon(audit.run)
            device = (handover.fuse_fd, handover.init_request)
            can_resend = parse_init(handover.init_request).can_resend
            serve = partial(
                session.serve,
                resume=handover.resume,
                unanswered=None if can_resend else Unanswered(handover.store_fd, size_bytes=session.REQUEST_BYTES),
                at_hand=AtHand(run_dir / "at-hand", resumed=handover.resume),
                tell_alive=handover.tell_alive,
            )
            await base.start(serve, *device, front_desk, operations)
            await base.start(writer.run)
            await revoker.resume()
            with trio.open_signal_receiver(signal.SIGTERM) as signals:
                async with trio.open_nursery() as working:
                    working.start_soon(_cancel_on_signal, signals, working.cancel_scope)
                    listen = partial(serve_control, options.socket, inspection.handlers, takes_over=handover.resume)
                    await base.start(partial(listen, may_ask=guard.may_ask))
                    working.start_soon(partial(reporter.run, task_status=trio.TASK_STATUS_IGNORED))
                    working.start_soon(lease.run)
                    if identity.files is not None:
                        rotations["client"] = rotation = CertificateRotation(
                            "client certificate",
                            client,
                            lambda: client_template(options.node_name),
                            identity.files,
                            lambda pair: client.use_key_pair(pair.certificate_pem, pair.key_pem),
                            clock=wall_clock,
                            bootstrap=identity.bootstrap,
                        )
                        working.start_soon(partial(rotation.run, delay_s=ROTATION_DELAY_S))
                    if strategy is Strategy.CACHE:
                        working.start_soon(ttl.run)
                    for service in (events, secrets, config_maps, pods):
                        await working.start(service.run)
                    working.start_soon(services.run)
                    working.start_soon(serve_kubelet)
                    if options.healthz_port:
                        working.start_soon(run_healthz, options.healthz_address, options.healthz_port)
                    working.start_soon(collector.run)
                    if options.eviction_hard:
                        working.start_soon(evictor.run)
                    working.start_soon(collect_after, pods)
                    if options.projects_trust_bundles:
                        working.start_soon(trust_bundles.run)
                    if options.pod_manifest_path is not None:
                        manifests = ManifestDirectory(
                            options.pod_manifest_path,
                            node_name=options.node_name,
                            sink=pods.static_pods_read,
                            clock=wall_clock,
                        )
                        manifests.look()  # before the API's pods are synced: what runs of these is no orphan
                        working.start_soon(manifests.run)
                    source = PodSource(client, options.node_name, pods)
                    working.start_soon(source.run)
                    pausing = (source, services, events, reporter, trust_bundles)
                    working.start_soon(follow_returns, client, [pods.api_reached, *(each.nudge for each in pausing)])
                    handover.tell_ready()
                await stop_everything(parts, grace_s=options.stop_grace_s)
                await audit.end()
            base.cancel_scope.cancel()


async def _find_identity(options: AgentOptions, handover: Handover) -> Identity:
    """The node's kubeconfig. May take as long as somebody takes to approve a request: no sign that this process hangs."""

    async def say_alive() -> None:
        while True:
            handover.tell_alive()
            await trio.sleep(session.ALIVE_INTERVAL_S)

    async with trio.open_nursery() as waiting:
        waiting.start_soon(say_alive)
        identity = await find_identity(
            kubeconfig=options.kubeconfig,
            bootstrap_kubeconfig=options.bootstrap_kubeconfig,
            cert_dir=options.cert_dir,
            node_name=options.node_name,
            clock=wall_clock,
            is_resumed=handover.resume,
        )
        waiting.cancel_scope.cancel()
    return identity


def _store_limits(options: AgentOptions, handover: Handover) -> StoreLimits:
    """A tmpfs keeps the node's limits itself, to the byte and at no cost; a ramfs has none."""
    is_unlimited = handover.store_kind == StoreKind.RAMFS.value
    return StoreLimits(
        node_bytes=options.store_size_bytes if is_unlimited else None,
        node_inodes=options.store_files if is_unlimited else None,
        pod_bytes=options.pod_store_size_bytes,
        pod_inodes=options.pod_store_files,
    )


def _network(options: AgentOptions) -> CniNetwork | None:
    return CniNetwork(options.cni_conf_dir, options.cni_bin_dirs) if options.cni_conf_dir is not None else None


async def _cancel_on_signal(signals: AsyncIterator[int], scope: trio.CancelScope) -> None:
    async for _ in signals:
        scope.cancel()
        return
