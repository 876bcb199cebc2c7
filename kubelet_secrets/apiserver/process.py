"""The embedded API server as one task: builds its parts, runs them, and hands out how to reach it.

The composition root of this room: the only module that knows all of it. Called by ``cli/apiserver.py`` and, in process, by
tests.

::

    serve_apiserver
    ├── storage (the journal's writer, with a data directory)
    ├── compaction of old revisions
    ├── encryption configuration and its plugins (when something is encrypted)
    ├── node monitor, garbage collector, quotas, tokens in Secrets
    ├── controllers
    ├── joining: certificates are approved and signed
    └── listener
        └── connections … watches
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import trio

from kubelet_secrets.apiserver import pki, protobuf_form
from kubelet_secrets.apiserver.account_authn import ServiceAccountAuthenticator
from kubelet_secrets.apiserver.admission import Chain, NamespaceLifecycle, ObjectRules, ServiceAccounts
from kubelet_secrets.apiserver.authn import (
    PUBLIC_PATHS,
    Authenticators,
    CertificateAuthenticator,
    StaticToken,
    TokenAuthenticator,
)
from kubelet_secrets.apiserver.authz import Authorizers, HealthPaths, PrivilegedGroups
from kubelet_secrets.apiserver.bootstrap_authn import BootstrapTokenAuthenticator
from kubelet_secrets.apiserver.controllers import Controllers
from kubelet_secrets.apiserver.csr_admission import (
    CertificateApproval,
    CertificateSigning,
    CertificateSubjectRestriction,
)
from kubelet_secrets.apiserver.encryption import TransformerFor, TransformError, plain
from kubelet_secrets.apiserver.encryption_source import EncryptionSource, default_file, open_source
from kubelet_secrets.apiserver.escalation import RbacEscalation
from kubelet_secrets.apiserver.garbage_collector import GarbageCollector
from kubelet_secrets.apiserver.general_routes import general_routes
from kubelet_secrets.apiserver.joining import run_joining
from kubelet_secrets.apiserver.journal import open_journal
from kubelet_secrets.apiserver.keycount import KeyUse, count_keys
from kubelet_secrets.apiserver.kubelet_client import KubeletClient
from kubelet_secrets.apiserver.negotiation import JSON
from kubelet_secrets.apiserver.node_authorizer import NodeAuthorizer
from kubelet_secrets.apiserver.node_graph import NodeGraph
from kubelet_secrets.apiserver.node_monitor import NodeMonitor
from kubelet_secrets.apiserver.node_proxy import NodeProxy
from kubelet_secrets.apiserver.node_restriction import NodeRestriction
from kubelet_secrets.apiserver.pki import CertificateAuthority
from kubelet_secrets.apiserver.pod_admission import DefaultTolerationSeconds, Priority
from kubelet_secrets.apiserver.pod_streams import PodStreams
from kubelet_secrets.apiserver.pod_tunnels import PodTunnels
from kubelet_secrets.apiserver.protobuf_form import ProtobufForm
from kubelet_secrets.apiserver.quota_admission import ResourceQuota
from kubelet_secrets.apiserver.quota_controller import QuotaController
from kubelet_secrets.apiserver.rbac_authorizer import RbacAuthorizer
from kubelet_secrets.apiserver.registry import Registry
from kubelet_secrets.apiserver.resources import SERVED
from kubelet_secrets.apiserver.reviews import Reviews
from kubelet_secrets.apiserver.role_controller import ensure_default_roles
from kubelet_secrets.apiserver.routes import ApiApplication
from kubelet_secrets.apiserver.server import listen
from kubelet_secrets.apiserver.service_addresses import OWN_NAMES, ServiceAddresses, kubernetes_service
from kubelet_secrets.apiserver.storage import Storage
from kubelet_secrets.apiserver.storagepaths import prefix_of
from kubelet_secrets.apiserver.stored import open_object
from kubelet_secrets.apiserver.subresources import Subresources
from kubelet_secrets.apiserver.token_secrets import TokenSecrets
from kubelet_secrets.apiserver.tokens import TokenIssuer, load_issuer
from kubelet_secrets.apiserver.watch import WatchHub
from kubelet_secrets.errors import HostError
from kubelet_secrets.sensitive import SensitiveBytes

log = logging.getLogger(__name__)

COMPACTION_INTERVAL_S = 300.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """What the server is told at start."""

    host: str = "127.0.0.1"
    port: int = 0  # 0: whatever is free
    names: tuple[str, ...] = ()  # more names and addresses for the serving certificate
    tokens: tuple[StaticToken, ...] = ()  # static bearer tokens, for tests
    allows_anonymous: bool = False  # hear requests without credentials everywhere, not only on public paths
    encryption_config: Path | None = None  # None: with a data directory a generated key, in memory nothing
    encryption_reloads: bool = False  # follow changes of that file
    transformer_for: TransformerFor | None = None  # instead of all that, for tests
    local_node: str = ""  # the node of this machine, whose kubelet listens on loopback
    runs_scheduler: bool = True  # binds pods without a node to the one that is Ready
    storage_media_type: str = JSON  # or protobuf_form.MEDIA_TYPE: what is stored, before it is encrypted
    data_dir: Path | None = None  # None: everything in memory, gone with the server


@dataclass(frozen=True, slots=True)
class ServerHandle:
    """How to reach a running server, and how to stop it."""

    url: str  # "https://127.0.0.1:6443"
    port: int
    authority: CertificateAuthority
    registry: Registry  # in process, past authentication and authorization
    _shutdown: trio.Event

    @property
    def ca_pem(self) -> bytes:
        return self.authority.certificate_pem

    def admin_kubeconfig(self) -> SensitiveBytes:
        """A kubeconfig that may do everything."""
        return pki.kubeconfig(self.url, self.ca_pem, self.authority.issue_admin())

    def node_kubeconfig(self, node_name: str) -> SensitiveBytes:
        """A kubeconfig with the identity of one node."""
        client = self.authority.issue_node(node_name)
        return pki.kubeconfig(self.url, self.ca_pem, client, user=f"system:node:{node_name}")

    def client_kubeconfig(self, user: str, groups: Sequence[str] = ()) -> SensitiveBytes:
        """A kubeconfig for anybody."""
        return pki.kubeconfig(self.url, self.ca_pem, self.authority.issue_client(user, groups), user=user)

    def shut_down(self) -> None:
        """Stop: watches end, requests get a moment, then the server's task returns."""
        self._shutdown.set()


async def serve_apiserver(
    options: ServerOptions, *, task_status: trio.TaskStatus[ServerHandle] = trio.TASK_STATUS_IGNORED
) -> None:
    """Run the API server until it is cancelled or told to shut down.

    ``task_status.started`` gets the :class:`ServerHandle` once the server is listening and its namespaces exist.

    Raises:
        HostError: the port is in use, the data directory cannot be used, or its pods cannot be decrypted.
        UsageError: the encryption configuration, naming the file.

    Cancellation: connections are dropped; what was acknowledged is in the store.
    """
    if options.data_dir is None:
        encryption = await _open_encryption(options, options.encryption_config)
        # Revisions begin at the time of day: those of a former in-memory server are older, so its clients list again.
        # In microseconds: no server makes as many writes as its life has of them.
        first_revision = time.time_ns() // 1_000
        storage = Storage(transformer_for=_transformer_for(options, encryption), first_revision=first_revision)
        await _serve(options, storage, encryption, CertificateAuthority.create(), TokenIssuer.create(), task_status)
        return
    with closing(open_journal(options.data_dir)) as journal:
        encryption = await _open_encryption(options, _encryption_file(options, options.data_dir))
        storage = Storage(journal=journal, transformer_for=_transformer_for(options, encryption))
        journal.load_into(storage)
        directory = options.data_dir / "pki"
        await _serve(options, storage, encryption, pki.load_authority(directory), load_issuer(directory), task_status)


def _encryption_file(options: ServerOptions, directory: Path) -> Path | None:
    if options.transformer_for is not None:
        return None
    return options.encryption_config or default_file(directory)


async def _open_encryption(options: ServerOptions, path: Path | None) -> EncryptionSource | None:
    if path is None or options.transformer_for is not None:
        return None
    return await open_source(path, reloads=options.encryption_reloads)


def _transformer_for(options: ServerOptions, encryption: EncryptionSource | None) -> TransformerFor:
    found = options.transformer_for or plain if encryption is None else encryption.transformer_for
    if options.storage_media_type == protobuf_form.MEDIA_TYPE:
        return lambda plural: ProtobufForm(found(plural))
    return found


async def _serve(
    options: ServerOptions,
    storage: Storage,
    encryption: EncryptionSource | None,
    authority: CertificateAuthority,
    issuer: TokenIssuer,
    task_status: trio.TaskStatus[ServerHandle],
) -> None:
    hub = WatchHub(storage)
    graph = NodeGraph()
    for record in storage.records(prefix_of("pods")):
        try:
            graph.set_pod(record.key, (await open_object(storage, record)).value)
        except TransformError as error:
            # What nodes may read follows from the pods: without them the server would refuse everything.
            raise HostError(f'unable to transform key "{record.key}": {error}') from None
    storage.add_listener(graph.observe)
    rbac = RbacAuthorizer()
    await rbac.load(storage)
    storage.add_listener(rbac.observe)
    authorizers = Authorizers((PrivilegedGroups(), NodeAuthorizer(graph), rbac, HealthPaths()))
    chain = Chain(
        (
            *(ServiceAccounts(), Priority(), DefaultTolerationSeconds(), ServiceAddresses()),
            *(NamespaceLifecycle(), NodeRestriction()),
            *(CertificateApproval(authorizers), CertificateSigning(authorizers), CertificateSubjectRestriction()),
            *(RbacEscalation(rbac, authorizers), ObjectRules(), ResourceQuota()),
        )
    )
    registry = Registry(storage, hub, chain)
    chain.bind(registry)
    shutdown = trio.Event()
    names = ("localhost", "127.0.0.1", "::1", *sorted(OWN_NAMES))
    serving = authority.issue_server((*names, options.host, *options.names))
    listener = await listen(options.host, options.port, pki.server_context(serving, authority.certificate_pem))
    host = f"[{options.host}]" if ":" in options.host else options.host
    url = f"https://{host}:{listener.port}"
    accounts = ServiceAccountAuthenticator(issuer, registry)
    bootstrap = BootstrapTokenAuthenticator(registry)
    authenticators = Authenticators(
        (CertificateAuthenticator(), TokenAuthenticator(options.tokens), accounts, bootstrap),
        anonymous_paths=None if options.allows_anonymous else PUBLIC_PATHS,
    )
    kubelets = KubeletClient(registry, authority, local_node=options.local_node)
    application = ApiApplication(
        registry,
        Subresources(registry, issuer),
        Reviews(authenticators, authorizers, rbac, issuer),
        authenticators,
        authorizers,
        general_routes(lambda: not shutdown.is_set(), issuer, url, partial(_count_keys, storage, encryption)),
        PodStreams(registry, kubelets),
        PodTunnels(registry, kubelets),
        NodeProxy(kubelets),
    )
    handle = ServerHandle(url, listener.port, authority, registry, shutdown)
    try:
        async with trio.open_nursery() as nursery:
            await nursery.start(storage.run)
            nursery.start_soon(compact_old_revisions, storage)
            await ensure_default_roles(registry)
            if encryption is not None:
                nursery.start_soon(encryption.run)
            nursery.start_soon(NodeMonitor(registry).run)
            await nursery.start(GarbageCollector(registry).run)
            nursery.start_soon(QuotaController(registry).run)
            nursery.start_soon(TokenSecrets(registry, issuer, authority.certificate_pem).run)
            own_service = kubernetes_service(listener.port)
            controllers = Controllers(registry, authority.certificate_pem, own_service, options.runs_scheduler)
            await nursery.start(controllers.run)
            await nursery.start(run_joining, registry, authorizers, authority, url)
            log.info("API server listening on %s", handle.url)
            task_status.started(handle)
            await listener.serve(application, shutdown, hub.close, serve_upgrade=application.serve_upgrade)
            nursery.cancel_scope.cancel()
    finally:
        await listener.aclose()


def _count_keys(storage: Storage, encryption: EncryptionSource | None) -> list[KeyUse]:
    stored = (
        (record.key, record.stored)
        for plural in {row.plural for row in SERVED}
        for record in storage.records(prefix_of(plural))
        if record.stored is not None
    )
    return count_keys(stored, encryption.configuration if encryption is not None else None)


async def compact_old_revisions(storage: Storage) -> None:
    """Forget revisions after five to ten minutes, as kube-apiserver makes etcd do."""
    revision = storage.revision
    while True:
        await trio.sleep(COMPACTION_INTERVAL_S)
        storage.compact(revision)
        revision = storage.revision


def write_kubeconfig(path: Path, content: SensitiveBytes) -> None:
    """Write a kubeconfig as :func:`pki.write_private` does."""
    pki.write_private(path, content)
