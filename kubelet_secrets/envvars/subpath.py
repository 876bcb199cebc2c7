"""Which part of its volume a mount shows: ``subPath`` and ``subPathExpr``.

Pure: gives the relative path, checked. Opening it without following a link out of the volume is the mounter's job.

Source: pkg/kubelet/kubelet_pods.go, makeMounts; pkg/volume/validation, ValidatePathNoBacksteps; semantics §5.1, §5.3.
"""

from __future__ import annotations

from kubelet_secrets.api.core import VolumeMount
from kubelet_secrets.envvars.environment import Environment
from kubelet_secrets.envvars.expansion import expand_strict, referenced_names
from kubelet_secrets.errors import ContainerConfigError


def resolve_sub_path(mount: VolumeMount, environment: Environment) -> str:
    """The path below the volume's root that *mount* shows, "" for the whole volume.

    Raises:
        ContainerConfigError: a variable of subPathExpr is undefined or empty, or the result is absolute or steps back.
            Differs: where a secret value is part of the path, the text shows the expression instead of the path.
    """
    sub_path = shown = mount.sub_path
    if mount.sub_path_expr:
        sub_path = shown = expand_strict(mount.sub_path_expr, environment.lookup)
        if any(environment[name].is_secret for name in referenced_names(mount.sub_path_expr)):
            shown = mount.sub_path_expr
    if sub_path.startswith("/"):
        raise ContainerConfigError(f"error SubPath `{shown}` must not be an absolute path")
    if ".." in sub_path.split("/"):
        raise ContainerConfigError(f"unable to provision SubPath `{shown}`: must not contain '..'")
    return sub_path
