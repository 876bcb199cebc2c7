"""The image store: unpacked images by name, for the pods of this machine.

skopeo fetches images, umoci unpacks them; layers are not kept. What a name means and whether to pull is decided here (the
kubelet's image manager); the files are ``imagedir``'s, back-off between attempts is ``pod``'s.
"""

from __future__ import annotations

import logging
import secrets
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import trio

from kubelet_secrets.errors import ImageError, aggregate_message
from kubelet_secrets.runtime.imagedir import PULL_RECORD, Image, ImageConfig, ImageDirectory, read_layout
from kubelet_secrets.runtime.imagegc import ImageGarbageCollector, ImageGcPolicy, Report
from kubelet_secrets.runtime.keyring import Keyring, KeyringError, RegistryCredentials, credential_hash, lookup
from kubelet_secrets.runtime.pullprogress import PullProgress, tell_progress
from kubelet_secrets.runtime.pullrecords import (
    DEFAULT_VERIFICATION,
    PullRecord,
    VerificationPolicy,
    is_accessible,
    with_pull,
)
from kubelet_secrets.runtime.reference import ImageReference, parse_reference
from kubelet_secrets.runtime.registry import Registry, RegistryError
from kubelet_secrets.runtime.tools import Tools, run_tool

__all__ = ["EnsuredImage", "Image", "ImageConfig", "ImageStore"]

logger = logging.getLogger(__name__)

DEFAULT_PARALLEL_PULLS = 4
"""A kubelet pulls one image after the other unless told otherwise: a large one then holds up all others."""

TellProgress = Callable[[PullProgress], None]

_LOCAL_TRANSPORTS = ("oci:", "oci-archive:", "docker-archive:", "dir:")


@dataclass(frozen=True, slots=True)
class EnsuredImage:
    image: Image
    pulled: bool  # False: it was there (event "already present on machine")
    pull_s: float = 0.0  # what the pull took, without waiting for others'


class ImageStore:
    """Images of this machine.

    Args:
        directory: the image-dir; made if missing.
        registry: how to reach registries.
        max_parallel_pulls: ``maxParallelImagePulls`` of the kubelet's configuration.
        verification: which present images a pod may use without showing that it could pull them.
        node_keyring: reads the node's own credentials, tried after a pod's; asked at every pull, so that changes count.
    """

    def __init__(
        self,
        directory: Path,
        *,
        tools: Tools,
        registry: Registry,
        max_parallel_pulls: int = DEFAULT_PARALLEL_PULLS,
        verification: VerificationPolicy = DEFAULT_VERIFICATION,
        node_keyring: Callable[[], Keyring] = Keyring,
    ) -> None:
        self._files = ImageDirectory(directory)
        self._tools = tools
        self._registry = registry
        self._limit = trio.CapacityLimiter(max_parallel_pulls)
        self._pulls: dict[str, _PullTurn] = {}
        self._verification = verification
        self._node_keyring = node_keyring
        self._hashes: dict[tuple[str, str], set[str]] = {}  # (image id, repository) -> credentials that opened it

    # --- asking -----------------------------------------------------------------------------------------------------

    def resolve(self, name: str) -> Image | None:
        """The local image a pod's image name means, or None.

        Raises:
            ImageError: ``InvalidImageName``; ``ImageInspectError`` when the store cannot be read.
        """
        reference = parse_reference(name)
        try:
            return self._files.find(reference)
        except (OSError, msgspec.DecodeError, ValueError) as error:
            raise ImageError("ImageInspectError", f'Failed to inspect image "{name}": {type(error).__name__}') from None

    def note_use(self, image: Image) -> None:
        """A container is to be made from *image*: garbage collection leaves it for a while."""
        try:
            self._files.note_use(image)
        except OSError:
            pass  # gone already: making the container will say so

    def collector(self, policy: ImageGcPolicy, *, report: Report) -> ImageGarbageCollector:
        """What keeps this store from filling its disk."""
        return ImageGarbageCollector(self._files, policy, report=report)

    def list(self) -> tuple[Image, ...]:
        """Every image, by name."""
        return self._files.list()

    # --- getting ----------------------------------------------------------------------------------------------------

    def is_accessible(self, image: Image, name: str, credentials: Sequence[RegistryCredentials]) -> bool:
        """Whether a pod with these credentials may use the present *image* without a pull (KEP-2535)."""
        repository = parse_reference(name).repository
        return is_accessible(
            self._files.read_record(image.id),
            repository,
            credentials,
            hashes=self._hashes.get((image.id, repository), ()),
            policy=self._verification,
        )

    async def ensure(
        self,
        name: str,
        policy: str,
        credentials: Sequence[RegistryCredentials] = (),
        *,
        tell: TellProgress | None = None,
    ) -> EnsuredImage:
        """What the kubelet does before it creates a container.

        Args:
            policy: ``Always``, ``IfNotPresent`` or ``Never``.
            credentials: the pod's, to be tried in order; then the node's; one anonymous attempt if there are none at all.
            tell: called from time to time while a pull takes long.

        Raises:
            ImageError: ``InvalidImageName``, ``ImageInspectError``, ``ErrImageNeverPull`` or ``ErrImagePull``.

        Source: pkg/kubelet/images/image_manager.go, EnsureImageExists.
        """
        present = self.resolve(name)
        if present is not None and policy != "Always" and self.is_accessible(present, name, credentials):
            return EnsuredImage(present, pulled=False)
        if policy == "Never":
            raise ImageError("ErrImageNeverPull", f'Container image "{name}" is not present with pull policy of Never')
        image, pull_s = await self._pull(name, credentials, tell)
        return EnsuredImage(image, pulled=True, pull_s=pull_s)

    async def pull(self, name: str, credentials: Sequence[RegistryCredentials] = ()) -> Image:
        """Fetch *name* from its registry; layers are not downloaded again when the manifest is known.

        Pulls of one name with the same credentials that overlap in time become one.

        Raises:
            ImageError: ``ErrImagePull`` with the text of every attempt; ``InvalidImageName``.

        Cancellation: the store is as before.
        """
        image, _ = await self._pull(name, credentials, None)
        return image

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
        await trio.to_thread.run_sync(self._files.remove, reference, name)

    # --- inside: pulling ----------------------------------------------------------------------------------------------

    async def _pull(
        self, name: str, credentials: Sequence[RegistryCredentials], tell: TellProgress | None
    ) -> tuple[Image, float]:
        """The image, and how many seconds its pull took."""
        reference = parse_reference(name)
        turn = self._pulls.setdefault(reference.canonical, _PullTurn())
        before = turn.finished
        turn.users += 1
        if tell is not None:
            turn.listeners.append(tell)
        try:
            async with turn.lock:
                if turn.finished > before and turn.result is not None and turn.result[0] == tuple(credentials):
                    return turn.result[1:]  # somebody's pull began and ended while we waited
                async with self._limit:
                    started_s = trio.current_time()
                    image = await self._pull_any(reference, credentials, turn.tell)
                    pull_s = trio.current_time() - started_s
                turn.finished += 1
                turn.result = (tuple(credentials), image, pull_s)
                return image, pull_s
        finally:
            turn.users -= 1
            if tell is not None:
                turn.listeners.remove(tell)
            if not turn.users:
                self._pulls.pop(reference.canonical, None)

    async def _pull_any(
        self, reference: ImageReference, credentials: Sequence[RegistryCredentials], tell: TellProgress
    ) -> Image:
        errors = []
        for attempt in (*credentials, *self._node_credentials(reference)) or (None,):
            try:
                image = await self._pull_with(reference, attempt, tell)
            except RegistryError as error:
                errors.append(f'failed to pull image "{reference.canonical}": {error}')
                continue
            if attempt is not None:
                opened = self._hashes.setdefault((image.id, reference.repository), set())
                opened.add(credential_hash(attempt))
            await trio.to_thread.run_sync(self._files.write_record, image.id, reference.repository, attempt)
            return image
        raise ImageError("ErrImagePull", aggregate_message(errors))

    def _node_credentials(self, reference: ImageReference) -> Sequence[RegistryCredentials]:
        try:
            return lookup(self._node_keyring(), reference.repository)
        except KeyringError as error:
            logger.warning("the node's own registry credentials are not used: %s", error)
            return ()

    async def _pull_with(
        self, reference: ImageReference, credentials: RegistryCredentials | None, tell: TellProgress
    ) -> Image:
        manifest = await self._registry.manifest(reference, credentials)
        digest = manifest.digest
        known = self._files.find_by_digest(f"{reference.repository}@{digest}")
        if known is not None:
            await trio.to_thread.run_sync(self._files.bind, reference, known.id)
            found = self._files.find_by_digest(f"{reference.repository}@{digest}")
            return found or known
        async with self._scratch() as scratch:
            layout, failure = scratch / "layout", None
            async with trio.open_nursery() as nursery:
                nursery.start_soon(tell_progress, layout, manifest.size_bytes, tell)
                try:
                    await self._registry.fetch(reference, digest, credentials, layout)
                except RegistryError as error:
                    failure = error  # to be raised outside, where no group wraps it
                nursery.cancel_scope.cancel()
            if failure is not None:
                raise failure
            record = with_pull(None, reference.repository, credentials)
            return await self._take(scratch, reference, digest=digest, record=record)

    async def _take(
        self, scratch: Path, reference: ImageReference, *, digest: str | None, record: PullRecord | None = None
    ) -> Image:
        """Unpack the layout in *scratch* and make it an image of the store.

        A pulled image brings its record along: without one, were the agent killed right here, it would pass for preloaded.
        """
        stored = read_layout(scratch / "layout", reference, digest)
        if self._files.load(stored.id) is None:
            unpacked = scratch / "image"
            unpacked.mkdir()
            outcome = await run_tool(
                [self._tools.umoci, "raw", "unpack", f"--image={scratch / 'layout'}:image", unpacked / "rootfs"]
            )
            if outcome.code != 0:
                raise RegistryError(f"unpacking failed: {outcome.last_line}")
            unpacked.joinpath("image.json").write_bytes(msgspec.json.encode(stored))
            if record is not None:
                unpacked.joinpath(PULL_RECORD).write_bytes(msgspec.json.encode(record))
        await trio.to_thread.run_sync(self._files.commit, scratch / "image", stored, reference)
        image = self._files.load(stored.id)
        assert image is not None
        return image

    def _scratch(self) -> _Scratch:
        return _Scratch(self._files.scratch)


class _PullTurn:
    """The queue of one image name."""

    def __init__(self) -> None:
        self.lock = trio.Lock()
        self.users = 0
        self.finished = 0
        self.result: tuple[tuple[RegistryCredentials, ...], Image, float] | None = None
        self.listeners: list[TellProgress] = []

    def tell(self, progress: PullProgress) -> None:
        for listener in self.listeners:
            listener(progress)


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
