"""The node's own registry credentials: the docker configuration files a kubelet reads. It reads; ``keyring`` has the rules.

These belong to the node's administrator and open private images to every pod; pods bring theirs as pull secrets.

Source: pkg/credentialprovider/config.go, ReadDockerConfigFile (search order).
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from kubelet_secrets.runtime.keyring import Keyring, parse_docker_config
from kubelet_secrets.sensitive import SensitiveBytes


def search_paths(root_dir: Path, home: Path | None = None) -> Iterator[Path]:
    """Where to look: ``config.json`` in each place, then the older ``.dockercfg`` in each.

    Args:
        root_dir: the kubelet's root directory; ours.
        home: of the user who runs the agent; None: ``$HOME``.
    """
    home = home or Path(os.environ.get("HOME", "/"))
    yield root_dir / "config.json"
    yield home / ".docker" / "config.json"
    yield Path("/.docker/config.json")
    yield root_dir / ".dockercfg"
    yield home / ".dockercfg"
    yield Path("/.dockercfg")


def read_node_keyring(paths: Sequence[Path] | Iterator[Path]) -> Keyring:
    """The first file that is there counts, alone; without any the keyring is empty.

    Raises:
        KeyringError: that file cannot be read as a docker configuration; names the file, quotes nothing.
    """
    for path in paths:
        try:
            data = SensitiveBytes(path.read_bytes())
        except OSError:
            continue
        return parse_docker_config(data, str(path), legacy=path.name == ".dockercfg")
    return Keyring()
