"""The pure parts of ``scripts/real-cluster-test``; the rest is run by hand."""

from __future__ import annotations

from pathlib import Path

import pytest

from scripts.debian import BuildError
from scripts.realcluster.programs import packed_version
from scripts.realcluster.verdict import read_verdict

NEWER = "needs Kubernetes ≥ 1.35 (fileKeyRef)"
REPORT = f"""<?xml version="1.0" encoding="utf-8"?>
<testsuites><testsuite name="pytest">
<testcase classname="tests.conformance.test_conformance" name="test_conforms[one]"/>
<testcase classname="tests.conformance.test_conformance" name="test_conforms[two]">
  <skipped type="pytest.skip" message="{NEWER}: the API server is 1.20"/></testcase>
<testcase classname="tests.conformance.test_conformance" name="test_conforms[three]">
  <skipped type="pytest.skip" message="needs kubectl"/></testcase>
{{more}}
</testsuite></testsuites>
"""


def test_report_is_counted_by_reasons(tmp_path: Path) -> None:
    report = tmp_path / "report.xml"
    report.write_text(REPORT.format(more=""))
    verdict = read_verdict(report)
    assert verdict.held
    assert (verdict.passed, verdict.newer, verdict.skipped) == (1, {NEWER: 1}, {"needs kubectl": 1})
    assert str(verdict) == "1 passed, 1 need a newer Kubernetes, 1 skipped"


@pytest.mark.parametrize("kind", ["failure", "error"])
def test_failures_and_errors_are_named(tmp_path: Path, kind: str) -> None:
    report = tmp_path / "report.xml"
    more = f'<testcase classname="tests.testing.test_real_node" name="test_x"><{kind} message="m"/></testcase>'
    report.write_text(REPORT.format(more=more))
    verdict = read_verdict(report)
    assert not verdict.held
    assert verdict.failed == ["test_real_node::test_x"]


@pytest.mark.parametrize("text", [None, "", "<testsuites><testsuite>", "<testsuites/>"])
def test_nothing_holds_without_a_whole_report(tmp_path: Path, text: str | None) -> None:
    report = tmp_path / "report.xml"
    if text is not None:
        report.write_text(text)
    assert not read_verdict(report).held


def test_version_is_that_of_what_is_packed() -> None:
    """Debian's number begins with the one of a release that was taken back."""
    assert packed_version("kubernetes_1.20.5+really1.20.2.orig.tar.gz") == "1.20.2"
    assert packed_version("kubernetes_1.36.4.orig.tar.xz") == "1.36.4"
    with pytest.raises(BuildError, match="names no version"):
        packed_version("kubernetes.orig.tar.gz")
