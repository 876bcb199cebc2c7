"""A mount namespace with nothing in it of any pod: where conmon and the runtime are started, whatever the node holds.

All they do with mounts takes time in proportion to how many there are: the kernel copies the whole table for each
new container, the runtime reads it several times. On a node with thousands of volumes a start costs seven times what it does on
an empty one. So each start gets a namespace of its own, made from one without the pods' mounts, and in it clones of just
those mounts that this container is made from, at the same paths. It lasts as long as the container's conmon; nothing has to
be taken away again, also after a crash.

Blocking; every namespace is entered in a thread that ends with the call (``netns``). Called by ``oci`` only.
"""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
import weakref
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from subprocess import DEVNULL, Popen

from kubelet_secrets.linux import (
    CLONE_FS,
    CLONE_NEWNS,
    MNT_DETACH,
    MS_REC,
    MS_SLAVE,
    clone_mount,
    mount,
    move_mount,
    setns,
    unmount,
    unshare,
)
from kubelet_secrets.runtime.netns import run_in_new_thread
from kubelet_secrets.runtime.tools import SEARCH_PATH

logger = logging.getLogger(__name__)


class Launchpad:
    """Starts programs where the mounts of pods are not.

    Args:
        hidden: directories; what was mounted below them when the first program was started is left out, and what is mounted
            there later.
    """

    def __init__(self, hidden: Sequence[Path]) -> None:
        self._hidden = tuple(f"{path}/" for path in hidden)
        self._making = threading.Lock()
        self._namespace_fd: int | None = None

    def start(
        self,
        argv: Sequence[str],
        *,
        shown: Iterable[Path],
        environ: Mapping[str, str],
        directory: Path,
        stderr: int,
        pass_fds: Sequence[int],
    ) -> Popen[bytes]:
        """Start a program.

        Args:
            shown: paths that it shall find as they are here, with all that is mounted on them.
            directory: where it starts.
            stderr: descriptor that becomes its standard error; the other two streams are /dev/null.

        Returns:
            The process, for the caller to wait for. Where a namespace cannot be made it runs in ours: slower, no worse.

        Raises:
            OSError: the program cannot be started.
        """
        clones: list[tuple[Path, int]] = []
        started: list[Popen[bytes]] = []

        def start() -> None:
            started.append(
                Popen(argv, env=environ, cwd=directory, stdin=DEVNULL, stdout=DEVNULL, stderr=stderr, pass_fds=pass_fds)
            )

        def start_apart(namespace_fd: int) -> None:
            _enter(namespace_fd)
            for path, clone_fd in clones:
                move_mount(clone_fd, path)
            start()

        try:
            namespace_fd = self._namespace()
            # What lies above comes first, so that it does not hide what was put below.
            for path in sorted({self._resolve(each) for each in shown}):
                clones.append((path, clone_mount(path)))  # noqa: PERF401 - those that were made have to be closed
            run_in_new_thread(lambda: start_apart(namespace_fd))
        except OSError as error:
            if started:
                raise
            logger.debug("%s is started among all mounts: %s", argv[0], error)
            start()
        finally:
            for _, clone_fd in clones:
                os.close(clone_fd)
        return started[0]

    def prefix(self) -> tuple[list[str], tuple[int, ...]]:
        """What to put before a command line that needs no mounts of pods, and the descriptors it is to inherit.

        Empty where there is no ``nsenter`` (util-linux), or no namespace can be made: the command runs in ours then.
        """
        program = shutil.which("nsenter", path=SEARCH_PATH)
        try:
            namespace_fd = self._namespace()
        except OSError:
            program = None
        if program is None:
            return [], ()
        return [program, f"--mount=/proc/self/fd/{namespace_fd}", "--"], (namespace_fd,)

    def _resolve(self, path: Path) -> Path:
        """Through symbolic links, as the runtime will. In what is hidden there are none, and much must not be looked at."""
        if str(path).startswith(self._hidden):
            return path
        found = Path(os.path.realpath(path))
        if found == found.parent:
            raise OSError(errno.EBUSY, "the root directory cannot be put over itself")
        return found

    def _namespace(self) -> int:
        with self._making:
            if self._namespace_fd is None:
                run_in_new_thread(self._make)
            assert self._namespace_fd is not None
            return self._namespace_fd

    def _make(self) -> None:
        unshare(CLONE_NEWNS)
        # Where the host's mounts propagate, those to come appear here as well; what is mounted here, not there.
        mount(None, "/", None, MS_SLAVE | MS_REC)
        targets = [line.split(" ")[4] for line in Path("/proc/thread-self/mountinfo").read_text().splitlines()]
        for target in reversed(targets):
            if target.startswith(self._hidden):
                try:
                    unmount(target, MNT_DETACH)
                except OSError:
                    pass  # gone with what it was mounted on
        self._namespace_fd = os.open("/proc/thread-self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        weakref.finalize(self, os.close, self._namespace_fd)


def _enter(namespace_fd: int) -> None:
    """In a thread that ends soon: have a copy of the namespace for itself."""
    unshare(CLONE_FS)
    setns(namespace_fd, 0)
    unshare(CLONE_NEWNS)
