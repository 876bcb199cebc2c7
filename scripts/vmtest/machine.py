"""One boot of qemu: disks made, the kernel started, the guest's report read, the disks searched afterwards.

The guest has no network. Three disks: its root (an overlay: what this boot writes and nothing else), swap, and the checkout as
a tar archive (``checkout``). Two ports: a report, one JSON line per check, and a log of whatever the checks print. Called by
``__main__``.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from kubelet_secrets.fusefs.hardening import set_parent_death_signal
from scripts.debian import run
from scripts.vmtest.image import Kernel
from scripts.vmtest.initramfs import make_initramfs

_SWAP_BYTES = 1 << 30
_KVM_PROBE_S = 20
_QEMU = "qemu-system-x86_64"


@dataclass(slots=True, kw_only=True)
class Boot:
    """What a boot left behind.

    Attributes:
        status: "finished", or why the guest did not report its end.
        reports: the guest's lines, in order.
        root_disk, swap_disk: for the search; the first holds this boot's writes only.
    """

    status: str
    seconds: float
    root_disk: Path
    swap_disk: Path
    reports: list[dict[str, object]] = field(default_factory=list)


def usable_accelerator(kernel: Kernel, scratch: Path) -> str:
    """``kvm`` if a guest gets anywhere with it, else ``tcg``.

    Tried, because in a virtual machine /dev/kvm may be there and its guests hang.
    """
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return "tcg"
    console = scratch / "kvm-probe.console"
    command = [_QEMU, *_basics("kvm", memory_mib=256), "-serial", f"file:{console}"]
    command += ["-kernel", str(kernel.vmlinuz), "-append", "console=ttyS0 panic=-1", "-no-reboot"]
    process = _start(command, scratch / "kvm-probe.errors")
    try:
        # Without a root filesystem it panics in a second, and panic=-1 ends qemu.
        process.wait(_KVM_PROBE_S)
        return "kvm" if b"Kernel panic" in console.read_bytes() else "tcg"
    except (subprocess.TimeoutExpired, FileNotFoundError):
        return "tcg"
    finally:
        process.kill()
        process.wait()
        console.unlink(missing_ok=True)


def _start(command: Sequence[str], errors: Path) -> subprocess.Popen[bytes]:
    """qemu, which ends with us however we end."""
    with errors.open("wb") as file:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=file,
            preexec_fn=lambda: set_parent_death_signal(signal.SIGKILL),
        )


def _basics(accelerator: str, *, memory_mib: int) -> list[str]:
    accelerators = {
        "kvm": ["-accel", "kvm", "-cpu", "host"],
        "tcg": ["-accel", "tcg,thread=multi,tb-size=512", "-cpu", "max"],
    }
    sizes = ["-smp", "2", "-m", str(memory_mib)]
    return ["-machine", "q35", *accelerators[accelerator], *sizes, "-nodefaults", "-no-user-config", "-display", "none"]


def boot(
    kernel: Kernel,
    image: Path,
    code: Path,
    work: Path,
    *,
    console: Path,
    log: Path,
    accelerator: str,
    memory_mib: int,
    timeout_s: float,
    arguments: Sequence[str] = (),
    progress: Callable[[dict[str, object]], None] = lambda report: None,
) -> Boot:
    """Boot *kernel* on an overlay of *image* and return when it has powered off, or is killed after *timeout_s*.

    Args:
        code: the checkout as a tar archive.
        work: an empty directory for the disks and the report; stays the caller's.
        console, log: files for what the kernel and the checks print; written as it comes.
        arguments: for the guest, through the kernel's command line.
        progress: called with each report as it comes.
    """
    root_disk, swap_disk = work / "root.qcow2", work / "swap.raw"
    run(["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", image, root_disk])
    swap_disk.touch()
    os.truncate(swap_disk, _SWAP_BYTES)
    run(["mkswap", "-q", swap_disk])
    initramfs = work / "initramfs"
    with contextlib.suppress(FileNotFoundError):
        initramfs.unlink()
    initramfs.write_bytes(make_initramfs(kernel.modules))
    command = [
        *(_QEMU, *_basics(accelerator, memory_mib=memory_mib)),
        *("-kernel", str(kernel.vmlinuz), "-initrd", str(initramfs), "-no-reboot"),
        *("-append", " ".join(["console=ttyS0 quiet panic=-1 systemd.show_status=false", *arguments])),
        *("-drive", f"file={root_disk},if=virtio,format=qcow2,cache=unsafe"),
        *("-drive", f"file={swap_disk},if=virtio,format=raw,cache=unsafe"),
        *("-drive", f"file={code},if=virtio,format=raw,readonly=on"),
        *("-device", "virtio-rng-pci", "-serial", f"file:{console}", "-device", "virtio-serial-pci"),
    ]
    for name, path in (("report", work / "report"), ("log", log)):
        path.touch()
        command += [
            "-chardev",
            f"file,id={name},path={path}",
            "-device",
            f"virtserialport,chardev={name},name={name}",
        ]
    started = time.monotonic()
    process = _start(command, work / "errors")
    result = Boot(
        status="finished",
        seconds=0,
        root_disk=root_disk,
        swap_disk=swap_disk,
    )
    try:
        for report in _follow(work / "report", process, started + timeout_s):
            result.reports.append(report)
            progress(report)
        if process.poll() is None:
            result.status = f"killed after {timeout_s:.0f} s"
        elif process.returncode != 0:
            result.status = f"qemu: {(work / 'errors').read_text().strip()}"
        elif not any(report.get("check") == "end" for report in result.reports):
            result.status = "it went down before its checks were done" + _last_words(console)
    finally:
        process.kill()
        process.wait()
    result.seconds = time.monotonic() - started
    return result


def _last_words(console: Path) -> str:
    """Why the kernel stopped, if it said so."""
    said = re.findall(r"Kernel panic - .*", console.read_text(errors="replace"))
    return f": {said[-1].strip()}" if said else ""


def _follow(path: Path, process: subprocess.Popen[bytes], deadline_s: float) -> Iterator[dict[str, object]]:
    """The JSON lines of a file that grows, until the process has ended and all is read, or the deadline."""
    with path.open("rb") as lines:
        rest = b""
        while True:
            has_ended = process.poll() is not None
            rest += lines.read()
            *complete, rest = rest.split(b"\n")
            for line in complete:
                yield json.loads(line)
            if has_ended or time.monotonic() > deadline_s:
                return
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(0.5)
