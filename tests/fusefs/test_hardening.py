"""What a hardened process shows to others, asked of a real one."""

from __future__ import annotations

import json
import resource
import secrets
import signal
import subprocess
import sys
from pathlib import Path

from kubelet_secrets.fusefs.hardening import with_overwriting

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
            _, hard = resource.getrlimit(resource.RLIMIT_CORE)
            assert report["core"] == [min(1, hard) if hard >= 0 else 1, hard], "the hard limit is the containers'"
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


CRASH = """
import resource, signal, subprocess, sys
from kubelet_secrets.fusefs.hardening import harden_process
harden_process()
_, hard = resource.getrlimit(resource.RLIMIT_CORE)
resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
print("child:", subprocess.run(["sh", "-c", "ulimit -c; kill -SEGV $$"], cwd=sys.argv[1], preexec_fn=lambda:
    resource.setrlimit(resource.RLIMIT_CORE, (1, hard))).returncode, flush=True)
signal.raise_signal(signal.SIGSEGV)
"""


def test_no_core_is_left_even_where_the_limit_allows_one(tmp_path: Path) -> None:
    """Not dumpable is what holds for the process itself; the limit is what its children inherit."""
    done = subprocess.run([sys.executable, "-c", CRASH, str(tmp_path)], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == -signal.SIGSEGV
    assert "child: -11" in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_key_for_openssl_is_locked_and_zeroed() -> None:
    script = """
import os
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.memoryfile import memory_file
def locked_kb():
    text = open("/proc/self/smaps").read()
    return [int(block.split("Locked:")[1].split()[0]) for block in text.split("VmFlags")[:-1] if "memfd:tls" in block]
harden_process()
with memory_file(b"k" * 5000) as path:
    kept = os.open(path, os.O_RDONLY)
    content = os.read(kept, 9000)
    print(locked_kb(), content == b"k" * 5000)
print(os.pread(kept, 9000, 0) == bytes(5000), os.path.exists(path))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[8] True\nTrue False\n"


def test_what_is_freed_is_overwritten() -> None:
    """Of a hundred copies that were freed next to none is left; without the setting, in Python's own pools, many are."""
    script = """
import re, sys
value = sys.stdin.buffer.read()
kept = [b"%4d:" % number + value for number in range(100)]
del kept
left = 0
for line in open("/proc/self/maps"):
    if "rw-p" in line and "[v" not in line:
        begin, end = (int(part, 16) for part in line.split()[0].split("-"))
        with open("/proc/self/mem", "rb", buffering=0) as memory:
            memory.seek(begin)
            left += len(re.findall(b"[0-9]:" + value, memory.read(end - begin)))
print(left)
"""

    def left(environ: dict[str, str]) -> int:
        command = [sys.executable, "-c", script]
        return int(
            subprocess.run(command, input=secrets.token_hex(20).encode(), env=environ, stdout=-1, check=True).stdout
        )

    assert left(with_overwriting({})) <= 20, "what glibc keeps at hand: seven pieces of a size"
    assert left({}) > 50


def test_settings_of_a_developer_stay() -> None:
    given = {"PYTHONMALLOC": "debug", "GLIBC_TUNABLES": "glibc.malloc.perturb=1:glibc.malloc.check=1", "A": "b"}
    wanted = {**given, "GLIBC_TUNABLES": "glibc.malloc.check=1:glibc.malloc.perturb=165"}
    assert with_overwriting(given) == with_overwriting(with_overwriting(given)) == wanted
