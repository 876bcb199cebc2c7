"""The ``RuntimeDefault`` seccomp profile, pure; and profiles of the node's own (``Localhost``), read from a file.

A deny list, where Docker and containerd ship an allow list of some 350 names: the calls that those lists withhold from a
container fail here with EPERM, everything else passes. It is short enough to review, needs no upkeep for harmless new system
calls, and a container cannot tell the difference except for calls newer than this file, which pass.
Calls that a capability unlocks are left out of the list when the container holds it, as upstream does.
``Unconfined`` (the kubelet's default for a pod that asks for nothing) means: no filter at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path
from typing import Any

from kubelet_secrets.errors import ContainerRunError

# Denied whatever the container's capabilities are.
_ALWAYS = (
    "add_key", "keyctl", "request_key",  # the kernel keyring knows no namespaces
    "_sysctl", "create_module", "get_kernel_syms", "query_module", "nfsservctl", "sysfs", "uselib", "ustat", "vm86", "vm86old",
    "io_uring_enter", "io_uring_register", "io_uring_setup",  # file access beside every other filter
    "kexec_file_load", "kexec_load",
    "userfaultfd",
)  # fmt: skip

# Denied unless the container holds the capability.
_UNLESS = {
    "CAP_DAC_READ_SEARCH": ("open_by_handle_at",),
    "CAP_SYS_ADMIN": (
        "fsconfig", "fsmount", "fsopen", "fspick", "lookup_dcookie", "mount", "mount_setattr", "move_mount", "open_tree",
        "pivot_root", "quotactl", "quotactl_fd", "setdomainname", "sethostname", "setns", "swapoff", "swapon", "umount",
        "umount2", "unshare",
    ),
    "CAP_BPF": ("bpf",),
    "CAP_PERFMON": ("perf_event_open",),
    "CAP_SYSLOG": ("syslog",),
    "CAP_SYS_BOOT": ("reboot",),
    "CAP_SYS_CHROOT": ("chroot",),
    "CAP_SYS_MODULE": ("delete_module", "finit_module", "init_module"),
    "CAP_SYS_NICE": ("get_mempolicy", "mbind", "migrate_pages", "move_pages", "set_mempolicy"),
    "CAP_SYS_PACCT": ("acct",),
    "CAP_SYS_PTRACE": ("kcmp", "pidfd_getfd"),
    "CAP_SYS_RAWIO": ("ioperm", "iopl"),
    "CAP_SYS_TIME": ("clock_settime", "clock_settime64", "settimeofday", "stime"),
    "CAP_SYS_TTY_CONFIG": ("vhangup",),
}  # fmt: skip

# One capability stands in for narrower ones, as in capabilities(7).
_IMPLIED_BY_SYS_ADMIN = {"CAP_BPF", "CAP_PERFMON", "CAP_SYSLOG"}

_CLONE_NEW_MASK = 0x7E020000  # every CLONE_NEW* flag: a new namespace of any kind
_EPERM = 1
_ENOSYS = 38


def runtime_default(capabilities: Collection[str]) -> dict[str, Any]:
    """The ``linux.seccomp`` object for a container with these capabilities (``CAP_…`` names).

    clone(2) with namespace flags is refused by a look at its flags. clone3(2) keeps them in memory where a filter cannot
    look: it is answered with ENOSYS, and the C library falls back to clone.
    """
    held = set(capabilities)
    if "CAP_SYS_ADMIN" in held:
        held |= _IMPLIED_BY_SYS_ADMIN
    denied = list(_ALWAYS)
    for capability, names in _UNLESS.items():
        if capability not in held:
            denied += names
    rules: list[dict[str, Any]] = [{"names": sorted(denied), "action": "SCMP_ACT_ERRNO", "errnoRet": _EPERM}]
    if "CAP_SYS_ADMIN" not in held:
        # One rule per flag: libseccomp's masked comparison asks for equality, and "any of these bits" is not one.
        flags = [1 << bit for bit in range(32) if _CLONE_NEW_MASK & (1 << bit)]
        rules += [
            {
                "names": ["clone"],
                "action": "SCMP_ACT_ERRNO",
                "errnoRet": _EPERM,
                "args": [{"index": 0, "value": flag, "valueTwo": flag, "op": "SCMP_CMP_MASKED_EQ"}],
            }
            for flag in flags
        ]
        rules.append({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": _ENOSYS})
    return {"defaultAction": "SCMP_ACT_ALLOW", "syscalls": rules}


_MAX_PROFILE_BYTES = 1 << 20
_PROFILE_KEYS = ("defaultAction", "defaultErrnoRet", "architectures", "flags", "syscalls")
_RULE_KEYS = ("names", "action", "errnoRet", "args")


def read_profile(directory: Path, name: str) -> dict[str, Any]:
    """The ``linux.seccomp`` object that a file of the node holds; what OCI does not know is left out.

    Args:
        directory: the node's profiles.
        name: relative to it; the API has checked that it does not lead out.

    Raises:
        ContainerRunError: there is no such file, or it is no profile. The container must not run without.

    Source: containerd contrib/seccomp, WithProfile: the file is the OCI object.
    """
    path = directory / name
    what = f'failed to generate seccomp spec opts: cannot load seccomp profile "{path}"'
    try:
        with path.open("rb") as file:
            content = file.read(_MAX_PROFILE_BYTES)
    except OSError as error:
        raise ContainerRunError(f"{what}: open {path}: {(error.strerror or str(error)).lower()}") from None
    try:
        found = json.loads(content)
        profile = {key: found[key] for key in _PROFILE_KEYS if found.get(key)}
        if "syscalls" in profile:
            profile["syscalls"] = [
                {key: rule[key] for key in _RULE_KEYS if rule.get(key)} for rule in found["syscalls"]
            ]
        has_action = isinstance(profile.get("defaultAction"), str)
    except (ValueError, AttributeError, TypeError, KeyError):
        has_action = False
    if not has_action:
        raise ContainerRunError(f"{what}: decoding seccomp profile failed: it is no JSON object with a defaultAction")
    return profile
