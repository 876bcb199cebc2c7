"""The image store: unpacked images by name, on disk, shared by the nodes of one machine.

::

    <image-dir>/
        lock                 flock()ed while names.json or images/ change
        names.json           full name → image id
        images/<hex>/        image.json, rootfs/ (read-only lower directory of every container of the image), and for
                         images that were pulled pulled.json: with which pull secrets (names, nothing of their content)
        tmp/                 work under way

Images are no secret and live on disk. skopeo fetches them, umoci unpacks them; layers are not kept. What a name means and
whether to pull is decided here (the kubelet's image manager); back-off between attempts is ``pod``'s.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import trio

from kubelet_secrets.errors import ImageError, aggregate_message
from kubelet_secrets.runtime.keyring import RegistryCredentials, credential_hash
from kubelet_secrets.runtime.pullrecords import PullRecord, Verification, is_accessible, with_pull
from kubelet_secrets.runtime.reference import ImageReference, parse_reference
from kubelet_secrets.runtime.registry import Registry, RegistryError
from kubelet_secrets.runtime.tools import Tools, run_tool

logger = logging.getLogger(__name__)

_LOCAL_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:")


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says about the process to run in it."""

    env: tuple[str, ...] = ()  # NAME=value
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""  # "", "1000", "name", "1000:1000", "name:group"
    working_dir: str = ""
    stop_signal: str = ""


class _StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    size_bytes: int
    config: ImageConfig
    repo_digests: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Image:
    """One unpacked image."""

    id: str  # sha256:<digest of its configuration>
    names: tuple[str, ...]  # docker.io/library/busybox:1.36; may be empty for one known by digest only
    repo_digests: tuple[str, ...]  # docker.io/library/busybox@sha256:…
    size_bytes: int  # as distributed: the sum of its compressed layers
    config: ImageConfig
    rootfs: Path

    @property
    def image_id(self) -> str:
        """``imageID`` of a container status: a name by digest where there is one."""
        return self.repo_digests[0] if self.repo_digests else self.id


@dataclass(frozen=True, slots=True)
class EnsuredImage:
    image: Image
    pulled: bool  # False: it was there (event "already present on machine")


class ImageStore:
    """Images of this machine.

    Args:
        directory: the image-dir; made if missing.
        registry: how to reach registries.
        max_parallel_pulls: 1 as the kubelet's default ``serializeImagePulls``.
        verification: which present images a pod may use without showing that it could pull them.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tools: Tools,
        registry: Registry,
        max_parallel_pulls: int = 1,
        verification: Verification = Verification.NEVER_VERIFY_PRELOADED,
    ) -> None:
        self._directory = directory
        self._tools = tools
        self._registry = registry
        self._limit = trio.CapacityLimiter(max_parallel_pulls)
        self._pulls: dict[str, _PullTurn] = {}
        self._verification = verification
        self._hashes: dict[tuple[str, str], set[str]] = {}  # (image id, repository) -> credentials that opened it
        for path in (directory, directory / "images", directory / "tmp"):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)

    # --- asking -----------------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Image | None:
        """The local image a pod's image name means, or None.

        Raises:
            ImageError: ``InvalidImageName``; ``ImageInspectError`` when the store cannot be read.
        """
        reference = parse_reference(name)
        try:
            return self._find(reference)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise ImageError("ImageInspectError", f'Failed to inspect image "{name}": {type(error).__name__}') from None

    def list(self) -> tuple[Image, ...]:
        """Every image, by name."""
        names = self._names()
        found = []
        for path in sorted(self._directory.joinpath("images").iterdir()):
            image = self._load(path, names)
            if image is not None:
                found.append(image)
        return tuple(sorted(found, key=lambda image: (image.names or image.repo_digests or (image.id,))[0]))

    # --- getting ----------------------------------------------------------------------------------------------------

    def is_accessible(self, image: Image, name: str, credentials: Sequence[RegistryCredentials]) -> bool:
        """Whether a pod with these credentials may use the present *image* without a pull (KEP-2535)."""
        repository = parse_reference(name).repository
        return is_accessible(
            self._read_record(image.id),
            repository,
            credentials,
            hashes=self._hashes.get((image.id, repository), ()),
            policy=self._verification,
        )

    async def ensure(self, name: str, policy: str, credentials: Sequence[RegistryCredentials] = ()) -> EnsuredImage:
        """What the kubelet does before it creates a container.

        Args:
            policy: ``Always``, ``IfNotPresent`` or ``Never``.
            credentials: to be tried in order; empty is one anonymous attempt.

        Raises:
            ImageError: ``InvalidImageName``, ``ImageInspectError``, ``ErrImageNeverPull`` or ``ErrImagePull``.

        Source: pkg/kubelet/images/image_manager.go, EnsureImageExists.
        """
        present = self.resolve(name)
        if present is not None and policy != "Always" and self.is_accessible(present, name, credentials):
            return EnsuredImage(present, pulled=False)
        if policy == "Never":
            raise ImageError("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
        return EnsuredImage(await self.pull(name, credentials), pulled=True)

    async def pull(self, name: str, credentials: Sequence[RegistryCredentials] = ()) -> Image:
        """Fetch *name* from its registry; layers are not downloaded again when the manifest is known.

        Pulls of one name with the same credentials that overlap in time become one.

        Raises:
            ImageError: ``ErrImagePull`` with the text of every attempt; ``InvalidImageName``.

        Cancellation: the store is as before.
        """
        reference = parse_reference(name)
        turn = self._pulls.setdefault(reference.canonical, _PullTurn())
        before = turn.finished
        turn.users += 1
        try:
            async with turn.lock:
                if turn.finished > before and turn.result is not None and turn.result[1] == tuple(credentials):
                    return turn.result[0]  # somebody's pull began and ended while we waited
                async with self._limit:
                    image = await self._pull_any(name, reference, credentials)
                turn.finished += 1
                turn.result = (image, tuple(credentials))
                return image
        finally:
            turn.users -= 1
            if not turn.users:
                self._pulls.pop(reference.canonical, None)

    async def import_image(self, source: str, name: str) -> Image:
        """Take an image from this machine into the store.

        Args:
            source: ``oci:DIR[:TAG]``, ``oci-archive:FILE``, ``docker-archive:FILE`` or ``dir:DIR``.
            name: what pods will call it.

        Raises:
            ImageError: ``InvalidImageName``, or ``ErrImagePull`` when the source cannot be read.
        """
        reference = parse_reference(name)
        if not source.startswith(_LOCAL_TRANSPORTS):
            raise ImageError("ErrImagePull", f'cannot import "{source}": give one of {", ".join(_LOCAL_TRANSPORTS)}')
        async with self._scratch() as scratch:
            try:
                await self._registry.fetch_local(source, scratch / "layout")
                return await self._take(scratch, reference, digest=None)
            except RegistryError as error:
                raise ImageError("ErrImagePull", f'failed to import image "{name}": {error}') from None

    async def remove(self, name: str) -> None:
        """Drop a name; with its last name an image is deleted.

        Raises:
            ImageError: ``ImageNotFound`` or, while a container's root filesystem lies on it, ``ImageInUse``.
        """
        reference = parse_reference(name)
        await trio.to_thread.run_sync(self._remove, reference, name)

    # --- inside: pulling ----------------------------------------------------------------------------------------------

    async def _pull_any(
        self, name: str, reference: ImageReference, credentials: Sequence[RegistryCredentials]
    ) -> Image:
        errors = []
        for attempt in credentials or (None,):
            try:
                image = await self._pull_with(reference, attempt)
            except RegistryError as error:
                errors.append(f'failed to pull image "{reference.canonical}": {error}')
                continue
            if attempt is not None:
                opened = self._hashes.setdefault((image.id, reference.repository), set())
                opened.add(credential_hash(attempt))
            await trio.to_thread.run_sync(self._write_record, image.id, reference.repository, attempt)
            return image
        raise ImageError("ErrImagePull", aggregate_message(errors))

    async def _pull_with(self, reference: ImageReference, credentials: RegistryCredentials | None) -> Image:
        digest = await self._registry.digest(reference, credentials)
        known = self._find_by_digest(f"{reference.repository}@{digest}")
        if known is not None:
            await trio.to_thread.run_sync(self._bind, reference, known.id)
            found = self._find_by_digest(f"{reference.repository}@{digest}")
            return found or known
        async with self._scratch() as scratch:
            await self._registry.fetch(reference, digest, credentials, scratch / "layout")
            return await self._take(scratch, reference, digest=digest)

    async def _take(self, scratch: Path, reference: ImageReference, *, digest: str | None) -> Image:
        """Unpack the layout in *scratch* and make it an image of the store."""
        stored = read_layout(scratch / "layout", reference, digest)
        target = self._path(stored.id)
        if not target.exists():
            unpacked = scratch / "image"
            unpacked.mkdir()
            outcome = await run_tool(
                [self._tools.umoci, "raw", "unpack", f"--image={scratch / 'layout'}:image", unpacked / "rootfs"]
            )
            if outcome.code != 0:
                raise RegistryError(f"unpacking failed: {outcome.last_line}")
            unpacked.joinpath("image.json").write_bytes(msgspec.json.encode(stored))
        await trio.to_thread.run_sync(self._commit, scratch / "image", stored, reference)
        image = self._load(target, self._names())
        assert image is not None
        return image

    @property
    def _lock_file(self) -> Path:
        return self._directory / "lock"

    def _scratch(self) -> _Scratch:
        return _Scratch(self._directory / "tmp")

    # --- inside: the directory ------------------------------------------------------------------------------------------

    def _path(self, image_id: str) -> Path:
        return self._directory / "images" / image_id.removeprefix("sha256:")

    def _names(self) -> dict[str, str]:
        try:
            names = json.loads(self._directory.joinpath("names.json").read_bytes())
        except FileNotFoundError:
            return {}
        assert isinstance(names, dict)
        return names

    def _load(self, path: Path, names: dict[str, str]) -> Image | None:
        try:
            stored = msgspec.json.decode(path.joinpath("image.json").read_bytes(), type=_StoredImage)
        except FileNotFoundError:
            return None
        return Image(
            id=stored.id,
            names=tuple(sorted(name for name, image_id in names.items() if image_id == stored.id)),
            repo_digests=stored.repo_digests,
            size_bytes=stored.size_bytes,
            config=stored.config,
            rootfs=path / "rootfs",
        )

    def _find(self, reference: ImageReference) -> Image | None:
        if reference.digest:
            return self._find_by_digest(f"{reference.repository}@{reference.digest}")
        names = self._names()
        image_id = names.get(reference.canonical)
        return None if image_id is None else self._load(self._path(image_id), names)

    def _find_by_digest(self, repo_digest: str) -> Image | None:
        return next((image for image in self.list() if repo_digest in image.repo_digests), None)

    def _read_record(self, image_id: str) -> PullRecord | None:
        try:
            return msgspec.json.decode(self._path(image_id).joinpath("pulled.json").read_bytes(), type=PullRecord)
        except FileNotFoundError:
            return None

    def _write_record(self, image_id: str, repository: str, credentials: RegistryCredentials | None) -> None:
        with self._locked():
            if not self._path(image_id).exists():
                return  # removed meanwhile
            record = with_pull(self._read_record(image_id), repository, credentials)
            _replace(self._path(image_id) / "pulled.json", msgspec.json.encode(record))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def _commit(self, unpacked: Path, stored: _StoredImage, reference: ImageReference) -> None:
        with self._locked():
            target = self._path(stored.id)
            if not target.exists():
                unpacked.rename(target)
            else:
                known = self._load(target, {})
                assert known is not None
                merged = tuple(dict.fromkeys((*known.repo_digests, *stored.repo_digests)))
                _replace(
                    target / "image.json", msgspec.json.encode(msgspec.structs.replace(stored, repo_digests=merged))
                )
            self._bind_locked(reference, stored.id)

    def _bind(self, reference: ImageReference, image_id: str) -> None:
        with self._locked():
            self._bind_locked(reference, image_id)

    def _bind_locked(self, reference: ImageReference, image_id: str) -> None:
        """Let the tag point to the image; a name by digest needs no entry."""
        if reference.digest:
            return
        names = self._names()
        names[reference.canonical] = image_id
        _replace(self._directory / "names.json", json.dumps(names, indent=1, sort_keys=True).encode())

    def _remove(self, reference: ImageReference, name: str) -> None:
        with self._locked():
            image = self._find(reference)
            if image is None:
                raise ImageError("ImageNotFound", f'image "{name}" not found')
            names = self._names()
            remaining = {known: target for known, target in names.items() if known != reference.canonical}
            if reference.digest or image.id not in remaining.values():
                self._delete(image, name)
                remaining = {known: target for known, target in remaining.items() if target != image.id}
            _replace(self._directory / "names.json", json.dumps(remaining, indent=1, sort_keys=True).encode())

    def _delete(self, image: Image, name: str) -> None:
        """Move the image out of reach, then look whether it was in use.

        In this order no container can slip in between: one that mounted before shows in the mount table, one that comes
        after finds no directory.
        """
        path = self._path(image.id)
        aside = self._directory / "tmp" / f"removed-{secrets.token_hex(8)}"
        path.rename(aside)
        if _is_lower_directory(path / "rootfs"):
            aside.rename(path)
            raise ImageError("ImageInUse", f'image "{name}" is used by a container')
        shutil.rmtree(aside, ignore_errors=True)


class _PullTurn:
    """The queue of one image name."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.finished = 0
        self.result: tuple[Image, tuple[RegistryCredentials, ...]] | None = None


class _Scratch:
    """A directory that goes away again, also on cancellation."""

    def __init__(self, parent: Path) -> None:
        self._path = parent / secrets.token_hex(8)

    async def __aenter__(self) -> Path:
        self._path.mkdir(mode=0o700)
        return self._path

    async def __aexit__(self, *_: object) -> None:
        with trio.CancelScope(shield=True):
            await trio.to_thread.run_sync(lambda: shutil.rmtree(self._path, ignore_errors=True))


def read_layout(layout: Path, reference: ImageReference, digest: str | None) -> _StoredImage:
    """Read the single image of an OCI layout.

    Args:
        digest: what the registry called it; None takes the layout's own manifest digest.

    Source: OCI image specification 1.0: image-layout, manifest, config.
    """
    index = json.loads(layout.joinpath("index.json").read_bytes())
    descriptor = index["manifests"][0]
    manifest = json.loads(_blob(layout, descriptor["digest"]).read_bytes())
    config = json.loads(_blob(layout, manifest["config"]["digest"]).read_bytes())
    process: dict[str, Any] = config.get("config") or {}
    return _StoredImage(
        id=manifest["config"]["digest"],
        size_bytes=manifest["config"]["size"] + sum(layer["size"] for layer in manifest["layers"]),
        config=ImageConfig(
            env=tuple(process.get("Env") or ()),
            entrypoint=tuple(process.get("Entrypoint") or ()),
            cmd=tuple(process.get("Cmd") or ()),
            user=process.get("User") or "",
            working_dir=process.get("WorkingDir") or "",
            stop_signal=process.get("StopSignal") or "",
        ),
        repo_digests=(f"{reference.repository}@{digest or descriptor['digest']}",),
    )


def _blob(layout: Path, digest: str) -> Path:
    algorithm, _, value = digest.partition(":")
    return layout / "blobs" / algorithm / value


def _is_lower_directory(rootfs: Path) -> bool:
    """Whether any overlay of this mount namespace stands on *rootfs*; asks the kernel, so restarts change nothing."""
    marker = f"/{rootfs.parent.name}/{rootfs.name}"
    return any(
        marker in line.rpartition(" - ")[2]
        for line in Path("/proc/self/mountinfo").read_text().splitlines()
        if " - overlay " in line
    )


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(data)
    temporary.rename(path)
