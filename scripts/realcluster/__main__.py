"""Options, one group of tests after the other, and what held: ``scripts/real-cluster-test`` runs this."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.debian import BuildError, run
from scripts.realcluster.programs import PROGRAMS, get_programs
from scripts.realcluster.verdict import Verdict, read_verdict

CHECKOUT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True, slots=True)
class Group:
    """Tests that run together.

    Attributes:
        variable: what names the programs to them.
        needs: one of these programs, without which there is nothing to test against.
    """

    paths: tuple[str, ...]
    variable: str = "KUBEBUILDER_ASSETS"
    needs: str = "kube-apiserver"


GROUPS = {
    "cluster": Group(("tests/testing",)),
    "conformance": Group(("tests/conformance",)),
    "kubelet": Group(("tests/conformance", "tests/faithful/test_same_answer.py"), "KUBELET_ASSETS", "kubelet"),
}
"""The agent in a real control plane; and a real kubelet in the agent's place, with the embedded API server."""
_LINES_OF_A_FAILURE = 40
_VARIABLES = ("KUBECONFIG", "KUBEBUILDER_ASSETS", "KUBELET_ASSETS")


def _list_paths(group: Group) -> str:
    return " ".join(group.paths)


def _parse(arguments: Sequence[str]) -> argparse.Namespace:
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    parser = argparse.ArgumentParser(
        prog="scripts/real-cluster-test",
        description="Build Kubernetes' own programs from Debian 12's packages, run the tests of a node against them, print "
        f"what held. The groups: {', '.join(f'{name} ({_list_paths(group)})' for name, group in GROUPS.items())}.",
    )
    parser.add_argument(
        "--only",
        type=lambda text: text.split(","),
        default=list(GROUPS),
        metavar="GROUP,…",
        help="only these; a path below tests/ is one too",
    )
    parser.add_argument(
        "--assets",
        type=Path,
        help="a directory with etcd, kube-apiserver, kube-controller-manager and kube-scheduler, or with kubelet, containerd, "
        "containerd-shim-runc-v2 and ctr, or both: nothing is built",
    )
    parser.add_argument(
        "--build-dir",
        type=Path,
        default=cache / "kubelet-secrets" / "control-plane",
        help="what is built and kept; 4 GB for as long as it is being built, 0.4 GB then  [default: %(default)s]",
    )
    parser.add_argument("--build-only", action="store_true", help="make the programs and print where they are")
    given = parser.parse_args(arguments)
    for name in given.only:
        if name not in GROUPS and not name.startswith("tests/"):
            parser.error(f"no group {name!r}; there are {', '.join(GROUPS)}, and paths below tests/")
    return given


def _run_tests(name: str, assets: Path, logs: Path) -> Verdict:
    """pytest, its dots as they come; what it says of failures is in its log."""
    report, log = logs / f"{name.replace('/', '-')}.xml", logs / f"{name.replace('/', '-')}.log"
    report.unlink(missing_ok=True)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
    group = GROUPS.get(name, Group((name,)))
    # Either would name another cluster, or another node, to test with.
    environ = {key: value for key, value in os.environ.items() if key not in _VARIABLES}
    environ[group.variable] = str(assets)
    with log.open("w") as output:
        process = subprocess.Popen([*command, *group.paths], cwd=CHECKOUT, env=environ, stdout=output, stderr=output)
        try:
            process.wait()
        except BaseException:
            process.send_signal(signal.SIGINT)  # its fixtures stop what they have started
            process.wait()
            raise
    verdict = read_verdict(report)
    if not verdict.held:
        print("".join(log.read_text(errors="replace").splitlines(keepends=True)[-_LINES_OF_A_FAILURE:]))
    return verdict


def _conclude(name: str, verdict: Verdict, seconds: float) -> None:
    print(f"  {'✓' if verdict.held else '✗'} {name:<12} {verdict}  {seconds:.0f} s", flush=True)
    for reason, count in (*verdict.newer.items(), *verdict.skipped.items()):
        print(f"      {count:3} {reason}", flush=True)
    for test in verdict.failed:
        print(f"      failed: {test}", flush=True)


def main(arguments: Sequence[str]) -> int:
    """Exit status: 0 when everything held, 1 when not, 2 when there are no programs to test with."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(130))
    given.build_dir.mkdir(parents=True, exist_ok=True)
    try:
        assets = given.assets.absolute() if given.assets else get_programs(given.build_dir.absolute())
        there = [name for name in ("etcd", "containerd", *PROGRAMS) if os.access(assets / name, os.X_OK)]
        versions = [run([assets / name, "--version"]).splitlines()[0] for name in there if name != "kubectl"]
    except (BuildError, OSError) as error:
        print(f"real-cluster-test: {error}", file=sys.stderr)
        return 2
    for name, version in zip((name for name in there if name != "kubectl"), versions, strict=True):
        print(f"{name:<24} {version}", flush=True)
    if given.build_only:
        print(f"export KUBEBUILDER_ASSETS={assets}    # or, for a kubelet in the agent's place: KUBELET_ASSETS")
        return 0
    logs = given.build_dir / "logs"
    logs.mkdir(exist_ok=True)
    print(f"\nwhat the tests print comes to {logs}", flush=True)
    verdicts = []
    for name in given.only:
        needed = GROUPS[name].needs if name in GROUPS else "kube-apiserver"
        if needed not in there:
            print(f"  - {name:<12} there is no {needed} in {assets}", flush=True)
            continue
        began = time.monotonic()
        verdicts.append(_run_tests(name, assets, logs))
        _conclude(name, verdicts[-1], time.monotonic() - began)
    return 0 if verdicts and all(each.held for each in verdicts) else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
