"""The agent's process: ``python -m kubelet_secrets.agent_process``, started by the keeper and by nobody else.

Hardens itself before it holds anything, takes over the keeper's descriptors, and runs :func:`kubelet_secrets.agent.run_agent`
until SIGTERM. Exit status: 0 when told to stop, 1 or 2 for what the user has to mend (one line on standard error);
anything else is a crash, after which the keeper starts the next one.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys

import msgspec
import trio

from kubelet_secrets.agent import AgentOptions, run_agent
from kubelet_secrets.errors import KubeletSecretsError, UsageError
from kubelet_secrets.fusefs.handover import Handover
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.logs import configure_logging

# Objects allocated between two looks for cyclic garbage; Python's own 700 mean hundreds of looks when a hundred pods arrive.
_COLLECT_AFTER = 20_000


def main() -> int:
    hardening = harden_process()
    faulthandler.enable(all_threads=True)  # the keeper's SIGABRT: where it hangs, as files and lines, without a value
    # Modules and their tables stay for ever: no collection need walk them again, and none shall in the midst of a request.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER, 10, 10)
    options = json.loads(os.environ["KS_AGENT_OPTIONS"])
    configure_logging(int(options.pop("verbose", 0)))
    settings = msgspec.convert(options, AgentOptions, dec_hook=lambda kind, value: kind(value))  # Path from str
    try:
        trio.run(run_agent, settings, Handover.from_environ(os.environ), hardening)
    except BaseExceptionGroup as group:
        expected, rest = group.split(KubeletSecretsError)
        if rest is not None or expected is None:
            raise
        return _report(expected)
    except KubeletSecretsError as error:
        return _report(error)
    return 0


def _report(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    print(f"kubelet-secrets: {error}", file=sys.stderr)  # noqa: T201  # this process is a command
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main())
