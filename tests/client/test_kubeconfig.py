"""Reading kubeconfig files: what they may say, and how a mistake is told."""

from __future__ import annotations

import base64
import os
import ssl
from pathlib import Path
from typing import Any

import pytest
import trustme
import yaml

from kubelet_secrets.client import tls
from kubelet_secrets.client.kubeconfig import (
    ClusterConfig,
    in_cluster_config,
    load_kubeconfig,
    read_again,
    ssl_context,
)
from kubelet_secrets.errors import UsageError
from kubelet_secrets.sensitive import SensitiveBytes

AUTHORITY = trustme.CA()
CA = AUTHORITY.cert_pem.bytes()
ISSUED = AUTHORITY.issue_cert("node@example.org")
CERT = ISSUED.cert_chain_pems[0].bytes()
KEY = ISSUED.private_key_pem.bytes()


def encoded(data: bytes) -> str:
    return base64.b64encode(data).decode()


def kubeconfig(cluster: dict[str, Any] | None = None, user: dict[str, Any] | None = None) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "main",
        "contexts": [
            {"name": "other", "context": {"cluster": "nowhere", "user": "nobody"}},
            {"name": "main", "context": {"cluster": "c", "user": "u", "namespace": "team"}},
        ],
        "clusters": [{"name": "c", "cluster": {"server": "https://10.0.0.1:6443/", **(cluster or {})}}],
        "users": [{"name": "u", "user": user or {}}],
        "preferences": {},
    }


def write(directory: Path, document: Any) -> Path:
    path = directory / "kubeconfig"
    path.write_text(document if isinstance(document, str) else yaml.safe_dump(document))
    return path


def test_inline_certificates(tmp_path: Path) -> None:
    cluster = {"certificate-authority-data": encoded(CA)}
    user = {"client-certificate-data": encoded(CERT), "client-key-data": encoded(KEY)}
    config = load_kubeconfig(write(tmp_path, kubeconfig(cluster, user)))
    assert config.server == "https://10.0.0.1:6443"
    assert config.host == "10.0.0.1:6443"
    assert (config.ca_pem, config.client_cert_pem, config.namespace) == (CA, CERT, "team")
    assert config.client_key_pem == SensitiveBytes(KEY)
    assert config.client_key_file is None
    assert "PRIVATE" not in repr(config)
    context = ssl_context(config)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert len(context.get_ca_certs()) == 1


def test_files_are_relative_to_the_kubeconfig(tmp_path: Path) -> None:
    for name, data in (("ca.pem", CA), ("c.pem", CERT), ("k.pem", KEY), ("token", b"t")):
        (tmp_path / name).write_bytes(data)
    user = {"client-certificate": "c.pem", "client-key": "k.pem", "tokenFile": "token"}
    config = load_kubeconfig(write(tmp_path, kubeconfig({"certificate-authority": "ca.pem"}, user)))
    assert (config.ca_pem, config.client_cert_pem, config.client_key_pem) == (CA, CERT, SensitiveBytes(KEY))
    assert (config.client_cert_file, config.token_file) == (tmp_path / "c.pem", tmp_path / "token")


def test_inline_data_wins_over_a_file(tmp_path: Path) -> None:
    cluster = {"certificate-authority-data": encoded(CA), "certificate-authority": "/nowhere"}
    assert load_kubeconfig(write(tmp_path, kubeconfig(cluster))).ca_pem == CA


def test_context_can_be_chosen_and_user_left_out(tmp_path: Path) -> None:
    document = kubeconfig()
    document["contexts"].append({"name": "anonymous", "context": {"cluster": "c"}})
    config = load_kubeconfig(write(tmp_path, document), "anonymous")
    assert (config.token, config.client_key_pem, config.namespace) == (None, None, "")


def test_settings_of_the_cluster(tmp_path: Path) -> None:
    cluster = {"insecure-skip-tls-verify": True, "tls-server-name": "kubernetes"}
    config = load_kubeconfig(write(tmp_path, kubeconfig(cluster, {"token": "abc"})))
    assert config.tls_server_name == "kubernetes"
    assert config.token == SensitiveBytes(b"abc")
    context = ssl_context(config)
    assert (context.verify_mode, context.check_hostname) == (ssl.CERT_NONE, False)


def test_null_fields_are_absent(tmp_path: Path) -> None:
    document = kubeconfig({"certificate-authority": None}, {"token": None, "exec": None})
    document["preferences"] = None
    assert load_kubeconfig(write(tmp_path, document)).token is None


def test_exec_plugin(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin"
    plugin.write_text("#!/bin/sh\n")
    plugin.chmod(0o755)
    user = {
        "exec": {
            "apiVersion": "client.authentication.k8s.io/v1",
            "command": "./plugin",
            "args": ["--x"],
            "env": [{"name": "A", "value": "1"}],
            "provideClusterInfo": True,
            "interactiveMode": "IfAvailable",
        }
    }
    config = load_kubeconfig(write(tmp_path, kubeconfig(user=user)))
    assert config.exec is not None
    assert config.exec.command == str(plugin)
    assert (config.exec.args, config.exec.env, config.exec.provide_cluster_info) == (("--x",), (("A", "1"),), True)


EXEC = {"apiVersion": "client.authentication.k8s.io/v1", "command": "sh", "interactiveMode": "Never"}


@pytest.mark.parametrize(
    ("cluster", "user", "field"),
    [
        pytest.param({"server": ""}, {}, "clusters[0].cluster.server: required", id="no-server"),
        pytest.param({"server": "ftp://x"}, {}, "clusters[0].cluster.server: not an http", id="scheme"),
        pytest.param({"server": "https://x:99999"}, {}, "clusters[0].cluster.server: not an http", id="port"),
        pytest.param({"server": "https://u:canary@x"}, {}, "clusters[0].cluster.server: not an http", id="user-in-url"),
        pytest.param(
            {"proxy-url": "ftp://canary"}, {}, "clusters[0].cluster.proxy-url: unsupported scheme", id="proxy"
        ),
        pytest.param(
            {"certificate-authority-data": "canary!"},
            {},
            "clusters[0].cluster.certificate-authority-data: not base64",
            id="ca-not-base64",
        ),
        pytest.param(
            {"certificate-authority": "nowhere.pem"}, {}, "certificate-authority: cannot read", id="ca-file-missing"
        ),
        pytest.param(
            {"certificate-authority-data": encoded(CA), "insecure-skip-tls-verify": True},
            {},
            "insecure-skip-tls-verify: contradicts",
            id="ca-and-insecure",
        ),
        pytest.param(
            {}, {"username": "u", "token": "canary"}, "users[0].user.username: contradicts token", id="basic-and-token"
        ),
        pytest.param({}, {"password": "canary"}, "users[0].user.password: without a username", id="password-alone"),
        pytest.param({}, {"auth-provider": {"name": "gcp"}}, "users[0].user.auth-provider: not", id="auth-provider"),
        pytest.param({}, {"as": "someone"}, "users[0].user.as: impersonation", id="impersonation"),
        pytest.param(
            {}, {"client-certificate-data": encoded(CERT)}, "users[0].user.client-key: a client", id="cert-without-key"
        ),
        pytest.param(
            {},
            {"client-certificate-data": encoded(CERT), "client-key-data": encoded(b"canary")},
            "client-certificate and client-key: cannot be used",
            id="garbage-key",
        ),
        pytest.param(
            {},
            {
                "client-certificate-data": encoded(CERT),
                "client-key-data": encoded(AUTHORITY.issue_cert("x").private_key_pem.bytes()),
            },
            "cannot be used (KEY_VALUES_MISMATCH)",
            id="other-key",
        ),
        pytest.param({}, {"tokenFile": "nowhere"}, "users[0].user.tokenFile: cannot read", id="token-file-missing"),
        pytest.param({}, {"token": ["canary"]}, "Expected `str`, got `array` - at `$.users[0].user.token`", id="type"),
        pytest.param({}, {"exec": {**EXEC, "apiVersion": "x/v1"}}, "users[0].user.exec.apiVersion", id="exec-version"),
        pytest.param({}, {"exec": {**EXEC, "command": ""}}, "users[0].user.exec.command: required", id="exec-command"),
        pytest.param(
            {},
            {"exec": {**EXEC, "command": "no-such-plugin", "installHint": "brew install it"}},
            'users[0].user.exec.command: executable "no-such-plugin" not found; brew install it',
            id="exec-missing",
        ),
        pytest.param(
            {}, {"exec": {**EXEC, "interactiveMode": "Always"}}, "users[0].user.exec.interactiveMode", id="interactive"
        ),
        pytest.param(
            {}, {"exec": {**EXEC, "interactiveMode": ""}}, "users[0].user.exec.interactiveMode: one of", id="no-mode"
        ),
        pytest.param(
            {}, {"exec": {**EXEC, "interactiveMode": "x"}}, "users[0].user.exec.interactiveMode: one of", id="mode"
        ),
        pytest.param(
            {}, {"exec": {**EXEC, "env": [{"value": "canary"}]}}, "users[0].user.exec.env[0].name: required", id="env"
        ),
        pytest.param({}, {"exec": EXEC, "token": "canary"}, "users[0].user.exec: contradicts", id="exec-and-token"),
    ],
)
def test_mistake_names_file_and_field_and_no_value(
    tmp_path: Path, cluster: dict[str, Any], user: dict[str, Any], field: str
) -> None:
    path = write(tmp_path, kubeconfig(cluster, user))
    with pytest.raises(UsageError) as caught:
        load_kubeconfig(path)
    assert str(path) in str(caught.value)
    assert field in str(caught.value)
    assert "canary" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("users: [canary: canary: canary", "line 1: not valid YAML"),
        ("- canary", "not a kubeconfig"),
        ("kind: Secret", "not a kubeconfig"),
        ("", "not a kubeconfig"),
        ("kind: Config", "current-context: not set"),
        ("kind: Config\ncurrent-context: x", 'contexts: no context named "x"'),
        ("\0", "not valid YAML"),
    ],
    ids=["syntax", "list", "kind", "empty", "no-context", "unknown-context", "binary"],
)
def test_broken_file(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_kubeconfig(write(tmp_path, text))
    assert problem in str(caught.value)
    assert "canary" not in str(caught.value)


def test_dangling_references(tmp_path: Path) -> None:
    path = write(tmp_path, kubeconfig())
    with pytest.raises(UsageError, match=r'contexts\[0\].context.cluster: no cluster named "nowhere"'):
        load_kubeconfig(path, "other")
    with pytest.raises(UsageError, match='no context named "third"'):
        load_kubeconfig(path, "third")
    with pytest.raises(UsageError, match=r"cannot read .*: no such file"):
        load_kubeconfig(tmp_path / "missing")


def test_in_cluster(tmp_path: Path) -> None:
    for name, data in (("ca.crt", CA), ("token", b"t"), ("namespace", b"team\n")):
        (tmp_path / name).write_bytes(data)
    environment = {"KUBERNETES_SERVICE_HOST": "fd00::1", "KUBERNETES_SERVICE_PORT": "443"}
    config = in_cluster_config(environment, tmp_path)
    assert (config.server, config.namespace, config.ca_pem) == ("https://[fd00::1]:443", "team", CA)
    assert config.token_file == tmp_path / "token"
    with pytest.raises(UsageError, match="KUBERNETES_SERVICE_HOST"):
        in_cluster_config({}, tmp_path)
    with pytest.raises(UsageError, match="cannot read"):
        in_cluster_config(environment, tmp_path / "elsewhere")


def test_private_key_touches_no_disk_and_no_descriptor_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    contents: list[bytes] = []

    class Spy(ssl.SSLContext):
        def load_cert_chain(self, certfile: Any, *args: Any, **kwargs: Any) -> None:
            opened.append(os.readlink(certfile))
            super().load_cert_chain(certfile, *args, **kwargs)
            self.descriptor = os.dup(int(certfile.rpartition("/")[2]))

    before = os.listdir("/proc/self/fd")
    context = Spy(ssl.PROTOCOL_TLS_CLIENT)
    tls.load_key_pair(context, CERT, SensitiveBytes(KEY))
    contents.append(os.pread(context.descriptor, 10_000, 0))
    os.close(context.descriptor)
    assert opened == ["/memfd:tls (deleted)"]
    assert contents[0].strip(b"\0") == b""  # zeroed
    assert os.listdir("/proc/self/fd") == before


def test_encrypted_key_is_refused_without_asking(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization

    key = serialization.load_pem_private_key(KEY, None)
    encrypted = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.BestAvailableEncryption(b"pw")
    )
    with pytest.raises(UsageError, match="cannot be used"):
        ssl_context(ClusterConfig(server="https://x", client_cert_pem=CERT, client_key_pem=SensitiveBytes(encrypted)))


def test_garbage_authority_is_refused() -> None:
    with pytest.raises(UsageError, match="no PEM certificate"):
        ssl_context(ClusterConfig(server="https://x", ca_pem=b"canary"))


def test_certificate_and_key_in_one_file_are_told_apart(tmp_path: Path) -> None:
    """As the kubelet keeps them; a certificate is not secret and may be shown, the key may not."""
    (tmp_path / "current.pem").write_bytes(CERT + KEY)
    user = {"client-certificate": "current.pem", "client-key": "current.pem"}
    config = load_kubeconfig(write(tmp_path, kubeconfig(user=user)))
    assert config.client_cert_pem == CERT
    assert config.client_key_pem == SensitiveBytes(KEY)
    assert b"PRIVATE" not in repr(config).encode()
    assert read_again(config) == config


def test_file_without_a_certificate_is_no_certificate(tmp_path: Path) -> None:
    (tmp_path / "current.pem").write_bytes(KEY)
    user = {"client-certificate": "current.pem", "client-key": "current.pem"}
    with pytest.raises(UsageError, match="client-certificate and client-key: cannot be used"):
        load_kubeconfig(write(tmp_path, kubeconfig(user=user)))


def test_older_plugin_needs_no_interactive_mode(tmp_path: Path) -> None:
    plugin = {"apiVersion": "client.authentication.k8s.io/v1beta1", "command": "sh"}
    config = load_kubeconfig(write(tmp_path, kubeconfig(user={"exec": plugin})))
    assert config.exec is not None
    assert config.exec.api_version.endswith("v1beta1")
