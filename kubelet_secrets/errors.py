"""Every error that crosses a module border, one class per *reaction*.

::

    KubeletSecretsError
    ├── UsageError                 tell the user one line, exit 2: a wrong flag, an unreadable file
    ├── HostError                  tell the user one line, exit 1: no root, no /dev/fuse, no runc, port in use
    │   └── AlreadyTold            exit 1 without a word: a child process has printed the line
    ├── ApiError                   the API server answered with a Status; decide by class
    │   ├── NotFound               404: absent is an answer, not a failure
    │   ├── AlreadyExists          409 reason AlreadyExists
    │   ├── Conflict               409 reason Conflict: read again, then retry
    │   ├── Expired                410: forget the resourceVersion and relist
    │   ├── Unauthorized           401: fetch the credential again
    │   ├── Forbidden              403: right after a binding the node's graph may lag; retry with back-off
    │   ├── Invalid                422 / 400: never retry the same body
    │   └── TooManyRequests        429, or 5xx with Retry-After: wait *retry_after_s*
    ├── ApiUnavailable             no answer: connection refused, reset, timed out; retry with back-off
    ├── SetUpError                 a volume cannot be set up: Warning FailedMount, retry, keep the last version
    │   ├── MissingObject          the Secret or ConfigMap is not there (yet)
    │   ├── MissingKey             the object is there, the key is not
    │   ├── InvalidPath            a payload path breaks the AtomicWriter's rules
    │   ├── CacheNotSynced         no first answer within a second
    │   └── StoreFull              the tmpfs or a quota is exhausted
    ├── ContainerConfigError       CreateContainerConfigError + Failed event, retry
    ├── ContainerRunError          the OCI runtime refused: CreateContainerError / RunContainerError
    └── ImageError                 ErrImagePull and its siblings: back off per image

Messages carry namespace/name, the *name* of a key, a field path, a size. They never carry data; no error here
is ever built from a value, and none quotes the input that it could not parse.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class KubeletSecretsError(Exception):
    """Root of everything this package raises on purpose."""


class UsageError(KubeletSecretsError):
    """The command line or a file given on it is wrong; exit status 2."""


class HostError(KubeletSecretsError):
    """This machine lacks something the program needs; exit status 1. The message says what to do."""


class AlreadyTold(HostError):
    """A child process could not start, and has printed why to the standard error that it shares with us."""


class ApiError(KubeletSecretsError):
    """The API server answered with a ``Status`` of failure.

    Attributes:
        code: HTTP status code.
        reason: ``Status.reason``, for example ``NotFound``; empty when the server sent none.
        retry_after_s: seconds the server asked us to wait, or None.
        details: ``Status.details`` as the embedded server sends it; empty in a client.
    """

    def __init__(
        self,
        message: str,
        *,
        code: int,
        reason: str = "",
        retry_after_s: float | None = None,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s
        self.details = dict(details or {})


class NotFound(ApiError):
    pass


class AlreadyExists(ApiError):
    pass


class Conflict(ApiError):
    pass


class Expired(ApiError):
    pass


class Unauthorized(ApiError):
    pass


class Forbidden(ApiError):
    pass


class Invalid(ApiError):
    pass


class TooManyRequests(ApiError):
    pass


class ApiUnavailable(KubeletSecretsError):
    """No answer from the API server; the message names the host, never a request body."""


class SetUpError(KubeletSecretsError):
    """A volume cannot be set up or refreshed.

    ``str(self)`` is the text after ``MountVolume.SetUp failed for volume "v" : ``.
    """


class MissingObject(SetUpError):
    """A referenced object does not exist.

    Args:
        kind: ``secret`` or ``configmap``, as the kubelet's watch manager prints it.
        name: the object's name.
    """

    def __init__(self, kind: str, name: str) -> None:
        super().__init__(f'{kind} "{name}" not found')
        self.kind = kind
        self.name = name


class MissingKey(SetUpError):
    pass


class InvalidPath(SetUpError):
    pass


class CacheNotSynced(SetUpError):
    """Source: pkg/kubelet/util/manager/watch_based_manager.go."""

    def __init__(self, kind: str) -> None:
        super().__init__(f"failed to sync {kind} cache: timed out waiting for the condition")
        self.kind = kind


class StoreFull(SetUpError):
    pass


class ContainerConfigError(KubeletSecretsError):
    """A container's environment or mounts cannot be made. ``str(self)`` is the waiting message."""


class ContainerRunError(KubeletSecretsError):
    """The OCI runtime could not create or start the container."""


class ImageError(KubeletSecretsError):
    """An image cannot be made ready.

    Attributes:
        reason: the waiting reason: ``ErrImagePull``, ``ImagePullBackOff``, ``ErrImageNeverPull``,
            ``InvalidImageName``, ``ImageInspectError``, ``RegistryUnavailable``.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


def aggregate_message(errors: list[str]) -> str:
    """Join error texts the way apimachinery's ``utilerrors.NewAggregate`` prints them.

    Args:
        errors: one text per failure, in order; 1..n.

    Returns:
        The bare text for one distinct error, else ``[a, b]`` with duplicates collapsed.

    Source: k8s.io/apimachinery/pkg/util/errors, aggregate.Error.
    """
    distinct = list(dict.fromkeys(errors))
    return distinct[0] if len(distinct) == 1 else "[" + ", ".join(distinct) + "]"
