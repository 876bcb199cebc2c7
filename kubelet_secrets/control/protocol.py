"""The words of the control socket: one JSON request per connection, answered by one or more JSON lines.

A request is ``{"method": …, "params": {…}}``. Each answer line is ``{"item": …}`` or, last, ``{"error": …}`` or
``{"end": true}``. Values of secrets appear only in :class:`EnvRow` and only when ``show_values`` was asked; the socket is
0600, and the server looks at who connects besides: root, and of no container.
"""

from __future__ import annotations

from typing import Any

import msgspec

DEFAULT_SOCKET = "/run/kubelet-secrets/agent.sock"


class Request(msgspec.Struct, frozen=True, rename="camel"):
    method: str
    params: dict[str, Any] = msgspec.field(default_factory=dict)


class Answer(msgspec.Struct, frozen=True, omit_defaults=True, rename="camel"):
    item: Any = None
    error: str = ""
    end: bool = False


class ContainerSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    name: str
    state: str  # "Running", a waiting reason, or a terminated reason
    container_id: str = ""
    pid: int = 0
    restarts: int = 0


class PodSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    namespace: str
    name: str
    uid: str
    phase: str
    containers: tuple[ContainerSummary, ...] = ()
    volumes: tuple[str, ...] = ()
    revoked: tuple[str, ...] = ()  # of the volumes, those that nobody reads any more


class AuditCopy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One place that the audit trail is copied to."""

    name: str  # "file" or "journal"
    path: str
    delivered: int  # number of the last record that it has
    dropped: int  # records that it will never have
    problem: str  # why it does not take any at the moment


class AuditSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The audit trail as a whole."""

    head: int  # number of the last record
    oldest: int  # number of the oldest one that the agent can show
    chain: str  # of the last record
    verdicts: int  # taken since this agent started, repeats included
    denied: int
    dropped: int  # records that some reader or copy was too slow for, since this agent started
    copies: tuple[AuditCopy, ...] = ()


class NodeSummary(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to ``status``."""

    node: str
    agent_pid: int
    resumed: bool  # this agent took over from one that died
    root_dir: str
    pods: tuple[PodSummary, ...] = ()
    audit: AuditSummary | None = None


class EnvRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One variable of one container: as started, and as it would be now."""

    name: str
    origin: str  # "secret/db key password", "field metadata.name", …
    size: int  # bytes of the value as started (of the current one while the container has not started)
    value: str | None = None  # only when asked for
    current_value: str | None = None  # only when asked for and different
    stale: bool = False  # the value would be another one if the container started now
    missing: bool = False  # set in the container, but would not be set now
    added: bool = False  # not set in the container, but would be set now
    since: str = ""  # RFC 3339: since when the current value is what it is
    started_resource_version: str = ""  # of the object it came from at the start
    current_resource_version: str = ""  # of the object it would come from now

    def __repr__(self) -> str:
        return f"EnvRow(name={self.name!r}, origin={self.origin!r}, size={self.size}, stale={self.stale})"


class EnvView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer item of ``env``; with ``watch`` one more each time something changes."""

    namespace: str
    pod: str
    container: str
    started_version: int  # 0: the container has not been started
    current_version: int
    since: str  # RFC 3339: since when the current version is current
    started_since: str = ""  # RFC 3339: since when the version was current that it was started with
    problem: str = ""  # why the environment cannot be made at the moment
    rows: tuple[EnvRow, ...] = ()


class FileRow(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """One file of one container."""

    path: str  # as the container sees it
    mode: str  # "-rw-r--r--"
    uid: int
    gid: int
    size: int | None  # None: of a version that is older than the agent
    version: str  # what the container sees: "..2026_11_23_19_40_01.123456789"
    current: str  # what it would see if it started now; the same unless it is frozen
    started: str  # what it saw at its start; "" when that is older than the agent
    since: str  # RFC 3339: since when the version it sees was current
    origin: str
    volume: str
    updates: bool  # False: frozen until the container restarts (subPath)
    stale: bool = False  # frozen, and something else is current
    revoked: bool = False  # nobody reads it any more


class TreeView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer item of ``tree``."""

    namespace: str
    pod: str
    container: str
    rows: tuple[FileRow, ...] = ()
    problems: tuple[str, ...] = ()  # why volumes of the container cannot be made, or made anew: then their files stay


class WhyStep(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """One link of the chain from the spec to a value."""

    where: str  # a field of the pod's spec, or an object
    text: str
    depth: int = 0  # of what an expanded variable is made of


class WhyVersion(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """What a container had or has of the value."""

    version: str  # "2" of a variable; "..2026_11_23_19_40_01.123456789" of a file
    resource_version: str = ""  # of the object it comes from; "" when that is not known any more, or there is none
    since: str = ""  # RFC 3339
    size: int | None = None


class WhyReader(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    who: str
    allowed: bool
    why: str


class WhyView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to ``why``; offline the same, without versions."""

    namespace: str
    pod: str
    container: str
    kind: str  # "variable", "file", "directory" or "nothing"
    target: str
    steps: tuple[WhyStep, ...] = ()
    origin: str = ""
    rule: str = ""  # what stops it, in the kubelet's words
    effect: str = ""  # what does not start because of it
    hint: str = ""
    frozen: bool = False  # the container keeps what it was started with
    started: WhyVersion | None = None  # what the container has
    current: WhyVersion | None = None  # what it would have if it started now
    stale: bool = False
    readers: tuple[WhyReader, ...] = ()


class RevokeView(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Answer to ``revoke``."""

    namespace: str
    pod: str
    pod_uid: str
    volume: str
    revoked: bool  # as it is now
    changed: bool  # False: it was so already
    since: str = ""  # RFC 3339, of a revocation
    files: int = 0  # that the kernel was told to drop: of every version that is still held


class AuditView(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, rename="camel"):
    """Answer item of ``audit``: one verdict, or several alike folded into one."""

    time: str  # RFC 3339 with milliseconds, UTC
    seq: int
    kind: str  # "open", "opendir", "read", "readdir", "lookup", "exec"; of the trail itself "start", "stop", "gap"
    verdict: str  # "allowed" or "denied"; "" of the trail itself
    file: str  # "<volume>/<path>" within the pod
    who: str  # "ns/pod/container" or "host pid 123 (/usr/bin/cat)"
    why: str
    count: int = 1
    namespace: str = ""  # the pod whose volume it is
    pod: str = ""
    container: str = ""  # the container that asked, when it is one of ours
    volume: str = ""
    path: str = ""
    version: str = ""
    tid: int = 0
    pid: int = 0
    uid: int = 0
    exe: str = ""
    user: str = ""  # of an exec: who asked the kubelet's API
    chain: str = ""
    line: str = ""  # the record itself, as it is chained
    dropped: int = 0  # records that this reader was too slow to be shown, before this one


class LogPart(msgspec.Struct, frozen=True, rename="camel"):
    """Answer item of ``logs``: some bytes of a container's output, as it wrote them."""

    data: bytes
