"""The files of the image store: what is in them, and how they change without anybody seeing half of it.

::

    <image-dir>/
        lock                 flock()ed while names.json or images/ change
        names.json           full name → image id
        images/<hex>/        image.json, rootfs/ (read-only lower directory of every container of the image), and for
                         images that were pulled pulled.json: with which pull secrets (names, nothing of their content)
        tmp/                 work under way

Images are no secret and live on disk; several nodes of a machine share the directory. Synchronous; changes belong in a worker
thread, because they may wait for the lock. Used by ``images`` only; knows no registry.
"""

from __future__ import annotations

import fcntl
import json
import logging
import os
import secrets
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from kubelet_secrets.errors import HostError, ImageError
from kubelet_secrets.runtime.keyring import RegistryCredentials
from kubelet_secrets.runtime.pullrecords import PullRecord, with_pull
from kubelet_secrets.runtime.reference import ImageReference

logger = logging.getLogger(__name__)

PULL_RECORD = "pulled.json"

_ABANDONED_S = 24 * 3600  # work in tmp/ that old belongs to nobody


class ImageConfig(msgspec.Struct, frozen=True, kw_only=True):
    """What an image says about the process to run in it."""

    env: tuple[str, ...] = ()  # NAME=value
    entrypoint: tuple[str, ...] = ()
    cmd: tuple[str, ...] = ()
    user: str = ""  # "", "1000", "name", "1000:1000", "name:group"
    working_dir: str = ""
    stop_signal: str = ""


class StoredImage(msgspec.Struct, frozen=True, kw_only=True):
    """``image.json``."""

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


class ImageDirectory:
    """The store's directory; made if missing.

    Raises:
        HostError: it cannot be made.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        try:
            for path in (directory, directory / "images", self.scratch):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise HostError(f"cannot use {directory} as the image store: {error.strerror}") from None
        for path in self.scratch.iterdir():
            if path.lstat().st_mtime < time.time() - _ABANDONED_S:
                shutil.rmtree(path, ignore_errors=True)

    @property
    def scratch(self) -> Path:
        return self._directory / "tmp"

    def path(self, image_id: str) -> Path:
        return self._directory / "images" / image_id.removeprefix("sha256:")

    def names(self) -> dict[str, str]:
        """Full name → image id."""
        try:
            names = json.loads(self._directory.joinpath("names.json").read_bytes())
        except FileNotFoundError:
            return {}
        assert isinstance(names, dict)
        return names

    def load(self, image_id: str) -> Image | None:
        return self._load(self.path(image_id), self.names())

    def _load(self, path: Path, names: dict[str, str]) -> Image | None:
        try:
            stored = msgspec.json.decode(path.joinpath("image.json").read_bytes(), type=StoredImage)
        except FileNotFoundError:
            return None
        if not path.joinpath("rootfs").is_dir():
            logger.warning(
                "image %s has lost its files: it counts as absent until it is pulled or imported again", stored.id
            )
            return None
        return Image(
            id=stored.id,
            names=tuple(sorted(name for name, image_id in names.items() if image_id == stored.id)),
            repo_digests=stored.repo_digests,
            size_bytes=stored.size_bytes,
            config=stored.config,
            rootfs=path / "rootfs",
        )

    def list(self) -> tuple[Image, ...]:
        """Every image, by name."""
        names = self.names()
        found = [self._load(path, names) for path in sorted(self._directory.joinpath("images").iterdir())]
        images = [image for image in found if image is not None]
        return tuple(sorted(images, key=lambda image: (image.names or image.repo_digests or (image.id,))[0]))

    def find(self, reference: ImageReference) -> Image | None:
        if reference.digest:
            return self.find_by_digest(f"{reference.repository}@{reference.digest}")
        names = self.names()
        image_id = names.get(reference.canonical)
        return None if image_id is None else self._load(self.path(image_id), names)

    def find_by_digest(self, repo_digest: str) -> Image | None:
        return next((image for image in self.list() if repo_digest in image.repo_digests), None)

    def read_record(self, image_id: str) -> PullRecord | None:
        try:
            return msgspec.json.decode(self.path(image_id).joinpath(PULL_RECORD).read_bytes(), type=PullRecord)
        except FileNotFoundError:
            return None

    def write_record(self, image_id: str, repository: str, credentials: RegistryCredentials | None) -> None:
        with self._locked():
            if not self.path(image_id).exists():
                return  # removed meanwhile
            record = with_pull(self.read_record(image_id), repository, credentials)
            _replace(self.path(image_id) / PULL_RECORD, msgspec.json.encode(record))

    @contextmanager
    def _locked(self) -> Iterator[None]:
        fd = os.open(self._directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            os.close(fd)

    def commit(self, unpacked: Path, stored: StoredImage, reference: ImageReference) -> None:
        """Make *unpacked* (``rootfs`` and ``image.json``) an image of the store, unless it is there already, and name it."""
        with self._locked():
            target = self.path(stored.id)
            known = self._load(target, {})
            if known is None:
                if target.exists():  # damaged: its files were removed
                    target.rename(self.scratch / f"removed-{secrets.token_hex(8)}")
                unpacked.rename(target)
            else:
                merged = tuple(dict.fromkeys((*known.repo_digests, *stored.repo_digests)))
                _replace(
                    target / "image.json", msgspec.json.encode(msgspec.structs.replace(stored, repo_digests=merged))
                )
            self._bind_locked(reference, stored.id)

    def bind(self, reference: ImageReference, image_id: str) -> None:
        """Let a name point to an image that is there."""
        with self._locked():
            self._bind_locked(reference, image_id)

    def _bind_locked(self, reference: ImageReference, image_id: str) -> None:
        """Let the tag point to the image; a name by digest needs no entry."""
        if reference.digest:
            return
        names = self.names()
        names[reference.canonical] = image_id
        self._write_names(names)

    def remove(self, reference: ImageReference, name: str) -> None:
        """Drop a name, and with the last one the image.

        Raises:
            ImageError: ``ImageNotFound``, ``ImageInUse``.
        """
        with self._locked():
            image, names = self.find(reference), self.names()
            if image is None:
                if names.pop(reference.canonical, None) is None:
                    raise ImageError("ImageNotFound", f'image "{name}" not found')
                self._write_names(names)  # a damaged image has a name left to drop
                return
            remaining = {known: target for known, target in names.items() if known != reference.canonical}
            if reference.digest or image.id not in remaining.values():
                self._delete(image, name)
                remaining = {known: target for known, target in remaining.items() if target != image.id}
            self._write_names(remaining)

    def note_use(self, image: Image) -> None:
        """A container is to be made from *image*: the time of this is kept, for whoever looks for what nobody uses.

        Raises:
            FileNotFoundError: it was removed meanwhile.
        """
        os.utime(self.path(image.id) / "image.json")

    def pulled_images(self) -> Sequence[tuple[float, Image]]:
        """(when it was last used, in seconds since the epoch; image) of all that came from a registry, oldest use first."""
        found = []
        for image in self.list():
            path = self.path(image.id)
            try:
                if path.joinpath(PULL_RECORD).exists():
                    found.append((path.joinpath("image.json").stat().st_mtime, image))
            except FileNotFoundError:
                continue  # removed while we looked
        return sorted(found, key=lambda each: each[0])

    def remove_unused(self, image: Image, *, used_at: float) -> None:
        """Remove *image* with all its names, unless it was used after *used_at*.

        Raises:
            ImageError: ``ImageNotFound``, ``ImageInUse``.
        """
        with self._locked():
            try:
                is_used = self.path(image.id).joinpath("image.json").stat().st_mtime > used_at
            except FileNotFoundError:
                raise ImageError("ImageNotFound", f'image "{image.image_id}" not found') from None
            if is_used:
                raise ImageError("ImageInUse", f'image "{image.image_id}" has just been used')
            self._delete(image, image.image_id)
            self._write_names({name: target for name, target in self.names().items() if target != image.id})

    def _write_names(self, names: dict[str, str]) -> None:
        _replace(self._directory / "names.json", json.dumps(names, indent=1, sort_keys=True).encode())

    def _delete(self, image: Image, name: str) -> None:
        """Move the image out of reach, then look whether it was in use.

        In this order no container can slip in between: one that mounted before shows in the mount table, one that comes
        after finds no directory.
        """
        path = self.path(image.id)
        aside = self._directory / "tmp" / f"removed-{secrets.token_hex(8)}"
        path.rename(aside)
        if _is_lower_directory(path / "rootfs"):
            aside.rename(path)
            raise ImageError("ImageInUse", f'image "{name}" is used by a container')
        shutil.rmtree(aside, ignore_errors=True)


def read_layout(layout: Path, reference: ImageReference, digest: str | None) -> StoredImage:
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
    return StoredImage(
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
    wanted, marker = os.path.realpath(rootfs), f"/{rootfs.parent.name}/{rootfs.name}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        _, is_overlay, options = line.partition(" - overlay ")
        lower = options.partition("lowerdir=")[2].partition(",")[0]
        if not is_overlay or marker not in lower:
            continue
        # Another store on this machine may hold the same image. A path with escapes is not worth reading: it counts.
        if "\\" in lower or wanted in map(os.path.realpath, lower.split(":")):
            return True
    return False


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{secrets.token_hex(4)}")
    temporary.write_bytes(data)
    temporary.rename(path)
