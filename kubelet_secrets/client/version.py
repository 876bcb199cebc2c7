"""Which Kubernetes somebody is: what an API server takes, and a program's flags, come and go with the minor version.

Called by ``node/signing.py`` about the API server, and by the harness of a real control plane about the programs it starts.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from kubelet_secrets.api.decode import DecodeError
from kubelet_secrets.client.rest import ApiClient
from kubelet_secrets.errors import ApiError


class Version(NamedTuple):
    """Compares as one would expect. Patch levels make no difference to anybody here."""

    major: int
    minor: int

    def __str__(self) -> str:
        return f"{self.major}.{self.minor}"


NEWEST = Version(1, 36)
"""What this program is written for: the one to assume where nobody says."""


def parse_version(text: str) -> Version:
    """Read ``v1.36.4``, ``Kubernetes v1.20.2``, ``v1.31.0-eks-a737599``.

    Raises:
        ValueError: there is no version in *text*.
    """
    found = re.search(r"\bv(\d+)\.(\d+)\b", text)
    if found is None:
        raise ValueError("not a version: v<major>.<minor> is missing")
    return Version(int(found[1]), int(found[2]))


async def server_version(client: ApiClient) -> Version:
    """The API server's, and ``NEWEST`` from one that does not tell: not everybody may ask, and it does not matter to most.

    Raises:
        ApiUnavailable: no answer.
    """
    try:
        answer = await client.request_json("GET", "/version")
        return parse_version(answer["gitVersion"])
    except (ApiError, DecodeError, ValueError, KeyError, TypeError):
        return NEWEST
