"""The guest's disk: a Debian 12 made by mmdebstrap, ``scripts/setup`` run in it, kernels from Debian's packages beside it.

Made once per set of pinned requirements and kept. The mirror is this machine's own: asked from apt, with apt's options.
Not here: booting it (``machine``). Called by ``__main__``.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
_SUITE = "bookworm"
_KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
_PACKAGES = ("systemd", "systemd-sysv", "dbus", "udev", "kmod", "procps", "e2fsprogs", "ca-certificates", "openssl")
_INPUTS = (
    "pyproject.toml",
    "requirements.lock",
    "scripts/setup",
    "scripts/vmtest/provision",
)  # a change makes a new image
_SEED = ("pyproject.toml", "requirements.lock", "README.md", "LICENSE", "NOTICE", "scripts", "kubelet_secrets")
_SPARE_BYTES = 3 << 30  # for what the tests write; the image file is sparse

KERNELS = {"6.1": ("bookworm",), "6.12": ("bookworm-backports", "trixie")}
"""Label → suites whose ``linux-image-amd64`` it is, the first that the mirror has."""


class BuildError(Exception):
    """One line for the user; what the command printed comes before it."""


@dataclass(frozen=True, slots=True)
class Kernel:
    label: str  # "6.12"
    release: str  # "6.12.95+deb12-amd64"
    vmlinuz: Path
    modules: Path  # lib/modules/<release>, modules.dep made


def run(command: Sequence[str | Path], *, environ: dict[str, str] | None = None) -> str:
    """Run a command; returns its output.

    Raises:
        BuildError: it failed.
    """
    result = subprocess.run(
        [str(each) for each in command], env=environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
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


def _sources(suites: Sequence[str]) -> str:
    known = mirrors()
    lines = []
    for suite in suites:
        address = known.get("security") if suite.endswith("-security") else known["main"]
        if address is not None:
            lines.append(f"deb [signed-by={_KEYRING}] {address} {suite} main\n")
    return "".join(lines)


def _apt_options() -> list[str]:
    """What this machine's apt was told about fetching: proxies, checks of dates."""
    dump = run(["apt-config", "dump", "--format", '%F "%v";%n', "Acquire"])
    wanted = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries", "Acquire::ForceIPv4")
    return [line for line in dump.splitlines() if line.startswith(wanted) and not line.endswith('"";')]


def get_kernel(label: str, build_dir: Path) -> Kernel:
    """Unpack Debian's kernel *label* below *build_dir*, once. Nothing is installed on this machine."""
    home = build_dir / "kernels" / label
    if not (home / "complete").exists():
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        for position, suite in enumerate(KERNELS[label]):
            try:
                _unpack_kernel(suite, home)
                break
            except BuildError:
                if position == len(KERNELS[label]) - 1:
                    raise
        (home / "complete").touch()
    (modules,) = (home / "root/lib/modules").iterdir()
    return Kernel(label, modules.name, home / f"root/boot/vmlinuz-{modules.name}", modules)


def _unpack_kernel(suite: str, home: Path) -> None:
    with tempfile.TemporaryDirectory(dir=home) as scratch:
        apt = Path(scratch)
        apt.chmod(0o755)
        for directory in ("lists/partial", "cache/archives/partial", "debs"):
            (apt / directory).mkdir(parents=True)
        (apt / "sources.list").write_text(_sources([suite, f"{_SUITE}-security"] if suite == _SUITE else [suite]))
        options = [
            f"-oDir::Etc::SourceList={apt}/sources.list",
            "-oDir::Etc::SourceParts=-",
            f"-oDir::State::Lists={apt}/lists",
            f"-oDir::Cache={apt}/cache",
            "-oAPT::Sandbox::User=root",
            "-oAPT::Update::Error-Mode=any",
        ]
        run(["apt-get", *options, "-q", "update"])
        # The package by that name depends on the newest kernel's own, whose name has the version in it.
        records = run(["apt-cache", *options, "show", "--no-all-versions", "linux-image-amd64"])
        fields = dict(line.split(": ", 1) for line in records.split("\n\n")[0].splitlines() if ": " in line)
        package = fields["Depends"].split(" ")[0]
        run(["sh", "-c", f"cd {apt}/debs && exec apt-get {shlex.join(options)} -q download {shlex.quote(package)}"])
        (deb,) = (apt / "debs").glob("*.deb")
        run(["dpkg-deb", "-x", deb, home / "root"])
        (modules,) = (home / "root/lib/modules").iterdir()
        run(["depmod", "-b", home / "root", modules.name])


def image_key() -> str:
    """Changes with everything that the image is made of."""
    digest = hashlib.sha256()
    digest.update(repr((_SUITE, _PACKAGES)).encode())
    for name in _INPUTS:
        digest.update((CHECKOUT / name).read_bytes())
    return digest.hexdigest()[:16]


def get_image(kernels: Sequence[Kernel], build_dir: Path) -> Path:
    """The guest's root as an ext4 image, made when there is none for these requirements and kernels."""
    key = "-".join([image_key(), *(kernel.release for kernel in kernels)])
    image = build_dir / f"root-{hashlib.sha256(key.encode()).hexdigest()[:16]}.ext4"
    if image.exists():
        return image
    for old in build_dir.glob("root-*"):
        shutil.rmtree(old) if old.is_dir() else old.unlink()
    root = build_dir / "root-unfinished"
    print("making the guest (mmdebstrap, scripts/setup): some minutes, once", flush=True)
    _make_root(root)
    for kernel in kernels:
        shutil.copytree(kernel.modules, root / "usr/lib/modules" / kernel.release, symlinks=True)
    used = int(run(["du", "-s", "--block-size=1", root]).split()[0])
    unfinished = image.with_suffix(".unfinished")
    unfinished.unlink(missing_ok=True)
    run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-d", root, unfinished, f"{(used * 5 // 4 + _SPARE_BYTES) >> 20}M"]
    )
    unfinished.rename(image)
    shutil.rmtree(root)
    return image


def _make_root(root: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        seed = Path(scratch) / "seed.tar"
        run(["tar", "-C", CHECKOUT, "--exclude=__pycache__", "-cf", seed, *_SEED])
        sources = Path(scratch) / "sources.list"
        sources.write_text(_sources([_SUITE, f"{_SUITE}-updates", f"{_SUITE}-security"]))
        # Certificates of this machine: a mirror may stand behind one of its own.
        certificates = os.environ.get("SSL_CERT_FILE", "/etc/ssl/certs/ca-certificates.crt")
        provision = [
            str(CHECKOUT / "scripts/vmtest/provision"),
            '"$1"',
            shlex.quote(str(seed)),
            shlex.quote(certificates),
        ]
        command: list[str | Path] = ["mmdebstrap", "--mode=root", "--variant=minbase"]
        command += [f"--include={','.join(_PACKAGES)}", *(f"--aptopt={option}" for option in _apt_options())]
        run([*command, f"--customize-hook={' '.join(provision)}", _SUITE, root, sources])
