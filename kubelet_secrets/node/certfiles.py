"""Where a node keeps its certificates: the kubelet's certificate directory, names and contents alike.

``kubelet-client-2026-11-23-12-00-00.pem`` holds certificate and key, ``kubelet-client-current.pem`` is a link to the newest;
a kubelet pointed at the directory could go on with it. Files are 0600 in a 0700 directory.

On a disk, and not in memory: this is who the node *is*, not the value of a Secret. Its bootstrap token is gone an hour after it
joined, and a node that had to keep its key in memory could not come back from a reboot without an administrator. Whoever reads
the file may ask the API server as this node, for what its pods refer to and for as long as the certificate lasts. ``up``, which
joins anew each time, keeps the directory on a tmpfs.

Source: k8s.io/client-go/util/certificate/certificate_store.go; semantics §10.1. Differs: superseded files are removed.
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

from kubelet_secrets.client.tls import split_pem
from kubelet_secrets.errors import HostError
from kubelet_secrets.node.certificates import KeyPair
from kubelet_secrets.sensitive import SensitiveBytes

CLIENT, SERVER = "kubelet-client", "kubelet-server"


class CertificateFiles:
    """One certificate's files.

    Args:
        directory: made when something is first written.
        name: what they begin with: :data:`CLIENT` or :data:`SERVER`.
    """

    def __init__(self, directory: Path, name: str) -> None:
        self._directory = directory
        self._name = name
        self._pending_key = directory / f"{name}.key.tmp"

    @property
    def current(self) -> Path:
        """The link to the newest; need not exist."""
        return self._directory / f"{self._name}-current.pem"

    def load(self) -> KeyPair | None:
        """The newest pair, None when there is none. Raises: HostError: it cannot be read."""
        content = _read(self.current)
        if content is None:
            return None
        certificates, key = split_pem(content)
        return KeyPair(certificates, SensitiveBytes(key)) if certificates and key.strip() else None

    def save(self, pair: KeyPair, now: datetime) -> None:
        """Make *pair* the newest; at every instant the link leads to a whole one.

        Raises:
            HostError: it cannot be written; the last one stays.
        """
        path = self._directory / f"{self._name}-{now:%Y-%m-%d-%H-%M-%S}.pem"
        superseded = [each for each in self._directory.glob(f"{self._name}-2*.pem") if each != path]
        write_private(path, SensitiveBytes(pair.certificate_pem + pair.key_pem.reveal()))
        link = self._directory / f"{self._name}-updated.pem"
        try:
            link.unlink(missing_ok=True)
            link.symlink_to(path.name)
            link.replace(self.current)
        except OSError as error:
            raise HostError(f"{self.current}: {(error.strerror or 'error').lower()}") from None
        for old in superseded:
            old.unlink(missing_ok=True)

    def load_pending_key(self) -> SensitiveBytes | None:
        """The key of a request that no certificate has come for yet. Raises: HostError: it cannot be read."""
        content = _read(self._pending_key)
        return SensitiveBytes(content) if content else None

    def save_pending_key(self, key: SensitiveBytes) -> None:
        """Raises: HostError: it cannot be written."""
        write_private(self._pending_key, key)

    def forget_pending_key(self) -> None:
        self._pending_key.unlink(missing_ok=True)


def write_private(path: Path, content: SensitiveBytes) -> None:
    """Write a file for its owner alone: 0600 from its first byte, then renamed into place; directories are made, 0700.

    Raises:
        HostError: naming the path.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
        with open(descriptor, "wb") as file:
            file.write(content.reveal())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise HostError(f"{path}: {(error.strerror or 'error').lower()}") from None


def _read(path: Path) -> bytes | None:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise HostError(f"{path}: {(error.strerror or 'error').lower()}") from None
