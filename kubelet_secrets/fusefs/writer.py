"""The writer: a small process that changes volumes *through the mount*, on the agent's orders.

Through the mount, because only then do inotify watchers in containers see the kubelet's events; a process of its own, because
one that waits for a request on a mount it serves itself cannot even be killed. It is the only process the
filesystem lets change anything. Single-threaded, synchronous, hardened; it holds values while it carries out one order.

Started by the keeper as ``python -m kubelet_secrets.fusefs.writer`` with ``KS_WRITER_FD``, ``KS_FUSE_FD`` and
``KS_FUSE_MOUNT``. The agent's end is ``fusefs.writerclient``.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.errors import SetUpError
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.fusefs.orders import (
    DATAGRAM_BYTES,
    Attach,
    Done,
    DropPages,
    Failed,
    Hello,
    MakeDirectory,
    Order,
    OrderAssembler,
    RemoveVolume,
    Synchronize,
    Update,
    encode_answer,
)
from kubelet_secrets.fusefs.wire import make_page_invalidation
from kubelet_secrets.volume import atomicwriter
from kubelet_secrets.volume.fsgroup import apply_fs_group

_DIRECTORY = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class Writer:
    """Carries out orders below one directory descriptor.

    Args:
        mount_fd: root of the mount; O_PATH, so that opening it asked nobody. Stays the caller's.
        fuse_fd: /dev/fuse as mounted, only ever written to. Stays the caller's.
    """

    def __init__(self, mount_fd: int, fuse_fd: int) -> None:
        self._mount_fd = mount_fd
        self._fuse_fd = fuse_fd
        self._device: int | None = None  # asked for when first needed: the filesystem may not be served yet

    def perform(self, order_id: int, order: Order) -> Done | Failed:
        """Carry out one order; expected failures become an answer."""
        try:
            match order:
                case Update():
                    return self._update(order_id, order)
                case RemoveVolume():
                    self._remove_volume(order)
                case MakeDirectory():
                    self._make_directory(order)
                case Attach():
                    self._attach(order)
                case DropPages():
                    self._drop_pages(order)
                case Synchronize():
                    return Done(order_id, pid=os.getpid())
        except SetUpError as exc:
            return Failed(order_id, 0, str(exc))
        except OSError as exc:
            return Failed(order_id, exc.errno or 0, exc.strerror or str(exc))
        return Done(order_id)

    def _open(self, *names: str) -> int:
        return os.open("/".join(names), _DIRECTORY, dir_fd=self._mount_fd)

    def _update(self, order_id: int, order: Update) -> Done:
        volume_fd = self._open(order.pod_uid, order.volume)
        try:

            def set_perms(_: str) -> None:
                if order.fs_group is not None:
                    apply_fs_group(volume_fd, order.fs_group, read_only=True)

            result = atomicwriter.write(volume_fd, {file.path: file for file in order.files}, set_perms=set_perms)
        finally:
            os.close(volume_fd)
        return Done(order_id, version=result.version, changed=result.changed)

    def _remove_volume(self, order: RemoveVolume) -> None:
        try:
            pod_fd = self._open(order.pod_uid)
        except FileNotFoundError:
            return
        try:
            atomicwriter.remove_tree(pod_fd, order.volume)
        finally:
            os.close(pod_fd)

    def _make_directory(self, order: MakeDirectory) -> None:
        if "\0" in order.path:
            raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
        directory_fd = self._open(order.pod_uid, order.volume)
        try:
            for name in order.path.split("/"):
                try:
                    os.mkdir(name, order.mode & 0o777, dir_fd=directory_fd)
                except FileExistsError:
                    pass
                else:
                    os.chmod(name, order.mode, dir_fd=directory_fd)
                # O_NOFOLLOW at every step: a link in the volume must not lead the path out of it.
                next_fd = os.open(name, _DIRECTORY, dir_fd=directory_fd)
                os.close(directory_fd)
                directory_fd = next_fd
        finally:
            os.close(directory_fd)

    def _attach(self, order: Attach) -> None:
        target = Path(order.target)
        # A writer that died between attaching and answering is asked again: there must be one clone, not a pile.
        while self._is_clone(target):
            mounts.umount_lazy(target)
        subdirectory = f"{order.pod_uid}/{order.volume}/{order.path}".rstrip("/")
        mounts.clone_read_only(self._mount_fd, subdirectory, target)

    def _drop_pages(self, order: DropPages) -> None:
        for number in order.numbers:
            # Waits while a page is being read, for the agent or its successor: that is why it is not the agent who does it.
            with contextlib.suppress(FileNotFoundError):
                os.write(self._fuse_fd, make_page_invalidation(number))

    def _is_clone(self, target: Path) -> bool:
        """By its device number: the mount table has lines for every volume of the node, and reading it costs ten times more."""
        if self._device is None:
            self._device = os.fstat(self._mount_fd).st_dev
        return os.lstat(target).st_dev == self._device


def run_writer(orders: socket.socket, mount_fd: int, fuse_fd: int) -> None:
    """Carry out orders until the other end is closed. Before the first Synchronize, drop what was meant for a predecessor."""
    writer = Writer(mount_fd, fuse_fd)
    assembler = OrderAssembler()
    orders.send(encode_answer(Hello(os.getpid())))
    is_welcome = False
    while datagram := orders.recv(DATAGRAM_BYTES):
        received = assembler.feed(datagram)
        if received is None:
            continue
        order_id, order = received
        is_welcome = is_welcome or isinstance(order, Synchronize)
        if is_welcome:
            orders.send(encode_answer(writer.perform(order_id, order)))
        del datagram, received, order  # values stay no longer than their order


def main() -> None:
    harden_process()
    mount_fd = os.open(os.environ["KS_FUSE_MOUNT"], os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    with socket.socket(fileno=int(os.environ["KS_WRITER_FD"])) as orders:
        run_writer(orders, mount_fd, int(os.environ["KS_FUSE_FD"]))


if __name__ == "__main__":
    main()
