"""Is an audit trail whole: was a line changed, taken out, put in, or moved. Pure.

Reads lines: of a file, of several that were rotated, of the journal, of the agent's memory. It can tell what happened between
the first and the last of them. That lines were cut off at the end, or that the whole trail was made up anew, only a second
copy shows: the journal, or the running agent, with whose word ``cli.audit`` compares :attr:`ChainChecker.last`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kubelet_secrets.access.record import CHAIN_START, AuditRecord, Kind, NotARecord, read_line


@dataclass(frozen=True, slots=True)
class Finding:
    where: str  # "audit.log:17"
    what: str


@dataclass(slots=True)
class _Gap:
    where: str
    first: int
    last: int


class ChainChecker:
    """Feed it lines in order, then :meth:`finish`.

    Args:
        outlet: where the lines were read: only gaps that are recorded for it are excused. "": any.

    Attributes:
        findings: what is wrong.
        notes: what is unusual and explained.
        first, last: the first and the last record; None before there is one.
    """

    def __init__(self, outlet: str = "") -> None:
        self._outlet = outlet
        self.findings: list[Finding] = []
        self.notes: list[Finding] = []
        self.first: AuditRecord | None = None
        self.last: AuditRecord | None = None
        self.records = 0
        self.verdicts = 0
        self.denied = 0
        self.starts = 0
        self.kills = 0  # starts that followed no stop
        self._torn: tuple[str, str] | None = None
        self._gaps: list[_Gap] = []

    def feed(self, line: bytes, where: str) -> None:
        """Check one line against those before it.

        Args:
            line: with or without its newline; empty ones are passed over.
            where: for what is said about it.
        """
        line = line.rstrip(b"\r\n")
        if not line:
            return
        try:
            record = read_line(line).record
        except NotARecord as error:
            self._report_torn()
            self._torn = where, str(error)
            return
        self._count(record)
        last, self.last = self.last, record
        if last is None:
            self.first = record
            if record.seq == 1 and record.previous != CHAIN_START:
                self._find(where, "record 1 says that another one came before it")
            self._report_torn()
            return
        self._link(last, record, where)
        if record.kind == Kind.GAP and (not self._outlet or record.outlet == self._outlet):
            self._excuse(record, where)

    def finish(self) -> list[Finding]:
        """Nothing more comes. Returns :attr:`findings`."""
        self._report_torn()
        for gap in self._gaps:
            self._find(gap.where, f"{_records(gap.first, gap.last)} missing before this line")
        self._gaps.clear()
        return self.findings

    def _link(self, last: AuditRecord, record: AuditRecord, where: str) -> None:
        follows = record.seq == last.seq + 1 and record.previous == last.chain
        if self._torn is not None and follows and record.kind == Kind.START:
            # Cut off by a crash of the machine: nothing was built on it, and the next agent began behind the line before.
            self.notes.append(Finding(self._torn[0], "cut off when the machine went down; the chain goes on behind it"))
            self._torn = None
        self._report_torn()
        if follows:
            return
        if record.seq == last.seq and record.chain == last.chain:
            self.notes.append(Finding(where, f"record {record.seq} stands here twice"))
        elif record.seq == last.seq + 1:
            self._find(where, f"record {record.seq} does not belong behind the record {last.seq} that stands before it")
        elif record.seq > last.seq:
            self._gaps.append(_Gap(where, last.seq + 1, record.seq - 1))
        elif record.seq == 1 and record.previous == CHAIN_START:
            self._find(where, f"another chain begins, which knows nothing of the {last.seq} records before")
        else:
            self._find(where, f"record {record.seq} stands behind record {last.seq}")

    def _excuse(self, record: AuditRecord, where: str) -> None:
        for gap in self._gaps:
            if record.first == gap.first and record.last == gap.last:
                self._gaps.remove(gap)
                self.notes.append(
                    Finding(where, f"{_records(gap.first, gap.last)} missing: never written, says record {record.seq}")
                )
                return

    def _report_torn(self) -> None:
        if self._torn is not None:
            self.findings.append(Finding(*self._torn))
            self._torn = None

    def _find(self, where: str, what: str) -> None:
        self.findings.append(Finding(where, what))

    def _count(self, record: AuditRecord) -> None:
        self.records += 1
        if record.verdict:
            self.verdicts += record.count
            self.denied += record.count if record.is_denied else 0
        elif record.kind == Kind.START:
            self.starts += 1
            self.kills += self.last is not None and self.last.kind != Kind.STOP


def _records(first: int, last: int) -> str:
    return f"record {first} is" if first == last else f"records {first} to {last} are"
