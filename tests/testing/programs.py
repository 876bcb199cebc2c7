"""Programs that stand in for etcd and kube-apiserver where the real ones are not at hand.

They note how they were called. The second one is this project's own API server in the other's clothes: with the authority,
port and client certificates that the command line names. That shows that the harness starts what it should, in order, that its
credentials fit together and that nodes can join; it does not show that the real programs know these flags.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

_ETCD = """#!{python}
import json, os, pathlib, signal, sys
pathlib.Path({calls!r}, "etcd.json").write_text(json.dumps(sys.argv[1:]))
signal.pause()
"""

_APISERVER = """#!{python}
import json, os, pathlib, shutil, sys
pathlib.Path({calls!r}, "kube-apiserver.json").write_text(json.dumps(sys.argv[1:]))
flags = dict(each.removeprefix("--").split("=", 1) for each in sys.argv[1:])
authority = pathlib.Path(flags["client-ca-file"])
data = authority.with_name("data")
(data / "pki").mkdir(mode=0o700, parents=True, exist_ok=True)
for name in ("ca.crt", "ca.key"):
    shutil.copy(authority.with_name(name), data / "pki" / name)
os.execv(sys.executable, [sys.executable, "-m", "kubelet_secrets.cli.main", "apiserver", "--port", flags["secure-port"],
    "--data-dir", str(data), "--kubeconfig", str(data / "own.kubeconfig"), "--local-node", {local_node!r}])
"""


def write_programs(directory: Path, *, local_node: str = "none") -> Path:
    """Put both into *directory*, which then is one for ``KUBEBUILDER_ASSETS``.

    Args:
        local_node: whose kubelet is reached on loopback; names of nodes mean nothing to the resolver here.
    """
    for name, text in (("etcd", _ETCD), ("kube-apiserver", _APISERVER)):
        path = directory / name
        path.write_text(text.format(python=sys.executable, calls=str(directory), local_node=local_node))
        path.chmod(0o755)
    return directory


def arguments_of(directory: Path, name: str) -> dict[str, str]:
    """Flag → value, as *name* was called last."""
    called = json.loads((directory / f"{name}.json").read_text())
    return dict(each.removeprefix("--").split("=", 1) for each in called)
