"""Which user a container runs as: the image's word against the pod's securityContext. Pure, but for reading two files.

Source: containerd pkg/oci (WithUser, WithAdditionalGIDs) and internal/cri/server (container_create); kubelet
pkg/kubelet/kuberuntime/security_context.go (verifyRunAsNonRoot).
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from kubelet_secrets.errors import ContainerConfigError, ContainerRunError
from kubelet_secrets.linux import open_in_root
from kubelet_secrets.runtime.settings import UserIds

_MAX_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class UserDatabase:
    """An image's ``/etc/passwd`` and ``/etc/group``, parsed; lines that cannot be read are passed over."""

    users: tuple[tuple[str, int, int], ...] = ()  # name, uid, gid
    groups: tuple[tuple[str, int, tuple[str, ...]], ...] = ()  # name, gid, members


def parse_user_database(passwd: str, group: str) -> UserDatabase:
    users = []
    for line in passwd.splitlines():
        fields = line.split(":")
        if len(fields) >= 4 and fields[2].isdigit() and fields[3].isdigit():
            users.append((fields[0], int(fields[2]), int(fields[3])))
    groups = []
    for line in group.splitlines():
        fields = line.split(":")
        if len(fields) >= 3 and fields[2].isdigit():
            members = tuple(name for name in fields[3].split(",") if name) if len(fields) > 3 else ()
            groups.append((fields[0], int(fields[2]), members))
    return UserDatabase(tuple(users), tuple(groups))


def read_user_database(rootfs: Path) -> UserDatabase:
    """Read both files of an image without leaving its root, wherever its symbolic links point. Missing ones are empty.

    Raises:
        ContainerRunError: the image itself is missing.
    """
    try:
        root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise ContainerRunError(
            f"the image's files cannot be read: {error.strerror}: pull or import it again"
        ) from None
    try:
        return parse_user_database(_read(root, "etc/passwd"), _read(root, "etc/group"))
    finally:
        os.close(root)


def resolve_user(
    image_user: str,
    database: UserDatabase,
    *,
    run_as_user: int | None = None,
    run_as_group: int | None = None,
    supplemental_groups: Sequence[int] = (),
    fs_group: int | None = None,
    strict_groups: bool = False,
) -> UserIds:
    """The ids of a container's first process.

    Args:
        image_user: the image's ``User``: empty, a name, a uid, either with ``:group``.
        strict_groups: ``supplementalGroupsPolicy: Strict``: groups of the image's /etc/group do not count.

    Raises:
        ContainerRunError: the image names a user or group that its files do not know.
    """
    name, _, group = image_user.partition(":")
    entry: tuple[str, int, int] | None = None
    if run_as_user is not None:
        uid = run_as_user
        entry = next((user for user in database.users if user[1] == uid), None)
        group = ""  # the image's group goes with the image's user
    else:
        uid, entry = _find_user(name, database)
    if run_as_group is not None:
        gid = run_as_group
    elif group:
        gid = _find_group(group, database)
    else:
        gid = entry[2] if entry is not None else 0
    # The primary gid is among the additional ones too, so that nobody gains access by a group entry that denies it.
    additional = [gid]
    if not strict_groups and entry is not None:
        additional += [group_id for _, group_id, members in database.groups if entry[0] in members]
    additional += supplemental_groups
    if fs_group is not None:
        additional.append(fs_group)
    return UserIds(uid=uid, gid=gid, additional_gids=tuple(dict.fromkeys(additional)))


def verify_non_root(
    image_user: str, *, run_as_non_root: bool | None, run_as_user: int | None, pod: str, container: str
) -> None:
    """``runAsNonRoot``: refuse what is, or may be, root.

    Args:
        pod: as ``format_pod`` prints it.

    Raises:
        ContainerConfigError: with the kubelet's text.
    """
    if not run_as_non_root:
        return
    where = f'(pod: "{pod}", container: {container})'
    if run_as_user is not None:
        if run_as_user == 0:
            raise ContainerConfigError(f"container's runAsUser breaks non-root policy {where}")
        return
    name = image_user.partition(":")[0]
    if name.isdigit():
        if int(name) == 0:
            raise ContainerConfigError(f"container has runAsNonRoot and image will run as root {where}")
        return
    if name:
        raise ContainerConfigError(
            f"container has runAsNonRoot and image has non-numeric user ({name}), cannot verify user is non-root {where}"
        )
    raise ContainerConfigError(f"container has runAsNonRoot and image will run as root {where}")


def _find_user(name: str, database: UserDatabase) -> tuple[int, tuple[str, int, int] | None]:
    if not name:
        return 0, next((user for user in database.users if user[1] == 0), None)
    if name.isdigit():
        uid = int(name)
        return uid, next((user for user in database.users if user[1] == uid), None)
    entry = next((user for user in database.users if user[0] == name), None)
    if entry is None:
        raise ContainerRunError(
            f"failed to create container: unable to find user {name}: no matching entries in passwd file"
        )
    return entry[1], entry


def _find_group(name: str, database: UserDatabase) -> int:
    if name.isdigit():
        return int(name)
    found = next((gid for group, gid, _ in database.groups if group == name), None)
    if found is None:
        raise ContainerRunError(
            f"failed to create container: unable to find group {name}: no matching entries in group file"
        )
    return found


def _read(root: int, path: str) -> str:
    try:
        fd = open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK)
    except OSError:
        return ""
    with os.fdopen(fd, "rb") as file:
        return file.read(_MAX_BYTES).decode(errors="replace")
