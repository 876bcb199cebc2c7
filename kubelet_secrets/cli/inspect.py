"""``env``, ``tree``, ``status``, ``logs``: what the running agent knows, asked over its root-only socket."""

from __future__ import annotations

import sys

import click

from kubelet_secrets.cli.output import output_option, print_objects, print_table
from kubelet_secrets.control.client import ask, ask_one
from kubelet_secrets.control.protocol import (
    DEFAULT_SOCKET,
    AuditSummary,
    EnvRow,
    EnvView,
    LogPart,
    NodeSummary,
    TreeView,
)

socket_option = click.option(
    "--socket",
    default=DEFAULT_SOCKET,
    envvar="KUBELET_SECRETS_SOCKET",
    show_default=True,
    show_envvar=True,
    help="The agent's control socket.",
)
namespace_option = click.option("-n", "--namespace", default="default", show_default=True, help="The pod's namespace.")
container_option = click.option(
    "-c", "--container", default="", help="The container; the pod's first one when left out."
)


def _masked(row: EnvRow) -> str:
    if row.value is not None:
        shown = row.value
        if row.stale and row.current_value is not None:
            shown += f"  (now: {row.current_value})"
        return shown
    return f"<{row.size} bytes>"


def _print_env(view: EnvView) -> None:
    if view.started_version == 0:
        started = "not started"
    elif view.started_version == view.current_version:
        started = f"started with version {view.started_version}, current since {view.since}"
    else:
        started = (
            f"started with version {view.started_version} of {view.started_since}; "
            f"version {view.current_version} is current since {view.since}"
        )
    click.echo(f"{view.namespace}/{view.pod} container {view.container}: {started}")
    if view.problem:
        click.echo(f"cannot be made now: {view.problem}")
    rows = [[row.name, _masked(row), _state(row), row.since, row.origin] for row in view.rows]
    print_table(["NAME", "VALUE", "STATE", "SINCE", "FROM"], rows)


def _state(row: EnvRow) -> str:
    """What a restart would do to the variable."""
    if row.missing:
        return "missing now"
    if row.added:
        return "new"
    return "stale" if row.stale else "current"


@click.command()
@click.argument("pod")
@container_option
@namespace_option
@click.option("-w", "--watch", is_flag=True, help="Go on printing, each time something changes.")
@click.option(
    "--show-values", is_flag=True, help="Print values instead of their sizes. Mind who looks over your shoulder."
)
@output_option("table", "json", "yaml", "name")
@socket_option
def env(pod: str, container: str, namespace: str, watch: bool, show_values: bool, output: str, socket: str) -> None:
    """Show a container's variables: as started, and as they would be now.

    A running process keeps the environment it was started with; `stale` marks what a restart would change, `new` what it would
    add, `missing now` what it would take away, and SINCE is when that became so.
    """
    if show_values:
        from kubelet_secrets.fusefs.hardening import harden_process

        harden_process()
    params = {"namespace": namespace, "pod": pod, "container": container, "show_values": show_values, "watch": watch}
    for index, view in enumerate(ask(socket, "env", EnvView, **params)):
        if output == "name":
            for row in view.rows:
                click.echo(row.name)
        elif output != "table":
            print_objects(view, output)
        else:
            if index:
                click.echo()
            _print_env(view)
        sys.stdout.flush()


@click.command()
@click.argument("pod")
@container_option
@namespace_option
@output_option("table", "wide", "json", "yaml", "name")
@socket_option
def tree(pod: str, container: str, namespace: str, output: str, socket: str) -> None:
    """Show the secret files of a container as it sees them: mode, owner, size, and where each comes from.

    STATE tells what an update does: `live` files follow it, `frozen` ones (subPath) stay as they were when the container
    started, and `stale` marks those of them that would be others by now; `revoked` ones nobody reads any more. SINCE is when
    what it sees became current. With -o wide also the versions: at the container's start, in its view, and current. Below the
    files stand the volumes that cannot be made now; what they showed before stays.
    """
    view = ask_one(socket, "tree", TreeView, namespace=namespace, pod=pod, container=container)
    if output in ("json", "yaml"):
        print_objects(view, output)
        return
    if output == "name":
        for row in view.rows:
            click.echo(row.path)
        return
    headers = ["PATH", "MODE", "OWNER", "SIZE", "STATE", "SINCE", "FROM"]
    rows = []
    for row in view.rows:
        size = "?" if row.size is None else str(row.size)
        state = "revoked" if row.revoked else "stale" if row.stale else "live" if row.updates else "frozen"
        rows.append([row.path, row.mode, f"{row.uid}:{row.gid}", size, state, row.since, row.origin])
    if output == "wide":
        headers[6:6] = ["VOLUME", "STARTED", "VERSION", "CURRENT"]
        for shown, row in zip(rows, view.rows, strict=True):
            shown[6:6] = [row.volume, row.started, row.version, row.current]
    print_table(headers, rows)
    for problem in view.problems:
        click.echo(f"cannot be made now: {problem}")


def audit_lines(audit: AuditSummary) -> list[str]:
    """The state of the audit trail, in a line, and one for each copy that is kept."""
    dropped = f"records dropped: {audit.dropped}" if audit.dropped else "no record dropped"
    verdicts = "1 verdict" if audit.verdicts == 1 else f"{audit.verdicts} verdicts"
    lines = [f"audit trail: {verdicts}, {audit.denied} denied, {dropped}; the last record is {audit.head}"]
    for copy in audit.copies:
        parts = [f"has record {copy.delivered}"]
        if copy.dropped:
            parts.append(f"lacks {copy.dropped} records")
        if copy.problem:
            parts.append(f"takes none now: {copy.problem}")
        lines.append(f"audit {copy.name} {copy.path}: {', '.join(parts)}")
    return lines


@click.command()
@output_option("table", "json", "yaml")
@socket_option
def status(output: str, socket: str) -> None:
    """Show the node's pods and containers as the agent sees them."""
    summary = ask_one(socket, "status", NodeSummary)
    if output != "table":
        print_objects(summary, output)
        return
    resumed = " (took over from one that died)" if summary.resumed else ""
    click.echo(f"node {summary.node}: agent pid {summary.agent_pid}{resumed}, root {summary.root_dir}")
    rows = [
        [f"{pod.namespace}/{pod.name}", pod.phase, container.name, container.state, str(container.restarts)]
        for pod in summary.pods
        for container in pod.containers
    ]
    print_table(["POD", "PHASE", "CONTAINER", "STATE", "RESTARTS"], rows)
    for pod in summary.pods:
        for volume in pod.revoked:
            click.echo(f"{pod.namespace}/{pod.name}: volume {volume} is revoked")
    for line in audit_lines(summary.audit) if summary.audit is not None else ():
        click.echo(line)


@click.command()
@click.argument("pod")
@container_option
@namespace_option
@click.option("-f", "--follow", is_flag=True, help="Go on until the container ends.")
@click.option(
    "--tail", type=click.IntRange(min=-1), default=-1, show_default=True, help="Only the last lines; -1: all."
)
@click.option("--timestamps", is_flag=True, help="Put the time in front of each line.")
@socket_option
def logs(pod: str, container: str, namespace: str, follow: bool, tail: int, timestamps: bool, socket: str) -> None:
    """Print what a container wrote to its output. It is kept in memory, until the pod is deleted."""
    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()  # it may be a value
    params = {"namespace": namespace, "pod": pod, "container": container}
    for part in ask(socket, "logs", LogPart, **params, follow=follow, tail=tail, timestamps=timestamps):
        sys.stdout.buffer.write(part.data)
        sys.stdout.flush()
