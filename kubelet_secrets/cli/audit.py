"""``kubelet-secrets audit``: the audit trail, from the running agent or from files, shown or checked."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from typing import IO, cast

import click

from kubelet_secrets.cli.inspect import audit_lines, socket_option
from kubelet_secrets.cli.output import output_option
from kubelet_secrets.control.client import ask, ask_one
from kubelet_secrets.control.protocol import AuditSummary, AuditView, NodeSummary
from kubelet_secrets.errors import HostError, KubeletSecretsError, UsageError

_LAYOUT = "{:<24}  {:<7}  {:<28}  {:<34}  {}"

Line = tuple[str, bytes]
"""Where a line of the trail stands, and the line."""


@click.command()
@click.argument("files", nargs=-1, metavar="[FILE]...")
@click.option("-f", "--follow", is_flag=True, help="Go on printing as verdicts are taken.")
@click.option("--denied", is_flag=True, help="Only refusals.")
@click.option("--check", is_flag=True, help="Verify the hash chain instead: was a record changed, taken out or put in?")
@output_option("table", "json")
@socket_option
@click.pass_context
def audit(
    context: click.Context, files: tuple[str, ...], follow: bool, denied: bool, check: bool, output: str, socket: str
) -> None:
    """Show who opened which secret file, and who was refused. Never values.

    The agent keeps the most recent records in memory; repeats within a moment are folded into one line with a count. With FILE
    it shows what `--audit-file` has kept instead: of rotated files name all, in any order; they may be gzipped, and - is
    standard input. -o json prints the records as they are chained, one per line.

    What journald got is there under MESSAGE_ID=a5dd6ca1e6c24df1a2ea2b29a6cc2b43, each record as it is chained in the field
    KUBELET_SECRETS_RECORD, so that `journalctl … -o json --all | jq -r .KUBELET_SECRETS_RECORD` can be checked as -.

    Exit status of --check: 0 the chain is whole, 1 it is not, 2 there is nothing that could be checked.
    """
    if follow and (check or files):
        raise click.UsageError("--follow goes with neither --check nor FILE")
    if check:
        if denied or output != "table":
            raise click.UsageError("--check looks at every record: --denied and -o do not go with it")
        context.exit(0 if _check(files, socket) else 1)
    views = _views(files, denied) if files else ask(socket, "audit", AuditView, follow=follow, denied=denied)
    if output == "table":
        click.echo(_LAYOUT.format("TIME", "VERDICT", "FILE", "WHO", "WHY"))
    for view in views:
        if view.dropped:
            click.echo(f"({view.dropped} records are missing here: this reader was too slow)", err=output != "table")
        if output == "json":
            click.echo(view.line)
        else:
            click.echo(_LAYOUT.format(view.time, view.verdict or view.kind, view.file, view.who, view.why))
        sys.stdout.flush()
    if not files and not follow and output == "table":
        summary = _summary(socket)
        if summary is not None:
            for line in audit_lines(summary):
                click.echo(line)


def _views(files: Sequence[str], denied_only: bool) -> Iterator[AuditView]:
    from kubelet_secrets.access.record import NotARecord, read_line
    from kubelet_secrets.inspection import make_audit_view

    for where, line in _read(files):
        try:
            entry = read_line(line)
        except NotARecord as error:
            click.echo(f"{where}: {error}", err=True)
            continue
        if entry.record.is_denied or not denied_only:
            yield make_audit_view(entry)


def _check(files: Sequence[str], socket: str) -> bool:
    from kubelet_secrets.access.checking import ChainChecker

    summary = _summary(socket) if files else None  # before they are read: the agent may be adding to them
    if "-" in files and len(files) > 1:
        raise click.UsageError("- stands alone")
    checker = ChainChecker("" if not files or "-" in files else "file")
    for where, line in _read(files) if files else _ask_lines(socket):
        checker.feed(line, where)
    findings = checker.finish()
    if checker.first is None or checker.last is None:
        raise UsageError("there is no audit record" + ("".join(f"\n  {each.where}: {each.what}" for each in findings)))
    for note in checker.notes:
        click.echo(f"{note.where}: {note.what}")
    for finding in findings:
        click.secho(f"{finding.where}: {finding.what}", fg="red")
    first, last = checker.first, checker.last
    kills = f", {checker.kills} of them after one that was killed" if checker.kills else ""
    click.echo(
        f"records {first.seq} to {last.seq}: {checker.verdicts} verdicts, {checker.denied} denied, "
        f"{checker.starts} starts of an agent{kills}"
    )
    if first.seq > 1:
        click.echo(f"the {first.seq - 1} records before {'are in older files' if files else 'are no longer in memory'}")
    is_complete = _check_end(files, summary, socket, last.seq, last.chain) if files else True
    if findings or not is_complete:
        click.secho("the chain is BROKEN", fg="red", bold=True)
        return False
    click.secho("the chain is whole", fg="green", bold=True)
    return True


def _check_end(files: Sequence[str], summary: AuditSummary | None, socket: str, seq: int, chain: str) -> bool:
    """Compare the end of a file with what the agent knows that writes it: only so it shows that lines were cut off there."""
    paths = {os.path.realpath(file) for file in files}
    copies = [] if summary is None else [each for each in summary.copies if os.path.realpath(each.path) in paths]
    if summary is None or not copies:
        click.echo("nothing vouches for the end: no running agent writes this file")
        return True
    known = next((view.chain for view in ask(socket, "audit", AuditView) if view.seq == seq), None)
    if seq < copies[0].delivered:
        click.secho(f"records {seq + 1} to {copies[0].delivered} are missing at the end, says the agent", fg="red")
        return False
    if known is None:
        click.echo(f"nothing vouches for the end: the agent no longer has record {seq}")
        return True
    if known != chain:
        click.secho(f"record {seq} is another one than the agent has", fg="red")
        return False
    click.echo("the end is what the running agent has")
    return True


def _summary(socket: str) -> AuditSummary | None:
    try:
        return ask_one(socket, "status", NodeSummary).audit
    except KubeletSecretsError:
        return None


def _ask_lines(socket: str) -> Iterator[Line]:
    try:
        for view in ask(socket, "audit", AuditView):
            yield f"record {view.seq}", view.line.encode()
    except HostError as error:
        raise UsageError(str(error)) from None  # status 2: that nobody answers says nothing about the chain


def _read(files: Sequence[str]) -> Iterator[Line]:
    """The lines of all *files*, which are put into the order of their first records.

    Raises:
        UsageError: one cannot be read.
    """
    for name in sorted(files, key=_first_number) if len(files) > 1 else files:
        yield from _read_one(name)


def _first_number(name: str) -> int:
    from kubelet_secrets.access.record import NotARecord, read_line

    for _, line in _read_one(name):
        try:
            return read_line(line.rstrip(b"\r\n")).record.seq
        except NotARecord:
            continue
    return 0


def _read_one(name: str) -> Iterator[Line]:
    try:
        with _open(name) as file:
            for number, line in enumerate(file, 1):
                yield f"{'line ' if name == '-' else f'{name}:'}{number}", line.rstrip(b"\r\n")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or "not a whole gzip file"
        raise UsageError(f"cannot read {name}: {reason}") from None


def _open(name: str) -> IO[bytes]:
    if name == "-":
        return sys.stdin.buffer
    if name.endswith(".gz"):
        import gzip

        return cast("IO[bytes]", gzip.open(name, "rb"))
    return open(name, "rb")
