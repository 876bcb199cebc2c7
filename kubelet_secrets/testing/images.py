"""Build a busybox image from the host's static busybox: for tests, the demo, and machines without a registry.

Plain files in, an OCI layout out; no network and no tool is needed. Not a builder for anything else.

Source: OCI image specification 1.0 (image-layout, manifest, config).
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import platform
import subprocess
import sys
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kubelet_secrets.errors import HostError

_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm", "ppc64le": "ppc64le", "s390x": "s390x"}
_PASSWD = """\
root:x:0:0:root:/root:/bin/sh
daemon:x:1:1:daemon:/usr/sbin:/bin/false
www-data:x:33:33:www-data:/var/www:/bin/false
nobody:x:65534:65534:nobody:/home:/bin/false
"""
_GROUP = "root:x:0:\ndaemon:x:1:\ntty:x:5:\nwww-data:x:33:\nusers:x:100:nobody\nnogroup:x:65534:\n"


def build_busybox_image(
    directory: Path,
    *,
    tag: str = "latest",
    entrypoint: Sequence[str] = (),
    cmd: Sequence[str] = ("sh",),
    env: Mapping[str, str] | None = None,
    user: str = "",
    working_dir: str = "",
    stop_signal: str = "",
    files: Mapping[str, bytes] | None = None,
    programs: Mapping[str, bytes] | None = None,
    busybox: Path | None = None,
) -> str:
    """Write an OCI layout with one image: busybox with a link per applet, /etc/passwd, /etc/group, /tmp, /root.

    The same input gives the same digests: no clock goes into it.

    Args:
        directory: becomes the layout; made if missing.
        files: further files, absolute path → content, mode 0644.
        programs: likewise, mode 0755. One may take the place of an applet's link.
        busybox: a *static* busybox; None looks for the host's.

    Returns:
        The source to import or copy from: ``oci:<directory>:<tag>``.

    Raises:
        HostError: no static busybox.
    """
    program = busybox or find_static_busybox()
    more = {path: (content, 0o644) for path, content in (files or {}).items()}
    more |= {path: (content, 0o755) for path, content in (programs or {}).items()}
    layer = _layer(program, more)
    compressed = gzip.compress(layer, compresslevel=6, mtime=0)
    config = {
        "architecture": _ARCHITECTURES.get(platform.machine(), platform.machine()),
        "os": "linux",
        "config": _process(entrypoint, cmd, env, user, working_dir, stop_signal),
        "rootfs": {"type": "layers", "diff_ids": [_digest(layer)]},
        "history": [{"created_by": "busybox-static"}],
    }
    blobs = directory / "blobs" / "sha256"
    blobs.mkdir(parents=True, exist_ok=True)
    layer_descriptor = _add(blobs, compressed, "application/vnd.oci.image.layer.v1.tar+gzip")
    config_descriptor = _add(blobs, json.dumps(config).encode(), "application/vnd.oci.image.config.v1+json")
    manifest = {
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": config_descriptor,
        "layers": [layer_descriptor],
    }
    descriptor = _add(blobs, json.dumps(manifest).encode(), "application/vnd.oci.image.manifest.v1+json")
    descriptor["annotations"] = {"org.opencontainers.image.ref.name": tag}
    directory.joinpath("oci-layout").write_text('{"imageLayoutVersion":"1.0.0"}')
    directory.joinpath("index.json").write_text(json.dumps({"schemaVersion": 2, "manifests": [descriptor]}))
    return f"oci:{directory}:{tag}"


def find_static_busybox() -> Path:
    """The host's busybox, if it needs no shared library.

    Raises:
        HostError: there is none.
    """
    for candidate in (Path("/bin/busybox"), Path("/usr/bin/busybox")):
        if candidate.exists() and b"/ld-linux" not in candidate.read_bytes()[:4096]:
            return candidate
    raise HostError("no static busybox found: install the Debian package busybox-static")


def _layer(busybox: Path, files: Mapping[str, tuple[bytes, int]]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, mode in (
            ("bin", 0o755), ("dev", 0o755), ("etc", 0o755), ("home", 0o755), ("proc", 0o555), ("root", 0o700), ("sys", 0o555),
            ("tmp", 0o1777), ("usr", 0o755), ("usr/bin", 0o755), ("usr/sbin", 0o755), ("var", 0o755), ("var/www", 0o755),
        ):  # fmt: skip
            _directory(archive, name, mode)
        _file(archive, "bin/busybox", busybox.read_bytes(), 0o755)
        for applet in _applets(busybox):
            if f"/bin/{applet}" in files:
                continue
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname, link.mode = tarfile.SYMTYPE, "busybox", 0o777
            archive.addfile(link)
        _file(archive, "etc/passwd", _PASSWD.encode(), 0o644)
        _file(archive, "etc/group", _GROUP.encode(), 0o644)
        made = {"bin", "etc", "usr", "usr/bin", "tmp", "var", "root", "home"}
        for path, (content, mode) in sorted(files.items()):
            relative = Path(path.lstrip("/"))
            for parent in reversed(relative.parents[:-1]):
                if str(parent) not in made:
                    made.add(str(parent))
                    _directory(archive, str(parent), 0o755)
            _file(archive, str(relative), content, mode)
    return buffer.getvalue()


def _applets(busybox: Path) -> list[str]:
    listed = subprocess.run([busybox, "--list"], check=True, capture_output=True, text=True).stdout.split()
    return sorted(name for name in listed if name != "busybox" and "/" not in name)


def _directory(archive: tarfile.TarFile, name: str, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.type, entry.mode = tarfile.DIRTYPE, mode
    archive.addfile(entry)


def _file(archive: tarfile.TarFile, name: str, content: bytes, mode: int) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))


def _process(
    entrypoint: Sequence[str],
    cmd: Sequence[str],
    env: Mapping[str, str] | None,
    user: str,
    working_dir: str,
    stop_signal: str,
) -> dict[str, Any]:
    variables = {"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", **(env or {})}
    process: dict[str, Any] = {
        "Env": [f"{name}={value}" for name, value in variables.items()],
        "Entrypoint": list(entrypoint),
        "Cmd": list(cmd),
        "User": user,
        "WorkingDir": working_dir,
        "StopSignal": stop_signal,
    }
    return {key: value for key, value in process.items() if value}


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _add(blobs: Path, data: bytes, media_type: str) -> dict[str, Any]:
    digest = _digest(data)
    blobs.joinpath(digest.removeprefix("sha256:")).write_bytes(data)
    return {"mediaType": media_type, "digest": digest, "size": len(data)}


if __name__ == "__main__":
    # scripts/setup: python -m kubelet_secrets.testing.images DIRECTORY
    build_busybox_image(Path(sys.argv[1]))
