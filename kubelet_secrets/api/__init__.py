"""Typed API objects and their rules. Pure: no I/O, no clock, no ``async``. Everything else imports this room."""
