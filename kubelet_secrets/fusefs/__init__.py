"""The filesystem that containers read secrets from: mounts, the kernel's protocol, the node table, the writer.

From below to above: ``libc`` (system calls) → ``mounts``, ``hardening`` → ``init`` → ``tree`` → ``operations`` →
``session``; ``orders`` and ``writer`` stand beside. The keeper uses ``mounts`` and ``init`` and nothing that reads a secret.
"""
