"""Ending a volume's readability: nothing of it opens any more, and what is open already reads no more.

1. The entry in ``access/revocations.py``: from the same moment every open, read and listing that reaches the agent is refused.
2. The kernel drops the pages that it holds of the volume's files, of all versions, also of those that are unlinked and still
   open. Whoever reads on - by a descriptor, however come by, or in a mapping - asks the agent again: EACCES, or SIGBUS.

The order matters. A read that was answered before (1) has its pages locked in the kernel until they are filled, and (2) waits
for them and drops them too; after (1) none is answered. For the same reason (2) is the writer's work: whoever
drops pages may wait for an answer to a read, so it must be none of the agent's threads (``wire.make_page_invalidation``).

Called by ``inspection`` (the command) and ``volume.manager`` (a pod's end). What a process has read is its own; this takes no
memory away from anybody.
"""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Protocol

from kubelet_secrets.access.revocations import Revocation, RevocationList
from kubelet_secrets.errors import HostError, SetUpError
from kubelet_secrets.fusefs.tree import Tree

logger = logging.getLogger(__name__)

TAKEN_AWAY = "the volume is being taken away"


class PageDropper(Protocol):
    """Implemented by ``writerclient.WriterClient``."""

    async def drop_pages(self, numbers: Sequence[int]) -> None: ...


class Revoker:
    """Revokes and restores.

    Args:
        revocations: the same that the guard asks.
        now: wall clock, aware.
    """

    def __init__(
        self, revocations: RevocationList, tree: Tree, dropper: PageDropper, *, now: Callable[[], datetime]
    ) -> None:
        self._revocations = revocations
        self._tree = tree
        self._dropper = dropper
        self._now = now

    async def revoke(self, pod_uid: str, volume: str, *, cause: str) -> tuple[Revocation, int]:
        """Revoke a volume; again is fine, and drops the pages again.

        Returns:
            The revocation in force, and how many of the volume's files the kernel was told to drop.

        Raises:
            HostError: it is revoked, but a restart of the agent would end that.
            SetUpError: it is revoked, but what the kernel holds can still be read by who has it open; call again.

        Cancellation: as SetUpError.
        """
        failure: HostError | None = None
        try:
            self._revocations.add(Revocation(pod_uid=pod_uid, volume=volume, since=self._now(), cause=cause))  # (1)
        except HostError as error:
            failure = error
        count = await self._drop_pages(pod_uid, volume)  # (2)
        if failure is not None:
            raise failure
        revocation = self._revocations.find(pod_uid, volume)
        assert revocation is not None
        return revocation, count

    def restore(self, pod_uid: str, volume: str) -> bool:
        """Give the right back; False when it was not revoked. Descriptors that are still open read again.

        Raises:
            HostError: a restart of the agent would revoke it again.
        """
        return self._revocations.remove(pod_uid, volume)

    async def withdraw(self, pod_uid: str, volume: str) -> None:
        """The volume goes, and with it the right of whoever still has a file of it open. For ``volume.manager``.

        Raises:
            OSError: the pages could not be dropped; call again.
        """
        try:
            await self.revoke(pod_uid, volume, cause=TAKEN_AWAY)
        except HostError as error:
            logger.warning("%s", error)  # the volume is removed next: there is nothing to give back
        except SetUpError as error:
            raise OSError(errno.EAGAIN, str(error)) from error

    def forget_pod(self, pod_uid: str) -> None:
        """The pod's volumes are gone from the store: there is nothing left to refuse. For ``volume.manager``."""
        try:
            self._revocations.forget_pod(pod_uid)
        except HostError as error:
            logger.warning("%s", error)  # an entry for a pod that never comes back

    async def resume(self) -> None:
        """Finish what an earlier agent may have died over: drop the pages of everything that is revoked. Called once."""
        for entry in self._revocations.entries():
            try:
                await self._drop_pages(entry.pod_uid, entry.volume)
            except SetUpError as error:
                logger.warning("volume %s of pod %s: %s", entry.volume, entry.pod_uid, error)

    async def _drop_pages(self, pod_uid: str, volume: str) -> int:
        numbers = self._tree.files_of(pod_uid, volume)
        if numbers:
            await self._dropper.drop_pages(numbers)
        return len(numbers)
