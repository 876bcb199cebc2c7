"""Fetch images with skopeo: which command line, which credentials file, which error text.

A password goes into a file on the run tmpfs, 0600, named by ``REGISTRY_AUTH_FILE`` and deleted with the command's end; never
onto a command line, never to a disk. An empty file is given for an anonymous pull, so that no credentials of the host's root
are used.
"""

from __future__ import annotations

import hashlib
import os
import re
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kubelet_secrets.runtime.keyring import RegistryCredentials, auth_document
from kubelet_secrets.runtime.reference import ImageReference
from kubelet_secrets.runtime.tools import Outcome, Tools, run_tool

_POLICY = Path("/etc/containers/policy.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class RegistryTls:
    """How one registry is spoken to."""

    verify: bool = True  # False: any certificate, and plain HTTP
    certificates: Path | None = None  # directory with *.crt (authorities), *.cert and *.key (client)


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a registry has under a name."""

    digest: str  # sha256:…
    size_bytes: int | None  # of all that is to be downloaded; None: it is a list for several platforms


class RegistryError(Exception):
    """skopeo failed; the text is its last line without decoration. Translated by ``images``."""


class Registry:
    """Runs skopeo against registries and local archives.

    Args:
        auth_dir: directory on the run tmpfs for credentials files.
        scratch_dir: where skopeo may put layers while it works; on disk, images are no secret.
        tls: host[:port] → settings; a registry on a loopback address is not verified unless listed, as containerd does it.
    """

    def __init__(
        self, tools: Tools, *, auth_dir: Path, scratch_dir: Path, tls: Mapping[str, RegistryTls] | None = None
    ) -> None:
        self._tools = tools
        self._auth_dir = auth_dir
        self._scratch_dir = scratch_dir
        self._tls = dict(tls or {})

    async def manifest(self, reference: ImageReference, credentials: RegistryCredentials | None) -> Manifest:
        """Ask the registry which manifest, or list of manifests, *reference* names now.

        Raises:
            RegistryError: it does not answer, refuses, or knows no such image.
        """
        options = _tls_options(self._tls_for(reference.domain), prefix="")
        outcome = await self._skopeo(
            reference, credentials, "inspect", "--raw", *options, f"docker://{_name(reference)}"
        )
        return Manifest("sha256:" + hashlib.sha256(outcome.stdout).hexdigest(), download_size_bytes(outcome.stdout))

    async def fetch(
        self, reference: ImageReference, digest: str, credentials: RegistryCredentials | None, layout: Path
    ) -> None:
        """Copy the image with *digest* into a new OCI layout, under the tag ``image``."""
        options = _tls_options(self._tls_for(reference.domain), prefix="src-")
        source = f"docker://{reference.repository}@{digest}"
        await self._skopeo(reference, credentials, "copy", "--quiet", *options, source, f"oci:{layout}:image")

    async def fetch_local(self, source: str, layout: Path) -> None:
        """Copy from ``oci:``, ``oci-archive:``, ``docker-archive:`` or ``dir:`` into a new OCI layout."""
        await self._skopeo(None, None, "copy", "--quiet", source, f"oci:{layout}:image")

    async def _skopeo(
        self, reference: ImageReference | None, credentials: RegistryCredentials | None, *arguments: str
    ) -> Outcome:
        policy = [] if _POLICY.exists() else ["--insecure-policy"]
        async with self._auth_file(reference, credentials) as auth_file:
            outcome = await run_tool(
                [self._tools.skopeo, *policy, f"--tmpdir={self._scratch_dir}", *arguments],
                env={"REGISTRY_AUTH_FILE": str(auth_file), "HOME": str(self._scratch_dir)},
            )
        if outcome.code != 0:
            raise RegistryError(error_text(outcome.last_line))
        return outcome

    @asynccontextmanager
    async def _auth_file(
        self, reference: ImageReference | None, credentials: RegistryCredentials | None
    ) -> AsyncIterator[Path]:
        path = self._auth_dir / f"{secrets.token_hex(8)}.json"
        fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with os.fdopen(fd, "wb") as file:
                file.write(auth_document("" if reference is None else reference.domain, credentials))
            yield path
        finally:
            path.unlink(missing_ok=True)

    def _tls_for(self, domain: str) -> RegistryTls:
        if domain in self._tls:
            return self._tls[domain]
        return RegistryTls(verify=not is_loopback(domain))


def download_size_bytes(manifest: bytes) -> int | None:
    """The sum of what a manifest names, in either of its formats; None for a list of manifests, and what is neither."""
    try:
        parts = msgspec.json.decode(manifest, type=_Manifest)
    except (msgspec.DecodeError, ValueError):
        return None
    return None if parts.layers is None else sum(part.size for part in (parts.config, *parts.layers))


class _Blob(msgspec.Struct, frozen=True):
    size: int = 0


class _Manifest(msgspec.Struct, frozen=True):
    config: _Blob = _Blob()
    layers: list[_Blob] | None = None


def is_loopback(domain: str) -> bool:
    """Whether ``host[:port]`` names this machine: there plain HTTP is no exposure."""
    host = domain.rpartition(":")[0] if re.search(r":[0-9]+$", domain) else domain
    return host in ("localhost", "[::1]") or re.fullmatch(r"127(\.[0-9]{1,3}){3}", host) is not None


def error_text(line: str) -> str:
    """What skopeo means, out of its log line ``time="…" level=fatal msg="…"``."""
    _, found, quoted = line.partition(' msg="')
    return quoted.removesuffix('"').replace('\\"', '"') if found else line


def _tls_options(tls: RegistryTls, *, prefix: str) -> list[str]:
    options = [] if tls.verify else [f"--{prefix}tls-verify=false"]
    if tls.certificates is not None:
        options.append(f"--{prefix}cert-dir={tls.certificates}")
    return options


def _name(reference: ImageReference) -> str:
    """skopeo refuses a name with both tag and digest; the digest decides."""
    if reference.digest:
        return f"{reference.repository}@{reference.digest}"
    return f"{reference.repository}:{reference.tag}"
