"""The process of a container: the image's defaults under what the pod says. Pure.

Source: kubernetes docs "Define a Command and Arguments"; containerd internal/cri/server (container_create.go,
WithProcessArgs) and pkg/oci (WithDefaultPathEnv, WithTTY).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from kubelet_secrets.runtime.images import ImageConfig

DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def process_args(image: ImageConfig, command: Sequence[str], args: Sequence[str]) -> tuple[str, ...]:
    """What to execute. A command of the pod's replaces the image's entrypoint *and* its cmd; args alone only the cmd.

    Returns:
        May be empty when nobody says anything; ``make_spec`` refuses that.
    """
    if command:
        return (*command, *args)
    return (*image.entrypoint, *(args or image.cmd))


def process_env(image: ImageConfig, env: Mapping[str, str], *, hostname: str, tty: bool = False) -> dict[str, str]:
    """The whole environment: PATH, HOSTNAME and TERM, over them the image's, over them the pod's. Secret.

    Args:
        env: what ``envvars`` made of the pod; values may hold surrogate escapes.
    """
    merged = {"PATH": DEFAULT_PATH, "HOSTNAME": hostname}
    if tty:
        merged["TERM"] = "xterm"
    for entry in image.env:
        name, equals, value = entry.partition("=")
        if equals:
            merged[name] = value
    merged.update(env)
    return merged


def process_cwd(image: ImageConfig, working_dir: str) -> str:
    return working_dir or image.working_dir or "/"
