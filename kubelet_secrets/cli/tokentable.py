"""How bootstrap tokens are listed: kubeadm's table, and its API object. Holds tokens; called by ``token.py`` alone.

Source: cmd/kubeadm/app/cmd/token.go (RunListTokens), app/apis/output/v1alpha3; Go's text/tabwriter.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kubelet_secrets.api.bootstraptoken import BootstrapToken

_HEADERS = ("TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS")
_NARROWEST, _GAP = 10, 3


def table_lines(tokens: Sequence[BootstrapToken], now: datetime) -> Iterator[str]:
    """The table, as a tabwriter with kubeadm's settings aligns it: the last column as it comes."""
    rows = [_HEADERS, *(_row(each, now) for each in tokens)]
    widths = [max(_NARROWEST, *(len(row[column]) + _GAP for row in rows)) for column in range(len(_HEADERS) - 1)]
    for row in rows:
        yield "".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1]


def _row(token: BootstrapToken, now: datetime) -> tuple[str, ...]:
    ends = token.expires
    return (
        token.text.reveal().decode("ascii"),
        "<forever>" if ends is None else short_duration(ends - now),
        "<never>" if ends is None else ends.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ",".join(token.usages) or "<none>",
        token.description or "<none>",
        ",".join(token.groups) or "<none>",
    )


def short_duration(duration: timedelta) -> str:
    """One unit. Source: k8s.io/apimachinery/pkg/util/duration, ShortHumanDuration."""
    seconds = int(duration.total_seconds())
    if seconds < -1:
        return "<invalid>"
    for unit, size, limit in (("s", 1, 60), ("m", 60, 60), ("h", 3600, 24), ("d", 86400, 365)):
        if seconds // size < limit:
            return f"{max(seconds, 0) // size}{unit}"
    return f"{seconds // (86400 * 365)}y"


def plain_token(token: BootstrapToken) -> dict[str, Any]:
    """Source: output.kubeadm.k8s.io/v1alpha3 BootstrapToken."""
    plain: dict[str, Any] = {
        "kind": "BootstrapToken",
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
        "token": token.text.reveal().decode("ascii"),
    }
    if token.description:
        plain["description"] = token.description
    if token.expires is not None:
        plain["expires"] = token.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if token.usages:
        plain["usages"] = list(token.usages)
    if token.groups:
        plain["groups"] = list(token.groups)
    return plain
