"""The programs of a cluster: etcd and containerd from Debian's packages, Kubernetes from Debian's source package and Go.

Debian 12 is the last release whose source package has all of Kubernetes (1.20.2); later ones are cut down to kubectl. All of it
happens in one directory: nothing is installed. Called by ``__main__``.
"""

from __future__ import annotations

import os
import re
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from scripts.debian import BuildError, open_apt, run

_SUITE = "bookworm"
_GO = "1.19"
_PACKAGE = "k8s.io/kubernetes"
PROGRAMS = ("kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubelet", "kubectl")
_PACKED = ("etcd", "containerd", "containerd-shim-runc-v2", "ctr")  # as Debian has built them
_OPENAPI = "pkg/generated/openapi"
_SPARE_BYTES = 4 << 30


def get_programs(build_dir: Path) -> Path:
    """The directory for ``KUBEBUILDER_ASSETS`` and ``KUBELET_ASSETS`` below *build_dir*, with what is missing there made first.

    Raises:
        BuildError: a package cannot be had, the compiler fails, or there is no room.
    """
    assets, work = build_dir / "bin", build_dir / "work"
    missing = [name for name in (*_PACKED, *PROGRAMS) if not os.access(assets / name, os.X_OK)]
    if not missing:
        return assets
    assets.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(work).free < _SPARE_BYTES:
        raise BuildError(f"{work} has less than {_SPARE_BYTES >> 30} GiB free, which the build needs for a while")
    print("making the programs of a cluster: some ten minutes, once", flush=True)
    root, source = work / "root", work / "gopath/src" / _PACKAGE
    if not (source / "complete").exists():
        _fetch(work, root, source)
    for name in _PACKED:
        if name in missing:
            _install(root / "usr/bin" / name, assets / name)
    _generate_openapi(work, source)
    for name in PROGRAMS:
        if name in missing:
            _build(work, source, f"./cmd/{name}", assets / name)
    shutil.rmtree(work)
    return assets


def _fetch(work: Path, root: Path, source: Path) -> None:
    with (
        _step("fetching etcd, containerd, Go and the source of Kubernetes"),
        open_apt(work, [_SUITE, f"{_SUITE}-security"], kinds=("deb", "deb-src")) as apt,
    ):
        apt.unpack(["etcd-server", "containerd", f"golang-{_GO}-go", f"golang-{_GO}-src"], root)
        shutil.rmtree(source, ignore_errors=True)
        source.mkdir(parents=True)
        packed = work / "packed"
        shutil.rmtree(packed, ignore_errors=True)
        packed.mkdir()
        files = apt.source("kubernetes", packed)
        archives = [each for each in files if ".orig." in each.name and not each.name.endswith(".asc")]
        if len(archives) != 1:
            raise BuildError(f"the source package of Kubernetes has {len(archives)} archives, not one")
        run(["tar", "-xf", archives[0], "-C", source, "--strip-components=1"])
        (source / "version").write_text(packed_version(archives[0].name))
        shutil.rmtree(packed)
        (source / "complete").touch()


def packed_version(archive: str) -> str:
    """The version of what is packed: Debian's number may begin with a newer one that was taken back."""
    found = re.search(r"_(?:.*really)?(\d+\.\d+\.\d+)", archive)
    if found is None:
        raise BuildError(f"{archive} names no version of Kubernetes")
    return found[1]


def _generate_openapi(work: Path, source: Path) -> None:
    """The one generated file that is not in the source. Source: Makefile.generated_files, OPENAPI_TARGETS_DEF."""
    generated = source / _OPENAPI / "zz_generated.openapi.go"
    if generated.exists():
        return
    generator = work / "openapi-gen"
    _build(work, source, "./vendor/k8s.io/kube-openapi/cmd/openapi-gen", generator)
    with _step("generating the schemas of its API"):
        tagged = sorted(
            {
                each.parent
                for top in ("pkg", "cmd", "plugin", "staging/src")
                for each in (source / top).rglob("*.go")
                if not {"testdata", "code-generator", "sample-apiserver"} & set(each.parts)
                and "+k8s:openapi-gen=" in each.read_text(errors="replace")
            }
        )
        names = (str(each.relative_to(source)).replace("staging/src/", "vendor/", 1) for each in tagged)
        command: Sequence[str | Path] = [
            generator,
            *("--input-dirs", ",".join(f"{_PACKAGE}/{each}" for each in names)),
            *("--output-package", f"{_PACKAGE}/{_OPENAPI}", "--output-file-base", generated.stem),
            *("--go-header-file", source / "vendor/k8s.io/code-generator/hack/boilerplate.go.txt"),
            *("--report-filename", work / "violations"),
        ]
        run(command, environ=_environment(work), cwd=source)


def _build(work: Path, source: Path, package: str, target: Path) -> None:
    version = (source / "version").read_text()
    major, minor, _ = version.split(".")
    said = {"gitVersion": f"v{version}", "gitMajor": major, "gitMinor": minor, "gitTreeState": "clean"}
    paths = [
        f"{prefix}{each}/version"
        for prefix in ("", f"{_PACKAGE}/vendor/")
        for each in ("k8s.io/component-base", "k8s.io/client-go/pkg")
    ]
    flags = " ".join(["-s", "-w", *(f"-X {path}.{name}={value}" for path in paths for name, value in said.items())])
    built = work / target.name
    with _step(f"building {target.name}"):
        run(["go", "build", "-o", built, "-ldflags", flags, package], environ=_environment(work), cwd=source)
    if built != target:
        _install(built, target)


def _environment(work: Path) -> dict[str, str]:
    goroot = work / f"root/usr/lib/go-{_GO}"
    return {
        **os.environ,
        "PATH": f"{goroot / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "GOROOT": str(goroot),
        "GOPATH": str(work / "gopath"),
        "GOCACHE": str(work / "cache"),
        "GO111MODULE": "off",
        "GOFLAGS": "",
        "CGO_ENABLED": "0",
    }


def _install(built: Path, target: Path) -> None:
    """Whole or not at all: a program that is there is taken for good."""
    unfinished = target.with_name(f"{target.name}.unfinished")
    shutil.copy(built, unfinished)
    unfinished.chmod(0o755)
    unfinished.rename(target)


@contextmanager
def _step(what: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    print(f"  {what} …", end="", flush=True)
    began = time.monotonic()
    try:
        yield
    except BaseException:
        print(" failed", flush=True)
        raise
    print(f" {time.monotonic() - began:.0f} s", flush=True)
