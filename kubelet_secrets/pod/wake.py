"""``Wake``: "look again", from anyone to one waiting task."""

from __future__ import annotations

import trio


class Wake:
    """A bell that stays rung until its owner has looked.

    News is not queued: many rings before a look are one. The owner calls :meth:`clear` *before* it reads the state that the
    bell is about; then nothing that happens while it works is missed.
    """

    def __init__(self) -> None:
        self._event = trio.Event()

    def __repr__(self) -> str:
        return f"<Wake {'rung' if self._event.is_set() else 'quiet'}>"

    def ring(self) -> None:
        self._event.set()

    def clear(self) -> None:
        if self._event.is_set():
            self._event = trio.Event()

    async def wait(self, *, timeout_s: float | None = None) -> bool:
        """Wait for a ring.

        Returns:
            False when *timeout_s* passed without one.
        """
        with trio.move_on_after(float("inf") if timeout_s is None else max(0.0, timeout_s)):
            await self._event.wait()
            return True
        return False
