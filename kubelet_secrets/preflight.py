"""Whether the program as it is installed *now* can take over a running node: ``python -m kubelet_secrets.preflight``.

Started by a keeper that was told to reload, before it gives itself up for the newer code. A process of its own, because
only a new process sees new code. Exit status 0: it can. Anything else, with the reason on standard error: it cannot, and
the keeper goes on as it is. Nothing is changed.
"""

from __future__ import annotations

import sys
from pathlib import Path

import click

# Whatever keeper, agent or writer would fail to import must fail here.
from kubelet_secrets import __version__
from kubelet_secrets.cli.agent import agent
from kubelet_secrets.fusefs import kept
from kubelet_secrets.stateformat import OtherVersion, check_format


def main(arguments: list[str]) -> int:
    """Check: the keeper's format, the run directory, and the agent's options if there are any after it."""
    kept_format, run_dir, options = int(arguments[0]), Path(arguments[1]), arguments[2:]
    try:
        if kept_format != kept.FORMAT:
            raise OtherVersion(
                f"the keeper that runs hands over in format {kept_format}, version {__version__} takes {kept.FORMAT}"
            )
        check_format(run_dir)
    except OtherVersion as error:
        print(f"kubelet-secrets: {error}", file=sys.stderr)  # noqa: T201  # this process is a command
        return 1
    try:
        if options:
            agent.make_context("agent", options)
    except click.ClickException as error:
        print(f"kubelet-secrets: {error.format_message()}", file=sys.stderr)  # noqa: T201
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
