"""``kubelet-secrets token``: bootstrap tokens, by kubeadm's commands, flags and output.

Works against any cluster. Source: cmd/kubeadm/app/cmd/token.go, app/cmd/options/token.go.
Differs: ``--bootstrap-kubeconfig`` writes what ``kubelet-secrets agent`` joins with; the join command names that file, so that
no token stands on a command line, where every process of the machine could read it.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kubelet_secrets.cli.output import output_option, print_objects
from kubelet_secrets.cli.tokentable import plain_token, table_lines

if TYPE_CHECKING:
    from kubelet_secrets.api.bootstraptoken import BootstrapToken
    from kubelet_secrets.client.kubeconfig import ClusterConfig
    from kubelet_secrets.sensitive import SensitiveBytes

F = TypeVar("F", bound=Callable[..., Any])

_DEFAULT_GROUP = "system:bootstrappers:kubeadm:default-node-token"


class _Duration(click.ParamType[timedelta]):
    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> timedelta:
        from kubelet_secrets.api.times import parse_go_duration

        if isinstance(value, timedelta):
            return value
        try:
            seconds = parse_go_duration(value)
        except ValueError:
            self.fail(f"{value!r} is not a duration such as 1s, 2m or 3h", param, ctx)
        if seconds < 0:
            self.fail(f"{value!r} is negative", param, ctx)
        return timedelta(seconds=seconds)


def _kubeconfig_option(command: F) -> F:
    return click.option(
        "--kubeconfig",
        type=click.Path(path_type=Path, dir_okay=False),
        envvar="KUBECONFIG",
        required=True,
        show_envvar=True,
        help="Of somebody who may write Secrets in kube-system.",
    )(command)


@click.group()
def token() -> None:
    """Manage bootstrap tokens, with which nodes join.

    A bootstrap token is a Secret in kube-system that a node may use as a credential, once, to ask for its client certificate
    (usage "authentication"), and by which it can know the server (usage "signing").
    """


@token.command()
@click.argument("token_text", metavar="[TOKEN]", required=False)
@_kubeconfig_option
@click.option(
    "--ttl",
    type=_Duration(),
    default="24h0m0s",
    show_default=True,
    help="The duration before the token is automatically deleted (e.g. 1s, 2m, 3h). If set to '0', it will never expire.",
)
@click.option(
    "--usages",
    multiple=True,
    default=("signing,authentication",),
    show_default=True,
    help="Describes the ways in which this token can be used. May be given several times, or as a comma separated list.",
)
@click.option(
    "--groups",
    multiple=True,
    default=(_DEFAULT_GROUP,),
    show_default=True,
    help="Extra groups that this token will authenticate as when used for authentication.",
)
@click.option("--description", default="", help="A human friendly description of how this token is used.")
@click.option(
    "--bootstrap-kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="Write a kubeconfig with the token there, 0600, for `kubelet-secrets agent --bootstrap-kubeconfig`.",
)
@click.option(
    "--print-join-command",
    is_flag=True,
    help="Instead of the token, print the command to join with. Needs --bootstrap-kubeconfig.",
)
@click.option("--dry-run", is_flag=True, help="Have the server check the token, and create nothing.")
def create(
    token_text: str | None,
    kubeconfig: Path,
    ttl: timedelta,
    usages: tuple[str, ...],
    groups: tuple[str, ...],
    description: str,
    bootstrap_kubeconfig: Path | None,
    print_join_command: bool,
    dry_run: bool,
) -> None:
    """Create a bootstrap token on the server, and print it.

    TOKEN is the actual token to write, of the form [a-z0-9]{6}.[a-z0-9]{16}; - reads it from standard input, where no other
    process can see it. Without it, a random one is generated.
    """
    import trio

    from kubelet_secrets.api import bootstraptoken
    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()
    if print_join_command and bootstrap_kubeconfig is None:
        raise click.UsageError(
            "--print-join-command needs --bootstrap-kubeconfig: a token on a command line is no secret"
        )
    given_usages, given_groups = _split(usages), _split(groups)
    if problem := bootstraptoken.usage_problem(given_usages):
        raise click.BadParameter(problem, param_hint="'--usages'")
    if problem := bootstraptoken.group_problem(given_groups):
        raise click.BadParameter(problem, param_hint="'--groups'")
    token_id, token_secret = _read_token(token_text)
    made = bootstraptoken.BootstrapToken(
        id=token_id,
        secret=token_secret,
        description=description,
        expires=datetime.now(UTC) + ttl if ttl else None,
        usages=given_usages,
        groups=given_groups,
    )
    cluster = trio.run(_create, kubeconfig, made, dry_run)
    if bootstrap_kubeconfig is not None and not dry_run:
        _write_bootstrap_kubeconfig(bootstrap_kubeconfig, cluster, made)
    if print_join_command:
        from kubelet_secrets.client.discovery import public_key_pins

        if cluster.ca_pem:  # for a node that the file is not copied to
            pins = " ".join(f"--discovery-token-ca-cert-hash {pin}" for pin in public_key_pins(cluster.ca_pem))
            how = f"kubelet-secrets token discover {cluster.host} {pins} --bootstrap-kubeconfig FILE"
            click.echo(
                f"With nothing but the token, on its standard input, the file is made there by:\n  {how}", err=True
            )
        click.echo(f"kubelet-secrets agent --bootstrap-kubeconfig {os.path.abspath(str(bootstrap_kubeconfig))}")
    else:
        _write_line(made.text)


@token.command("list")
@_kubeconfig_option
@output_option("table", "json", "yaml")
def list_(kubeconfig: Path, output: str) -> None:
    """List the bootstrap tokens on the server."""
    import trio

    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()
    found, problems = trio.run(_list, kubeconfig)
    for problem in problems:
        click.echo(problem, err=True)
    if output != "table":
        for each in found:
            print_objects(plain_token(each), output)
        return
    for line in table_lines(found, datetime.now(UTC)):
        click.echo(line)


@token.command()
@click.argument("tokens", metavar="TOKEN-VALUE...", nargs=-1)
@_kubeconfig_option
def delete(tokens: tuple[str, ...], kubeconfig: Path) -> None:
    """Delete bootstrap tokens on the server.

    TOKEN-VALUE is the full token or its id, the six characters before the dot, which are no secret.
    """
    import trio

    if not tokens:
        raise click.UsageError(r"missing subcommand; 'token delete' is missing token of form \"\A([a-z0-9]{6})\z\"")
    ids = [_id_of(text) for text in tokens]
    trio.run(_delete, kubeconfig, ids)


@token.command()
def generate() -> None:
    """Generate and print a bootstrap token, but do not create it on the server."""
    from kubelet_secrets.api import bootstraptoken

    token_id, token_secret = bootstraptoken.generate(secrets.choice)
    _write_line(bootstraptoken.BootstrapToken(id=token_id, secret=token_secret).text)


@token.command()
@click.argument("server", metavar="HOST:PORT")
@click.argument("token_text", metavar="[TOKEN]", default="-")
@click.option(
    "--discovery-token-ca-cert-hash",
    "pins",
    multiple=True,
    help="The public key of the cluster's authority has to have this hash (sha256:HEX). May be given several times.",
)
@click.option(
    "--discovery-token-unsafe-skip-ca-verification",
    "skips_pins",
    is_flag=True,
    help="Trust the token's signature alone: whoever has the token can pass for the server.",
)
@click.option(
    "--bootstrap-kubeconfig",
    type=click.Path(path_type=Path, dir_okay=False),
    required=True,
    help="Where to write what `kubelet-secrets agent --bootstrap-kubeconfig` joins with, 0600.",
)
def discover(server: str, token_text: str, pins: tuple[str, ...], skips_pins: bool, bootstrap_kubeconfig: Path) -> None:
    """Get to know the API server at HOST:PORT by a bootstrap token, on a node that has nothing else.

    What `kubeadm join` does first: the signed cluster-info is read, its signature and the authority's key are checked. TOKEN is
    read from standard input unless it is given.
    """
    import trio

    from kubelet_secrets.api import bootstraptoken
    from kubelet_secrets.client import discovery
    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()
    if not pins and not skips_pins:
        raise click.UsageError(
            "using token-based discovery without --discovery-token-ca-cert-hash can be unsafe: give it, or set "
            "--discovery-token-unsafe-skip-ca-verification to continue"
        )
    for pin in pins:
        if not re.fullmatch(r"sha256:[0-9a-f]{64}", pin.lower()):
            raise click.BadParameter(
                f"{pin!r} is not of the form sha256:HEX", param_hint="'--discovery-token-ca-cert-hash'"
            )
    token_id, token_secret = _read_token(token_text)
    known = bootstraptoken.BootstrapToken(id=token_id, secret=token_secret)
    url = server if "://" in server else f"https://{server}"
    cluster = trio.run(discovery.discover, url, known, [pin.lower() for pin in pins])
    _write_bootstrap_kubeconfig(bootstrap_kubeconfig, cluster, known)
    click.echo(f"{bootstrap_kubeconfig}: the cluster at {cluster.server}")


# --- requests --------------------------------------------------------------------------------------------------------


async def _create(kubeconfig: Path, made: BootstrapToken, is_dry_run: bool) -> ClusterConfig:
    from kubelet_secrets.api import bootstraptoken
    from kubelet_secrets.api.meta import SECRETS
    from kubelet_secrets.client.kubeconfig import load_kubeconfig
    from kubelet_secrets.client.rest import open_client
    from kubelet_secrets.errors import AlreadyExists, HostError

    config = load_kubeconfig(kubeconfig)
    async with open_client(config) as client:
        params = {"dryRun": "All"} if is_dry_run else {}
        try:
            path, body = SECRETS.path(bootstraptoken.NAMESPACE), bootstraptoken.make_secret(made)
            await client.request_json("POST", path, params=params, body=body)
        except AlreadyExists:
            raise HostError(f'a token with id "{made.id}" already exists') from None
    return config


async def _list(kubeconfig: Path) -> tuple[list[BootstrapToken], list[str]]:
    from kubelet_secrets.api import bootstraptoken
    from kubelet_secrets.api.core import Secret
    from kubelet_secrets.api.meta import SECRETS
    from kubelet_secrets.client.kubeconfig import load_kubeconfig
    from kubelet_secrets.client.rest import open_client

    found, problems = [], []
    selector = f"type={bootstraptoken.SECRET_TYPE}"
    async with open_client(load_kubeconfig(kubeconfig)) as client:
        for secret in await client.list(SECRETS, bootstraptoken.NAMESPACE, Secret, field_selector=selector):
            try:
                found.append(bootstraptoken.read_secret(secret))
            except ValueError as error:
                problems.append(str(error))
    return found, problems


async def _delete(kubeconfig: Path, ids: list[str]) -> None:
    from kubelet_secrets.api import bootstraptoken
    from kubelet_secrets.api.meta import SECRETS
    from kubelet_secrets.client.kubeconfig import load_kubeconfig
    from kubelet_secrets.client.rest import open_client
    from kubelet_secrets.errors import ApiError, HostError

    async with open_client(load_kubeconfig(kubeconfig)) as client:
        for token_id in ids:
            try:
                await client.delete(SECRETS, bootstraptoken.NAMESPACE, bootstraptoken.NAME_PREFIX + token_id)
            except ApiError as error:
                raise HostError(f'failed to delete bootstrap token "{token_id}": {error}') from None
            click.echo(f'bootstrap token "{token_id}" deleted')


# --- texts -----------------------------------------------------------------------------------------------------------


def _split(values: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(part.strip() for value in values for part in value.split(",") if part.strip())


def _read_token(text: str | None) -> tuple[str, SensitiveBytes]:
    from kubelet_secrets.api import bootstraptoken

    if text is None:
        return bootstraptoken.generate(secrets.choice)
    try:
        return bootstraptoken.parse(sys.stdin.readline().strip() if text == "-" else text)
    except ValueError as error:
        raise click.BadParameter(str(error), param_hint="'[TOKEN]'") from None


def _id_of(text: str) -> str:
    from kubelet_secrets.api import bootstraptoken

    if bootstraptoken.is_id(text):
        return text
    try:
        return bootstraptoken.parse(text)[0]
    except ValueError:
        # kubeadm quotes what was given; it may be most of a token.
        patterns = f'"{bootstraptoken.ID_PATTERN}" or "{bootstraptoken.TOKEN_PATTERN}"'
        raise click.UsageError(f"given token didn't match pattern {patterns}") from None


def _write_line(text: SensitiveBytes) -> None:
    click.echo(text.reveal().decode("ascii"))


def _write_bootstrap_kubeconfig(path: Path, cluster: ClusterConfig, made: BootstrapToken) -> None:
    from kubelet_secrets.client.kubeconfigfile import make_bootstrap_kubeconfig
    from kubelet_secrets.node.certfiles import write_private

    write_private(Path(os.path.abspath(path)), make_bootstrap_kubeconfig(cluster, made.text))
