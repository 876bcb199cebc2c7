"""An initramfs of a few files: busybox, the modules that lead to the root disk, and a script that switches to it.

Debian's kernels have ext4 and virtio as modules. Built without a tool of the guest's: the newc format is a header per file.
Called by ``machine``.
"""

from __future__ import annotations

import gzip
import lzma
import stat
from pathlib import Path

_MODULES = ("virtio_pci", "virtio_blk", "crc32c_generic", "ext4")  # the third is asked for by name at run time
_INIT = """#!/bin/busybox sh
/bin/busybox mount -t devtmpfs dev /dev
for module in {modules}; do /bin/busybox insmod /modules/$module; done
until [ -b /dev/vda ]; do /bin/busybox usleep 100000; done
/bin/busybox mount -t ext4 /dev/vda /root
exec /bin/busybox switch_root /root /sbin/init
"""


def load_order(dependencies: str, wanted: tuple[str, ...] = _MODULES) -> list[str]:
    """Paths of modules below ``lib/modules/<release>``, each after those it needs.

    Args:
        dependencies: the text of ``modules.dep``; a module's own dependencies are listed last needed first.
        wanted: module names. One that is missing is built into the kernel.
    """
    needs = {}
    for line in dependencies.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
    by_name = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    order: dict[str, None] = {}
    for name in wanted:
        if name in by_name:
            path = by_name[name]
            order |= dict.fromkeys([*reversed(needs[path]), path])
    return list(order)


def make_initramfs(modules_dir: Path, busybox: Path = Path("/bin/busybox")) -> bytes:
    """The gzip-compressed archive.

    Args:
        modules_dir: ``lib/modules/<release>``, with its ``modules.dep``; module files may be xz-compressed.
        busybox: a static one.
    """
    archive = b"".join(_entry(name, stat.S_IFDIR | 0o755, b"") for name in ("bin", "dev", "root", "modules"))
    archive += _entry("bin/busybox", stat.S_IFREG | 0o755, busybox.read_bytes())
    names = []
    for path in load_order((modules_dir / "modules.dep").read_text()):
        data = (modules_dir / path).read_bytes()
        name = Path(path).name.split(".")[0]
        archive += _entry(
            f"modules/{name}", stat.S_IFREG | 0o644, lzma.decompress(data) if path.endswith(".xz") else data
        )
        names.append(name)
    archive += _entry("init", stat.S_IFREG | 0o755, _INIT.format(modules=" ".join(names)).encode())
    return gzip.compress(archive + _entry("TRAILER!!!", 0, b""), compresslevel=1)


def _entry(name: str, mode: int, data: bytes) -> bytes:
    """One file in the newc format. Source: Linux Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = name.encode() + b"\0"
    # ino mode uid gid nlink mtime filesize devmajor devminor rdevmajor rdevminor namesize check
    fields = (0, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return head + b"\0" * (-len(head) % 4) + data + b"\0" * (-len(data) % 4)
