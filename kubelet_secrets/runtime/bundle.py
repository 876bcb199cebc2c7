"""The directory of one container on the run tmpfs: OCI bundle, overlay, conmon's files, and our own record of it.

::

    <run>/containers/<id>/
        record.json        what this container is; written first, so that a restarted agent can tell
        config.json        the OCI spec, 0600: it holds the environment
        rootfs/            overlay of the image below upper/
        pid  conmon.pid    written by the runtime and by conmon
        started            its mtime is when the runtime was told to start it
        persist/exit       written by conmon: the exit status; its mtime is when
        failure            made by us when the runtime refused to create the process: why, and by its mtime when
        lost               made by us when the container ended and nobody had collected its status
        persist/oom        created by conmon when the kernel killed for memory

    <run>/scratch/<id>/    whatever the container itself can write to: on a tmpfs, so it never reaches a disk, and on one of its
                           own, so that a container that fills it leaves room for everything above
        upper/ work/       the overlay's
        termination-log    shown in the container at its terminationMessagePath

All functions are synchronous file work on tmpfs; mounting and deleting trees belong in a worker thread. Called by ``oci`` only.
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec

from kubelet_secrets.errors import ContainerRunError
from kubelet_secrets.linux import MNT_DETACH, mount, unmount

MAX_TERMINATION_MESSAGE_BYTES = 4096


class ContainerRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What is remembered of a container for as long as its bundle exists. Holds no environment and no arguments."""

    id: str
    pod_uid: str
    pod_namespace: str
    pod_name: str
    container_name: str
    attempt: int
    image_name: str
    image_id: str
    cgroup_path: str
    log_path: str
    stop_signal: str
    termination_message_path: str
    tty: bool
    stdin: bool
    stdin_once: bool = False  # the first session's end is the input's
    shares_pid_namespace: bool  # its processes may outlive the first one
    created_at: datetime
    labels: dict[str, str]


@dataclass(frozen=True, slots=True)
class Bundle:
    """Names of the files of one container; nothing is read or written by having one."""

    path: Path

    @property
    def id(self) -> str:
        return self.path.name

    @property
    def record(self) -> Path:
        return self.path / "record.json"

    @property
    def config(self) -> Path:
        return self.path / "config.json"

    @property
    def rootfs(self) -> Path:
        return self.path / "rootfs"

    @property
    def scratch(self) -> Path:
        return self.path.parent.parent / "scratch" / self.id

    @property
    def termination_log(self) -> Path:
        return self.scratch / "termination-log"

    @property
    def pid_file(self) -> Path:
        return self.path / "pid"

    @property
    def conmon_pid_file(self) -> Path:
        return self.path / "conmon.pid"

    @property
    def started(self) -> Path:
        return self.path / "started"

    @property
    def persist(self) -> Path:
        return self.path / "persist"

    @property
    def exit_file(self) -> Path:
        return self.persist / "exit"

    @property
    def lost(self) -> Path:
        return self.path / "lost"

    @property
    def failure(self) -> Path:
        return self.path / "failure"

    @property
    def oom_file(self) -> Path:
        return self.persist / "oom"


def create(bundle: Bundle, record: ContainerRecord, spec: dict[str, Any], image_rootfs: Path) -> None:
    """Make the directory and mount the root filesystem.

    Raises:
        ContainerRunError: a file or the overlay cannot be made. What was made stays for :func:`remove`.
    """
    try:
        bundle.path.mkdir(mode=0o700)
        _write(bundle.record, msgspec.json.encode(record))
        upper, work = bundle.scratch / "upper", bundle.scratch / "work"
        for directory in (bundle.rootfs, bundle.persist, bundle.scratch, work):
            directory.mkdir(mode=0o700)
        upper.mkdir()
        # The overlay's root shows upper's attributes, not the image's.
        status = image_rootfs.stat()
        os.chown(upper, status.st_uid, status.st_gid)
        os.chmod(upper, status.st_mode & 0o7777)
        bundle.termination_log.touch(mode=0o600)
        bundle.termination_log.chmod(0o666)
        _write(bundle.config, json.dumps(spec, ensure_ascii=False).encode())
        options = ",".join(
            (
                f"lowerdir={_escape(image_rootfs)}",
                f"upperdir={_escape(upper)}",
                f"workdir={_escape(work)}",
            )
        )
        mount("overlay", bundle.rootfs, "overlay", 0, options)
    except OSError as error:
        what = f" {Path(error.filename).name}" if isinstance(error.filename, str) else ""
        raise ContainerRunError(f"failed to create container: {error.strerror}{what}") from None


def write_record(bundle: Bundle, record: ContainerRecord) -> None:
    """Put *record* in the place of the one there is, at once.

    Raises:
        OSError: the container has been deleted meanwhile.
    """
    bundle.record.with_name(f"{bundle.record.name}.new").unlink(missing_ok=True)  # of an agent that was killed here
    _write(bundle.record, msgspec.json.encode(record))


def read_record(bundle: Bundle) -> ContainerRecord | None:
    """The record, or None for a directory whose creation was cut short."""
    try:
        return msgspec.json.decode(bundle.record.read_bytes(), type=ContainerRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def read_pid(file: Path) -> int | None:
    try:
        return int(file.read_text())
    except (FileNotFoundError, ValueError):
        return None


def read_time(file: Path) -> datetime | None:
    """When *file* was last written, in UTC; None when it does not exist."""
    try:
        return datetime.fromtimestamp(file.stat().st_mtime_ns / 1e9, UTC)
    except OSError:
        return None


def read_termination_message(bundle: Bundle) -> bytes:
    """The last 4096 bytes the container left at its terminationMessagePath.

    Source: pkg/kubelet/kuberuntime getTerminationMessage, tail of kubecontainer.MaxContainerTerminationMessageLength.
    """
    try:
        fd = os.open(bundle.termination_log, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return b""
    with os.fdopen(fd, "rb") as file:
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - MAX_TERMINATION_MESSAGE_BYTES))
        return file.read(MAX_TERMINATION_MESSAGE_BYTES)


def write_failure(bundle: Bundle, message: str) -> None:
    _write(bundle.failure, message.encode())


def read_failure(bundle: Bundle) -> str | None:
    try:
        return bundle.failure.read_text()
    except OSError:
        return None


def unmount_rootfs(bundle: Bundle) -> None:
    try:
        unmount(bundle.rootfs, MNT_DETACH)
    except OSError:
        pass  # not mounted, or not there


def remove(bundle: Bundle) -> None:
    """Unmount and delete; idempotent, also for a half-made bundle."""
    # The record goes first: without it this is no container to anybody who looks, and rubbish to a later agent.
    bundle.record.unlink(missing_ok=True)
    unmount_rootfs(bundle)
    shutil.rmtree(bundle.scratch, ignore_errors=True)
    shutil.rmtree(bundle.path, ignore_errors=True)


def _write(path: Path, data: bytes) -> None:
    """Create *path* 0600 with all of *data*, or not at all."""
    temporary = path.with_name(path.name + ".new")
    fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(fd, "wb") as file:
        file.write(data)
    temporary.rename(path)


def _escape(path: Path) -> str:
    """Overlay splits its options at commas and lower directories at colons."""
    return str(path).replace("\\", "\\\\").replace(",", "\\,").replace(":", "\\:")
