"""The encryption in force: a configuration file turned into transformers, followed when it changes, its plugins kept warm.

Without a file, a server that keeps its objects on disk makes one beside them (:func:`default_file`). Called by ``process.py``.
Not here: the file's meaning (``encryptionconfig.py``), ciphers (``encryption_providers.py``), plugins (``kms.py``).

Source: k8s.io/apiserver pkg/server/options/encryptionconfig (config.go, controller/controller.go). Differs: the file is looked
at every two seconds instead of through inotify and once a minute.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import os
from dataclasses import dataclass
from pathlib import Path

import trio
import yaml

from kubelet_secrets.apiserver import encryptionconfig, pki
from kubelet_secrets.apiserver.encryption import Identity, Transformer, TransformError
from kubelet_secrets.apiserver.encryption_providers import make_transformer
from kubelet_secrets.apiserver.encryptionconfig import EncryptionConfiguration, KmsProvider
from kubelet_secrets.apiserver.kms import KmsTransformer
from kubelet_secrets.apiserver.kms_client import KmsClient
from kubelet_secrets.apiserver.resources import SERVED
from kubelet_secrets.errors import HostError, UsageError
from kubelet_secrets.sensitive import SensitiveBytes

log = logging.getLogger(__name__)

DEFAULT_FILE = "encryption.yaml"
FILE_INTERVAL_S = 2.0
HEALTHY_INTERVAL_S, UNHEALTHY_INTERVAL_S = 60.0, 10.0
_IDENTITY = Identity()


@dataclass(frozen=True, slots=True)
class _Active:
    """One configuration at work; replaced as a whole."""

    digest: bytes  # of the file's content
    configuration: EncryptionConfiguration
    transformers: dict[str, Transformer]  # by plural; a resource that is not configured is not in it
    plugins: tuple[KmsTransformer, ...]


class EncryptionSource:
    """See the module's text. Made by :func:`open_source`.

    Args:
        path: the configuration file.
        reloads: follow its changes.
    """

    def __init__(self, path: Path, active: _Active, *, reloads: bool) -> None:
        self._path = path
        self._active = active
        self._reloads = reloads
        self._last_problem = ""

    def transformer_for(self, plural: str) -> Transformer:
        """The transformer of a resource as of now. Pass this method as a ``TransformerFor``."""
        return self._active.transformers.get(plural, _IDENTITY)

    @property
    def configuration(self) -> EncryptionConfiguration:
        """The configuration in force."""
        return self._active.configuration

    async def run(self) -> None:
        """Follow the file and the plugins' health until cancelled."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._poll_plugins)
            if self._reloads:
                nursery.start_soon(self._poll_file)

    async def _poll_file(self) -> None:
        while True:
            await trio.sleep(FILE_INTERVAL_S)
            await self.check_file()

    async def check_file(self) -> None:
        """Take a changed file over if it is valid and its plugins are healthy; else keep what is in force and say so, once.

        Cancellation: the old configuration or the new one is in force.
        """
        try:
            content = encryptionconfig.read_content(self._path)
            if _digest(content) == self._active.digest:
                self._last_problem = ""
                return
            active = _activate(encryptionconfig.parse_configuration(content, str(self._path), reloads=True), content)
            for plugin in active.plugins:
                await plugin.refresh()
        except (UsageError, TransformError) as error:
            problem = str(error)
            if problem != self._last_problem:
                log.error("the encryption configuration in force is kept: %s", problem)
            self._last_problem = problem
            return
        self._active = active
        self._last_problem = ""
        log.info("encryption configuration reloaded from %s", self._path)

    async def _poll_plugins(self) -> None:
        healthy = True
        while True:
            await trio.sleep(HEALTHY_INTERVAL_S if healthy else UNHEALTHY_INTERVAL_S)
            healthy = await refresh_plugins(self._active.plugins)


async def refresh_plugins(plugins: tuple[KmsTransformer, ...]) -> bool:
    """Refresh every plugin, and log those that are not healthy. Returns whether all are."""
    healthy = True
    for plugin in plugins:
        try:
            await plugin.refresh()
        except TransformError as error:
            healthy = False
            log.warning("%s", error)
    return healthy


async def open_source(path: Path, *, reloads: bool = False) -> EncryptionSource:
    """Read the configuration, and ask its plugins once.

    A plugin that is not there yet is logged, not fatal: its values cannot be read or written until it is, as upstream.

    Raises:
        UsageError: naming the file.
    """
    content = encryptionconfig.read_content(path)
    active = _activate(encryptionconfig.parse_configuration(content, str(path), reloads=reloads), content)
    await refresh_plugins(active.plugins)
    return EncryptionSource(path, active, reloads=reloads)


def _activate(configuration: EncryptionConfiguration, content: bytes) -> _Active:
    plugins: dict[KmsProvider, KmsTransformer] = {
        provider: KmsTransformer(provider.name, KmsClient(provider.endpoint, provider.timeout_s))
        for provider in configuration.kms_providers()
    }
    transformers: dict[str, Transformer] = {}
    for row in SERVED:
        providers = configuration.providers_for(row.plural, row.resource.group)
        if providers is not None:
            transformers[row.plural] = make_transformer(providers, plugins.__getitem__)
    return _Active(_digest(content), configuration, transformers, tuple(plugins.values()))


def _digest(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()


# --- without a file --------------------------------------------------------------------------------------------------


def default_file(directory: Path) -> Path:
    """The configuration kept in a data *directory*, made there the first time: Secrets under one new AES-GCM key.

    Identity comes last, so that values from before can be read; the next write encrypts them.

    Raises:
        HostError: it cannot be written.
    """
    path = directory / DEFAULT_FILE
    if not path.exists():
        key = {"name": "key1", "secret": base64.b64encode(os.urandom(32)).decode("ascii")}
        configuration = {
            "apiVersion": "apiserver.config.k8s.io/v1",
            "kind": "EncryptionConfiguration",
            "resources": [
                {"resources": ["secrets"], "providers": [{"aesgcm": {"keys": [key]}}, {"identity": {}}]},
            ],
        }
        try:
            pki.write_private(path, SensitiveBytes(yaml.safe_dump(configuration, sort_keys=False).encode()))
        except OSError as error:
            raise HostError(f"data directory {directory}: {error.strerror}") from None
    log.warning(
        "Secrets in %s are encrypted with the key in %s beside them: that protects a copy of the database alone, not one "
        "of the whole directory; --encryption-provider-config takes a key kept elsewhere",
        directory,
        DEFAULT_FILE,
    )
    return path
