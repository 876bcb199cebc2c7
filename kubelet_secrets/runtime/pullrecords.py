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

import msgspec

from kubelet_secrets.runtime.keyring import CredentialSource, RegistryCredentials, credential_hash

MAX_SECRETS = 100  # per image and repository; older ones are forgotten first


class Verification(enum.Enum):
    """``imagePullCredentialsVerificationPolicy`` of the kubelet's configuration, but for the allow list."""

    NEVER_VERIFY = "NeverVerify"
    NEVER_VERIFY_PRELOADED = "NeverVerifyPreloadedImages"  # the default
    ALWAYS_VERIFY = "AlwaysVerify"


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """What is known of one repository's door."""

    everyone: bool = False  # it was pulled without a pod's credentials
    secrets: tuple[tuple[str, str, str], ...] = ()  # namespace, name, uid


class PullRecord(msgspec.Struct, frozen=True, kw_only=True):
    """One image's pulls, by repository (no tag, no digest). An image without a record was imported: preloaded."""

    repositories: dict[str, Access] = {}


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
    policy: Verification,
) -> bool:
    """Whether a pod with *credentials* may use the present image without asking the registry.

    Args:
        hashes: of the credentials that have opened this image and repository since the start of this process.
    """
    if policy is Verification.NEVER_VERIFY:
        return True
    if record is None:
        return policy is not Verification.ALWAYS_VERIFY
    access = record.repositories.get(repository)
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
