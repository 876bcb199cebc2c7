"""Options of ``agent`` that say how its Node is registered: the kubelet's flags of the same names.

They are checked where they are read and stay as they were written, for ``systemd-unit`` writes them down again;
:func:`agent_options` makes of them what ``agent.AgentOptions`` takes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import click

F = TypeVar("F", bound=Callable[..., Any])


def agent_options(values: Mapping[str, Any]) -> dict[str, object]:
    """Plain data for the keeper to pass on.

    Args:
        values: of all options; those from here are taken.

    Raises:
        click.BadParameter: one is wrong.
    """
    from kubelet_secrets.node.flags import InvalidFlag, parse_addresses, parse_labels, parse_taints

    def checked(name: str, parse: Callable[[Any], Any]) -> Any:
        try:
            return parse(values[name])
        except InvalidFlag as error:
            raise click.BadParameter(str(error), param_hint=f"'--{name.replace('_', '-')}'") from None

    taints = checked("register_with_taints", parse_taints)
    return {
        "node_labels": checked("node_labels", parse_labels),
        "node_taints": [{"key": each.key, "value": each.value, "effect": each.effect} for each in taints],
        "node_ips": checked("node_ip", parse_addresses) if values["node_ip"] is not None else (),
    }


def _check(ctx: click.Context, param: click.Parameter, value: Any) -> Any:
    empty = {"node_labels": (), "register_with_taints": (), "node_ip": None}
    agent_options({**empty, str(param.name): value})
    return value


_OPTIONS = (
    click.option(
        "--node-labels",
        metavar="KEY=VALUE,…",
        multiple=True,
        callback=_check,
        help="Labels of the Node object when it is registered. May be repeated.",
    ),
    click.option(
        "--register-with-taints",
        metavar="KEY=VALUE:EFFECT,…",
        multiple=True,
        callback=_check,
        help="Taints of the Node object when it is registered. May be repeated.",
    ),
    click.option(
        "--node-ip",
        metavar="IP[,IP]",
        default=None,
        callback=_check,
        help="The node's address, or one of each family.  [default: the one that the default route leaves from]",
    ),
)


def registration_options(command: F) -> F:
    """Add them to *command*."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command
