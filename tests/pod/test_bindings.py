"""What /proc says of a container: which versions it holds, and as whom it reads."""

from __future__ import annotations

import pytest

from kubelet_secrets.pod.bindings import bound_versions, credentials_of

FUSE = "ro,relatime - fuse kubelet-secrets rw,user_id=0,default_permissions,allow_other"
MOUNTINFO = f"""\
135 130 0:45 / / rw,relatime - overlay overlay rw
141 135 0:49 /uid-1/v /etc/v {FUSE}
142 135 0:49 /uid-1/v/..2026_11_23_21_17_20.1105692653/password /etc/pw {FUSE}
143 135 0:49 /uid-1/v/..2026_11_23_21_17_20.9/a//deleted /etc/gone {FUSE}
144 135 0:49 /uid-1/v/..2026_11_23_21_17_20.7/d/e /etc/with\\040space {FUSE}
145 135 0:49 /uid-2/v/..2026_11_23_21_17_20.8/a /etc/other-pod {FUSE}
146 135 0:50 / /dev/shm rw shared:1 - tmpfs shm rw
"""


def test_versions_are_named_by_the_mounts_roots() -> None:
    """A removed version's name stays; a mount of the whole volume follows every version and is not listed."""
    assert bound_versions(MOUNTINFO, "uid-1") == {
        "/etc/pw": "..2026_11_23_21_17_20.1105692653",
        "/etc/gone": "..2026_11_23_21_17_20.9",
        "/etc/with space": "..2026_11_23_21_17_20.7",
    }


def test_nonsense_is_no_mount() -> None:
    assert bound_versions("\n1 2 3\n", "uid-1") == {}


def status(uid: str = "1000 1000 1000 1001", gid: str = "0 0 0 0", groups: str = "5 7 ", effective: str = "0") -> str:
    return f"Name:\tsh\nUid:\t{uid}\nGid:\t{gid}\nGroups:\t{groups}\nCapEff:\t{effective}\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (status(), (1001, {0, 5, 7}, False)),
        (status(uid="0 0 0 0", groups="", effective="00000000a80425fb"), (0, {0}, True)),
        (status(uid="0 0 0 0", groups="", effective="0000000000000001"), (0, {0}, False)),
    ],
)
def test_credentials_are_those_the_filesystem_sees(text: str, expected: tuple[int, set[int], bool]) -> None:
    assert credentials_of(text) == expected


@pytest.mark.parametrize("text", ["", "Uid:\t1\n", "Uid:\t0 0 0 0\nGid:\t0 0 0 0\nGroups:\nCapEff:\tx\n"])
def test_other_files_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        credentials_of(text)
