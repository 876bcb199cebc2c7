"""The other kernels: ``scripts/vm-test``, with how long each check took there. Only where asked for by name.

Where processors are emulated it takes an hour. What held before with this very checkout is not run again.

Raises ``SystemExit`` when something did not hold.
"""

from __future__ import annotations

import subprocess
from pathlib import Path

from harness import Place

VM_TEST = Path(__file__).resolve().parents[1] / "vm-test"


async def run(place: Place) -> None:
    del place  # it makes its own
    print("\n## Other kernels\n", flush=True)
    done = subprocess.run([VM_TEST, "--resume"], check=False)  # nothing runs beside it
    if done.returncode != 0:
        raise SystemExit(f"vm-test ended with status {done.returncode}")
