"""What a write carries with it: who asks, how it is to be done, and what admission is told.

Data only. Made by ``routes.py`` and controllers, read by the registry and by admission's plugins.

Source: k8s.io/apiserver pkg/admission/attributes.go, pkg/authentication/user.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from kubelet_secrets.apiserver.codec import Object
from kubelet_secrets.apiserver.resources import ServedResource


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. ``extra`` as in UserInfo."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Write:
    """How a write is to be done."""

    user: User
    subresource: str = ""
    is_dry_run: bool = False
    field_manager: str = ""  # who gets the fields that change; empty: nobody, or the change says so itself


class Propagation(enum.Enum):
    """What becomes of an object's dependents. Source: meta/v1 DeletionPropagation."""

    BACKGROUND = "Background"
    FOREGROUND = "Foreground"
    ORPHAN = "Orphan"


@dataclass(frozen=True, slots=True, kw_only=True)
class DeleteOptions:
    """``meta/v1`` DeleteOptions, as far as they act here."""

    grace_s: int | None = None
    uid: str | None = None
    resource_version: str | None = None
    propagation: Propagation = Propagation.BACKGROUND


@dataclass(frozen=True, slots=True, kw_only=True)
class Attributes:
    """What admission is told about a write."""

    verb: str  # "create", "update", "delete"; a patch is an update
    row: ServedResource
    namespace: str
    name: str
    subresource: str
    user: User
    obj: Object | None  # admission may change it; None on delete
    old: Object | None  # None on create
    is_dry_run: bool


class Admission(Protocol):
    async def mutate(self, attributes: Attributes) -> None:
        """Change ``attributes.obj`` in place. Raises: ApiError."""
        ...

    async def validate(self, attributes: Attributes) -> None:
        """Raises: ApiError."""
        ...
