"""How every process of this program logs: to standard error, in one line, without values."""

from __future__ import annotations

import logging
import sys

# These print request lines and headers at DEBUG: bearer tokens among them.
_CHATTY = ("httpx2", "httpcore2", "h2", "hpack", "anyio", "anycorn")


def configure_logging(verbose: int) -> None:
    """Log at WARNING, INFO (1) or DEBUG (2 and more); chatty libraries stay at WARNING."""
    level = {0: logging.WARNING, 1: logging.INFO}.get(verbose, logging.DEBUG)
    logging.basicConfig(level=level, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for name in _CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
