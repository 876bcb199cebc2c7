"""``kubelet-secrets verify``: the proof on the user's own machine that no value reaches a disk. Exit status 0 only then.

What is done and looked at is ``kubelet_secrets.verify``'s; here are the options, the progress bar, and the printed report.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubelet_secrets.cli.image import image_dir_option
from kubelet_secrets.cli.inspect import socket_option
from kubelet_secrets.cli.output import human_size, output_option, print_objects, print_table

if TYPE_CHECKING:
    from kubelet_secrets.verify.report import ProcessReport, Report
    from kubelet_secrets.verify.run import Progress, VerifyOptions

_COLOURS = {"secure": "green", "weak": "yellow", "insecure": "red"}
_existing = click.Path(path_type=Path, exists=True)


@click.command()
@click.option(
    "--device",
    "devices",
    type=_existing,
    multiple=True,
    help="Read this block device, or image of a disk, from end to end, free space included (O_DIRECT). Repeatable.",
)
@click.option(
    "--path",
    "paths",
    type=_existing,
    multiple=True,
    help="Search this file or directory too, whatever its age. Repeatable.",
)
@click.option(
    "--place",
    "places",
    type=_existing,
    multiple=True,
    help="A directory below which files that changed meanwhile are searched, beside the node's own. Repeatable.  "
    "[default: /tmp /var /etc /root /home /run /dev/shm /opt /srv]",
)
@click.option(
    "--kubeconfig",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    default=None,
    help="Put the node to the proof that runs on this machine, through its API server, instead of one started for it. "
    "It needs an admin's credentials; see --socket and --image-dir.",
)
@socket_option
@image_dir_option
@click.option(
    "--crash/--no-crash",
    "crashes",
    default=None,
    help="Kill and abort agent and writer with values in their memory.  [default: unless --kubeconfig is given]",
)
@click.option(
    "--dir",
    "base_dir",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    default=Path("/var/tmp"),  # a directory is made in it
    show_default=True,
    help="A directory on a disk, for the node's directory while it runs.",
)
@click.option(
    "--time-limit",
    type=click.FloatRange(min=1),
    default=600.0,
    show_default=True,
    help="Seconds that all searches together may take. What is not read by then counts as not proven.",
)
@click.option(
    "--step-limit",
    type=click.FloatRange(min=1),
    default=120.0,
    show_default=True,
    help="Seconds that each step may take: more on a slow machine.",
)
@click.option(
    "--runtime", type=click.Choice(["runc", "crun"]), default="runc", show_default=True, help="The OCI runtime."
)
@output_option("table", "json", "yaml")
def verify(output: str, **options: Any) -> None:
    """Prove on this machine that no secret reaches a disk, a log, a core dump or swap.

    Plants values that exist nowhere else, brings them to a container in every way there is (files, variables, registry
    password), rotates them, kills and aborts the processes that hold them, deletes them; and looks for them in plain text,
    base64, hex, URL-encoding, UTF-16, JSON and reversed: in files that changed meanwhile, logs, the journal, swap, the given
    devices. Grades every mount and process: secure, weak (memory that may be swapped out) or insecure.

    Exit status 1 when a promise of docs/threat-model.md does not hold.
    """
    import trio

    from kubelet_secrets.verify.run import run_verification

    verify_options = _options(**options)
    with _progress(verify_options) as progress:
        report = trio.run(_run, run_verification, verify_options, progress)
    conclude(report, output)


def conclude(report: Report, output: str) -> None:
    """Print the report in a format of ``-o``, and what is broken to standard error.

    Raises:
        SystemExit: status 1: a promise does not hold.
    """
    broken = report.broken_promises()
    if output == "table":
        _print(report)
    else:
        print_objects({"holds": not broken, "broken": broken, "report": report}, output)
    sys.stdout.flush()
    for sentence in broken:
        click.secho(f"✗ {sentence}", fg="red", err=True)
    if broken:
        click.echo(f"{len(broken)} of the promises of docs/threat-model.md do not hold on this machine.", err=True)
        raise SystemExit(1)


async def _run(run: Any, options: VerifyOptions, progress: Progress) -> Report:
    from kubelet_secrets.cli.up import stoppable

    reports: list[Report] = []
    async with stoppable():
        reports.append(await run(options, progress))
    if not reports:
        raise KeyboardInterrupt
    return reports[0]


def _options(
    *,
    devices: tuple[Path, ...],
    paths: tuple[Path, ...],
    places: tuple[Path, ...],
    kubeconfig: Path | None,
    socket: str,
    image_dir: Path,
    crashes: bool | None,
    base_dir: Path,
    time_limit: float,
    step_limit: float,
    runtime: str,
) -> VerifyOptions:
    from kubelet_secrets.verify.examination import USUAL_PLACES
    from kubelet_secrets.verify.run import RunningNode, VerifyOptions

    running = None
    if kubeconfig is not None:
        running = RunningNode(
            kubeconfig=Path(os.path.abspath(kubeconfig)),
            socket=Path(os.path.abspath(socket)),
            image_dir=Path(os.path.abspath(image_dir)),
        )
    return VerifyOptions(
        base_dir=Path(os.path.abspath(base_dir)),
        runtime=runtime,
        running=running,
        crashes=running is None if crashes is None else crashes,
        devices=tuple(Path(os.path.abspath(path)) for path in devices),
        paths=tuple(Path(os.path.abspath(path)) for path in paths),
        places=tuple(Path(os.path.abspath(path)) for path in places) or USUAL_PLACES,
        time_limit_s=time_limit,
        step_limit_s=step_limit,
    )


# --- progress ---------------------------------------------------------------------------------------------------------


class _Quiet:
    """When standard error is no terminal."""

    def begin(self, what: str) -> None:
        pass

    def advance(self, size_bytes: int) -> None:
        pass


@contextmanager
def _progress(options: VerifyOptions) -> Iterator[Progress]:
    if not sys.stderr.isatty():
        yield _Quiet()
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    from kubelet_secrets.verify.run import count_phases

    columns = (BarColumn(), TextColumn("{task.description}"), TextColumn("{task.fields[read]}"), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("", total=count_phases(options), read="")

        class Bar:
            read_bytes = 0

            def begin(self, what: str) -> None:
                self.read_bytes = 0
                bar.update(task, advance=1, description=what, read="")

            def advance(self, size_bytes: int) -> None:
                self.read_bytes += size_bytes
                bar.update(task, read=human_size(self.read_bytes))

        yield Bar()


# --- the printed report -----------------------------------------------------------------------------------------------


def _print(report: Report) -> None:
    click.secho(f"kubelet-secrets verify: node {report.node}, Linux {report.kernel}", bold=True)
    _heading("What was done", f"{len(report.canaries)} values: {', '.join(report.canaries)}.")
    for step in report.steps:
        mark, colour = ("✓", "green") if step.held else ("✗", "red")
        click.secho(f"{mark} {step.what}" + (f": {step.detail}" if step.detail else ""), fg=colour)
    _heading("Where values lay")
    _print_graded(
        ["WHAT", "WHERE", "ON", "WHY"],
        [
            (each.grade.value, each.promised, [each.holds, each.path or "(no path)", each.filesystem, each.why])
            for each in report.mounts
        ],
    )
    _heading(
        "Processes they passed through",
        "Copies of values in memory, while in use and two seconds after their deletion: counted, not promised. Agent and\n"
        "writer overwrite what they free; the API server keeps a history for ten minutes. Promised: locked, and never dumped.",
    )
    _print_graded(
        ["PROCESS", "PID", "MEMORY", "IN USE", "AFTER", "WHY"],
        [
            (
                each.grade.value,
                each.promised,
                [
                    each.role,
                    str(each.pid),
                    human_size(each.resident_bytes),
                    "-" if each.copies_running is None else str(each.copies_running),
                    _after(each),
                    each.why,
                ],
            )
            for each in report.processes
        ],
    )
    _heading("Where they were looked for")
    rows = []
    for area in report.areas:
        leaks = sum(leak.count for leak in area.real_leaks)
        found = f"{leaks} found" if leaks else "nothing" if area.complete else "not read to the end"
        rate = f"{area.size_bytes / area.took_s / 1e6:.0f} MB/s" if area.took_s > 0.01 and area.size_bytes > 1e6 else ""
        rows.append([area.name, area.when, str(area.files), human_size(area.size_bytes), rate, found, area.note])
    print_table(["WHAT", "WHEN", "FILES", "SIZE", "RATE", "FOUND", "NOTE"], rows)
    found_decoys = sum(control.found for control in report.controls)
    click.echo(f"The search can find: {found_decoys} of {len(report.controls)} decoys were found.")
    click.echo(f"Out of scope: {'; '.join(report.not_covered)}.")
    _heading("This kernel")
    print_table(
        ["FEATURE", "HERE", "SO"],
        [[feature.name, "yes" if feature.available else "no", feature.effect] for feature in report.features],
    )
    _heading("This machine")
    print_table(["SETTING", "STATE", ""], [[fact.name, fact.state, fact.warning] for fact in report.machine])
    click.echo()
    if not report.broken_promises():
        click.secho(f"✓ Every promise holds on this machine. It took {report.took_s:.0f} s.", fg="green", bold=True)


def _heading(title: str, text: str = "") -> None:
    click.echo()
    click.secho(title, bold=True)
    if text:
        click.echo(text)


def _print_graded(headers: list[str], rows: list[tuple[str, bool, list[str]]]) -> None:
    """A table whose first column is a coloured grade; an asterisk marks what decides nothing."""
    cells = [[grade + ("" if promised else "*"), *rest] for grade, promised, rest in rows]
    lines = [["GRADE", *headers], *cells]
    widths = [max(len(line[column]) for line in lines) for column in range(len(lines[0]))]
    for number, line in enumerate(lines):
        text = "   ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        grade = line[0].rstrip("*")
        click.echo(click.style(text[: len(grade)], fg=_COLOURS[grade]) + text[len(grade) :] if number else text)
    if not all(promised for _, promised, _ in rows):
        click.echo("* not among the promises")


def _after(process: ProcessReport) -> str:
    if process.copies_after is not None:
        return str(process.copies_after)
    return "ended" if process.counted else "-"
