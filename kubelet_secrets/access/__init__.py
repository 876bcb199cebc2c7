"""Who may open a secret: identity (who asks) → registry (which container is that) → policy (may it) → audit (it was seen).

``guard`` puts the four together for the filesystem. Nothing in this room waits for anything but ``/proc``.
"""
