"""What the keeper is told: by ``cli.agent``, and by tests. Data."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from kubelet_secrets.fusefs.mounts import NoswapFallback


@dataclass(frozen=True, slots=True, kw_only=True)
class KeeperOptions:
    """What ``kubelet-secrets agent`` asks for."""

    root_dir: Path  # absolute
    image_dir: Path  # absolute; survives, also below root_dir
    agent_options: Mapping[str, object] = field(default_factory=dict)  # JSON for the agent; holds no secret
    agent_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kubelet_secrets.agent_process")
    writer_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kubelet_secrets.fusefs.writer")
    preflight_command: tuple[str, ...] = (sys.executable, "-P", "-m", "kubelet_secrets.preflight")
    arguments: tuple[str, ...] = ()  # of ``kubelet-secrets agent``, for a newer program to say whether it knows them
    store_size_bytes: int = 512 << 20
    store_files: int = 400_000  # with directories and links
    run_size_bytes: int = 256 << 20  # what agent and runtime note down
    scratch_size_bytes: int = 1 << 30  # what all containers write to their root filesystems
    logs_size_bytes: int = 256 << 20
    noswap_fallback: NoswapFallback = NoswapFallback.RAMFS
    cgroup_instance: str = ""  # where the containers' cgroups are, ``cgroups.instance_name``; empty: there are none
    has_spare: bool = True  # keep a second agent's process waiting: shorter pauses for some 40 MB of memory
    stop_timeout_s: float = 45.0  # for the agent to stop its containers
    silence_s: float = 10.0  # an agent that does not say for so long that it is well is wedged, and replaced
    start_silence_s: float = (
        180.0  # the same for one that starts; where the processor is emulated, imports take a minute
    )
    preflight_timeout_s: float = 60.0
    healthy_after_s: float = 2.0  # an agent that lived this long is replaced at once; repeated earlier deaths back off
