"""The kernel's side of the protocol, for tests: requests as bytes, answers taken apart, references counted."""

from __future__ import annotations

import errno
import os
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass

from kubelet_secrets.fusefs.wire import Opcode
from tests.fusefs.test_wire import make_request

_ATTRIBUTES = struct.Struct(
    "<QQQQQQIIIIIIIIII"
)  # ino size blocks times×3 nsecs×3 mode nlink uid gid rdev blksize flags
_ENTRY_BYTES = 128
_CHUNK_BYTES = 1 << 16


@dataclass(frozen=True, slots=True)
class Attributes:
    ino: int
    size: int
    mode: int
    nlink: int
    uid: int
    gid: int


class Client:
    """Asks like the kernel does: looks every name up before it changes anything, and counts what it is told of.

    Args:
        answer: one request's bytes to its answers' bytes.
        tid: who asks.
    """

    def __init__(self, answer: Callable[[bytes], list[bytes]], *, tid: int) -> None:
        self.answer = answer
        self._tid = tid
        self.told: Counter[int] = Counter()  # node → references to give back

    def ask(self, opcode: int, node: int, body: bytes = b"") -> bytes:
        """The body of the answer.

        Raises:
            OSError: what the answer says.
        """
        (answer,) = self.answer(make_request(opcode, body, unique=6, node=node, tid=self._tid))
        length, error, unique = struct.unpack_from("<IiQ", answer)
        assert (length, unique) == (len(answer), 6)
        if error:
            raise OSError(-error, os.strerror(-error))
        return answer[16:]

    def _entry(self, body: bytes) -> tuple[int, Attributes]:
        (node,) = struct.unpack_from("<Q", body)
        if node == 0:
            raise FileNotFoundError(errno.ENOENT, "negative entry")
        self.told[node] += 1
        return node, _attributes(body, 40)

    def lookup(self, parent: int, name: str) -> tuple[int, Attributes]:
        return self._entry(self.ask(Opcode.LOOKUP, parent, name.encode() + b"\0"))

    def walk(self, path: str) -> int:
        """The node at *path*, through no link."""
        node = 1
        for name in filter(None, path.split("/")):
            node, _ = self.lookup(node, name)
        return node

    def getattr(self, node: int) -> Attributes:
        return _attributes(self.ask(Opcode.GETATTR, node, bytes(16)), 16)

    def readlink(self, node: int) -> str:
        return self.ask(Opcode.READLINK, node).decode()

    def _must_be_new(self, parent: int, name: str) -> None:
        try:
            self.lookup(parent, name)
        except FileNotFoundError:
            return
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def mkdir(self, parent: int, name: str, mode: int) -> int:
        self._must_be_new(parent, name)
        return self._entry(self.ask(Opcode.MKDIR, parent, struct.pack("<II", mode, 0) + name.encode() + b"\0"))[0]

    def symlink(self, parent: int, name: str, target: str) -> int:
        self._must_be_new(parent, name)
        return self._entry(self.ask(Opcode.SYMLINK, parent, f"{name}\0{target}\0".encode()))[0]

    def create(self, parent: int, name: str, mode: int) -> int:
        self._must_be_new(parent, name)
        body = struct.pack("<IIII", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o100000 | mode, 0, 0)
        answer = self.ask(Opcode.CREATE, parent, body + name.encode() + b"\0")
        assert len(answer) == _ENTRY_BYTES + 16
        return self._entry(answer)[0]

    def open(self, node: int, flags: int) -> int:
        fh, _, _ = struct.unpack("<QII", self.ask(Opcode.OPEN, node, struct.pack("<II", flags, 0)))
        return int(fh)

    def read(self, node: int, fh: int, offset: int = 0, size: int = 1 << 17) -> bytes:
        return self.ask(Opcode.READ, node, struct.pack("<QQIIQII", fh, offset, size, 0, 0, 0, 0))

    def write(self, node: int, fh: int, offset: int, data: bytes) -> int:
        body = struct.pack("<QQIIQII", fh, offset, len(data), 0, 0, 0, 0) + data
        return int(struct.unpack_from("<I", self.ask(Opcode.WRITE, node, body))[0])

    def chmod(self, node: int, mode: int) -> None:
        body = struct.pack("<IIQQQQQQIIIIIIII", 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, mode, 0, 0, 0, 0)
        self.ask(Opcode.SETATTR, node, body)

    def unlink(self, parent: int, name: str) -> None:
        self.lookup(parent, name)
        self.ask(Opcode.UNLINK, parent, name.encode() + b"\0")

    def rmdir(self, parent: int, name: str) -> None:
        self.lookup(parent, name)
        self.ask(Opcode.RMDIR, parent, name.encode() + b"\0")

    def rename(self, parent: int, name: str, new_parent: int, new_name: str) -> None:
        body = struct.pack("<QII", new_parent, 0, 0) + f"{name}\0{new_name}\0".encode()
        self.ask(Opcode.RENAME2, parent, body)

    def list(self, node: int, size: int = _CHUNK_BYTES) -> list[str]:
        """Names without the two dots, in parts of *size* bytes."""
        fh, _, _ = struct.unpack("<QII", self.ask(Opcode.OPENDIR, node, bytes(8)))
        names, position = [], 0
        while part := self.ask(Opcode.READDIRPLUS, node, struct.pack("<QQIIQII", fh, position, size, 0, 0, 0, 0)):
            at = 0
            while at < len(part):
                (told,) = struct.unpack_from("<Q", part, at)
                _, position, length, _ = struct.unpack_from("<QQII", part, at + _ENTRY_BYTES)
                name = part[at + _ENTRY_BYTES + 24 :][:length].decode()
                if name not in (".", ".."):
                    self.told[told] += 1
                    names.append(name)
                at += (_ENTRY_BYTES + 24 + length + 7) // 8 * 8
        return names

    def forget(self, node: int) -> None:
        """The kernel drops the inode: all references at once."""
        count = self.told.pop(node, 0)
        if count:
            assert self.answer(make_request(Opcode.FORGET, struct.pack("<Q", count), node=node)) == []


def _attributes(body: bytes, at: int) -> Attributes:
    ino, size, *_, mode, nlink, uid, gid, _, _, _ = _ATTRIBUTES.unpack_from(body, at)
    return Attributes(ino, size, mode, nlink, uid, gid)
