"""Linux capabilities of a container, pure: the default set, what a securityContext adds and drops."""

from __future__ import annotations

from collections.abc import Sequence

# In kernel order: the index is the number in <linux/capability.h>.
NAMES = (
    "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_DAC_READ_SEARCH", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_SETGID", "CAP_SETUID",
    "CAP_SETPCAP", "CAP_LINUX_IMMUTABLE", "CAP_NET_BIND_SERVICE", "CAP_NET_BROADCAST", "CAP_NET_ADMIN", "CAP_NET_RAW",
    "CAP_IPC_LOCK", "CAP_IPC_OWNER", "CAP_SYS_MODULE", "CAP_SYS_RAWIO", "CAP_SYS_CHROOT", "CAP_SYS_PTRACE", "CAP_SYS_PACCT",
    "CAP_SYS_ADMIN", "CAP_SYS_BOOT", "CAP_SYS_NICE", "CAP_SYS_RESOURCE", "CAP_SYS_TIME", "CAP_SYS_TTY_CONFIG", "CAP_MKNOD",
    "CAP_LEASE", "CAP_AUDIT_WRITE", "CAP_AUDIT_CONTROL", "CAP_SETFCAP", "CAP_MAC_OVERRIDE", "CAP_MAC_ADMIN", "CAP_SYSLOG",
    "CAP_WAKE_ALARM", "CAP_BLOCK_SUSPEND", "CAP_AUDIT_READ", "CAP_PERFMON", "CAP_BPF", "CAP_CHECKPOINT_RESTORE",
)  # fmt: skip

# What Docker and containerd give a container that asks for nothing.
DEFAULT = frozenset({
    "CAP_AUDIT_WRITE", "CAP_CHOWN", "CAP_DAC_OVERRIDE", "CAP_FOWNER", "CAP_FSETID", "CAP_KILL", "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE", "CAP_NET_RAW", "CAP_SETFCAP", "CAP_SETGID", "CAP_SETPCAP", "CAP_SETUID", "CAP_SYS_CHROOT",
})  # fmt: skip


def container_capabilities(
    add: Sequence[str], drop: Sequence[str], *, privileged: bool, available: Sequence[str]
) -> tuple[str, ...]:
    """The capability set of a container, in kernel order.

    Args:
        add: names with or without ``CAP_``, any case; ``ALL`` means every available one.
        drop: likewise; ``ALL`` drops the default set. An explicit *add* survives ``drop: [ALL]``.
        available: what this process holds itself; nothing else can be given, and a default one it lacks is left out.

    Raises:
        ValueError: a name that is no capability, as the CRI runtimes refuse it.

    Source: containerd internal/cri/server, container_create_linux.go (order: add ALL, drop ALL, add, drop).
    """
    if privileged:
        return tuple(available)
    add_all, added = _parse(add)
    drop_all, dropped = _parse(drop)
    held = set(available) if add_all else set(DEFAULT).intersection(available)
    if drop_all:
        held = set()
    held |= added
    held -= dropped
    return tuple(name for name in NAMES if name in held)


def capabilities_of_mask(mask: int) -> tuple[str, ...]:
    """The names behind a ``CapBnd:`` or ``CapEff:`` of ``/proc/<pid>/status``; numbers newer than this file are left out."""
    return tuple(name for number, name in enumerate(NAMES) if mask >> number & 1)


def _parse(names: Sequence[str]) -> tuple[bool, set[str]]:
    found = set()
    everything = False
    for name in names:
        upper = name.upper()
        if upper in ("ALL", "CAP_ALL"):
            everything = True
            continue
        full = upper if upper.startswith("CAP_") else f"CAP_{upper}"
        if full not in NAMES:
            raise ValueError(f'unknown capability "{full}"')
        found.add(full)
    return everything, found
