"""The guard: what the filesystem asks on every open and every listing, and the control socket of who speaks to it.

Identity, policy and audit in one call that never waits: a few reads of ``/proc`` about a thread that is blocked in the very
request. Most opens are repeats, and a repeat is answered as before at a tenth of the cost, if nothing that the verdict hangs on
can have changed (:meth:`ContainerGuard.may_open`).

Implements the ``Guard`` protocol of ``fusefs/frontdesk.py``, which is above this room and knows errno.
"""

from __future__ import annotations

import contextlib
import logging
from datetime import UTC, datetime
from typing import Literal, NamedTuple, Protocol

from kubelet_secrets.access.audit import AuditLog, Clock
from kubelet_secrets.access.folding import Window
from kubelet_secrets.access.identity import Caller, CallerIdentifier, Sighting
from kubelet_secrets.access.policy import Reason, Verdict, decide, split_version
from kubelet_secrets.access.procfs import CallerUnknown, CallerVanished, printable
from kubelet_secrets.access.record import AuditRecord, Kind
from kubelet_secrets.access.registry import ContainerIdentity, ContainerRegistry
from kubelet_secrets.access.revocations import RevocationList

logger = logging.getLogger(__name__)


class RequestContext(Protocol):
    """Who asks, as the kernel tells it."""

    @property
    def tid(self) -> int: ...  # thread id; 0 for a caller outside the pid namespace of the mount's maker
    @property
    def uid(self) -> int: ...
    @property
    def gid(self) -> int: ...


_Question = tuple[Sighting, int, str, str, str, str]  # who, uid as the request says, pod, volume, path, kind

_ANSWERS = 4096


class _Answer(NamedTuple):
    """What a question was answered."""

    is_allowed: bool
    revision: int  # of registry and revocations together: either only grows
    window: Window  # of the audit trail, where the answer was recorded


class ContainerGuard:
    """Lets containers have what their specs mount, and nobody else anything.

    Args:
        registry: the containers there are; kept up to date by the pods' workers.
        audit: told of every verdict.
        revocations: what nobody may read any more; kept up to date by the revoker.
        identifier: owned by the guard from now on.
        now: the clock of the audit trail.
    """

    def __init__(
        self,
        registry: ContainerRegistry,
        audit: AuditLog,
        *,
        revocations: RevocationList | None = None,
        identifier: CallerIdentifier | None = None,
        now: Clock = lambda: datetime.now(UTC),
    ) -> None:
        self._registry = registry
        self._audit = audit
        self._revocations = revocations if revocations is not None else RevocationList()
        self._identifier = identifier if identifier is not None else CallerIdentifier()
        self._now = now
        self._answers: dict[_Question, _Answer] = {}

    def may_open(
        self, pod_uid: str, volume: str, path: str, ctx: RequestContext, kind: Literal["open", "opendir"]
    ) -> bool:
        """Decide and record. Does not wait and does not touch the guarded filesystem.

        An earlier verdict is given again, and counted in its record, if all this holds: the same thread asks, which its
        pidfd proves; it is in the same mount namespace and the same cgroups, looked up now; it asks for the same; no container
        was registered or removed, nothing revoked or restored; the record's window is open. So what is not looked at each time
        - program, and the user where the request does not say it - is of the time when the window opened.

        Args:
            pod_uid, volume: whose file; empty for the directories above a volume.
            path: the file's own path within the volume, ``""`` for its root.
        """
        sighting = self._identifier.recognise(ctx.tid)
        if sighting is None:
            is_allowed, _ = self._judge(pod_uid, volume, path, ctx, kind)
            return is_allowed
        question = (sighting, ctx.uid, pod_uid, volume, path, kind)
        answer = self._answers.get(question)
        revision = self._registry.revision + self._revocations.revision
        if answer is not None and answer.revision == revision and answer.window.repeat(self._now(), ctx.tid):
            return answer.is_allowed
        is_allowed, window = self._judge(pod_uid, volume, path, ctx, kind)
        if len(self._answers) >= _ANSWERS:
            self._answers.clear()  # they are good for a second at most: none is worth choosing
        if self._identifier.recognise(ctx.tid) == sighting:  # it was not moved in between
            self._answers[question] = _Answer(is_allowed, revision, window)
        return is_allowed

    def may_read(
        self, pod_uid: str, volume: str, path: str, ctx: RequestContext, kind: Literal["read", "readdir"]
    ) -> bool:
        """Whether what was opened may be read on; recorded when not. Whoever has it open was let in: only a revocation ends it.

        Args:
            as for :meth:`may_open`.
        """
        if not self.is_revoked(pod_uid, volume):
            return True
        caller, verdict = self._examine(ctx, pod_uid, volume, path)
        verdict = Verdict(False, Reason.REVOKED, verdict.container)
        self._audit.append(self._record(verdict, caller, ctx, pod_uid, volume, path, kind))
        return False

    def is_revoked(self, pod_uid: str, volume: str) -> bool:
        """Whether nobody may read the volume any more."""
        return self._revocations.find(pod_uid, volume) is not None

    def may_look(self, pod_uid: str, volume: str, path: str, ctx: RequestContext) -> bool:
        """Whether the caller may learn that there is such a name, where its link leads, its size and mode; recorded when not.

        Args:
            path: of what is looked up; of its directory when there is nothing of that name, so that whoever tries all names
                there are is one record. The rest as for :meth:`may_open`.
        """
        if ctx.tid > 0:
            with contextlib.suppress(CallerUnknown):
                where = self._identifier.locate(ctx.tid)
                if decide(where, self._registry, pod_uid, volume, path, admits_start=True).allowed:
                    return True
        caller, verdict = self._examine(ctx, pod_uid, volume, path, admits_start=True)
        if verdict.allowed or verdict.reason is Reason.REVOKED:
            return True
        self._audit.append(self._record(verdict, caller, ctx, pod_uid, volume, path, "lookup"))
        return False

    def may_ask(self, pid: int) -> bool:
        """Whether a process of root's may speak to the agent, which tells of all pods; recorded when not.

        Not from a container, whose root may reach the socket by hostPath; nor what cannot be looked at.
        """
        try:
            caller = self._identifier.identify(pid, uid=0, gid=0) if pid > 0 else None
        except CallerUnknown:
            caller = None
        containers: tuple[ContainerIdentity, ...] = ()
        if caller is not None:
            entered = self._registry.find_by_mount_namespace(caller.mnt_ns)
            containers = self._registry.find_by_cgroups(caller.cgroup_paths) or ((entered,) if entered else ())
            if not containers:
                return True
        container = containers[0] if len(containers) == 1 else None
        self._audit.append(
            AuditRecord(
                time=self._now(),
                verdict="denied",
                reason=Reason.ASKED if caller is not None else Reason.UNREADABLE,
                kind=Kind.ASK,
                container=str(container) if container else "",
                container_id=container.container_id if container else "",
                tid=pid,
                pid=pid,
                exe=caller.exe if caller else "",
            )
        )
        return False

    def group(self, tid: int) -> str:
        """Id of the container that a thread is in; empty when it is in none. For fairness, not for a verdict."""
        containers = self._registry.find_by_cgroups(self._identifier.cgroups_of(tid))
        return containers[0].container_id if containers else ""

    def close(self) -> None:
        """Give back the descriptors of remembered callers."""
        self._identifier.close()

    def _judge(
        self, pod_uid: str, volume: str, path: str, ctx: RequestContext, kind: Literal["open", "opendir"]
    ) -> tuple[bool, Window]:
        caller, verdict = self._examine(ctx, pod_uid, volume, path)
        window = self._audit.append(self._record(verdict, caller, ctx, pod_uid, volume, path, kind))
        return verdict.allowed, window

    def _examine(
        self, ctx: RequestContext, pod_uid: str, volume: str, path: str, *, admits_start: bool = False
    ) -> tuple[Caller | None, Verdict]:
        if ctx.tid <= 0:
            return None, Verdict(False, Reason.OUTSIDE_PID_NAMESPACE)
        try:
            caller = self._identifier.identify(ctx.tid, uid=ctx.uid, gid=ctx.gid)
        except CallerVanished:
            return None, Verdict(False, Reason.VANISHED)
        except CallerUnknown as error:
            logger.info("refused: %s", error)
            return None, Verdict(False, Reason.UNREADABLE)
        is_revoked = self.is_revoked(pod_uid, volume)
        where = (pod_uid, volume, path)
        return caller, decide(caller, self._registry, *where, is_revoked=is_revoked, admits_start=admits_start)

    def _record(
        self,
        verdict: Verdict,
        caller: Caller | None,
        ctx: RequestContext,
        pod_uid: str,
        volume: str,
        path: str,
        kind: str,
    ) -> AuditRecord:
        version, user_path = split_version(path)
        container = verdict.container
        owner = container
        if owner is None or owner.pod_uid != pod_uid:
            owner = next(iter(self._registry.containers(pod_uid)), None)
        return AuditRecord(
            time=self._now(),
            verdict="allowed" if verdict.allowed else "denied",
            reason=verdict.reason.value,
            kind=kind,
            pod_uid=pod_uid,
            namespace=owner.namespace if owner else "",
            pod=owner.pod if owner else "",
            volume=volume,
            path=printable(user_path),
            version=printable(version),
            container=str(container) if container else "",
            container_id=container.container_id if container else "",
            tid=ctx.tid,
            pid=caller.pid if caller else 0,
            uid=caller.uid if caller else ctx.uid,
            exe=caller.exe if caller else "",
        )
