"""Read a kubeconfig file, or a pod's service account, into a ``ClusterConfig``.

Reading and checking only; nothing is sent, no plugin is run (``credentials.py`` does that). Every mistake is a
``UsageError`` that names file and field and quotes no value, for half of the file's values are secret.

Source: k8s.io/client-go/tools/clientcmd (api/v1 types, client_config.go, validation.go), rest.InClusterConfig.
Differs: one file, no merging along ``$KUBECONFIG``; no auth-provider (gone upstream) and no impersonation, for a node is
nobody else.
"""

from __future__ import annotations

import base64
import binascii
import dataclasses
import os
import shutil
import ssl
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import yaml

from kubelet_secrets.api.decode import strip_nulls
from kubelet_secrets.client.kubeconfigdocument import Cluster, Exec, Kubeconfig, User
from kubelet_secrets.client.proxy import Proxy, parse_proxy
from kubelet_secrets.client.tls import make_client_context, split_pem
from kubelet_secrets.errors import UsageError
from kubelet_secrets.sensitive import SensitiveBytes

SERVICE_ACCOUNT_DIR = Path("/var/run/secrets/kubernetes.io/serviceaccount")
EXEC_API_VERSIONS = ("client.authentication.k8s.io/v1", "client.authentication.k8s.io/v1beta1")
_INTERACTIVE_MODES = ("Never", "IfAvailable", "Always")


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecConfig:
    """A credential plugin (client-go "exec" authentication)."""

    command: str  # a path, or a name found on PATH
    args: tuple[str, ...] = ()
    env: tuple[tuple[str, str], ...] = ()
    api_version: str = EXEC_API_VERSIONS[0]
    install_hint: str = ""
    provide_cluster_info: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterConfig:
    """How to reach one API server and as whom."""

    server: str  # "https://10.0.0.1:6443", without a slash at the end
    source: str = "cluster configuration"  # for messages: the file this came from
    ca_pem: bytes = b""
    ca_file: Path | None = None  # where it was read, to be read again when the file changes
    insecure_skip_tls_verify: bool = False
    tls_server_name: str = ""
    proxy: Proxy | None = None  # ``proxy-url``; without it the environment says
    client_cert_pem: bytes = b""
    client_key_pem: SensitiveBytes | None = None
    client_cert_file: Path | None = None  # where the pair was read, to be read again when the file changes
    client_key_file: Path | None = None
    token: SensitiveBytes | None = None
    token_file: Path | None = None  # wins over *token*
    username: str = ""  # basic authentication
    password: SensitiveBytes = field(default_factory=lambda: SensitiveBytes(b""))
    exec: ExecConfig | None = None
    namespace: str = ""  # the context's default namespace

    @property
    def host(self) -> str:
        """``host:port`` as written, for messages."""
        return urlsplit(self.server).netloc


@dataclass(frozen=True, slots=True)
class _Place:
    """A field of a file, for messages: ``/etc/kc.yaml: users[0].user.token``."""

    path: Path
    field: str

    def __truediv__(self, field: str) -> _Place:
        return _Place(self.path, f"{self.field}.{field}")

    def __str__(self) -> str:
        return f"{self.path}: {self.field}"

    def error(self, problem: str) -> UsageError:
        return UsageError(f"{self}: {problem}")


def load_kubeconfig(path: Path, context: str | None = None) -> ClusterConfig:
    """Read *path* and choose *context*, or the file's ``current-context``.

    Raises:
        UsageError: the file cannot be read, is no kubeconfig, or asks for what this client does not do.
    """
    kubeconfig = _parse(path)
    chosen = context if context is not None else kubeconfig.current_context
    if not chosen:
        raise _Place(path, "current-context").error("not set, and no context was asked for")
    index = _find([entry.name for entry in kubeconfig.contexts], chosen, _Place(path, "contexts"), "context")
    wanted = kubeconfig.contexts[index].context
    place = _Place(path, f"contexts[{index}].context")

    index = _find([entry.name for entry in kubeconfig.clusters], wanted.cluster, place / "cluster", "cluster")
    config = _read_cluster(kubeconfig.clusters[index].cluster, _Place(path, f"clusters[{index}].cluster"))
    config = dataclasses.replace(config, namespace=wanted.namespace)
    if wanted.user:
        index = _find([entry.name for entry in kubeconfig.users], wanted.user, place / "user", "user")
        config = _with_user(config, kubeconfig.users[index].user, _Place(path, f"users[{index}].user"))
    return config


def in_cluster_config(
    environment: Mapping[str, str] = os.environ, directory: Path = SERVICE_ACCOUNT_DIR
) -> ClusterConfig:
    """What a pod's own service account says, as ``rest.InClusterConfig``.

    Raises:
        UsageError: this process does not run in a pod, or the token volume is not there.
    """
    host, port = environment.get("KUBERNETES_SERVICE_HOST"), environment.get("KUBERNETES_SERVICE_PORT")
    if not host or not port:
        raise UsageError(
            "unable to load in-cluster configuration, KUBERNETES_SERVICE_HOST and KUBERNETES_SERVICE_PORT must be defined"
        )
    token_file = directory / "token"
    _read_file(token_file, "token")
    netloc = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    namespace = directory / "namespace"
    return ClusterConfig(
        server=f"https://{netloc}",
        source=str(directory),
        ca_pem=_read_file(directory / "ca.crt", "ca.crt"),
        ca_file=directory / "ca.crt",
        token_file=token_file,
        namespace=namespace.read_text(encoding="utf-8").strip() if namespace.exists() else "",
    )


def ssl_context(config: ClusterConfig) -> ssl.SSLContext:
    """A fresh TLS context for *config*; the key goes through memory only.

    Raises:
        UsageError: certificate data cannot be used.
    """
    return make_client_context(
        ca_pem=config.ca_pem,
        client_cert_pem=config.client_cert_pem,
        client_key_pem=config.client_key_pem,
        insecure_skip_verify=config.insecure_skip_tls_verify,
        source=config.source,
    )


def read_again(config: ClusterConfig) -> ClusterConfig:
    """*config* with authority, client certificate and key read again from their files; the same where they have none.

    Raises:
        UsageError: a file cannot be read.
    """
    if config.ca_file is not None:
        config = dataclasses.replace(config, ca_pem=_read_file(config.ca_file, "certificate-authority"))
    if config.client_cert_file is None or config.client_key_file is None:
        return config
    cert, key = _key_pair(
        _read_file(config.client_cert_file, "client-certificate"), _read_file(config.client_key_file, "client-key")
    )
    return dataclasses.replace(config, client_cert_pem=cert, client_key_pem=key)


def _parse(path: Path) -> Kubeconfig:
    text = _read_file(path, "kubeconfig")
    try:
        document = yaml.load(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        # Never str(error): it shows the line, which may be the key.
        line = f", line {error.problem_mark.line + 1}" if error.problem_mark is not None else ""
        raise UsageError(f"{path}{line}: not valid YAML") from None
    except yaml.YAMLError:
        raise UsageError(f"{path}: not valid YAML") from None
    if not isinstance(document, dict) or document.get("kind", "Config") != "Config":
        raise UsageError(f"{path}: kind: not a kubeconfig (kind: Config)")
    try:
        return msgspec.convert(strip_nulls(document), Kubeconfig)
    except msgspec.ValidationError as error:
        raise UsageError(f"{path}: {error}") from None


def _find(names: Sequence[str], wanted: str, place: _Place, what: str) -> int:
    if wanted not in names:
        raise place.error(f'no {what} named "{wanted}" in this file')
    return names.index(wanted)


def _read_cluster(cluster: Cluster, place: _Place) -> ClusterConfig:
    if not cluster.server:
        raise (place / "server").error("required")
    server = cluster.server if "://" in cluster.server else f"https://{cluster.server}"
    try:
        parts = urlsplit(server)
        is_usable = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_usable = False
    if not is_usable or parts.username or parts.query or parts.fragment:
        raise (place / "server").error("not an http or https address")
    proxy = parse_proxy(cluster.proxy_url, str(place / "proxy-url")) if cluster.proxy_url else None
    ca_pem, ca_file = _read_pem(
        cluster.certificate_authority_data, cluster.certificate_authority, place, "certificate-authority"
    )
    if ca_pem and cluster.insecure_skip_tls_verify:
        raise (place / "insecure-skip-tls-verify").error("contradicts certificate-authority")
    return ClusterConfig(
        server=server.rstrip("/"),
        source=str(place.path),
        ca_pem=ca_pem,
        ca_file=ca_file,
        insecure_skip_tls_verify=cluster.insecure_skip_tls_verify,
        tls_server_name=cluster.tls_server_name,
        proxy=proxy,
    )


def _with_user(config: ClusterConfig, user: User, place: _Place) -> ClusterConfig:
    if user.username and (user.token or user.token_file):
        raise (place / "username").error("contradicts token and tokenFile: only one way to authenticate is allowed")
    if user.password and not user.username:
        raise (place / "password").error("without a username")
    if user.auth_provider is not None:
        raise (place / "auth-provider").error("not supported; use an exec plugin")
    if user.impersonate:
        raise (place / "as").error("impersonation is not supported")
    if user.exec is not None and (user.token or user.token_file or user.username):
        raise (place / "exec").error("contradicts token, tokenFile and username")
    cert, cert_file = _read_pem(user.client_certificate_data, user.client_certificate, place, "client-certificate")
    key, key_file = _read_pem(user.client_key_data, user.client_key, place, "client-key")
    if bool(cert) != bool(key):
        missing = "client-key" if cert else "client-certificate"
        raise (place / missing).error("a client certificate and its key come together; this one is missing")
    cert_pem, key_pem = _key_pair(cert, key) if cert else (b"", None)
    token_file = place.path.parent / user.token_file if user.token_file else None
    if token_file is not None:
        _read_file(token_file, f"{place.path}: {place.field}.tokenFile")
    config = dataclasses.replace(
        config,
        client_cert_pem=cert_pem,
        client_key_pem=key_pem,
        client_cert_file=cert_file if cert_file is not None and key_file is not None else None,
        client_key_file=key_file if cert_file is not None else None,
        token=SensitiveBytes(user.token.encode()) if user.token else None,
        token_file=token_file,
        username=user.username,
        password=SensitiveBytes(user.password.encode()),
        exec=_read_exec(user.exec, place / "exec") if user.exec is not None else None,
    )
    if cert:
        ssl_context(config)  # complain now, with the file's name, and not at the first request
    return config


def _key_pair(certificate: bytes, key: bytes) -> tuple[bytes, SensitiveBytes]:
    """The two as they are kept: one file may hold both, and the key must not pass for a certificate, which is not secret.

    What is no certificate stays where it was found: the error will say which field is wrong.
    """
    return split_pem(certificate)[0] or b"(no certificate)", SensitiveBytes(split_pem(key)[1])


def _read_exec(plugin: Exec, place: _Place) -> ExecConfig:
    if plugin.api_version not in EXEC_API_VERSIONS:
        raise (place / "apiVersion").error(f"one of {', '.join(EXEC_API_VERSIONS)} is required")
    # Source: clientcmd, validateAuthInfo; v1beta1 has a default.
    if plugin.interactive_mode not in (*_INTERACTIVE_MODES, *(("",) if plugin.api_version.endswith("beta1") else ())):
        raise (place / "interactiveMode").error(f"one of {', '.join(_INTERACTIVE_MODES)} is required")
    if plugin.interactive_mode == "Always":
        raise (place / "interactiveMode").error("this program has no terminal to lend to a plugin")
    if not plugin.command:
        raise (place / "command").error("required")
    for index, variable in enumerate(plugin.env):
        if not variable.name:
            raise (place / f"env[{index}].name").error("required")
    # A relative path is relative to the file, a bare name is looked up on PATH (client-go, ResolveLocalPaths).
    command = str(place.path.parent / plugin.command) if "/" in plugin.command else plugin.command
    if shutil.which(command) is None:
        hint = f"; {plugin.install_hint}" if plugin.install_hint else ""
        raise (place / "command").error(f'executable "{plugin.command}" not found{hint}')
    return ExecConfig(
        command=command,
        args=tuple(plugin.args),
        env=tuple((variable.name, variable.value) for variable in plugin.env),
        api_version=plugin.api_version,
        install_hint=plugin.install_hint,
        provide_cluster_info=plugin.provide_cluster_info,
    )


def _read_pem(data: str, file: str, place: _Place, field: str) -> tuple[bytes, Path | None]:
    """Inline data wins over a file, as in client-go. Returns the bytes and, when they came from one, the file."""
    if data:
        try:
            return base64.b64decode("".join(data.split()), validate=True), None
        except (binascii.Error, ValueError):
            raise (place / f"{field}-data").error("not base64") from None
    if file:
        path = place.path.parent / file
        return _read_file(path, f"{place.path}: {place.field}.{field}"), path
    return b"", None


def _read_file(path: Path, field: str) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"{field}: cannot read {path}: {(error.strerror or 'error').lower()}") from None
