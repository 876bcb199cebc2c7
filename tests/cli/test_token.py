"""``kubelet-secrets token``: kubeadm's commands and output. Source: cmd/kubeadm/app/cmd/token_test.go; semantics §1.6."""

from __future__ import annotations

import base64
import json
import os
import re
import stat
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
import yaml

from kubelet_secrets.api import meta
from kubelet_secrets.api.bootstraptoken import BootstrapToken, is_signed
from kubelet_secrets.api.times import parse_go_duration, parse_rfc3339
from kubelet_secrets.apiserver.process import ServerHandle, ServerOptions, serve_apiserver
from kubelet_secrets.apiserver.resources import served
from kubelet_secrets.cli.tokentable import short_duration
from kubelet_secrets.sensitive import SensitiveBytes
from tests.apiserver.harness import Http, http_client
from tests.cli.command import run_cli, the_line

SECRETS = "/api/v1/namespaces/kube-system/secrets"
TOKEN = "abcdef.0123456789abcdef"
VECTOR = "eyJhbGciOiJIUzI1NiIsImtpZCI6Impvc2h1YSJ9..VShe2taLd-YTrmWuRkcL_8QTNDHYxQIEBsAYYiIj1_8"


@dataclass
class Output:
    code: int
    out: str
    err: str


class Token:
    """The command with an admin's kubeconfig."""

    def __init__(self, kubeconfig: SensitiveBytes) -> None:
        self._kubeconfig = kubeconfig

    async def __call__(self, *arguments: str, stdin: str = "") -> Output:
        descriptor = os.memfd_create("kubeconfig", 0)
        try:
            os.write(descriptor, self._kubeconfig.reveal())
            done = await trio.run_process(
                [sys.executable, "-m", "kubelet_secrets.cli.main", "token", *arguments],
                stdin=stdin.encode(),
                capture_stdout=True,
                capture_stderr=True,
                check=False,
                pass_fds=(descriptor,),
                env={
                    **os.environ,
                    "KUBECONFIG": f"/proc/self/fd/{descriptor}",
                    "PYTHONPATH": str(Path(__file__).parents[2]),
                },
            )
        finally:
            os.close(descriptor)
        return Output(done.returncode, done.stdout.decode(), done.stderr.decode())


@pytest.fixture
async def server() -> AsyncIterator[ServerHandle]:
    with trio.fail_after(100):
        async with trio.open_nursery() as nursery:
            handle: ServerHandle = await nursery.start(serve_apiserver, ServerOptions(runs_scheduler=False))
            yield handle
            handle.shut_down()


@pytest.fixture
async def admin(server: ServerHandle) -> AsyncIterator[Http]:
    async with http_client(server, server.authority.issue_admin()) as client:
        yield client


@pytest.fixture
def token(server: ServerHandle) -> Token:
    return Token(server.admin_kubeconfig())


async def test_token_is_made_with_kubeadms_defaults(token: Token, admin: Http) -> None:
    done = await token("create")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}\n", done.out)
    token_id, _, token_secret = done.out.strip().partition(".")
    secret = (await admin.get(f"{SECRETS}/bootstrap-token-{token_id}")).json
    data = {key: base64.b64decode(value).decode() for key, value in secret["data"].items()}
    expires = parse_rfc3339(data.pop("expiration"))
    assert expires is not None
    assert timedelta(hours=23) < expires - datetime.now(UTC) <= timedelta(hours=24)
    assert secret["type"] == "bootstrap.kubernetes.io/token"
    assert data == {
        "auth-extra-groups": "system:bootstrappers:kubeadm:default-node-token",
        "token-id": token_id,
        "token-secret": token_secret,
        "usage-bootstrap-authentication": "true",
        "usage-bootstrap-signing": "true",
    }


async def test_tokens_are_listed_as_kubeadm_lists_them(token: Token) -> None:
    made = await token("create", TOKEN, "--ttl", "0", "--description", "for a test", "--usages", "signing")
    assert made.out == f"{TOKEN}\n"
    other = await token(
        "create",
        "-",
        "--ttl=90m",
        "--groups=system:bootstrappers:a,system:bootstrappers:b",
        stdin="zzzzzz.0123456789abcdef\n",
    )
    assert other.out == "zzzzzz.0123456789abcdef\n"
    lines = (await token("list")).out.splitlines()
    assert lines[0] == (
        "TOKEN                     TTL         EXPIRES                USAGES                   DESCRIPTION   EXTRA GROUPS"
    )
    assert lines[1] == (
        "abcdef.0123456789abcdef   <forever>   <never>                signing                  for a test    "
        "system:bootstrappers:kubeadm:default-node-token"
    )
    assert re.fullmatch(
        r"zzzzzz\.0123456789abcdef   1h          \d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ   authentication,signing   <none>        "
        r"system:bootstrappers:a,system:bootstrappers:b",
        lines[2],
    )
    first = json.loads((await token("list", "-o", "json")).out.partition("\n}\n")[0] + "}")
    assert first == {
        "kind": "BootstrapToken",
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
        "token": TOKEN,
        "description": "for a test",
        "usages": ["signing"],
        "groups": ["system:bootstrappers:kubeadm:default-node-token"],
    }


async def test_tokens_are_deleted_by_id_or_whole(token: Token, admin: Http) -> None:
    await token("create", TOKEN)
    await token("create", "zzzzzz.0123456789abcdef")
    done = await token("delete", "abcdef", "zzzzzz.0123456789abcdef")
    assert done.out == 'bootstrap token "abcdef" deleted\nbootstrap token "zzzzzz" deleted\n'
    assert (await admin.get(SECRETS)).json["items"] == []
    again = await token("delete", "abcdef")
    assert again.code == 1
    assert again.err == (
        'kubelet-secrets: failed to delete bootstrap token "abcdef": secrets "bootstrap-token-abcdef" not found\n'
    )


async def test_token_that_is_there_and_dry_run(token: Token, admin: Http) -> None:
    dry = await token("create", TOKEN, "--dry-run")
    assert (dry.code, dry.out) == (0, f"{TOKEN}\n")
    assert (await admin.get(SECRETS)).json["items"] == []
    await token("create", TOKEN)
    done = await token("create", TOKEN)
    assert (done.code, done.err) == (1, 'kubelet-secrets: a token with id "abcdef" already exists\n')


async def test_what_a_node_joins_with_is_written(token: Token, server: ServerHandle, tmp_path: Path) -> None:
    path = tmp_path / "bootstrap.kubeconfig"
    done = await token("create", TOKEN, "--bootstrap-kubeconfig", str(path), "--print-join-command")
    assert done.out == f"kubelet-secrets agent --bootstrap-kubeconfig {path}\n"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    config = yaml.safe_load(path.read_text())
    assert config["users"][0]["user"] == {"token": TOKEN}
    assert config["clusters"][0]["cluster"]["server"] == server.url


# --- discovery -------------------------------------------------------------------------------------------------------


def address(server: ServerHandle) -> str:
    return f"127.0.0.1:{server.port}"


async def signed(admin: Http, token_id: str) -> None:
    path = "/api/v1/namespaces/kube-public/configmaps/cluster-info"
    while f"jws-kubeconfig-{token_id}" not in (await admin.get(path)).json["data"]:  # noqa: ASYNC110
        await trio.sleep(0.02)


async def test_server_is_known_by_token_and_pin(
    token: Token, server: ServerHandle, admin: Http, tmp_path: Path
) -> None:
    made = await token("create", TOKEN, "--bootstrap-kubeconfig", str(tmp_path / "a"), "--print-join-command")
    (command,) = (line.split() for line in made.err.splitlines() if "token discover" in line)
    assert command[3] == address(server)
    pin = command[command.index("--discovery-token-ca-cert-hash") + 1]
    await signed(admin, "abcdef")
    found = tmp_path / "found"
    arguments = ["discover", address(server), "--bootstrap-kubeconfig", str(found)]
    done = await token(*arguments, "--discovery-token-ca-cert-hash", pin, stdin=f"{TOKEN}\n")
    assert (done.code, done.err) == (0, "")
    assert found.read_bytes() == (tmp_path / "a").read_bytes()  # what the administrator would have handed over
    assert stat.S_IMODE(found.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ("text", "arguments", "problem"),
    [
        pytest.param(
            TOKEN,
            ["--discovery-token-ca-cert-hash", "sha256:" + "0" * 64],
            "cluster CA found in cluster-info ConfigMap is invalid: none of the public keys",
            id="another-authority",
        ),
        pytest.param(
            "zzzzzz.0123456789abcdef",
            ["--discovery-token-unsafe-skip-ca-verification"],
            "there is no JWS signed token in the cluster-info ConfigMap. This token id",
            id="unknown-token",
        ),
        pytest.param(
            "abcdef.0000000000000000",
            ["--discovery-token-unsafe-skip-ca-verification"],
            "failed to verify JWS signature of received cluster info object, can't trust this API Server",
            id="wrong-secret",
        ),
    ],
)
async def test_server_that_is_not_to_be_trusted(
    token: Token, server: ServerHandle, admin: Http, tmp_path: Path, text: str, arguments: list[str], problem: str
) -> None:
    await token("create", TOKEN)
    await signed(admin, "abcdef")
    path = tmp_path / "found"
    done = await token("discover", address(server), "--bootstrap-kubeconfig", str(path), *arguments, stdin=text)
    assert done.code == 1
    assert done.err.startswith(f"kubelet-secrets: {problem}"), done.err
    assert not path.exists()
    assert text.partition(".")[2] not in done.err


@pytest.mark.parametrize(
    ("signature", "content", "expected"),
    [
        (VECTOR, "Hello from the other side. I must have called a thousand times.", True),
        (VECTOR, "Hello from the other side. I must have called two thousand times.", False),
        (VECTOR.replace("joshua", "jennie"), "", False),
        ("", "", False),
        ("e30..", "", False),
        ("é..é", "", False),
        ("W10..AA", "", False),
    ],
)
def test_signatures(signature: str, content: str, expected: bool) -> None:
    """Source: jws_test.go, TestDetachedTokenIsValid."""
    known = BootstrapToken(id="joshua", secret=SensitiveBytes(b"my voice is my passcode"))
    assert is_signed(content, signature, known) is expected


async def test_secret_that_is_no_token_is_told_and_skipped(token: Token, server: ServerHandle) -> None:
    body = {"metadata": {"name": "bootstrap-token-zzzzzz"}, "type": "bootstrap.kubernetes.io/token", "data": {}}
    await server.registry.create(
        served(meta.SECRETS), "kube-system", {**body, "data": {"token-id": "YWJjZGVm", "token-secret": "eA=="}}
    )
    done = await token("list")
    assert done.out.splitlines()[1:] == []
    assert "bootstrap token name is not of the form 'bootstrap-token-(token-id)'" in done.err


def test_generated_tokens_differ() -> None:
    one, other = (run_cli("token", "generate") for _ in range(2))
    assert re.fullmatch(r"[a-z0-9]{6}\.[a-z0-9]{16}\n", one.stdout)
    assert one.stdout != other.stdout


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["create", "abc"], "Invalid value for '[TOKEN]': the bootstrap token is not of the form"),
        (
            ["create", "--usages", "fishing"],
            "Invalid value for '--usages': invalid bootstrap token usage string: fishing",
        ),
        (["create", "--groups", "admins"], "Invalid value for '--groups': bootstrap group \"admins\" is invalid"),
        (["create", "--ttl", "soon"], "Invalid value for '--ttl': 'soon' is not a duration"),
        (["create", "--ttl=-1h"], "Invalid value for '--ttl': '-1h' is negative"),
        (["create", "--print-join-command"], "--print-join-command needs --bootstrap-kubeconfig"),
        (["discover", "h:1", "--bootstrap-kubeconfig", "f"], "using token-based discovery without"),
        (
            [*("discover", "h:1", "--bootstrap-kubeconfig", "f"), "--discovery-token-ca-cert-hash", "md5:0"],
            "Invalid value for '--discovery-token-ca-cert-hash': 'md5:0' is not of the form sha256:HEX",
        ),
        (["delete"], "missing subcommand; 'token delete' is missing token"),
        (["delete", "0123456789abcdef"], "given token didn't match pattern"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(arguments: list[str], line: str, tmp_path: Path) -> None:
    done = run_cli("token", *arguments, env={"KUBECONFIG": str(tmp_path / "unused")})
    said = the_line(done)
    assert done.returncode == 2
    assert said.startswith(f"kubelet-secrets: {line}"), said
    assert "0123456789abcdef" not in said


@pytest.mark.parametrize(
    ("text", "seconds"), [("0", 0), ("24h0m0s", 86400), ("1m30s", 90), ("250ms", 0.25), ("-1.5h", -5400)]
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_go_duration(text) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-5, "<invalid>"),
        (-1, "0s"),
        (59, "59s"),
        (61, "1m"),
        (3599, "59m"),
        (86399, "23h"),
        (86400, "1d"),
        (366 * 86400, "1y"),
    ],
)
def test_remaining_time(seconds: int, text: str) -> None:
    """Source: TestShortHumanDuration."""
    assert short_duration(timedelta(seconds=seconds)) == text
