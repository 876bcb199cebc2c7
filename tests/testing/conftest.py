"""One node of a control plane for the tests of this directory: the real programs where ``KUBEBUILDER_ASSETS`` names them."""

from __future__ import annotations

import select
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from secrets import token_hex

import pytest
import trio

from kubelet_secrets.notify import NotifySocket
from kubelet_secrets.testing.controlplane import ControlPlane, find_assets, run_control_plane
from kubelet_secrets.testing.images import build_busybox_image
from tests.cli.command import run_cli
from tests.e2e.stacks import IMAGE, START_TIMEOUT_S, Cluster, Command, Node, find_leftovers, open_cluster, scrub
from tests.testing import auditlog
from tests.testing.programs import write_programs

# What has a meaning against real programs only is left out where there are none: skips are for what is amiss.
_ASSETS = find_assets()
collect_ignore = [] if _ASSETS else ["test_real_answers.py", "test_real_storage.py", "test_record_of_refusals.py"]
if _ASSETS is None or _ASSETS.controller_manager is None or _ASSETS.scheduler is None:
    collect_ignore.append("test_real_cluster.py")


@dataclass
class PlaneNode(Node):
    """A node that joins *plane* with a bootstrap token, as kubeadm's do. It may be stopped and started again."""

    plane: ControlPlane = field(kw_only=True)
    audit_log: Path = field(kw_only=True)  # the API server's; only a real one keeps it

    def start(self) -> None:
        self.kubeconfig = self.plane.kubeconfig
        bootstrap = self.directory / "bootstrap.kubeconfig"
        self.plane.make_bootstrap_kubeconfig(bootstrap)
        notifications = NotifySocket()
        arguments = [
            *("-v", "agent", "--bootstrap-kubeconfig", str(bootstrap), "--rotate-server-certificates"),
            *("--client-ca-file", str(self.plane.client_ca_file), "--kubelet-port", "0"),
            *("--node-labels", "example.org/rack=7", *self.node_options),
        ]
        self.agent = Command(arguments, self.directory / "agent.log", env={"NOTIFY_SOCKET": notifications.address})
        readable, _, _ = select.select([notifications.socket], [], [], START_TIMEOUT_S)
        notifications.close()
        assert readable, self.agent.stderr

    def stop(self) -> None:
        assert self.agent.stop() == 0, self.agent.stderr[-3000:]


@pytest.fixture(scope="package")
def node() -> Iterator[PlaneNode]:
    with tempfile.TemporaryDirectory(prefix="ks-plane-") as place:
        directory = Path(place)
        for each in ("plane", "programs", "images", "n"):
            (directory / each).mkdir(mode=0o700)
        layout = build_busybox_image(directory / "busybox")
        done = run_cli("image", "import", layout, IMAGE, "--image-dir", directory / "images")
        assert done.returncode == 0, done.stderr
        name = f"plane-{token_hex(4)}"
        stand_ins = write_programs(directory / "programs", local_node=name)
        assets = find_assets() or find_assets({"KUBEBUILDER_ASSETS": str(stand_ins)})
        assert assets is not None
        audit_log, audit_flags = auditlog.flags(directory / "plane")
        with run_control_plane(assets, directory / "plane", extra=audit_flags) as plane:
            made = PlaneNode(directory / "n", directory / "images", node_name=name, plane=plane, audit_log=audit_log)
            try:
                made.start()
                yield made
                made.stop()
            finally:
                if hasattr(made, "agent") and made.agent.process.poll() is None:
                    made.agent.stop()
                scrub(made.directory, made.node_name)
        assert find_leftovers(made.directory, made.node_name) == []


@pytest.fixture
async def cluster(node: PlaneNode) -> AsyncIterator[Cluster]:
    with trio.fail_after(240):
        async with open_cluster(node) as opened:
            yield opened
