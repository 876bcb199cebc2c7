"""The configuration file: what it says, and every way to get it wrong."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from kubelet_secrets.apiserver.encryptionconfig import (
    Cipher,
    CipherProvider,
    EncryptionConfiguration,
    IdentityProvider,
    Key,
    KmsProvider,
    parse_configuration,
    read_content,
)
from kubelet_secrets.apiserver.encryptionrules import parse_timeout
from kubelet_secrets.errors import UsageError
from kubelet_secrets.sensitive import SensitiveBytes

HEAD = "apiVersion: apiserver.config.k8s.io/v1\nkind: EncryptionConfiguration\n"
SECRET_32 = base64.b64encode(b"k" * 32).decode()


def parse(body: str, *, reloads: bool = False) -> EncryptionConfiguration:
    return parse_configuration((HEAD + body).encode(), "/etc/enc.yaml", reloads=reloads)


def rules(*entries: tuple[str, str]) -> str:
    """Entries of (resources, providers) in YAML's flow style."""
    return "resources:\n" + "".join(f"- {{resources: {names}, providers: {given}}}\n" for names, given in entries)


def providers(given: str) -> str:
    return rules(("[secrets]", given))


IDENTITY = "[{identity: {}}]"


def test_every_provider_is_understood() -> None:
    parsed = parse(
        f"""
resources:
- resources: [secrets]
  providers:
  - aesgcm: {{keys: [{{name: a, secret: {SECRET_32}}}, {{name: b, secret: "{base64.b64encode(b"x" * 16).decode()}"}}]}}
  - aescbc: {{keys: [{{name: c, secret: {SECRET_32}}}]}}
  - secretbox: {{keys: [{{name: d, secret: {SECRET_32}}}]}}
  - kms: {{apiVersion: v2, name: plugin, endpoint: "unix:///run/kms.sock", timeout: 1m0.5s}}
  - identity: {{}}
"""
    )
    key = SensitiveBytes(b"k" * 32)
    assert parsed.providers_for("secrets") == (
        CipherProvider(Cipher.AESGCM, (Key("a", key), Key("b", SensitiveBytes(b"x" * 16)))),
        CipherProvider(Cipher.AESCBC, (Key("c", key),)),
        CipherProvider(Cipher.SECRETBOX, (Key("d", key),)),
        KmsProvider("plugin", "unix:///run/kms.sock", 60.5),
        IdentityProvider(),
    )
    assert parsed.kms_providers() == (KmsProvider("plugin", "unix:///run/kms.sock", 60.5),)
    assert "kkkk" not in repr(parsed)


def test_exact_name_goes_before_group_and_group_before_everything() -> None:
    one, two, three = (
        f"[{{secretbox: {{keys: [{{name: {name}, secret: {SECRET_32}}}]}}}}]" for name in ("k1", "k2", "k3")
    )
    parsed = parse(rules(("[secrets, deployments.apps]", one), ("['*.', '*.apps']", two), ("['*.*']", three)))

    def key_of(plural: str, group: str = "") -> str:
        found = parsed.providers_for(plural, group)
        assert found is not None
        assert isinstance(found[0], CipherProvider)
        return found[0].keys[0].name

    assert [key_of("secrets"), key_of("configmaps"), key_of("leases", "coordination.k8s.io")] == ["k1", "k2", "k3"]
    assert [key_of("deployments", "apps"), key_of("replicasets", "apps")] == ["k1", "k2"]


def test_resource_that_nothing_covers_has_no_providers() -> None:
    parsed = parse(rules(("[secrets]", IDENTITY)))
    assert parsed.providers_for("configmaps") is None
    assert parsed.providers_for("secrets", "example.org") is None


def test_same_resource_in_several_entries_appends() -> None:
    one = f"[{{aesgcm: {{keys: [{{name: a, secret: {SECRET_32}}}]}}}}]"
    found = parse(rules(("[secrets]", one), ("[secrets, pods]", IDENTITY))).providers_for("secrets")
    assert found is not None
    assert [type(provider) for provider in found] == [CipherProvider, IdentityProvider]


R0, P0 = "resources[0].resources", "resources[0].providers[0]"
UNUSABLE = "provider does not contain any of the expected providers: KMS, AESGCM, AESCBC, Secretbox, Identity"
SPLIT = "more than one provider specified in a single element, should split into different list elements"
OVERLAP = (
    "using overlapping resources such as 'secrets' and '*.' in the same resource list is not allowed as they will be "
    "masked"
)
EVENTS = (
    "'*.events.k8s.io' objects are stored using the 'events' API group in etcd. Use 'events' instead in the config file"
)
STAR = "use '*.' to encrypt all the resources from core API group or *.* to encrypt all resources"
NO_REST = "resources which do not have REST API/s cannot be encrypted"
V2 = "apiVersion: v2, name: n, endpoint: 'unix:///s'"


def _key(name: str = "a", secret: str = SECRET_32) -> str:
    return f"{{name: '{name}', secret: '{secret}'}}"


@pytest.mark.parametrize(
    ("body", "message"),
    [
        pytest.param("", "resources: Required value: at least one resources is required", id="no-entries"),
        pytest.param(
            rules(("[]", IDENTITY)), f"{R0}: Required value: at least one {R0} is required", id="no-resources"
        ),
        pytest.param(
            providers("[]"),
            "resources[0].providers: Required value: at least one resources[0].providers is required",
            id="no-providers",
        ),
        pytest.param(
            providers("[{aesgcm: {keys: []}}]"),
            f"{P0}.aesgcm.keys: Required value: at least one keys is required",
            id="no-keys",
        ),
        pytest.param(providers("[{}]"), f"{P0}: Invalid value: {{}}: {UNUSABLE}", id="empty-provider"),
        pytest.param(providers("[{identity: null}]"), f"{P0}: Invalid value: {{}}: {UNUSABLE}", id="null-provider"),
        pytest.param(
            providers(f"[{{identity: {{}}, aesgcm: {{keys: [{_key()}]}}}}]"),
            f'{P0}: Invalid value: ["aesgcm","identity"]: {SPLIT}',
            id="two-providers",
        ),
        pytest.param(
            providers(f"[{{aescbc: {{keys: [{{secret: {SECRET_32}}}]}}}}]"),
            f"{P0}.aescbc.keys[0].name: Required value: name is a mandatory field for a key",
            id="key-without-name",
        ),
        pytest.param(
            providers("[{aescbc: {keys: [{name: a}]}}]"),
            f"{P0}.aescbc.keys[0].secret: Required value: secret is a mandatory field for a key",
            id="key-without-secret",
        ),
        pytest.param(
            providers(f"[{{secretbox: {{keys: [{_key(secret='hunter2!')}]}}}}]"),
            f'{P0}.secretbox.keys[0].secret: Invalid value: "REDACTED": secrets must be base64 encoded',
            id="not-base64",
        ),
        pytest.param(
            providers(f"[{{aesgcm: {{keys: [{_key(secret='aHVudGVyMg==')}]}}}}]"),
            f'{P0}.aesgcm.keys[0].secret: Invalid value: "REDACTED": secret is not of the expected length, got 7, '
            "expected one of [16 24 32]",
            id="aes-key-length",
        ),
        pytest.param(
            providers(f"[{{secretbox: {{keys: [{_key(secret='aHVudGVyMg==')}]}}}}]"),
            f'{P0}.secretbox.keys[0].secret: Invalid value: "REDACTED": secret is not of the expected length, got 7, '
            "expected one of [32]",
            id="secretbox-key-length",
        ),
        pytest.param(
            rules(("[Secrets]", IDENTITY)),
            f'{R0}[0]: Invalid value: "Secrets": resource name should not contain capital letters',
            id="capitals",
        ),
        pytest.param(rules(("['*']", IDENTITY)), f'{R0}[0]: Invalid value: "*": {STAR}', id="star-alone"),
        pytest.param(
            rules(("[secrets, secrets]", IDENTITY)),
            f'{R0}: Invalid value: ["secrets","secrets"]: the same resource cannot be specified multiple times',
            id="duplicates",
        ),
        pytest.param(
            rules(("[secrets, '*.']", IDENTITY)), f'{R0}: Invalid value: ["secrets","*."]: {OVERLAP}', id="overlap"
        ),
        pytest.param(
            rules(("[a.apps, '*.*']", IDENTITY)), f'{R0}: Invalid value: ["a.apps","*.*"]: {OVERLAP}', id="overlap-all"
        ),
        pytest.param(
            rules(("['*.']", IDENTITY), ("[secrets]", IDENTITY)),
            'resource "secrets" is masked by earlier rule "*."',
            id="masked-by-group",
        ),
        pytest.param(
            rules(("['*.*']", IDENTITY), ("['*.apps']", IDENTITY)),
            'resource "*.apps" is masked by earlier rule "*.*"',
            id="masked-by-everything",
        ),
        pytest.param(
            rules(("[events.events.k8s.io]", IDENTITY)),
            f'{R0}[0]: Invalid value: "events.events.k8s.io": {EVENTS}',
            id="events",
        ),
        pytest.param(
            rules(("[ingresses.extensions]", IDENTITY)),
            f"{R0}[0]: Invalid value: \"ingresses.extensions\": 'extensions' group has been removed and cannot be used "
            "for encryption",
            id="extensions",
        ),
        pytest.param(
            rules(("['secrets.*']", IDENTITY)),
            f'{R0}[0]: Invalid value: "secrets.*": encrypting the same resource across groups is not supported',
            id="across-groups",
        ),
        *(
            pytest.param(rules((f"[{name}]", IDENTITY)), f'{R0}[0]: Invalid value: "{name}": {NO_REST}', id=name)
            for name in ("apiserveripinfo", "serviceipallocations", "servicenodeportallocations")
        ),
        pytest.param(
            providers("[{kms: {apiVersion: v2, name: 'a:b', endpoint: 'unix:///s'}}]"),
            f"{P0}.kms.name: Invalid value: \"a:b\": invalid KMS provider name a:b, must not contain ':'",
            id="kms-name-with-colon",
        ),
        pytest.param(
            providers(f"[{{kms: {{{V2}}}}}, {{kms: {{{V2}}}}}]"),
            'resources[0].providers[1].kms.name: Invalid value: "n": duplicate KMS provider name n, names must be unique',
            id="kms-name-twice",
        ),
        pytest.param(
            providers("[{kms: {apiVersion: v2, endpoint: 'unix:///s'}}]"),
            f"{P0}.kms.name: Required value: name is a mandatory field for a provider",
            id="kms-without-name",
        ),
        pytest.param(
            providers("[{kms: {apiVersion: v2, name: n}}]"),
            f'{P0}.kms.endpoint: Invalid value: "": endpoint is a mandatory field for a kms',
            id="kms-without-endpoint",
        ),
        pytest.param(
            providers("[{kms: {apiVersion: v2, name: n, endpoint: 'https://h'}}]"),
            f'{P0}.kms.endpoint: Invalid value: "https://h": unsupported scheme "https" for KMS provider, only unix is '
            "supported",
            id="kms-scheme",
        ),
        pytest.param(
            providers("[{kms: {apiVersion: v3, name: n, endpoint: 'unix:///s'}}]"),
            f'{P0}.kms.apiVersion: Invalid value: "v3": unsupported apiVersion v3 for KMS provider, only v1 and v2 are '
            "supported",
            id="kms-version",
        ),
        pytest.param(
            providers(f"[{{kms: {{{V2}, timeout: 0s}}}}]"),
            f'{P0}.kms.timeout: Invalid value: "0s": timeout should be a positive value',
            id="kms-timeout",
        ),
        pytest.param(
            providers(f"[{{kms: {{{V2}, cachesize: 5}}}}]"),
            f"{P0}.kms.cachesize: Invalid value: 5: cachesize is not supported in v2",
            id="kms-v2-cachesize",
        ),
        pytest.param(
            providers("[{kms: {name: n, endpoint: 'unix:///s', cachesize: 0}}]"),
            f"{P0}.kms.cachesize: Invalid value: 0: cachesize should be a positive value, or negative to disable",
            id="kms-v1-cachesize",
        ),
        pytest.param(
            providers("[{kms: {name: n, endpoint: 'unix:///s'}}]"),
            "KMSv1 is deprecated and will only receive security updates going forward. Use KMSv2 instead.",
            id="kms-v1",
        ),
        pytest.param(
            rules(("['*', A.apps]", IDENTITY)),
            f'[{R0}[0]: Invalid value: "*": {STAR}, '
            f'{R0}[1]: Invalid value: "A.apps": resource name should not contain capital letters]',
            id="several",
        ),
    ],
)
def test_broken_rule_is_told_in_upstreams_words(body: str, message: str) -> None:
    """Source: validation_encryption_test.go."""
    with pytest.raises(UsageError) as caught:
        parse(body)
    assert str(caught.value) == f'encryption provider configuration file "/etc/enc.yaml": {message}'


def test_names_of_kms_v1_must_be_unique_only_when_reloading() -> None:
    twice = providers("[{kms: {name: n, endpoint: 'unix:///s'}}, {kms: {name: n, endpoint: 'unix:///s'}}]")
    with pytest.raises(UsageError, match="KMSv1 is deprecated"):
        parse(twice)
    with pytest.raises(UsageError, match="duplicate KMS provider name n, names must be unique"):
        parse(twice, reloads=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(b"a: [hunter2", "not YAML, line ", id="yaml"),
        pytest.param(b"\xff\xfe\x00", "not YAML", id="no-text"),
        pytest.param(b"- hunter2", "not an object", id="list"),
        pytest.param(b"kind: EncryptionConfiguration", "Object 'apiVersion' is missing", id="no-version"),
        pytest.param(b"apiVersion: v1", "Object 'Kind' is missing", id="no-kind"),
        pytest.param(
            b"{apiVersion: v1, kind: Secret}", 'no kind "Secret" is registered for version "v1"', id="other-kind"
        ),
        pytest.param(HEAD.encode() + b"resources: hunter2", "strict decoding error: Expected `array", id="wrong-type"),
        pytest.param(
            HEAD.encode() + b"x: hunter2", "strict decoding error: Object contains unknown field `x`", id="unknown"
        ),
    ],
)
def test_file_of_another_shape_is_one_line_without_its_content(content: bytes, message: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_configuration(content, "/etc/enc.yaml")
    text = str(caught.value)
    assert text.startswith('error decoding encryption provider configuration file "/etc/enc.yaml": ')
    assert message in text
    assert "hunter2" not in text
    assert "\n" not in text


def test_empty_and_missing_file_are_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError) as caught:
        parse_configuration(b"", "/etc/enc.yaml")
    assert str(caught.value) == 'encryption provider configuration file "/etc/enc.yaml" is empty'
    path = tmp_path / "none.yaml"
    with pytest.raises(UsageError) as caught:
        read_content(path)
    assert (
        str(caught.value) == f'error opening encryption provider configuration file "{path}": no such file or directory'
    )


@pytest.mark.parametrize(
    ("text", "seconds"), [(None, 3), ("3s", 3), ("1m30s", 90), ("250ms", 0.25), ("1.5h", 5400), ("0", 0), ("-1s", -1)]
)
def test_timeout_is_a_go_duration(text: str | None, seconds: float) -> None:
    assert parse_timeout(text) == pytest.approx(seconds)


@pytest.mark.parametrize("text", ["", "3", "s", "3 s", "1d"])
def test_other_timeouts_are_none(text: str) -> None:
    with pytest.raises(ValueError, match="not a duration"):
        parse_timeout(text)
