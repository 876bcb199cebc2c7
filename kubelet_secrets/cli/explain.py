"""``kubelet-secrets explain``: the offline answer, printed.

Reads manifests, asks ``kubelet_secrets.explain``, prints. Everything that is decided is decided there.
"""

from __future__ import annotations

import base64
import sys
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from kubelet_secrets.cli.output import Progress, output_option, print_objects, print_table

if TYPE_CHECKING:
    from kubelet_secrets.api.origin import Origin
    from kubelet_secrets.explain import ContainerView, Explanation, FileView, PodView, Problem, VariableView
    from kubelet_secrets.manifests import ManifestObject

_COLORS = {"blocks": "red", "warning": "yellow", "note": "cyan"}
_UNKNOWN = "(at run time)"


@click.command()
@click.option(
    "-f",
    "--filename",
    "filenames",
    multiple=True,
    required=True,
    help="A manifest, a directory of manifests, or - for standard input. May be given several times.",
)
@click.option("-n", "--namespace", default="default", show_default=True, help="Namespace of objects that name none.")
@click.option(
    "--expires-within",
    "expires_within_days",
    type=click.IntRange(min=0),
    default=30,
    show_default=True,
    metavar="DAYS",
    help="Warn of certificates that end sooner.",
)
@click.option(
    "--cluster-trust-bundle-projection",
    is_flag=True,
    help="Answer for a node whose feature gate of that name is on.",
)
@click.option(
    "--show-values", is_flag=True, help="Print values instead of their sizes. Mind who looks over your shoulder."
)
@output_option("table", "json", "yaml")
@click.pass_context
def explain(
    context: click.Context,
    filenames: tuple[str, ...],
    namespace: str,
    expires_within_days: int,
    cluster_trust_bundle_projection: bool,
    show_values: bool,
    output: str,
) -> None:
    """Say offline what each container of a manifest would see, and why not.

    Files and variables with where they come from, and the problems: what is missing, what collides, what will not refresh,
    what expires. Needs no cluster and no root. Objects that the manifests refer to must be among them.

    Exit status: 0 nothing stops a container, 1 something does, 2 the input cannot be used.
    """
    from kubelet_secrets.explain import explain as make_explanation
    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()  # as far as the user's privileges go
    progress = Progress(sys.stderr)
    try:
        explanation = make_explanation(
            read_with_progress(filenames, progress),
            now=datetime.now(UTC),
            namespace=namespace,
            expires_within=timedelta(days=expires_within_days),
            projects_trust_bundles=cluster_trust_bundle_projection,
            tell=lambda done, total: progress.tell(f"explaining pod {done} of {total}"),
        )
    finally:
        progress.clear()
    if output == "table":
        _print_explanation(explanation, show_values=show_values)
    else:
        print_objects(to_plain(explanation, show_values=show_values), output)
    context.exit(1 if explanation.is_blocked else 0)


def read_with_progress(filenames: Sequence[str], progress: Progress) -> list[ManifestObject]:
    """Read all manifests, telling how far that is.

    Raises:
        UsageError: a file cannot be read, or there is no object in any.
    """
    from kubelet_secrets.errors import UsageError
    from kubelet_secrets.manifests import manifest_files, read_manifest

    files = manifest_files(filenames)
    found: list[ManifestObject] = []
    for number, path in enumerate(files, start=1):
        place = f"file {number} of {len(files)}" if len(files) > 1 else path
        found += read_manifest(path, tell=partial(_tell_read, progress, place))
    if not found:  # a renderer that failed in front of a pipe must not pass for manifests without problems
        raise UsageError("no objects passed to explain")
    return found


def _tell_read(progress: Progress, place: str, documents: int) -> None:
    progress.tell(f"reading {place}: document {documents}")


# --- for people ----------------------------------------------------------------------------------------------------


def _print_explanation(explanation: Explanation, *, show_values: bool) -> None:
    for pod in explanation.pods:
        click.secho(f"{pod.kind} {pod.namespace}/{pod.name}", bold=True, nl=False)
        click.echo(f"   {pod.source}")
        _print_problems(pod.problems, pod, indent=2)
        for container in pod.containers:
            _print_container(pod, container, show_values=show_values)
        click.echo()
    if explanation.problems:
        click.secho("Objects", bold=True)
        _print_problems(explanation.problems, None, indent=2)
        click.echo()
    click.echo(_summary(explanation))


def _print_container(pod: PodView, container: ContainerView, *, show_values: bool) -> None:
    from kubelet_secrets.api.serviceaccount import VOLUME_NAME_PREFIX

    kind = "container" if container.kind == "container" else f"{container.kind} container"
    click.echo(f"  {kind} {container.name}")
    _print_problems(container.problems, pod, indent=4)
    own = [file for file in container.files if not file.volume.startswith(VOLUME_NAME_PREFIX)]
    if own:
        rows = [_file_row(file, show_values=show_values) for file in sorted(own, key=lambda each: each.path)]
        print_table(["    FILE", "MODE", "OWNER", "CONTENT" if show_values else "SIZE", "FROM"], rows)
    for mount in container.mounts:
        if any(file.volume == mount.volume for file in own):
            continue
        below = f", {mount.sub_path}" if mount.sub_path else ""
        what = (
            "the service account's token" if mount.volume.startswith(VOLUME_NAME_PREFIX) else f"volume {mount.volume}"
        )
        click.echo(f"    {mount.path}   {mount.volume_type}: {what}{below}")
    if container.variables:
        print_table(
            ["    VARIABLE", "VALUE", "FROM"], list(_variable_rows(container.variables, show_values=show_values))
        )


def _file_row(file: FileView, *, show_values: bool) -> list[str]:
    from kubelet_secrets.cli.output import mode_string

    if file.data is None:
        content = _UNKNOWN
    elif show_values:
        content = _quoted(file.data.reveal())
    else:
        content = str(file.size_bytes)
    owner = f"{file.ownership.uid}:{file.ownership.gid}"
    frozen = "" if file.refreshes else "   (does not refresh)"
    return [f"    {file.path}", mode_string(0o100000 | file.ownership.mode), owner, content, f"{file.origin}{frozen}"]


def _variable_rows(variables: Sequence[VariableView], *, show_values: bool) -> Iterator[list[str]]:
    services: dict[str, list[str]] = {}
    for variable in variables:
        if variable.origin.kind == "service":
            services.setdefault(str(variable.origin), []).append(variable.name)
            continue
        if variable.value is None:
            value = _UNKNOWN
        elif show_values:
            value = _quoted(variable.value.encode("utf-8", "surrogateescape"))
        else:
            value = f"<{len(variable.value.encode('utf-8', 'surrogateescape'))} bytes>"
        parts = f" of {', '.join(variable.expanded_from)}" if variable.expanded_from else ""
        yield [f"    {variable.name}", value, f"{variable.origin}{parts}"]
    for origin, names in services.items():
        first = min(names, key=len).removesuffix("_PORT")
        yield [f"    {first}_*", f"{len(names)} variables", origin]


def _quoted(value: bytes) -> str:
    from kubelet_secrets.api.quoting import go_quote

    return go_quote(value.decode("utf-8", "surrogateescape"))


def _print_problems(problems: Sequence[Problem], pod: PodView | None, *, indent: int) -> None:
    head = f"{pod.kind} {pod.namespace}/{pod.name}: " if pod is not None else ""
    order = list(_COLORS)
    for problem in sorted(problems, key=lambda each: order.index(each.severity)):
        word = click.style(problem.severity.upper().ljust(7), fg=_COLORS[problem.severity], bold=True)
        click.echo(f"{' ' * indent}{word} {problem.message}")
        details = problem.where.removeprefix(head) + (f" - {problem.hint}" if problem.hint else "")
        click.echo(f"{' ' * (indent + 8)}{click.style(details, dim=True)}")


def _summary(explanation: Explanation) -> str:
    counts = dict.fromkeys(_COLORS, 0)
    for problem in explanation.all_problems():
        counts[problem.severity] += 1
    containers = sum(len(pod.containers) for pod in explanation.pods)
    seen = f"{_count(len(explanation.pods), 'pod')}, {_count(containers, 'container')}"
    if not any(counts.values()):
        return f"{seen}: no problems"
    blocking = f"{_count(counts['blocks'], 'problem')} that {'stops' if counts['blocks'] == 1 else 'stop'} containers"
    return f"{seen}: {blocking}, {_count(counts['warning'], 'warning')}, {_count(counts['note'], 'note')}"


def _count(number: int, word: str) -> str:
    return f"{number} {word}" if number == 1 else f"{number} {word}s"


# --- for machines --------------------------------------------------------------------------------------------------


def to_plain(explanation: Explanation, *, show_values: bool) -> dict[str, Any]:
    """The explanation as JSON has it; values only when asked for, as text or, when they are not UTF-8, in base64."""
    return {
        "blocked": explanation.is_blocked,
        "pods": [
            {
                "kind": pod.kind,
                "namespace": pod.namespace,
                "name": pod.name,
                "source": pod.source,
                "blocked": pod.is_blocked or any(container.is_blocked for container in pod.containers),
                "problems": [_plain_problem(problem) for problem in pod.problems],
                "containers": [_plain_container(container, show_values=show_values) for container in pod.containers],
            }
            for pod in explanation.pods
        ],
        "problems": [_plain_problem(problem) for problem in explanation.problems],
    }


def _plain_container(container: ContainerView, *, show_values: bool) -> dict[str, Any]:
    return {
        "name": container.name,
        "kind": container.kind,
        "blocked": container.is_blocked,
        "problems": [_plain_problem(problem) for problem in container.problems],
        "mounts": [
            {
                "path": mount.path,
                "volume": mount.volume,
                "type": mount.volume_type,
                "subPath": mount.sub_path,
                "readOnly": mount.read_only,
            }
            for mount in container.mounts
        ],
        "files": [_plain_file(file, show_values=show_values) for file in container.files],
        "variables": [_plain_variable(variable, show_values=show_values) for variable in container.variables],
    }


def _plain_file(file: FileView, *, show_values: bool) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "path": file.path,
        "mode": f"{file.ownership.mode:04o}",
        "uid": file.ownership.uid,
        "gid": file.ownership.gid,
        "size": file.size_bytes,
        "volume": file.volume,
        "refreshes": file.refreshes,
        **_plain_origin(file.origin),
        "replaced": [_plain_origin(origin) for origin in file.replaced],
    }
    if show_values and file.data is not None:
        plain |= _plain_value(file.data.reveal())
    return plain


def _plain_variable(variable: VariableView, *, show_values: bool) -> dict[str, Any]:
    value = None if variable.value is None else variable.value.encode("utf-8", "surrogateescape")
    plain: dict[str, Any] = {
        "name": variable.name,
        "size": None if value is None else len(value),
        "secret": variable.is_secret,
        **_plain_origin(variable.origin),
        "expandedFrom": list(variable.expanded_from),
        "overridden": [_plain_origin(origin) for origin in variable.overridden],
    }
    if show_values and value is not None:
        plain |= _plain_value(value)
    return plain


def _plain_value(value: bytes) -> dict[str, str]:
    try:
        return {"value": value.decode()}
    except UnicodeDecodeError:
        return {"valueBase64": base64.b64encode(value).decode("ascii")}


def _plain_origin(origin: Origin) -> dict[str, Any]:
    parts = {"kind": str(origin.kind), "namespace": origin.namespace, "name": origin.name, "key": origin.key}
    return {"from": str(origin), "origin": {name: part for name, part in parts.items() if part}}


def _plain_problem(problem: Problem) -> dict[str, str]:
    plain = {
        "severity": str(problem.severity),
        "code": problem.code,
        "message": problem.message,
        "where": problem.where,
        "hint": problem.hint,
    }
    return {name: text for name, text in plain.items() if text}
