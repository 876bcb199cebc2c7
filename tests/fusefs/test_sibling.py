"""Who the writer is, when its number could be anybody's."""

from __future__ import annotations

import os
import subprocess
import sys

from kubelet_secrets.fusefs.sibling import Sibling

LOOK = """
import os, signal, sys
from kubelet_secrets.fusefs.sibling import Sibling
pid = int(sys.argv[1])
sibling = Sibling(pid)
print(sibling.is_alive())
os.kill(pid, signal.SIGKILL)
while sibling.is_alive():
    pass
print(Sibling(pid).is_alive())  # not reaped yet
"""


def test_another_child_of_our_parent_is_known_until_it_ends() -> None:
    with subprocess.Popen(["sleep", "1000"]) as other:
        done = subprocess.run([sys.executable, "-c", LOOK, str(other.pid)], capture_output=True, text=True, timeout=120)
        assert (done.stdout, done.stderr) == ("True\nFalse\n", "")


def test_who_has_another_parent_or_none_is_nobody() -> None:
    with subprocess.Popen(["sleep", "1000"]) as child:
        assert not Sibling(child.pid).is_alive()
        child.kill()
    assert not Sibling(child.pid).is_alive()
    assert not Sibling(0).is_alive()
    assert not Sibling(1).is_alive()


def test_closed_it_is_nobody() -> None:
    sibling = Sibling(os.getpid())
    assert sibling.is_alive()
    sibling.close()
    sibling.close()
    assert not sibling.is_alive()
