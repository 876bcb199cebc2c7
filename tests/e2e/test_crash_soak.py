"""The crash soak of the bench, in short: a few kills instead of a hundred and fifty."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest
import trio

pytestmark = [pytest.mark.fuse, pytest.mark.runtime, pytest.mark.timeout(300)]

SOAK = Path(__file__).parents[2] / "scripts" / "benchmarks" / "crash.py"


async def test_no_reader_notices_more_than_a_pause(image_dir: Path) -> None:
    command = [sys.executable, str(SOAK), "--agent-kills", "3", "--writer-kills", "2", "--image-dir", str(image_dir)]
    with trio.fail_after(240):
        done = await trio.run_process(command, capture_stdout=True, capture_stderr=True, check=False)
    output = done.stdout.decode()
    assert done.returncode == 0, output + done.stderr.decode()[-3000:]
    assert re.search(r"killed 3 agents .* and 2 writers", output), output
    rows = re.findall(r"^\| (\w+) \| (\d+) \| (\d+) \| (\d+) \| (\d+) \|", output, re.MULTILINE)
    assert [name for name, *_ in rows] == ["fresh", "user", "file", "map", "directory", "cwd", "inotify"]
    for name, reads, *bad in rows:
        assert (name, int(reads) > 0, bad) == (name, True, ["0", "0", "0"])
