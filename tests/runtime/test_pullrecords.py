"""Who may use a present image. Source: pkg/kubelet/images/pullmanager, TestFileBasedImagePullManager_MustAttemptImagePull;
semantics §9.5.
"""

from __future__ import annotations

import msgspec
import pytest

from kubelet_secrets.runtime.keyring import CredentialSource, RegistryCredentials, credential_hash
from kubelet_secrets.runtime.pullrecords import (
    MAX_SECRETS,
    PullRecord,
    Verification,
    VerificationPolicy,
    is_accessible,
    parse_allow_list,
    with_pull,
)
from kubelet_secrets.sensitive import SensitiveBytes

REPOSITORY = "quay.io/team/app"


def login(password: str, name: str | None = None) -> RegistryCredentials:
    source = None if name is None else CredentialSource(namespace="ns", name=name, uid=f"uid-{name}")
    return RegistryCredentials(username="u", password=SensitiveBytes(password.encode()), source=source)


OPENED_BY_A = with_pull(None, REPOSITORY, login("1", "a"))
OPEN = with_pull(OPENED_BY_A, REPOSITORY, None)


@pytest.mark.parametrize(
    ("record", "credentials", "hashed", "policy", "expected"),
    [
        pytest.param(None, (), (), Verification.NEVER_VERIFY_PRELOADED, True, id="preloaded"),
        pytest.param(None, (), (), Verification.ALWAYS_VERIFY, False, id="preloaded-but-always-verified"),
        pytest.param(OPENED_BY_A, (), (), Verification.NEVER_VERIFY, True, id="never-verified"),
        pytest.param(OPENED_BY_A, (), (), Verification.NEVER_VERIFY_PRELOADED, False, id="no-credentials"),
        pytest.param(OPENED_BY_A, (login("1", "a"),), (), Verification.ALWAYS_VERIFY, True, id="same-secret"),
        pytest.param(OPENED_BY_A, (login("2", "a"),), (), Verification.ALWAYS_VERIFY, True, id="same-secret-rotated"),
        pytest.param(OPENED_BY_A, (login("1", "b"),), (), Verification.ALWAYS_VERIFY, False, id="hash-not-known"),
        pytest.param(OPENED_BY_A, (login("1", "b"),), ("1",), Verification.ALWAYS_VERIFY, True, id="same-login"),
        pytest.param(OPENED_BY_A, (login("2", "b"),), ("1",), Verification.ALWAYS_VERIFY, False, id="other-login"),
        pytest.param(OPEN, (), (), Verification.ALWAYS_VERIFY, True, id="opens-for-everyone"),
        pytest.param(PullRecord(), (), (), Verification.NEVER_VERIFY_PRELOADED, False, id="other-repository"),
    ],
)
def test_present_image(
    record: PullRecord | None,
    credentials: tuple[RegistryCredentials, ...],
    hashed: tuple[str, ...],
    policy: Verification,
    expected: bool,
) -> None:
    hashes = {credential_hash(login(password)) for password in hashed}
    assert is_accessible(record, REPOSITORY, credentials, hashes=hashes, policy=VerificationPolicy(policy)) is expected


@pytest.mark.parametrize("record", [None, OPENED_BY_A], ids=["preloaded", "pulled"])
@pytest.mark.parametrize(
    ("patterns", "expected"),
    [
        pytest.param([], False, id="none"),
        pytest.param(["quay.io/team/app"], True, id="name"),
        pytest.param(["quay.io/team/ap"], False, id="a-name-is-whole"),
        pytest.param(["quay.io/team/*"], True, id="prefix"),
        pytest.param(["quay.io/*"], True, id="registry"),
        pytest.param(["quay.io/te/*"], False, id="a-prefix-ends-with-a-part"),
        pytest.param(["busybox", "quay.io/team/app"], True, id="any-of-several"),
    ],
)
def test_images_of_the_allow_list_need_no_verification(
    record: PullRecord | None, patterns: list[str], expected: bool
) -> None:
    """§9.5. Source: image_pull_policies_test.go."""
    policy = VerificationPolicy(Verification.NEVER_VERIFY_ALLOWLISTED, parse_allow_list(patterns))
    assert is_accessible(record, REPOSITORY, (), hashes=(), policy=policy) is expected
    assert is_accessible(OPENED_BY_A, REPOSITORY, (login("1", "a"),), hashes=(), policy=policy)


def test_short_names_mean_what_they_mean_in_a_pod() -> None:
    assert parse_allow_list(["busybox"]).repositories == {"docker.io/library/busybox"}


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (" quay.io/app", "leading/trailing spaces are not allowed"),
        ("", "the supplied pattern is too short"),
        ("quay.io/*/app", "only patterns ending with '/\\*' are allowed"),
        ("quay.io/a*", "only patterns ending with '/\\*' are allowed"),
        ("/*", "at least registry hostname is required"),
        ("quay.io/app:1", "neither tag nor digest is accepted"),
        ("quay.io/app@sha256:" + 64 * "0", "neither tag nor digest is accepted"),
        ("quay.io/App", "failed to parse as an image name"),
    ],
)
def test_patterns_that_are_none(pattern: str, text: str) -> None:
    with pytest.raises(ValueError, match=text):
        parse_allow_list([pattern])


def test_record_holds_names_and_no_credential() -> None:
    text = msgspec.json.encode(with_pull(OPENED_BY_A, REPOSITORY, login("s3cr3t", "b"))).decode()
    assert '["ns","a","uid-a"],["ns","b","uid-b"]' in text
    assert "s3cr3t" not in text
    assert credential_hash(login("s3cr3t")) not in text


def test_records_are_bounded_and_stay_open_once_open() -> None:
    record = OPENED_BY_A
    for number in range(MAX_SECRETS):
        record = with_pull(record, REPOSITORY, login("x", f"s{number}"))
    secrets = record.repositories[REPOSITORY].secrets
    assert len(secrets) == MAX_SECRETS
    assert ("ns", "a", "uid-a") not in secrets
    assert with_pull(OPEN, REPOSITORY, login("1", "a")).repositories[REPOSITORY].everyone
