"""pyfuse3's one session per process, as a trio service. Nobody else starts or ends it.

The kernel's FUSE_INIT was read and answered by the keeper long ago, so libfuse is shown a copy: its "device" is one end of a
SOCK_SEQPACKET pair with the recorded request in it. While libfuse handles that request - inside ``Operations.init()`` - the
real descriptor is put in the socket's place, so libfuse's late answer goes to the kernel, which knows no such request (ENOENT),
and libfuse shrugs that off. A restarted agent then asks the kernel to deliver again what its predecessor took with it.
"""

from __future__ import annotations

import logging
import os
import socket

import pyfuse3
import trio

from kubelet_secrets.errors import HostError
from kubelet_secrets.fusefs.init import make_resend_notification, parse_init
from kubelet_secrets.fusefs.operations import Operations

logger = logging.getLogger(__name__)

_MAX_TASKS = 16  # handlers never wait, so there is never more than one at work; pyfuse3 keeps two alive


async def serve(
    fuse_fd: int,
    init_request: bytes,
    operations: Operations,
    *,
    resume: bool,
    task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve requests until cancelled.

    Args:
        fuse_fd: /dev/fuse, mounted, its FUSE_INIT answered. Stays the caller's; is switched to non-blocking.
        init_request: the FUSE_INIT as the kernel sent it.
        operations: the handlers.
        resume: an earlier process served this mount: ask for its unanswered requests, and index its nodes.

    Cancellation: orderly. The request at work is answered, the rest waits in the kernel for the next agent.

    Raises:
        HostError: the kernel ended the connection: aborted, or unmounted everywhere. In a group, as it comes from a nursery.
        ExceptionGroup: a handler had a bug; expected failures are errno (``operations``).
    """
    # The device can become readable and then have nothing to read (the caller was killed): never block on it.
    os.set_blocking(fuse_fd, False)
    replayed, stopping = trio.Event(), trio.Event()
    theirs, ours = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs, ours:
        ours.send(init_request)
        session_fd = os.dup(theirs.fileno())
        theirs.close()  # its last descriptor must be the session's: replacing that takes the socket out of epoll

        def switch_to_kernel() -> None:
            os.dup2(fuse_fd, session_fd, inheritable=False)
            replayed.set()

        operations.call_on_init(switch_to_kernel)
        pyfuse3.init(operations, f"/dev/fd/{session_fd}", set())
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(_run_loop, stopping)
                try:
                    await replayed.wait()
                    if resume:
                        _ask_again(fuse_fd, init_request)
                        _exhume(operations)
                        nursery.start_soon(_index, operations)
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    stopping.set()
                    pyfuse3.terminate()
        finally:
            pyfuse3.close(unmount=False)


async def _run_loop(stopping: trio.Event) -> None:
    """pyfuse3's main loop. Shielded: a cancelled handler would never answer; ``terminate`` ends it."""
    with trio.CancelScope(shield=True):
        while True:
            spurious = False
            try:
                await pyfuse3.main(max_tasks=_MAX_TASKS)
            except* BlockingIOError:
                spurious = True  # readable without a request: pyfuse3 takes EAGAIN for a failure
            if not spurious:
                break
    if not stopping.is_set():
        raise HostError("the filesystem's connection was ended from outside: aborted, or unmounted everywhere")


def _ask_again(fuse_fd: int, init_request: bytes) -> None:
    if not parse_init(init_request).can_resend:
        logger.warning(
            "this kernel cannot deliver requests again (Linux 6.9 can): callers from before the restart hang"
        )
        return
    os.write(fuse_fd, make_resend_notification())


def _exhume(operations: Operations) -> None:
    """Remove the buried files that the kernel has forgotten while nobody listened.

    Asking it to drop a node's cached *attributes* is how one learns whether it knows the node. That never waits, unlike
    the invalidation of pages or names.
    """
    for number in operations.buried():
        try:
            pyfuse3.invalidate_inode(number, attr_only=True)
        except FileNotFoundError:
            operations.exhume(number)


async def _index(operations: Operations) -> None:
    """Meet the rest of the store in the background, a directory at a time, so that no request has to wait for it."""
    while operations.index_step():
        await trio.lowlevel.checkpoint()
