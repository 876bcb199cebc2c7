"""The guest's disk: a Debian 12 made by mmdebstrap, ``scripts/setup`` run in it, kernels from Debian's packages beside it.

Made once per set of pinned requirements and kept. The mirror is this machine's own: asked from apt, with apt's options.
Not here: booting it (``machine``). Called by ``__main__``.
"""

from __future__ import annotations

import hashlib
import os
import shlex
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from scripts.debian import BuildError, open_apt, run, source_lines

CHECKOUT = Path(__file__).resolve().parents[2]
_SUITE = "bookworm"
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


@dataclass(frozen=True, slots=True)
class Kernel:
    label: str  # "6.12"
    release: str  # "6.12.95+deb12-amd64"
    vmlinuz: Path
    modules: Path  # lib/modules/<release>, modules.dep made


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
    with open_apt(home, [suite, f"{_SUITE}-security"] if suite == _SUITE else [suite]) as apt:
        # The package by that name depends on the newest kernel's own, whose name has the version in it.
        package = apt.fields("linux-image-amd64")["Depends"].split(" ")[0]
        apt.unpack([package], home / "root")
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
        sources.write_text(source_lines([_SUITE, f"{_SUITE}-updates", f"{_SUITE}-security"]))
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
