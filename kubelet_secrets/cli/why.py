"""``kubelet-secrets why``: the chain behind one variable or file, printed. Everything that is decided is decided elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from kubelet_secrets.cli.inspect import container_option, namespace_option, socket_option
from kubelet_secrets.cli.output import output_option, print_objects
from kubelet_secrets.control.client import ask_one

if TYPE_CHECKING:
    from kubelet_secrets.control.protocol import WhyVersion, WhyView
    from kubelet_secrets.explain.answer import Question


@click.command()
@click.argument("pod")
@container_option
@namespace_option
@click.option("--env", "variable", metavar="NAME", help="The variable that is asked about.")
@click.option("--path", metavar="PATH", help="The path, as the container sees it, that is asked about.")
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    help="Answer offline, from this manifest, directory of manifests, or - for standard input.",
)
@click.option(
    "--cluster-trust-bundle-projection",
    is_flag=True,
    help="With -f: answer for a node whose feature gate of that name is on.",
)
@output_option("table", "json", "yaml")
@socket_option
@click.pass_context
def why(
    context: click.Context,
    pod: str,
    container: str,
    namespace: str,
    variable: str | None,
    path: str | None,
    filenames: tuple[str, ...],
    cluster_trust_bundle_projection: bool,
    output: str,
    socket: str,
) -> None:
    """Say where a variable or a file of a container comes from, or the exact rule that stops it.

    The chain goes from the line of the pod's spec to the object, its key and its version; for a file also to who may read it.
    On a running node it tells what the container has and what is current. With -f, POD may be a workload: deployment/web.
    Values are never shown.

    Exit status: 0 there is such a value, 1 there is none or something stops the container, 2 the question cannot be answered.
    """
    if (variable is None) == (path is None):
        raise click.UsageError("one of --env and --path is needed")
    if filenames:
        from kubelet_secrets.explain.answer import Question

        question = Question(container=container, variable=variable or "", path=path or "")
        view = _offline(filenames, pod, namespace, question, cluster_trust_bundle_projection)
    else:
        from kubelet_secrets.control.protocol import WhyView

        params = {
            "namespace": namespace,
            "pod": pod,
            "container": container,
            "variable": variable or "",
            "file": path or "",
        }
        view = ask_one(socket, "why", WhyView, **params)
    if output == "table":
        _print(view)
    else:
        print_objects(view, output)
    context.exit(1 if view.rule else 0)


def _offline(
    filenames: tuple[str, ...], pod: str, namespace: str, question: Question, projects_trust_bundles: bool
) -> WhyView:
    from kubelet_secrets.explain.answer import answer_from_manifests
    from kubelet_secrets.fusefs.hardening import harden_process
    from kubelet_secrets.manifests import read_manifests

    harden_process()  # as far as the user's privileges go
    manifests = read_manifests(filenames)
    return answer_from_manifests(
        manifests, pod, question, namespace=namespace, projects_trust_bundles=projects_trust_bundles
    )


def _print(view: WhyView) -> None:
    what = f"variable {view.target}" if view.kind == "variable" or "/" not in view.target else view.target
    click.secho(f"{view.namespace}/{view.pod} container {view.container}: {what}", bold=True)
    width = max((len(step.where) + 2 * step.depth for step in view.steps), default=0)
    for step in view.steps:
        place = f"{'  ' * step.depth}{step.where}".ljust(width)
        click.echo(f"  {place}   {step.text}")
    if view.rule:
        click.secho(f"  {view.rule}", fg="red", bold=True)
        for line in (view.effect, view.hint):
            if line:
                click.echo(f"    {line}")
    if view.started is not None:
        click.echo(f"  the container has   {_version(view.started)}")
    if view.current is not None:
        same = view.started is not None and not view.stale
        state = "the same" if same and view.started == view.current else _version(view.current)
        mark = click.style("   stale", fg="yellow", bold=True) if view.stale else ""
        click.echo(f"  current is          {state}{mark}")
    if view.readers:
        click.echo("  who may read it")
        widest = max(len(reader.who) for reader in view.readers)
        for reader in view.readers:
            verdict = click.style("yes", fg="green") if reader.allowed else click.style("no ", fg="red")
            click.echo(f"    {reader.who.ljust(widest)}   {verdict}   {reader.why}")


def _version(version: WhyVersion) -> str:
    parts = [f"version {version.version}"]
    if version.resource_version:
        parts.append(f"resourceVersion {version.resource_version}")
    if version.size is not None:
        parts.append(f"{version.size} bytes")
    if version.since:
        parts.append(f"since {version.since}")
    return ", ".join(parts)
