"""What the keeper hands to the agent through its environment: descriptors and facts, no secret. Pure but for ``tell_ready``.

Written by ``keeper``, read by the agent process first thing.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Handover:
    """Descriptors are inherited ones; each is the agent's own."""

    fuse_fd: int  # KS_FUSE_FD: /dev/fuse, mounted, INIT answered
    store_fd: int  # KS_STORE_FD: the detached store, O_PATH
    writer_fd: int  # KS_WRITER_FD: the agent's end of the writer's socket pair
    ready_fd: int  # KS_READY_FD: write end of a pipe, see tell_ready
    writer_pid: int  # KS_WRITER_PID
    init_request: bytes  # KS_INIT, hexadecimal: the kernel's FUSE_INIT
    resume: bool  # KS_RESUME: "1" when an earlier agent served this mount
    fuse_mount: Path  # KS_FUSE_MOUNT: where the filesystem is attached
    store_kind: str  # KS_STORE_KIND: a mounts.StoreKind value

    def to_environ(self) -> dict[str, str]:
        return {
            "KS_FUSE_FD": str(self.fuse_fd),
            "KS_STORE_FD": str(self.store_fd),
            "KS_WRITER_FD": str(self.writer_fd),
            "KS_READY_FD": str(self.ready_fd),
            "KS_WRITER_PID": str(self.writer_pid),
            "KS_INIT": self.init_request.hex(),
            "KS_RESUME": "1" if self.resume else "0",
            "KS_FUSE_MOUNT": str(self.fuse_mount),
            "KS_STORE_KIND": self.store_kind,
        }

    @classmethod
    def from_environ(cls, environ: Mapping[str, str]) -> Handover:
        """Read it back.

        Raises:
            KeyError: this process was not started by the keeper.
        """
        return cls(
            fuse_fd=int(environ["KS_FUSE_FD"]),
            store_fd=int(environ["KS_STORE_FD"]),
            writer_fd=int(environ["KS_WRITER_FD"]),
            ready_fd=int(environ["KS_READY_FD"]),
            writer_pid=int(environ["KS_WRITER_PID"]),
            init_request=bytes.fromhex(environ["KS_INIT"]),
            resume=environ["KS_RESUME"] == "1",
            fuse_mount=Path(environ["KS_FUSE_MOUNT"]),
            store_kind=environ["KS_STORE_KIND"],
        )

    def tell_ready(self) -> None:
        """Tell the keeper, and through it systemd or ``up``, that the node works. Once."""
        os.write(self.ready_fd, b"1")
        os.close(self.ready_fd)
