"""Who may open a secret: identity (who asks) → registry (which container is that) → policy (may it) → audit (it was seen).

``guard`` puts the four together for the filesystem, and waits for nothing but ``/proc``. The trail itself: ``record`` (one
line, chained) → ``folding`` → ``audit`` (the log) → ``trail`` (for the next agent), ``outlets`` (to ``auditfile`` and
``journal``), put together by ``bookkeeping``; ``checking`` reads it again.
"""
