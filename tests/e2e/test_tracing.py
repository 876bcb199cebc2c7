"""What the reader of traces makes of strace's lines: the memory-only test is as good as it is."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.e2e.tracing import Filesystems, Touch, read_trace, strace_command

LINES = """\
10 execve("/usr/bin/python3", ["python3"], 0x7f /* 9 vars */) = 0
10 openat(AT_FDCWD</home>, "a", O_WRONLY|O_CREAT|O_CLOEXEC, 0666 <unfinished ...>
11 openat(AT_FDCWD</home>, "b", O_RDONLY|O_CLOEXEC) = 3</home/b>
10 <... openat resumed>)             = 4</home/a>
10 openat(AT_FDCWD</home>, "c", O_RDWR) = -1 ENOENT (No such file or directory)
10 openat2(3</sys/fs/cgroup>, "x/procs", {flags=O_WRONLY|O_CLOEXEC, resolve=RESOLVE_BENEATH}, 24) = 7</sys/fs/cgroup/x/procs>
10 mkdirat(7</store>, "pod/v", 0700)     = 0
10 symlinkat("..data/key", 19</store/v>, "key") = 0
10 renameat(19</store/v>, "..data_tmp", 19</store/v>, "..data" <unfinished ...>
10 <... renameat resumed>) = 0
10 memfd_create("tls", MFD_CLOEXEC)  = 8</memfd:tls>(deleted)
10 vfork( <unfinished ...>
20 execve("/usr/sbin/runc", ["/usr/sbin/runc", "create"], 0x7f /* 3 vars */) = 0
10 <... vfork resumed>)              = 20
20 clone(child_stack=0x7fff, flags=CLONE_PARENT|SIGCHLD) = 21
21 mkdirat(AT_FDCWD</run/rootfs>, "/run/rootfs/dev", 0755) = 0
21 pivot_root(".", ".")              = 0
21 openat(AT_FDCWD</>, "/etc/in-the-container", O_WRONLY|O_CREAT, 0666) = 3</etc/in-the-container>
21 clone(child_stack=NULL, flags=SIGCHLD) = 2 /* 22 in strace's PID NS */
22 execve("/bin/sh", ["sh"], 0xc0 /* 1 var */) = 0
22 creat("/tmp/theirs", 0666) = 3</tmp/theirs>
"""


def test_lines(tmp_path: Path) -> None:
    (tmp_path / "trace").write_text(LINES)
    trace = read_trace(tmp_path / "trace")
    assert trace.touches == [
        Touch("python3", "openat", "/home/a"),
        Touch("python3", "openat2", "/sys/fs/cgroup/x/procs"),
        Touch("python3", "mkdirat", "/store/pod/v"),
        Touch("python3", "symlinkat", "/store/v/key"),
        Touch("python3", "renameat", "/store/v/..data"),
        Touch("runc", "mkdirat", "/run/rootfs/dev"),
    ]
    assert (trace.programs, trace.memfds) == ({"python3", "runc"}, {"tls"})


def test_every_way_to_write_a_file_is_seen(tmp_path: Path) -> None:
    script = """
import os, sys, threading
os.chdir(sys.argv[1])
open("plain", "w").close(); open("plain", "a").close(); open("plain", "r+b").close()
os.rename("plain", "renamed"); os.link("renamed", "linked"); os.symlink("x", "symbolic"); os.mkdir("made"); os.mkfifo("fifo")
os.truncate("linked", 0)
thread = threading.Thread(target=lambda: open("by-a-thread", "w").close()); thread.start(); thread.join()
if not os.fork():
    open("by-a-child", "w").close(); os._exit(0)
os.wait()
open("linked").close()
"""
    trace = tmp_path / "trace"
    place = tmp_path / "place"
    place.mkdir()
    subprocess.run([*strace_command(trace), sys.executable, "-c", script, str(place)], check=True)
    seen = {Path(each.path).name for each in read_trace(trace).touches if not each.path.startswith("/dev/")}
    assert seen >= {"plain", "renamed", "linked", "symbolic", "made", "fifo", "by-a-thread", "by-a-child"}


def test_filesystems() -> None:
    filesystems = Filesystems()
    assert filesystems.is_memory("/proc/self/attr/exec")
    assert filesystems.is_memory("/dev/null")
    assert filesystems.is_memory("pipe:[1234]")
    assert not filesystems.is_memory("/no/such/file")
