"""``ManifestDirectory``: the static pods of a directory, or of one file, read again whenever something changes in it.

Run by the composition root when ``--pod-manifest-path`` names one; tells one sink. A file that cannot be read any more as a
pod keeps the pod that it stood for last, until the file is mended or removed: the kubelet would drop that pod at its next look.

Source: pkg/kubelet/config/file.go, file_linux.go; semantics §13.
"""

from __future__ import annotations

import logging
import stat
from collections.abc import Awaitable, Callable, Sequence
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

import trio

from kubelet_secrets.dirwatch import FILES_ARE_REPLACED, DirectoryWatch
from kubelet_secrets.pod.staticpods import LARGEST_FILE_BYTES, InvalidStaticPod, StaticPod, read_static_pod

logger = logging.getLogger(__name__)

CHECK_S = 20.0  # fileCheckFrequency


class ManifestDirectory:
    """The static pods of one node.

    Args:
        path: a directory, not searched deeper, names with a leading dot passed over; or a file. Need not exist (yet).
        sink: called with all pods there are, at first and whenever that may have changed; must not wait.
        clock: wall time, aware.
    """

    def __init__(
        self, path: Path, *, node_name: str, sink: Callable[[Sequence[StaticPod]], None], clock: Callable[[], datetime]
    ) -> None:
        self._path = path
        self._node_name = node_name
        self._sink = sink
        self._clock = clock
        self._known: dict[Path, tuple[bytes, StaticPod | None]] = {}
        self._problem = ""

    def __repr__(self) -> str:
        return f"<ManifestDirectory {self._path}>"

    async def run(self) -> None:
        """Tell the sink until cancelled."""
        while True:
            with ExitStack() as stack:
                changed: Callable[[], Awaitable[None]] = trio.sleep_forever
                try:
                    # The directory of a file, so that a file that is replaced by a rename is seen too.
                    directory = self._path if self._path.is_dir() else self._path.parent
                    changed = stack.enter_context(DirectoryWatch(directory, FILES_ARE_REPLACED)).wait
                except OSError:
                    pass  # looked at by the clock alone; what is wrong with the path, look() says
                self.look()
                with trio.move_on_after(CHECK_S):
                    await changed()

    def look(self) -> None:
        """Read whatever has changed, and tell the sink."""
        try:
            files = self._files()
        except FileNotFoundError:
            files = []
            self._report(f"path {self._path} does not exist, ignoring")
        except OSError as error:
            self._report(f"path {self._path}: {error.strerror}; its pods stay")
            return
        else:
            self._report("")
        self._known = {file: known for file in files if (known := self._read(file)) is not None}
        self._sink([pod for _, pod in self._known.values() if pod is not None])

    def _files(self) -> list[Path]:
        if stat.S_ISDIR(self._path.stat().st_mode):
            return sorted(each for each in self._path.iterdir() if not each.name.startswith(".") and each.is_file())
        return [self._path]

    def _read(self, file: Path) -> tuple[bytes, StaticPod | None] | None:
        before, pod = self._known.get(file, (b"", None))
        try:
            with file.open("rb") as stream:
                content = stream.read(LARGEST_FILE_BYTES + 1)
            if content == before:
                return before, pod
            if len(content) > LARGEST_FILE_BYTES:
                raise InvalidStaticPod(f"{file}: larger than {LARGEST_FILE_BYTES} bytes")
            pod = read_static_pod(content, path=str(file), node_name=self._node_name, seen=self._clock())
        except FileNotFoundError:
            return None  # it went while we looked
        except OSError as error:
            logger.error("could not read manifest file %s: %s", file, error.strerror)
            return before, pod
        except InvalidStaticPod as error:
            kept = "; the pod stays as it was before" if pod is not None else ""
            logger.error("could not process manifest file: %s%s", error, kept)
        return content, pod

    def _report(self, problem: str) -> None:
        if problem and problem != self._problem:
            logger.warning("unable to read config: %s", problem)
        self._problem = problem
