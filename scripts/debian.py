"""Packages of Debian's archive, got by this machine's apt and its settings, without installing anything or touching its lists.

For the scripts that make machines and programs to test against: ``vmtest`` and ``realcluster``.
"""

from __future__ import annotations

import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


class BuildError(Exception):
    """One line for the user; what the command printed comes before it."""


def run(command: Sequence[str | Path], *, environ: dict[str, str] | None = None, cwd: Path | None = None) -> str:
    """Run a command; returns its output.

    Raises:
        BuildError: it failed.
    """
    result = subprocess.run(
        [str(each) for each in command],
        env=environ,
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if result.returncode != 0:
        print(result.stdout, end="")
        raise BuildError(f"{shlex.join(str(each) for each in command[:3])} … failed with status {result.returncode}")
    return result.stdout


def mirrors() -> dict[str, str]:
    """Archive → address, as this machine's apt has them: ``debian`` and ``debian-security``.

    Raises:
        BuildError: this machine's apt knows no Debian archive.
    """
    found: dict[str, str] = {}
    for line in run(
        ["apt-get", "indextargets", "--format", "$(CREATED_BY) $(ORIGIN) $(CODENAME) $(REPO_URI)"]
    ).splitlines():
        created_by, origin, codename, address = [*line.split(" "), "", "", "", ""][:4]
        if created_by == "Packages" and origin == "Debian":
            found.setdefault("security" if codename.endswith("-security") else "main", address)
    if "main" not in found:
        raise BuildError("apt on this machine has no Debian archive: run apt-get update, or add one to its sources")
    return found


def source_lines(suites: Sequence[str], *, kinds: Sequence[str] = ("deb",)) -> str:
    """The lines of a ``sources.list``."""
    known = mirrors()
    lines = []
    for suite in suites:
        address = known.get("security") if suite.endswith("-security") else known["main"]
        if address is not None:
            lines += [f"{kind} [signed-by={KEYRING}] {address} {suite} main\n" for kind in kinds]
    return "".join(lines)


class Apt:
    """apt with lists of its own. Made by :func:`open_apt`."""

    def __init__(self, home: Path) -> None:
        self._home = home
        self._options = [
            f"-oDir::Etc::SourceList={home}/sources.list",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State::Lists={home}/lists",
            f"-oDir::Cache={home}/cache",
            "-oAPT::Sandbox::User=root",
            "-oAPT::Update::Error-Mode=any",
        ]

    def update(self) -> None:
        run(["apt-get", *self._options, "-q", "update"])

    def fields(self, package: str) -> dict[str, str]:
        """What the archive says of the newest version of *package*."""
        records = run(["apt-cache", *self._options, "show", "--no-all-versions", package])
        return dict(line.split(": ", 1) for line in records.split("\n\n")[0].splitlines() if ": " in line)

    def unpack(self, packages: Sequence[str], root: Path) -> None:
        """Unpack *packages*, without what they depend on, below *root*."""
        with tempfile.TemporaryDirectory(dir=self._home) as scratch:
            run(["apt-get", *self._options, "-q", "download", *packages], cwd=Path(scratch))
            for deb in Path(scratch).glob("*.deb"):
                run(["dpkg-deb", "-x", deb, root])

    def source(self, package: str, directory: Path) -> list[Path]:
        """Fetch the files of a source package into *directory*; apt has checked them against the archive's signature."""
        run(["apt-get", *self._options, "-q", "source", "--download-only", package], cwd=directory)
        return sorted(directory.iterdir())


@contextmanager
def open_apt(place: Path, suites: Sequence[str], *, kinds: Sequence[str] = ("deb",)) -> Iterator[Apt]:
    """apt for *suites*, its lists up to date, for the length of the block.

    Args:
        place: a directory that exists; what is fetched lies below it until the block ends.
        kinds: ``deb``, ``deb-src``.
    """
    with tempfile.TemporaryDirectory(dir=place) as scratch:
        home = Path(scratch)
        home.chmod(0o755)
        for directory in ("lists/partial", "cache/archives/partial"):
            (home / directory).mkdir(parents=True)
        (home / "sources.list").write_text(source_lines(suites, kinds=kinds))
        apt = Apt(home)
        apt.update()
        yield apt
