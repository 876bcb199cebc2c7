"""Who may use an image that is already here (KEP-2535), pure: records of pulls in, a decision out.

Without this a pod could run a private image merely because another pod's credentials had pulled it. What is remembered is which
*secret* opened the image, by namespace, name and uid, and whether it opens without any. Upstream also keeps a hash of the
credential on disk; here that hash is only ever in memory: after a restart a pod with equal credentials in *another* secret asks
the registry once more, which costs a request and no download.

Source: pkg/kubelet/images/pullmanager (image_pull_manager.go MustAttemptImagePull, image_pull_policies.go).
"""

from __future__ import annotations

import enum
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import msgspec

from kubelet_secrets.errors import ImageError
from kubelet_secrets.runtime.keyring import CredentialSource, RegistryCredentials, credential_hash
from kubelet_secrets.runtime.reference import parse_reference

MAX_SECRETS = 100  # per image and repository; older ones are forgotten first


class Verification(enum.Enum):
    """``imagePullCredentialsVerificationPolicy`` of the kubelet's configuration."""

    NEVER_VERIFY = "NeverVerify"
    NEVER_VERIFY_PRELOADED = "NeverVerifyPreloadedImages"  # the default
    NEVER_VERIFY_ALLOWLISTED = "NeverVerifyAllowlistedImages"
    ALWAYS_VERIFY = "AlwaysVerify"


@dataclass(frozen=True, slots=True)
class AllowList:
    """``preloadedImagesVerificationAllowlist``: which images need no verification, wherever they came from."""

    repositories: frozenset[str] = frozenset()  # full: docker.io/library/busybox
    prefixes: tuple[str, ...] = ()  # with a slash at their end: quay.io/team/

    def __contains__(self, repository: str) -> bool:
        return repository in self.repositories or repository.startswith(self.prefixes)


def parse_allow_list(patterns: Sequence[str]) -> AllowList:
    """Read image names without tag and digest, and prefixes that end in ``/*``.

    Raises:
        ValueError: a pattern is neither; in upstream's words.

    Source: image_pull_policies.go, getAllowlistImagePattern. Differs: short names mean what they mean in a pod
    (``busybox`` is ``docker.io/library/busybox``); upstream takes full names only.
    """
    repositories, prefixes = set(), []
    for pattern in patterns:
        if pattern != pattern.strip():
            raise ValueError(f"leading/trailing spaces are not allowed: {pattern}")
        is_prefix = pattern.endswith("/*")
        name = pattern.removesuffix("*") if is_prefix else pattern
        if not name:
            raise ValueError(f"the supplied pattern is too short: {pattern}")
        if "*" in name:
            raise ValueError(f"not a valid wildcard pattern, only patterns ending with '/*' are allowed: {pattern}")
        if name == "/":
            raise ValueError("at least registry hostname is required")
        if is_prefix:
            prefixes.append(name)
            continue
        try:
            reference = parse_reference(name)
        except ImageError as error:
            raise ValueError(f"failed to parse as an image name: {error}") from None
        if reference.digest or name.endswith(f":{reference.tag}"):
            raise ValueError(f"neither tag nor digest is accepted in an image reference: {pattern}")
        repositories.add(reference.repository)
    return AllowList(frozenset(repositories), tuple(prefixes))


@dataclass(frozen=True, slots=True)
class VerificationPolicy:
    """Which present images a pod may use without showing that it could pull them."""

    mode: Verification = Verification.NEVER_VERIFY_PRELOADED
    allow_list: AllowList = AllowList()  # of NEVER_VERIFY_ALLOWLISTED alone

    def exempts(self, repository: str, *, was_pulled: bool) -> bool:
        """Whether the policy alone lets every pod use the image.

        Source: image_pull_policies.go, the RequireCredentialVerificationForImage of each policy.
        """
        match self.mode:
            case Verification.NEVER_VERIFY:
                return True
            case Verification.NEVER_VERIFY_PRELOADED:
                return not was_pulled
            case Verification.NEVER_VERIFY_ALLOWLISTED:
                return repository in self.allow_list
            case Verification.ALWAYS_VERIFY:
                return False


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one repository's door."""

    everyone: bool = False  # it was pulled without a pod's credentials
    secrets: tuple[tuple[str, str, str], ...] = ()  # namespace, name, uid


class PullRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One image's pulls, by repository (no tag, no digest). An image without a record was imported: preloaded."""

    repositories: dict[str, Access] = {}


DEFAULT_VERIFICATION = VerificationPolicy()


def with_pull(record: PullRecord | None, repository: str, credentials: RegistryCredentials | None) -> PullRecord:
    """The record after a pull that *credentials* opened; None, or the node's own, open it to every pod."""
    known = {} if record is None else record.repositories
    access = known.get(repository, Access())
    if credentials is None or credentials.source is None:
        access = Access(everyone=True)
    elif not access.everyone:
        mine = _coordinates(credentials.source)
        others = tuple(entry for entry in access.secrets if entry != mine)
        access = Access(secrets=(*others, mine)[-MAX_SECRETS:])
    return PullRecord(repositories={**known, repository: access})


def is_accessible(
    record: PullRecord | None,
    repository: str,
    credentials: Sequence[RegistryCredentials],
    *,
    hashes: Collection[str],
    policy: VerificationPolicy,
) -> bool:
    """Whether a pod with *credentials* may use the present image without asking the registry.

    Args:
        hashes: of the credentials that have opened this image and repository since the start of this process.
    """
    if policy.exempts(repository, was_pulled=record is not None):
        return True
    access = None if record is None else record.repositories.get(repository)
    if access is None:
        return False
    if access.everyone:
        return True
    return any(
        (each.source is not None and _coordinates(each.source) in access.secrets) or credential_hash(each) in hashes
        for each in credentials
    )


def _coordinates(source: CredentialSource) -> tuple[str, str, str]:
    return source.namespace, source.name, source.uid
