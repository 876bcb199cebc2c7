"""Which volumes their pods may read no more, and since when. Data and one small file; ``fusefs/revoker.py`` acts on it.

A right ends in two ways: the pod is being taken away, or whoever runs the node says so (``kubelet-secrets revoke``). Both are
an entry here, under the pod's uid: a new pod of the same name has a right of its own. Narrower or timed rights (one file,
one reading, an hour) would be further kinds of entry; all that reads this asks :meth:`RevocationList.find`.

Kept in memory, and in a file on the node's memory filesystem when one is named: an agent that takes over must refuse what its
predecessor refused with its very first answer.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec

from kubelet_secrets.errors import HostError


@dataclass(frozen=True, slots=True, kw_only=True)
class Revocation:
    """One volume of one pod that nobody reads any more."""

    pod_uid: str
    volume: str
    since: datetime  # aware
    cause: str  # "revoked on the node"; names no value


class RevocationList:
    """The revocations in force. One event loop reads and writes it.

    Attributes:
        revision: a greater number after every change: what was concluded under this one still holds.

    Args:
        state_file: where it is kept for the next agent; read at once, replaced at every change. Names, no values.

    Raises:
        HostError: the file is not such a list. To go on with an empty one would give back what was taken away.
    """

    def __init__(self, state_file: Path | None = None) -> None:
        self.revision = 0
        self._state_file = state_file
        self._entries = {(each.pod_uid, each.volume): each for each in _load(state_file)}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, pod_uid: str, volume: str) -> Revocation | None:
        """The revocation of this volume, or None: whoever mounts it may read it."""
        return self._entries.get((pod_uid, volume))

    def entries(self, pod_uid: str | None = None) -> list[Revocation]:
        """The revocations of a pod's volumes, or all, oldest first."""
        return [each for each in self._entries.values() if pod_uid in (None, each.pod_uid)]

    def add(self, revocation: Revocation) -> bool:
        """Revoke. In force when this returns, and also when it raises.

        Returns:
            False when it was revoked already; the earlier entry stays.

        Raises:
            HostError: it cannot be kept, so a restart of the agent would end it.
        """
        key = (revocation.pod_uid, revocation.volume)
        if key in self._entries:
            return False
        self._entries[key] = revocation
        self.revision += 1
        self._save()
        return True

    def remove(self, pod_uid: str, volume: str) -> bool:
        """Give the right back; False when it had not been taken.

        Raises:
            HostError: that cannot be kept: a restart of the agent would revoke it again.
        """
        if self._entries.pop((pod_uid, volume), None) is None:
            return False
        self.revision += 1
        self._save()
        return True

    def forget_pod(self, pod_uid: str) -> None:
        """The pod is gone, and so is everything of it that could be read.

        Raises:
            HostError: as for :meth:`remove`.
        """
        keys = [key for key in self._entries if key[0] == pod_uid]
        for key in keys:
            del self._entries[key]
        if keys:
            self.revision += 1
            self._save()

    def _save(self) -> None:
        if self._state_file is None:
            return
        unfinished = self._state_file.with_name(f"{self._state_file.name}.new")
        try:
            fd = os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(fd, "wb") as file:
                file.write(msgspec.json.encode(list(self._entries.values())))
            unfinished.rename(self._state_file)
        except OSError as error:
            raise HostError(
                f"cannot keep the revocations in {self._state_file}, so they end with this agent: {error.strerror}"
            ) from None


def _load(state_file: Path | None) -> list[Revocation]:
    if state_file is None:
        return []
    try:
        return msgspec.json.decode(state_file.read_bytes(), type=list[Revocation])
    except FileNotFoundError:
        return []
    except msgspec.MsgspecError as error:
        raise HostError(f"{state_file} is not a list of revocations: {error}") from None
