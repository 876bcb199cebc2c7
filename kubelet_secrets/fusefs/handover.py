"""What the keeper hands to the agent: descriptors and facts, no secret.

Most of it through the environment, when the agent's process is started; the rest, the :class:`Turn`, through a pipe, when it
is the agent's turn. In between it may be a spare that waits for its predecessor's death.
"""

from __future__ import annotations

import enum
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


class News(enum.Enum):
    """What an agent tells the keeper."""

    WAITING = b"?"
    ALIVE = b"."
    READY = b"!"


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What is known only when the agent takes over."""

    resume: bool  # an earlier agent served this mount
    writer_pid: int  # 0 when there is none just now

    def to_line(self) -> bytes:
        return json.dumps([self.resume, self.writer_pid]).encode() + b"\n"

    @classmethod
    def from_line(cls, line: bytes) -> Turn:
        resume, writer_pid = json.loads(line)
        return cls(resume=resume, writer_pid=writer_pid)


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Descriptors are inherited ones; each is the agent's own."""

    fuse_fd: int  # KS_FUSE_FD: /dev/fuse, mounted, INIT answered
    store_fd: int  # KS_STORE_FD: the detached store, O_PATH
    writer_fd: int  # KS_WRITER_FD: the agent's end of the writer's socket pair
    init_request: bytes  # KS_INIT, hexadecimal: the kernel's FUSE_INIT
    fuse_mount: Path  # KS_FUSE_MOUNT: where the filesystem is attached
    store_kind: str  # KS_STORE_KIND: a mounts.StoreKind value
    news_fd: int = -1  # KS_NEWS_FD: write end of a pipe, one News a byte; non-blocking
    resume: bool = False  # Turn.resume
    writer_pid: int = 0  # Turn.writer_pid

    def to_environ(self) -> dict[str, str]:
        """What does not depend on the process or its turn."""
        return {
            "KS_FUSE_FD": str(self.fuse_fd),
            "KS_STORE_FD": str(self.store_fd),
            "KS_WRITER_FD": str(self.writer_fd),
            "KS_INIT": self.init_request.hex(),
            "KS_FUSE_MOUNT": str(self.fuse_mount),
            "KS_STORE_KIND": self.store_kind,
        }

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Handover:
        """Read the environment and then *wait* for this process's turn (``KS_TURN_FD``). Do all imports before.

        Ends the process, status 0, when the keeper takes the turn back.

        Raises:
            KeyError: this process was not started by the keeper.
        """
        os.write(int(environ["KS_NEWS_FD"]), News.WAITING.value)
        with os.fdopen(int(environ["KS_TURN_FD"]), "rb") as turns:
            line = turns.readline()
        if not line:
            sys.exit(0)
        turn = Turn.from_line(line)
        return cls(
            fuse_fd=int(environ["KS_FUSE_FD"]),
            store_fd=int(environ["KS_STORE_FD"]),
            writer_fd=int(environ["KS_WRITER_FD"]),
            init_request=bytes.fromhex(environ["KS_INIT"]),
            fuse_mount=Path(environ["KS_FUSE_MOUNT"]),
            store_kind=environ["KS_STORE_KIND"],
            news_fd=int(environ["KS_NEWS_FD"]),
            resume=turn.resume,
            writer_pid=turn.writer_pid,
        )

    def tell_ready(self) -> None:
        """Tell the keeper, and through it systemd or ``up``, that the node works. Once."""
        self._tell(News.READY)

    def tell_alive(self) -> None:
        """Tell the keeper that the event loop turns. From time to time, ``session.ALIVE_INTERVAL_S``."""
        self._tell(News.ALIVE)

    def _tell(self, news: News) -> None:
        try:
            os.write(self.news_fd, news.value)
        except BlockingIOError:
            pass  # a keeper that is stopped will find enough of them
        except BrokenPipeError:
            pass  # newer code takes the keeper's place: this agent serves on until its successor is there
