"""What a hardened process shows to others, asked of a real one."""

from __future__ import annotations

import json
import subprocess
import sys

SCRIPT = """
import dataclasses, json, os, resource, sys
from kubelet_secrets.fusefs.hardening import harden_process
done = dataclasses.asdict(harden_process())
secret = bytearray(1 << 20)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(json.dumps({
    "done": done, "core": resource.getrlimit(resource.RLIMIT_CORE), "locked_kb": int(status["VmLck"].split()[0]),
}), flush=True)
sys.stdin.read()
"""


def test_hardened_process_is_locked_and_closed_to_other_users() -> None:
    with subprocess.Popen([sys.executable, "-c", SCRIPT], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            report = json.loads(process.stdout.readline())
            assert report["done"] == {"not_dumpable": True, "no_core": True, "memory_locked": True}
            assert report["core"] == [0, 0]
            assert report["locked_kb"] > 1024
            # Not dumpable: /proc/<pid> belongs to root whoever the process runs as, and needs CAP_SYS_PTRACE.
            look = "import os, sys; os.setgid(1000); os.setuid(1000); os.readlink(sys.argv[1])"
            looked = subprocess.run(
                [sys.executable, "-c", look, f"/proc/{process.pid}/exe"], capture_output=True, text=True
            )
            assert "PermissionError" in looked.stderr
        finally:
            process.kill()


UNPRIVILEGED = """
import dataclasses, json, os, resource
resource.setrlimit(resource.RLIMIT_MEMLOCK, (0, 0))
from kubelet_secrets.fusefs.hardening import harden_process
os.setgid(1000)
os.setuid(1000)
print(json.dumps(dataclasses.asdict(harden_process())))
"""


def test_without_privileges_the_answer_says_what_did_not_work() -> None:
    done = subprocess.run([sys.executable, "-c", UNPRIVILEGED], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == {"not_dumpable": True, "no_core": True, "memory_locked": False}
