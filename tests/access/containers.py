"""Real containers with as little around them as runc allows: a busybox, a cgroup, and the given mounts."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import kubelet_secrets.fusefs.mounts as mounts
from kubelet_secrets.runtime.cgroups import CgroupTree
from kubelet_secrets.runtime.hostfacts import probe_cgroups

_APPLETS = ("sh", "cat", "sleep", "ls", "unshare", "readlink", "true")


@dataclass(frozen=True, slots=True)
class Container:
    id: str
    cgroup_path: str
    pid: int
    runc: tuple[str, ...]

    def run(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([*self.runc, "exec", self.id, *argv], capture_output=True, text=True, timeout=120)

    def start(self) -> None:
        subprocess.run([*self.runc, "start", self.id], check=True, capture_output=True, timeout=120)


@contextlib.contextmanager
def container(
    directory: Path, pod_uid: str, binds: Mapping[str, str | Path], *, first_uid: int = 0
) -> Iterator[Container]:
    """A container that is created and not started, removed afterwards with its cgroup.

    Args:
        directory: scratch space.
        binds: path in the container → path on the host.
        first_uid: what the container's root is on the host, in a user namespace if that is not root. Then *directory* has to
            be open to it.
    """
    container_id = secrets.token_hex(32)
    instance = f"guard-{secrets.token_hex(4)}"
    cgroup_path = CgroupTree(instance, probe_cgroups()).container_path(pod_uid, container_id)
    bundle = directory / container_id
    (bundle / "rootfs/bin").mkdir(parents=True)
    for name in ("proc", "dev", "tmp"):
        (bundle / "rootfs" / name).mkdir()
    shutil.copy("/bin/busybox", bundle / "rootfs/bin/busybox")
    for applet in _APPLETS:
        (bundle / "rootfs/bin" / applet).symlink_to("busybox")
    subprocess.run(["runc", "spec"], cwd=bundle, check=True)
    spec = json.loads((bundle / "config.json").read_text())
    spec["process"] |= {"terminal": False, "args": ["/bin/sleep", "3600"], "env": ["PATH=/bin"]}
    for kind in ("bounding", "effective", "permitted"):
        spec["process"]["capabilities"][kind].append("CAP_SYS_ADMIN")  # to make a mount namespace
    spec["mounts"] = [each for each in spec["mounts"] if each["destination"] in ("/proc", "/dev")]
    # What the volume's mount forbids may not be allowed again in a user namespace.
    options = ["rbind", "ro", *(["nosuid", "nodev", "noexec"] if first_uid else [])]
    spec["mounts"] += [
        {"destination": inside, "type": "bind", "source": str(outside), "options": options}
        for inside, outside in binds.items()
    ]
    spec["linux"]["cgroupsPath"] = cgroup_path
    if first_uid:
        spec["linux"]["namespaces"].append({"type": "user"})
        ids = [{"containerID": 0, "hostID": first_uid, "size": 65536}]
        spec["linux"] |= {"uidMappings": ids, "gidMappings": ids}
        for path in (bundle / "rootfs", *(bundle / "rootfs").rglob("*")):
            os.chown(path, first_uid, first_uid, follow_symlinks=False)
    (bundle / "config.json").write_text(json.dumps(spec))
    runc = ("runc", "--root", str(directory / "runc"))
    quiet = {"stdin": subprocess.DEVNULL, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        pid_file = bundle / "pid"
        command = [*runc, "create", "--bundle", str(bundle), "--pid-file", str(pid_file), container_id]
        subprocess.run(command, check=True, timeout=120, **quiet)
        yield Container(container_id, cgroup_path, int(pid_file.read_text()), runc)
    finally:
        subprocess.run([*runc, "delete", "--force", container_id], timeout=120, **quiet)
        cgroups = CgroupTree(instance, probe_cgroups())
        cgroups.remove(cgroups.instance_path)
        mounts.umount_all_below(bundle)
