"""Options, one kernel after the other, and the table: ``scripts/vm-test`` runs this."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.debian import BuildError
from scripts.vmtest.checkout import pack_checkout
from scripts.vmtest.checks import CHECKS
from scripts.vmtest.image import KERNELS, get_image, get_kernel
from scripts.vmtest.logs import section, tail
from scripts.vmtest.machine import boot, usable_accelerator
from scripts.vmtest.results import Report, Results
from scripts.vmtest.search import judge

# An emulated processor is some ten times slower; the checks take what they take, this only bounds a guest that hangs.
_TIMEOUT_S = {"kvm": 1800, "tcg": 7200}
_PATIENCE = {"kvm": 2.0, "tcg": 10.0}
_FOR_THE_HOST = ("end", "values")  # reports that are no check's outcome
_JUDGED_BY_THE_HOST = {"canary": ("leaks-runc", "leaks-crun")}
_LINES_OF_A_FAILURE = 25


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="scripts/vm-test",
        description="Boot Debian's kernels under qemu, run the checks in them, print what held. "
        f"The checks: {', '.join(CHECKS)}.",
    )
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="may be given several times  [default: all]")
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(CHECKS),
        metavar="CHECK,…",
        help="only these checks; paths below tests/, joined by +, are one too",
    )
    parser.add_argument(
        "--resume",
        action="store_true",
        help="leave out what has held already, with this kernel and this checkout as it is",
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto tries whether KVM works")
    parser.add_argument("--memory", type=int, default=2560, metavar="MIB", help="the guest's  [default: 2560]")
    parser.add_argument(
        "--patience",
        type=float,
        metavar="FACTOR",
        help="how much longer than on a machine of its own anything may take  [default: 2 with KVM, 10 without]",
    )
    parser.add_argument(
        "--build-dir",
        type=Path,
        default=cache / "kubelet-secrets" / "vm",
        help="what is kept; some 3 GB  [default: %(default)s]",
    )
    parser.add_argument("--logs", type=Path, help="where to put what the checks print  [default: BUILD_DIR/logs]")
    given = parser.parse_args(arguments)
    for check in given.only:
        if check not in CHECKS and not check.startswith("tests/"):
            parser.error(f"no check {check!r}; there are {', '.join(CHECKS)}, and paths below tests/")
    return given


class _KernelRun:
    """The checks of one kernel."""

    def __init__(self, label: str, given: argparse.Namespace) -> None:
        kernels = [get_kernel(each, given.build_dir) for each in KERNELS]
        self._kernel = next(each for each in kernels if each.label == label)
        self._image = get_image(kernels, given.build_dir)
        self._given = given
        self._logs = (given.logs or given.build_dir / "logs") / label
        self._logs.mkdir(parents=True, exist_ok=True)
        self._results = Results(given.build_dir / "results")
        self._code = ""
        self.reports: list[Report] = []

    def run(self) -> list[Report]:
        """Boot the kernel, unless everything has held before; returns the reports, with what the host found added."""
        with tempfile.TemporaryDirectory(dir=self._given.build_dir, prefix=f"boot-{self._kernel.label}-") as scratch:
            work = Path(scratch)
            self._code = pack_checkout(work / "checkout.tar")
            print(f"\nLinux {self._kernel.release}", flush=True)
            wanted = self._left_to_do()
            if wanted:
                self._boot(work, wanted)
        return self.reports

    def _left_to_do(self) -> list[str]:
        if not self._given.resume:
            return list(self._given.only)
        held = self._results.held(self._kernel.release, self._code)
        left = [name for name in self._given.only if not held.keys() >= {name, *_JUDGED_BY_THE_HOST.get(name, ())}]
        for check in self._given.only:
            if check not in left:
                for name in (check, *_JUDGED_BY_THE_HOST.get(check, ())):
                    self.reports.append(held[name])
                    print(f"  ✓ {name:<12} as before: {held[name]['detail']}", flush=True)
        return left

    def _boot(self, work: Path, wanted: Sequence[str]) -> None:
        given = self._given
        accelerator = usable_accelerator(self._kernel, work) if given.accel == "auto" else given.accel
        patience = given.patience or _PATIENCE[accelerator]
        console, log = self._logs / "console", self._logs / "log"
        log.unlink(missing_ok=True)
        print(f"  {accelerator}, patience {patience:g}; what the checks print comes to {log}", flush=True)

        def show(report: Report) -> None:
            if report["check"] not in _FOR_THE_HOST:
                self._conclude(report, log)

        result = boot(
            self._kernel,
            self._image,
            work / "checkout.tar",
            work,
            console=console,
            log=log,
            accelerator=accelerator,
            memory_mib=given.memory,
            timeout_s=_TIMEOUT_S[accelerator] * max(1.0, patience / _PATIENCE[accelerator]),
            arguments=[f"vm_test.only={','.join(wanted)}", f"vm_test.patience={patience:g}"],
            progress=show,
        )
        for report in result.reports:
            if report["check"] == "values":
                show(judge([result.root_disk, result.swap_disk, console, log], report))
        if result.status != "finished":
            show({"check": "guest", "held": False, "detail": result.status})

    def _conclude(self, report: Report, log: Path) -> None:
        """Keep an outcome and print it: a line, and for a failure the end of what it printed."""
        self.reports.append(report)
        self._results.add(self._kernel.release, self._code, report)
        seconds = f"  {report['seconds']} s" if "seconds" in report else ""
        name = _shorten(str(report["check"]))
        print(f"  {'✓' if report['held'] else '✗'} {name:<12} {report['detail']}{seconds}", flush=True)
        if not report["held"]:
            printed = section(log.read_text(errors="replace"), str(report["check"]))
            print(tail(printed, _LINES_OF_A_FAILURE), flush=True)


def _shorten(check: str) -> str:
    """A name for people: of several paths the first, and how many more."""
    first, *others = check.split("+")
    return f"{first} +{len(others)}" if others else first


def _print_table(results: Mapping[str, Sequence[Report]]) -> None:
    """Checks down, kernels across: whether each held."""
    names = dict.fromkeys(str(report["check"]) for reports in results.values() for report in reports)
    width = max((len(_shorten(name)) for name in names), default=0) + 2
    print("\n" + " " * width + "".join(f"{label:<10}" for label in results))
    for name in names:
        cells = []
        for reports in results.values():
            held = [bool(report["held"]) for report in reports if report["check"] == name]
            cells.append("-" if not held else "held" if all(held) else "FAILED")
        print(f"{_shorten(name):<{width}}" + "".join(f"{cell:<10}" for cell in cells))


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 when everything held on every kernel, 1 when not, 2 when a guest could not be made."""
    given = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # as Ctrl-C does: the guest and its disks go
    given.build_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[Report]] = {}
    try:
        for label in given.kernel or KERNELS:
            results[label] = _KernelRun(label, given).run()
    except BuildError as error:
        print(f"vm-test: {error}", file=sys.stderr)
        return 2
    _print_table(results)
    return 0 if all(report["held"] for reports in results.values() for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
