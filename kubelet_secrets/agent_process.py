"""The agent's process: ``python -m kubelet_secrets.agent_process``, started by the keeper and by nobody else.

Hardens itself before it holds anything, takes over the keeper's descriptors, and runs :func:`kubelet_secrets.agent.run_agent`
until SIGTERM. Exit status: 0 when told to stop, 1 or 2 for what the user has to mend (one line on standard error), 3 when what
runs is of another version (one line as well); anything else is a crash, after which the keeper starts the next one.
"""

from __future__ import annotations

import faulthandler
import gc
import json
import os
import sys

import msgspec
import trio

from kubelet_secrets import __version__
from kubelet_secrets.agent import AgentOptions, run_agent
from kubelet_secrets.errors import KubeletSecretsError, UsageError
from kubelet_secrets.fusefs.handover import Handover
from kubelet_secrets.fusefs.hardening import harden_process
from kubelet_secrets.logs import configure_logging
from kubelet_secrets.stateformat import EXIT_OTHER_VERSION, OtherVersion

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
    try:
        settings = msgspec.convert(options, AgentOptions, dec_hook=lambda kind, value: kind(value))  # Path from str
        handover = Handover.from_environ(os.environ)
    except (msgspec.ValidationError, KeyError) as error:
        # Our command line checks what users say. What a keeper says is wrong only if it is of another version than we are.
        return _report(OtherVersion(f"the keeper that runs is of another version than version {__version__}: {error}"))
    try:
        trio.run(run_agent, settings, handover, hardening)
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
    if isinstance(error, OtherVersion):
        return EXIT_OTHER_VERSION
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    sys.exit(main())
