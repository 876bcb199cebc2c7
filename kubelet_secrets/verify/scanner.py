"""Read everything there is in some place and look for canaries: files, devices, swap, memory, what commands print.

Thin and synchronous; ``run`` calls it in a worker thread. Reads only, at constant memory. What is found is told by name, form
and place, never quoted.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
import stat
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from kubelet_secrets.leakscan import CHUNK_BYTES, Hit, StreamSearch, files_on_disk, read_chunks
from kubelet_secrets.verify.canaries import CONTEXT_BYTES, Canaries
from kubelet_secrets.verify.report import AreaReport, Leak

Tick = Callable[[int], None]
"""Called with the number of bytes just read, 0 for a directory that was entered; may raise to end the scan."""


class TimeUp(Exception):
    """The time that all scans together may take is over."""


class Scanner:
    """Scans one place after another.

    Args:
        tick: told of progress.
        time_limit_s: for all scans together; what is not read by then is reported as not read.
    """

    def __init__(self, canaries: Canaries, *, time_limit_s: float, tick: Tick = lambda size_bytes: None) -> None:
        self._canaries = canaries
        self._search = StreamSearch(canaries.needles, context=CONTEXT_BYTES)
        self._tick = tick
        self._left_s = time_limit_s
        self._deadline_s = 0.0

    def files(
        self,
        name: str,
        roots: Iterable[Path],
        *,
        when: str,
        changed_since: float,
        passed_by: Collection[str] = (),
    ) -> AreaReport:
        """Regular files below *roots* changed since a Unix time; those that vanish are left out, those that refuse counted."""
        area = _Area(name, when)
        refused = 0
        with self._until_time_is_up(area):
            for path in files_on_disk(roots, changed_since, passed_by=passed_by, entered=lambda: self._go_on(0)):
                try:
                    self._read(area, str(path), read_chunks(path))
                    area.files += 1
                except FileNotFoundError:
                    pass
                except OSError:
                    refused += 1
        if refused:
            area.note = f"{refused} could not be read"
        return area.report()

    def stream(self, name: str, chunks: Iterable[bytes], *, when: str, note: str = "") -> AreaReport:
        """Whatever *chunks* yields, as one stream; an OSError from there is told as what was not read."""
        area = _Area(name, when, note=note)
        with self._until_time_is_up(area):
            area.files = 1
            try:
                self._read(area, name, chunks)
            except OSError as error:
                area.complete = False
                area.note = f"cannot be read: {error.strerror}"
        return area.report()

    def device(self, name: str, path: Path, *, when: str) -> AreaReport:
        """A block device or a file used as one, past the page cache: what is on the medium, not what memory has of it.

        Raises:
            OSError: it cannot be opened.
        """
        area = _Area(name, when)
        with self._until_time_is_up(area), open_direct(path) as (descriptor, is_direct):
            area.files = 1
            if not is_direct:
                area.note = "read through the page cache: its filesystem has no O_DIRECT"
            for extent in data_extents(descriptor):
                self._read(area, str(path), read_direct(descriptor, *extent))
        return area.report()

    def memory(self, pid: int) -> Counter[str]:
        """How often each canary is in the writable memory of a process, by its name; all forms together.

        Raises:
            ProcessLookupError: it has ended.
            TimeUp: it was not read to its end.
        """
        area = _Area("", "")
        with self._until_time_is_up(area):
            for chunks in memory_regions(pid):
                self._read(area, "", chunks)
        if not area.complete:
            raise TimeUp
        return Counter({canary: count for (_, canary, _), count in area.found.items()})

    def holds(self, data: bytes) -> bool:
        """Whether any canary is in *data*."""
        hits = self._search.feed(data) + self._search.finish()
        return bool(hits)

    @contextlib.contextmanager
    def _until_time_is_up(self, area: _Area) -> Iterator[None]:
        """Only the time within such blocks counts: what lies between them, a slow machine's start of a node, does not."""
        began_s = time.monotonic()
        self._deadline_s = began_s + self._left_s
        try:
            yield
        except TimeUp:
            area.complete = False
        finally:
            self._left_s -= time.monotonic() - began_s

    def _read(self, area: _Area, where: str, chunks: Iterable[bytes]) -> None:
        try:
            for chunk in chunks:
                self._note(area, where, self._search.feed(chunk))
                area.size_bytes += len(chunk)
                self._go_on(len(chunk))
            self._note(area, where, self._search.finish())
        finally:
            self._search.reset()

    def _go_on(self, size_bytes: int) -> None:
        self._tick(size_bytes)
        if time.monotonic() >= self._deadline_s:
            raise TimeUp

    def _note(self, area: _Area, where: str, hits: list[Hit]) -> None:
        for hit in hits:
            canary, form = self._canaries.identify(hit)
            area.found[where, canary, form] += 1


class _Area:
    def __init__(self, name: str, when: str, *, note: str = "") -> None:
        self.name, self.when, self.note = name, when, note
        self.files = self.size_bytes = 0
        self.complete = True
        self.found: Counter[tuple[str, str, str]] = Counter()
        self._began_s = time.monotonic()

    def report(self) -> AreaReport:
        return AreaReport(
            name=self.name,
            when=self.when,
            files=self.files,
            size_bytes=self.size_bytes,
            took_s=time.monotonic() - self._began_s,
            complete=self.complete,
            note=self.note,
            leaks=tuple(
                Leak(where=where, canary=canary, form=form, count=count)
                for (where, canary, form), count in sorted(self.found.items())
            ),
        )


# --- sources ----------------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_direct(path: Path) -> Iterator[tuple[int, bool]]:
    """Open for reading without the page cache; the second item says whether that worked.

    An ordinary read of a swap file sees what the page cache has of it, which is not what was swapped out.
    """
    try:
        descriptor, is_direct = os.open(path, os.O_RDONLY | os.O_DIRECT | os.O_CLOEXEC), True
    except OSError as error:
        if error.errno != errno.EINVAL:
            raise
        descriptor, is_direct = os.open(path, os.O_RDONLY | os.O_CLOEXEC), False
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    try:
        yield descriptor, is_direct
    finally:
        os.close(descriptor)


def data_extents(descriptor: int) -> Iterator[tuple[int, int]]:
    """(offset, end) of what is not a hole; for a device, all of it."""
    end = os.lseek(descriptor, 0, os.SEEK_END)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        yield 0, end
        return
    position = 0
    while position < end:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # nothing but a hole to the end
            raise
        position = os.lseek(descriptor, data, os.SEEK_HOLE)
        yield data, position


def read_direct(descriptor: int, offset: int, end: int) -> Iterator[bytes]:
    """Chunks of ``offset``–``end``, read into memory that is aligned as O_DIRECT demands it.

    A damaged sector ends nothing: the chunk around it is passed over.
    """
    offset -= offset % mmap.PAGESIZE  # extents may begin inside a block
    with mmap.mmap(-1, CHUNK_BYTES) as buffer:
        while offset < end:
            try:
                size = os.preadv(descriptor, [buffer], offset)
            except OSError as error:
                if error.errno != errno.EIO:
                    raise
                size = CHUNK_BYTES
                offset += size
                continue
            if size == 0:
                return
            yield buffer[: min(size, end - offset)]
            offset += size


def memory_regions(pid: int) -> Iterator[Iterator[bytes]]:
    """The writable regions of a process, each as chunks.

    Raises:
        ProcessLookupError: it has ended.
    """
    try:
        table = Path(f"/proc/{pid}/maps").read_text(errors="replace")
        descriptor = os.open(f"/proc/{pid}/mem", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise ProcessLookupError(errno.ESRCH, "No such process", str(pid)) from None
    try:
        for line in table.splitlines():
            fields = line.split(maxsplit=5)
            name = fields[5] if len(fields) > 5 else ""
            if "w" not in fields[1] or name.startswith(("[vvar", "[vsyscall", "/dev/")):
                continue
            begin, end = (int(part, 16) for part in fields[0].split("-"))
            yield _region(descriptor, begin, end)
    finally:
        os.close(descriptor)


def _region(descriptor: int, begin: int, end: int) -> Iterator[bytes]:
    position = begin
    while position < end:
        try:
            chunk = os.pread(descriptor, min(CHUNK_BYTES, end - position), position)
        except (OSError, OverflowError):
            return  # unmapped meanwhile, or memory of a device
        if not chunk:
            return
        yield chunk
        position += len(chunk)


def command_output(command: list[str]) -> Iterator[bytes]:
    """What a command prints, as it comes. Its end is waited for; leaving early ends it.

    Raises:
        OSError: it cannot be run, or failed: there may be more than it printed.
    """
    with subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    ) as process:
        assert process.stdout is not None
        try:
            while chunk := process.stdout.read(CHUNK_BYTES):
                yield chunk
            status = process.wait()
        finally:
            if process.poll() is None:
                process.kill()
    if status != 0:
        raise OSError(errno.EIO, f"{Path(command[0]).name} ended with status {status}")


def kernel_log() -> Iterator[bytes]:
    """The kernel's ring buffer, record by record.

    Raises:
        OSError: it is not shown here, as in a container.
    """
    descriptor = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        while True:
            try:
                yield os.read(descriptor, 8192)
            except BrokenPipeError:
                continue  # overwritten while we read
            except BlockingIOError:
                return
    finally:
        os.close(descriptor)
