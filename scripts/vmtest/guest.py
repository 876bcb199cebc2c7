"""What runs inside the guest, as a systemd service: the checks, one after the other, each a line in the report.

Started by the image's ``vm-test.service`` with the checkout as working directory; asked by ``vm_test.*`` on the kernel's
command line. The checks themselves are in ``checks``.
"""

from __future__ import annotations

import json
import os
import sys
import time
import traceback
from pathlib import Path

REPORT = Path("/dev/virtio-ports/report")


def report(**fields: object) -> None:
    """Send one line to the host."""
    with REPORT.open("wb", buffering=0) as port:
        port.write(json.dumps(fields).encode() + b"\n")


def options() -> dict[str, str]:
    """``vm_test.<name>=<value>`` of the kernel's command line."""
    words = Path("/proc/cmdline").read_text().split()
    found = (word.removeprefix("vm_test.").partition("=") for word in words if word.startswith("vm_test."))
    return {name: value for name, _, value in found}


def main() -> None:
    from scripts.vmtest import checks

    given = options()
    wanted = given["only"].split(",") if given.get("only") else list(checks.CHECKS)
    os.environ["VM_TEST_PATIENCE"] = given.get("patience", "1")
    for name in wanted:
        print(f"\n=== {name}", flush=True)
        started = time.monotonic()
        try:
            outcome = checks.run(name)
            held, detail = outcome.held, outcome.detail
        except Exception:
            traceback.print_exc(file=sys.stdout)
            held, detail = False, f"{name} itself failed: {traceback.format_exc(limit=1).splitlines()[-1]}"
        report(check=name, held=held, detail=detail, seconds=round(time.monotonic() - started))
    report(check="end")


if __name__ == "__main__":
    main()
