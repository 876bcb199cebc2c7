"""Who this client is: a bearer token, a name and password, or a client certificate, and how a fresh one is got.

Called by ``lanes.py`` before each request and after a 401. The sources, as in client-go: a fixed token, a token file read again
every minute, an exec plugin, certificate files (the authority's too) read again when they change, and
:meth:`Credentials.use_key_pair` for a certificate that the node itself had signed (rotation).

Source: k8s.io/client-go transport/token_source.go, plugin/pkg/client/auth/exec/exec.go, transport/cert_rotation.go.
"""

from __future__ import annotations

import base64
import dataclasses
import json
import logging
import os
import ssl
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import msgspec
import trio

from kubelet_secrets.client.kubeconfig import ClusterConfig, ExecConfig, read_again, ssl_context
from kubelet_secrets.errors import ApiUnavailable, UsageError
from kubelet_secrets.sensitive import SensitiveBytes

logger = logging.getLogger(__name__)

_FILE_PERIOD_S = 60  # client-go reads token files again after a minute
PLUGIN_TIMEOUT_S = 60  # a plugin that hangs must not hold up every request for ever


class _ExecStatus(msgspec.Struct, frozen=True, rename="camel"):
    token: str = ""
    client_certificate_data: str = ""
    client_key_data: str = ""
    expiration_timestamp: datetime | None = None


class _ExecCredential(msgspec.Struct, frozen=True, rename="camel"):
    api_version: str = ""
    kind: str = ""
    status: _ExecStatus | None = None


@dataclass(frozen=True, slots=True)
class Authorization:
    """What one request is authorized with."""

    header: str | None = field(repr=False)  # None: the client certificate says it all
    generation: int  # of the credentials; tells :meth:`Credentials.renew` what was refused


class Credentials:
    """The current credential of one :class:`ClusterConfig`.

    Args:
        config: read once; what changes later is kept here.

    Attributes:
        on_key_pair_changed: called, without waiting, when connections must change to another certificate.
    """

    def __init__(self, config: ClusterConfig) -> None:
        self.on_key_pair_changed: Callable[[], None] = lambda: None
        self._config = config
        self._generation = 0  # grows with every change of token or certificate
        self._lock = trio.Lock()  # one plugin run, however many requests want it
        self._expires_at: datetime | None = None if config.exec is None else datetime.min.replace(tzinfo=UTC)
        self._checked_at = float("-inf")
        self._key_pair_stamp = _stamp(config)

    def __repr__(self) -> str:
        return f"<Credentials for {self._config.host}, generation {self._generation}>"

    def make_context(self) -> ssl.SSLContext:
        """A TLS context with the certificate of this moment."""
        return ssl_context(self._config)

    async def authorize(self) -> Authorization:
        """What to send with the next request.

        Raises:
            ApiUnavailable: the plugin failed; it is run again at the next call.
        """
        if self._config.exec is not None:
            if self._is_expired():
                await self.renew(self._generation)
        elif trio.current_time() >= self._checked_at + _FILE_PERIOD_S:
            self._read_files()
        return Authorization(_header(self._config), self._generation)

    async def renew(self, refused_generation: int) -> bool:
        """Get a fresh credential, after a 401 to the one of *refused_generation*. True when it is worth trying again.

        Raises:
            ApiUnavailable: the plugin failed.
        """
        async with self._lock:
            if self._generation == refused_generation:  # else another request has just done it
                if self._config.exec is not None:
                    await self._run_plugin(self._config.exec)
                else:
                    self._read_files()
        return self._generation != refused_generation

    def use_key_pair(self, cert_pem: bytes, key_pem: SensitiveBytes) -> None:
        """Authenticate with this certificate from the next connection on; open ones are drained.

        Raises:
            UsageError: the pair cannot be used; the old one stays.
        """
        self._adopt(dataclasses.replace(self._config, client_cert_pem=cert_pem, client_key_pem=key_pem))

    def _is_expired(self) -> bool:
        return self._expires_at is not None and datetime.now(UTC) >= self._expires_at

    def _read_files(self) -> None:
        """Small local files: not worth a thread. A file that has vanished leaves the last credential in use."""
        self._checked_at = trio.current_time()
        config = self._config
        if config.token_file is not None:
            try:
                config = dataclasses.replace(config, token=SensitiveBytes(config.token_file.read_bytes().strip()))
            except OSError as error:
                logger.warning("cannot read token file %s: %s", config.token_file, error.strerror)
        stamp = _stamp(config)
        if stamp != self._key_pair_stamp:
            try:
                config = read_again(config)
                ssl_context(config)
                self._key_pair_stamp = stamp
            except UsageError as error:
                # Between the two renames of a rotation: the pair fits together at the next look.
                logger.warning("certificates not reloaded: %s", error)
                config = dataclasses.replace(self._config, token=config.token)
        self._adopt(config)

    async def _run_plugin(self, plugin: ExecConfig) -> None:
        status = await run_plugin(self._config, plugin)
        # No await until the end: token, certificate and expiry belong together.
        config = dataclasses.replace(
            self._config, token=SensitiveBytes(status.token.encode("latin-1")) if status.token else None
        )
        if status.client_certificate_data:
            config = dataclasses.replace(
                config,
                client_cert_pem=status.client_certificate_data.encode(),
                client_key_pem=SensitiveBytes(status.client_key_data.encode()),
            )
        self._expires_at = status.expiration_timestamp
        self._adopt(config)

    def _adopt(self, config: ClusterConfig) -> None:
        """Publish *config*; tell the transports when the certificate is another one.

        Raises:
            UsageError: certificate and key cannot be used; nothing has changed.
        """
        has_new_certificate = (config.client_cert_pem, config.ca_pem) != (
            self._config.client_cert_pem,
            self._config.ca_pem,
        )
        if has_new_certificate:
            ssl_context(config)
        if has_new_certificate or config.token != self._config.token:
            self._generation += 1
        self._config = config
        if has_new_certificate:
            self.on_key_pair_changed()


async def run_plugin(config: ClusterConfig, plugin: ExecConfig) -> _ExecStatus:
    """Run a credential plugin and read what it prints.

    Its stderr goes to ours, as in client-go; its stdout is the credential and goes nowhere.

    Raises:
        ApiUnavailable: it failed, or printed no usable credential.
    """
    spec: dict[str, Any] = {"interactive": False}
    if plugin.provide_cluster_info:
        spec["cluster"] = {
            "server": config.server,
            "tls-server-name": config.tls_server_name or None,
            "insecure-skip-tls-verify": config.insecure_skip_tls_verify,
            "certificate-authority-data": msgspec.to_builtins(config.ca_pem) if config.ca_pem else None,
        }
        spec["cluster"] = {key: value for key, value in spec["cluster"].items() if value is not None}
    info = {"apiVersion": plugin.api_version, "kind": "ExecCredential", "spec": spec}
    environment = {**os.environ, **dict(plugin.env), "KUBERNETES_EXEC_INFO": json.dumps(info)}
    try:
        with trio.fail_after(PLUGIN_TIMEOUT_S):
            done = await trio.run_process(
                [plugin.command, *plugin.args],
                stdin=b"",
                capture_stdout=True,
                check=False,
                env=environment,
            )
    except trio.TooSlowError:
        problem = f"executable {plugin.command} took longer than {PLUGIN_TIMEOUT_S} s"
        raise ApiUnavailable(f"getting credentials: exec: {problem}") from None
    except OSError as error:
        hint = f"; {plugin.install_hint}" if plugin.install_hint and isinstance(error, FileNotFoundError) else ""
        raise ApiUnavailable(
            f"getting credentials: exec: {plugin.command}: {(error.strerror or 'cannot be run').lower()}{hint}"
        ) from None
    if done.returncode != 0:
        problem = f"executable {plugin.command} failed with exit code {done.returncode}"
        raise ApiUnavailable(f"getting credentials: exec: {problem}")
    try:
        credential = msgspec.json.decode(done.stdout, type=_ExecCredential)
    except msgspec.MsgspecError:
        raise ApiUnavailable(f"getting credentials: exec: {plugin.command} printed no ExecCredential") from None
    if credential.kind != "ExecCredential" or credential.api_version != plugin.api_version:
        raise ApiUnavailable(
            f"getting credentials: exec plugin is configured to use API version {plugin.api_version}, returned another"
        )
    status = credential.status
    if status is None or not (status.token or status.client_certificate_data):
        raise ApiUnavailable("getting credentials: exec plugin didn't return a token or cert/key pair")
    if bool(status.client_certificate_data) != bool(status.client_key_data):
        raise ApiUnavailable("getting credentials: exec plugin returned only certificate or key, not both")
    return status


def _header(config: ClusterConfig) -> str | None:
    if config.token is not None:
        return f"Bearer {config.token.reveal().decode('latin-1')}"
    if config.username:
        credentials = f"{config.username}:".encode() + config.password.reveal()
        return f"Basic {base64.b64encode(credentials).decode()}"
    return None


def _stamp(config: ClusterConfig) -> tuple[int, ...]:
    """Changes when a certificate file does; empty when there is none, or one is gone."""
    pair = (config.client_cert_file, config.client_key_file)
    paths = [path for path in (config.ca_file, *(pair if None not in pair else ())) if path is not None]
    try:
        stats = [path.stat() for path in paths]
    except OSError:
        return ()
    return tuple(number for stat in stats for number in (stat.st_ino, stat.st_mtime_ns, stat.st_size))
