"""Options, one kernel after the other, and the table: ``scripts/vm-test`` runs this."""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from scripts.vmtest.image import KERNELS, BuildError, get_image, get_kernel
from scripts.vmtest.machine import Boot, boot, usable_accelerator
from scripts.vmtest.search import judge

# An emulated processor is some ten times slower; the checks take what they take, this only bounds a guest that hangs.
_TIMEOUT_S = {"kvm": 1800, "tcg": 7200}
_FOR_THE_HOST = ("end", "values")  # reports that are no check's outcome
_PATIENCE = {"kvm": 2, "tcg": 10}


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="scripts/vm-test", description="Boot Debian's kernels under qemu, run the checks in them, print what held."
    )
    parser.add_argument("--kernel", action="append", choices=KERNELS, help="may be given several times  [default: all]")
    parser.add_argument(
        "--only", default="", metavar="CHECK,…", help="only these checks (scripts/vmtest/checks.py, CHECKS)"
    )
    parser.add_argument("--accel", choices=("auto", "kvm", "tcg"), default="auto", help="auto tries whether KVM works")
    parser.add_argument("--memory", type=int, default=2560, metavar="MIB", help="the guest's  [default: 2560]")
    parser.add_argument(
        "--build-dir",
        type=Path,
        default=cache / "kubelet-secrets" / "vm",
        help="what is kept; some 3 GB  [default: %(default)s]",
    )
    parser.add_argument("--logs", type=Path, help="where to put what the checks print  [default: BUILD_DIR/logs]")
    return parser.parse_args(arguments)


def _run_kernel(label: str, given: argparse.Namespace) -> list[dict[str, object]]:
    """Boot one kernel; the reports, with what the host found added."""
    kernels = [get_kernel(each, given.build_dir) for each in KERNELS]
    kernel = next(each for each in kernels if each.label == label)
    image = get_image(kernels, given.build_dir)
    with tempfile.TemporaryDirectory(dir=given.build_dir, prefix=f"boot-{label}-") as scratch:
        work = Path(scratch)
        accelerator = usable_accelerator(kernel, work) if given.accel == "auto" else given.accel
        print(f"\nLinux {kernel.release}, {accelerator}", flush=True)
        result = boot(
            kernel,
            image,
            work,
            accelerator=accelerator,
            memory_mib=given.memory,
            timeout_s=_TIMEOUT_S[accelerator],
            arguments=[f"vm_test.only={given.only}", f"vm_test.patience={_PATIENCE[accelerator]}"],
            progress=_show,
        )
        _keep_logs(result, (given.logs or given.build_dir / "logs") / label)
        reports = [each for each in result.reports if each["check"] not in _FOR_THE_HOST]
        disks = [result.root_disk, result.swap_disk, result.console, result.log]
        for report in result.reports:
            if report["check"] == "values":
                reports.append(judge(disks, report))
                _show(reports[-1])
        if result.status != "finished":
            reports.append({"check": "guest", "held": False, "detail": result.status})
            _show(reports[-1])
    return reports


def _show(report: Mapping[str, object]) -> None:
    if report["check"] not in _FOR_THE_HOST:
        seconds = f"  {report['seconds']} s" if "seconds" in report else ""
        print(f"  {'✓' if report['held'] else '✗'} {report['check']:<12} {report['detail']}{seconds}", flush=True)


def _keep_logs(result: Boot, target: Path) -> None:
    target.mkdir(parents=True, exist_ok=True)
    for source in (result.log, result.console):
        if source.exists():
            shutil.copy(source, target / source.name)


def _print_table(results: Mapping[str, Sequence[Mapping[str, object]]]) -> None:
    """Checks down, kernels across: whether each held."""
    names = dict.fromkeys(str(report["check"]) for reports in results.values() for report in reports)
    width = max(map(len, names), default=0) + 2
    print("\n" + " " * width + "".join(f"{label:<10}" for label in results))
    for name in names:
        cells = []
        for reports in results.values():
            held = [bool(report["held"]) for report in reports if report["check"] == name]
            cells.append("-" if not held else "held" if all(held) else "FAILED")
        print(f"{name:<{width}}" + "".join(f"{cell:<10}" for cell in cells))


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 when everything held on every kernel, 1 when not, 2 when a guest could not be made."""
    given = _parse(arguments)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(130))  # as Ctrl-C does: the guest and its disks go
    given.build_dir.mkdir(parents=True, exist_ok=True)
    results: dict[str, list[dict[str, object]]] = {}
    try:
        for label in given.kernel or KERNELS:
            results[label] = _run_kernel(label, given)
    except BuildError as error:
        print(f"vm-test: {error}", file=sys.stderr)
        return 2
    _print_table(results)
    return 0 if all(report["held"] for reports in results.values() for report in reports) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
