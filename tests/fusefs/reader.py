"""Reads a volume in every way until told to stop, then reports what went wrong. A process of its own, started by tests."""

from __future__ import annotations

import json
import mmap
import os
import select
import sys


def main(base: str) -> None:
    os.chdir(base)
    old_fd = os.open("a", os.O_RDONLY)
    directory_fd = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    mapped_fd = os.open("b", os.O_RDONLY)
    mapped = mmap.mmap(mapped_fd, 0, prot=mmap.PROT_READ)
    first, first_mapped = os.pread(old_fd, 20, 0), mapped[:]
    errors: list[str] = []
    seen: list[int] = []
    mixed = rounds = raced = 0
    print("reading", flush=True)
    while not select.select([0], [], [], 0)[0]:
        rounds += 1
        os.posix_fadvise(old_fd, 0, 0, os.POSIX_FADV_DONTNEED)
        try:
            if os.pread(old_fd, 20, 0) != first:
                errors.append("an open file changed")
            if mapped[:] != first_mapped:
                errors.append("a mapping changed")
            if "..data" not in os.listdir(directory_fd):
                errors.append("..data is missing")
            try:
                value = int(read("a"))
            except FileNotFoundError:
                raced += 1  # the old version's directory went when the walk had just entered it, as on a tmpfs
                value = int(read("a"))
        except (OSError, ValueError) as exc:
            errors.append(repr(exc))
            continue
        if not seen or seen[-1] != value:
            seen.append(value)
        # A version pinned by its directory must be whole. It may be gone by the time its files are opened, that is fine.
        version_fd = os.open("..data", os.O_RDONLY | os.O_DIRECTORY)
        try:
            if read("a", version_fd) != read("b", version_fd):
                mixed += 1
        except FileNotFoundError:
            pass
        finally:
            os.close(version_fd)
    print(json.dumps({"errors": errors, "mixed": mixed, "rounds": rounds, "raced": raced, "seen": seen}))


def read(name: str, directory_fd: int | None = None) -> bytes:
    fd = os.open(name, os.O_RDONLY, dir_fd=directory_fd)
    try:
        return os.read(fd, 20)
    finally:
        os.close(fd)


if __name__ == "__main__":
    main(sys.argv[1])
