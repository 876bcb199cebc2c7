"""Which version of a volume a container holds by a subPath, read from its mount table. Pure.

A subPath is bound to what it led to when the container started: the mount's root names that version for as long as the
container runs, even when the version has been removed since, and an agent that was started later reads the same.

Source: proc_pid_mountinfo(5); semantics §5.2.
"""

from __future__ import annotations

import re

_ESCAPE = re.compile(r"\\([0-7]{3})")
_DELETED = "//deleted"


def bound_versions(mountinfo: str, pod_uid: str) -> dict[str, str]:
    """Mount point in the container → version directory that is mounted there.

    Args:
        mountinfo: ``/proc/<pid>/mountinfo`` of a process of the container.

    Mounts of whole volumes, which follow every version, are not listed.
    """
    found = {}
    for line in mountinfo.splitlines():
        fields = line.split(" ")
        if len(fields) < 5:
            continue
        root, point = (_ESCAPE.sub(lambda match: chr(int(match[1], 8)), field) for field in fields[3:5])
        parts = root.removesuffix(_DELETED).split("/")  # "", pod uid, volume, version, …
        if len(parts) > 3 and parts[1] == pod_uid and parts[3].startswith(".."):
            found[point] = parts[3]
    return found


def credentials_of(status: str) -> tuple[int, frozenset[int], bool]:
    """The filesystem uid, every group, and whether CAP_DAC_OVERRIDE is in effect, from ``/proc/<pid>/status``.

    Raises:
        ValueError: it is not such a file.
    """
    fields = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
    try:
        uid, gid = int(fields["Uid"].split()[3]), int(fields["Gid"].split()[3])
        groups = frozenset({gid, *map(int, fields["Groups"].split())})
        effective = int(fields["CapEff"], 16)
    except (KeyError, IndexError) as error:
        raise ValueError("not the status of a process") from error
    return uid, groups, bool(effective & 1 << 1)  # CAP_DAC_OVERRIDE, linux/capability.h
