"""The filesystem that containers read secrets from: mounts, the kernel's protocol, the node table, the writer.

From below to above: ``libc`` (system calls) → ``mounts``, ``hardening`` → ``walk``, ``graveyard``, ``node`` → ``tree`` →
``operations`` → ``session``. Beside it ``orders`` → ``writer`` (the process), ``writerclient`` (the agent's end). The keeper
uses ``mounts``, ``init``, ``nodemounts`` and ``handover``, and nothing that reads a secret.
"""
