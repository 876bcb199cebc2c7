"""Look for a value where it must not be: in streams of bytes, and in files, in the forms in which values travel.

Used by the demo, by ``verify``, and by tests. Reads every byte it judges; follows no link, and skips what is no disk and can
reach none (proc, FUSE, tmpfs that cannot be swapped). It never prints what it looks for. Not found are values that were
compressed or encrypted on their way, and values cut into pieces by something other than this module's own chunks.
"""

from __future__ import annotations

import base64
import json
import os
import select
import urllib.parse
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

CHUNK_BYTES = 1024 * 1024  # small enough for the processor's cache: every needle passes over it
_ZEROS = bytes(CHUNK_BYTES)
_NO_DISK = frozenset(
    {
        "ramfs",
        "proc",
        "sysfs",
        "devtmpfs",
        "devpts",
        "cgroup",
        "cgroup2",
        "mqueue",
        "nsfs",
        "securityfs",
        "debugfs",
        "tracefs",
        "bpf",
        "fusectl",
        "configfs",
        "pstore",
        "efivarfs",
        "rpc_pipefs",
        "binfmt_misc",
        "hugetlbfs",
    }
)


@dataclass(frozen=True, slots=True)
class Finding:
    path: Path
    form: str  # "plain", "base64", …


@dataclass(frozen=True, slots=True, kw_only=True)
class ScanResult:
    files: int
    size_bytes: int
    findings: tuple[Finding, ...]


@dataclass(frozen=True, slots=True)
class Hit:
    """One occurrence of a needle."""

    needle: str  # its name
    offset: int  # of its first byte, in the stream
    before: bytes  # up to ``context`` bytes of what stands before it
    after: bytes  # and of what follows it

    def __repr__(self) -> str:
        return f"<Hit {self.needle} at {self.offset}>"  # the context is the value's


class StreamSearch:
    """Find needles in a stream that comes in chunks; memory does not grow with the stream.

    Every occurrence is found exactly once, wherever chunks end. :meth:`finish` must be called at the stream's end, or the
    last few hundred bytes have not been looked at. Afterwards the object is ready for another stream.

    Args:
        needles: name → bytes; 1..n, of 1..n bytes.
        context: how many bytes around a hit its finder wants to see, at most.
    """

    def __init__(self, needles: Mapping[str, bytes], *, context: int = 0) -> None:
        self._needles = dict(needles)
        self._longest = max(map(len, self._needles.values()))
        self._context = context
        self._finds_zeros = any(not needle.strip(b"\0") for needle in self._needles.values())
        self.reset()

    def reset(self) -> None:
        """Forget the stream so far."""
        self._window = b""
        self._start = 0  # of the window, in the stream
        self._settled = 0  # every hit that begins before this offset has been told of

    def feed(self, chunk: bytes) -> list[Hit]:
        """Take the next bytes of the stream; returns the hits that became certain with them, by needle and offset."""
        keep = self._longest + self._context
        if not self._finds_zeros and chunk == _ZEROS[: len(chunk)] and not self._window.strip(b"\0"):
            # Most of a disk, and of a sparse mapping. Only the end is kept: UTF-16BE begins with a zero.
            self._start += len(self._window) + len(chunk)
            self._window = (self._window + chunk)[-keep:] if len(chunk) < keep else chunk[-keep:]
            self._start -= len(self._window)
            self._settled = self._start
            return []
        self._window += chunk
        return self._look(keep=keep)

    def finish(self) -> list[Hit]:
        """The hits at the stream's very end."""
        hits = self._look(keep=0)
        self.reset()
        return hits

    def _look(self, *, keep: int) -> list[Hit]:
        """Tell of the hits that begin before the last *keep* bytes: of those the context has been seen."""
        window, start = self._window, self._start
        limit = max(len(window) - keep, 0)
        hits = []
        for name, needle in self._needles.items():
            position = window.find(needle, self._settled - start)
            while position != -1 and position < limit:
                end = position + len(needle)
                before = window[max(position - self._context, 0) : position]
                hits.append(Hit(name, start + position, before, window[end : end + self._context]))
                position = window.find(needle, position + 1)
        self._settled = max(self._settled, start + limit)
        cut = max(limit - self._context, 0)
        self._window, self._start = window[cut:], start + cut
        return hits


def spellings(value: bytes) -> dict[str, bytes]:
    """The forms in which *value* may lie somewhere, by name; forms that equal another are left out.

    base64 has three alignments: a value inside a larger encoded text starts at any of them, so the part that does not
    depend on its neighbours is what is looked for.
    """
    text = value.decode("utf-8", "replace")
    quoted = urllib.parse.quote_from_bytes(value, safe="")
    forms = {
        "plain": value,
        "hex": value.hex().encode(),
        "hex (upper case)": value.hex().upper().encode(),
        "URL-encoded": quoted.encode(),
        "URL-encoded (lower case)": _lower_escapes(quoted).encode(),
        "JSON": json.dumps(text)[1:-1].encode(),
        "JSON (as Go writes it)": _as_go_writes(text).encode(),
        "UTF-16": text.encode("utf-16-le"),
        "UTF-16BE": text.encode("utf-16-be"),
        "reversed": value[::-1],
    }
    for shift in range(3):
        forms[f"base64 (offset {shift})"] = base64_core(value, shift)
    distinct: dict[bytes, str] = {}
    for name, form in forms.items():
        distinct.setdefault(form, name)
    return {name: form for form, name in distinct.items()}


def base64_core(value: bytes, shift: int) -> bytes:
    """What base64 makes of *value* when *shift* (0–2) bytes stand before it, without what depends on its neighbours."""
    encoded = base64.b64encode(b"\0" * shift + value)
    start = -(-shift * 8 // 6)  # the first character that no foreign bit is part of
    end = (shift + len(value)) * 8 // 6  # and the last
    return encoded[start:end]


def _lower_escapes(quoted: str) -> str:
    parts = quoted.split("%")
    return "%".join([parts[0], *(part[:2].lower() + part[2:] for part in parts[1:])])


def _as_go_writes(text: str) -> str:
    """encoding/json leaves letters as they are, and escapes what HTML would trip over. Source: json.HTMLEscape."""
    written = json.dumps(text, ensure_ascii=False)[1:-1]
    for character in "<>&":
        written = written.replace(character, f"\\u{ord(character):04x}")
    return written


def scan(roots: Iterable[Path], values: Sequence[bytes], *, changed_since: float = 0.0) -> ScanResult:
    """Search regular files below *roots* for each of *values* in each of its forms.

    Args:
        roots: directories or files; those that do not exist are skipped.
        values: what to look for; at least 8 bytes each, or the result is noise.
        changed_since: Unix time; files whose content and inode are older are skipped. 0 reads all.
    """
    # Numbered: several values have the same forms.
    needles = {f"{n} {name}": form for n, value in enumerate(values) for name, form in spellings(value).items()}
    search = StreamSearch(needles)
    findings: dict[Finding, None] = {}
    files = size = 0
    for path in files_on_disk(roots, changed_since):
        try:
            hits = []
            for chunk in read_chunks(path):
                size += len(chunk)
                hits += search.feed(chunk)
            hits += search.finish()
        except OSError:
            search.reset()
            continue  # vanished, or refused to us as to everybody (the guarded filesystem)
        files += 1
        for hit in hits:
            findings[Finding(path, hit.needle.partition(" ")[2])] = None
    return ScanResult(files=files, size_bytes=size, findings=tuple(findings))


def read_chunks(path: Path) -> Iterator[bytes]:
    """The content of a file, chunk by chunk. Raises: OSError: it cannot be read (any more)."""
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK_BYTES):
            yield chunk


def files_on_disk(
    roots: Iterable[Path],
    changed_since: float = 0.0,
    *,
    passed_by: Collection[str] = (),
    entered: Callable[[], None] = lambda: None,
) -> Iterator[Path]:
    """Regular files below *roots*, each once, on filesystems that lie on a disk or may come to lie in swap.

    Args:
        changed_since: as for :func:`scan`.
        passed_by: directories that are left out.
        entered: called for each directory: most have nothing to yield, and walking takes a while. May raise to end it.
    """
    seen: set[tuple[int, int]] = set()
    with _Mounts() as mounts:
        for root in roots:
            alone = root.is_file() and not root.is_symlink()
            for path in [str(root)] if alone else _walk(str(root), mounts, passed_by, entered):
                try:
                    status = os.lstat(path)
                except OSError:
                    continue
                if max(status.st_mtime, status.st_ctime) < changed_since:
                    continue
                identity = (status.st_dev, status.st_ino)
                if identity not in seen:
                    seen.add(identity)
                    yield Path(path)


def _walk(root: str, mounts: _Mounts, passed_by: Collection[str], entered: Callable[[], None]) -> Iterator[str]:
    """Regular files, past unreachable mounts. Not os.walk, which asks each directory what it is before we can pass it by.

    To ask anything of a FUSE filesystem whose server does not answer is to wait for ever, even for the type of a file.
    """
    waiting = [root]
    while waiting:
        directory = waiting.pop()
        unreachable = mounts.unreachable()
        if directory in unreachable or directory in passed_by:
            continue
        entered()
        try:
            entries = list(os.scandir(directory))
        except OSError:
            continue  # vanished, no directory, or not to be read
        for entry in entries:
            if entry.path in unreachable:
                continue
            if entry.is_dir(follow_symlinks=False):
                waiting.append(entry.path)
            elif entry.is_file(follow_symlinks=False):
                yield entry.path


class _Mounts:
    """The mount table of this namespace, read again when it has changed."""

    def __init__(self) -> None:
        self._table = open("/proc/self/mountinfo", errors="surrogateescape")  # noqa: SIM115  # closed with this object
        self._poll = select.poll()
        self._poll.register(self._table, select.POLLPRI)
        self._unreachable = _parse_unreachable(self._table.read())

    def unreachable(self) -> frozenset[str]:
        """Mount points whose content never reaches a disk, not even by swapping."""
        if any(event & select.POLLPRI for _, event in self._poll.poll(0)):
            self._table.seek(0)
            self._unreachable = _parse_unreachable(self._table.read())
        return self._unreachable

    def __enter__(self) -> _Mounts:
        return self

    def __exit__(self, *_: object) -> None:
        self._table.close()


def _parse_unreachable(mountinfo: str) -> frozenset[str]:
    """Source: proc_pid_mountinfo(5)."""
    found = set()
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        kept = kind in _NO_DISK or kind.startswith("fuse") or (kind == "tmpfs" and "noswap" in options.split(","))
        target = before.split(" ")[4].replace("\\040", " ")
        if kept:
            found.add(target)
        else:
            found.discard(target)  # mounted over it
    return frozenset(found)
