"""``kubelet-secrets token``: bootstrap tokens, by kubeadm's commands, flags and output.

Works against any cluster. Source: cmd/kubeadm/app/cmd/token.go, app/cmd/options/token.go.
Differs: ``--bootstrap-kubeconfig`` writes what ``kubelet-secrets agent`` joins with; the join command names that file, so that
no token stands on a command line, where every process of the machine could read it.
"""

from __future__ import annotations

import os
import secrets
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

from kubelet_secrets.cli.output import output_option, print_objects

if TYPE_CHECKING:
    from kubelet_secrets.api.bootstraptoken import BootstrapToken
    from kubelet_secrets.client.kubeconfig import ClusterConfig
    from kubelet_secrets.sensitive import SensitiveBytes

F = TypeVar("F", bound=Callable[..., Any])

_HEADERS = ("TOKEN", "TTL", "EXPIRES", "USAGES", "DESCRIPTION", "EXTRA GROUPS")
_DEFAULT_GROUP = "system:bootstrappers:kubeadm:default-node-token"
_NARROWEST = 10


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
            print_objects(_plain(each), output)
        return
    now = datetime.now(UTC)
    rows = [_HEADERS, *(_row(each, now) for each in found)]
    # As Go's tabwriter with kubeadm's settings: at least ten wide, three apart, the last column as it comes.
    widths = [max(_NARROWEST, *(len(row[column]) + 3 for row in rows)) for column in range(len(_HEADERS) - 1)]
    for row in rows:
        click.echo("".join(cell.ljust(width) for cell, width in zip(row, widths, strict=False)) + row[-1])


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


def _row(token: BootstrapToken, now: datetime) -> tuple[str, ...]:
    ends = token.expires
    return (
        token.text.reveal().decode("ascii"),
        "<forever>" if ends is None else _short(ends - now),
        "<never>" if ends is None else ends.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        ",".join(token.usages) or "<none>",
        token.description or "<none>",
        ",".join(token.groups) or "<none>",
    )


def _short(duration: timedelta) -> str:
    """One unit. Source: k8s.io/apimachinery/pkg/util/duration, ShortHumanDuration."""
    seconds = int(duration.total_seconds())
    if seconds < -1:
        return "<invalid>"
    for unit, size, limit in (("s", 1, 60), ("m", 60, 60), ("h", 3600, 24), ("d", 86400, 365)):
        if seconds // size < limit:
            return f"{max(seconds, 0) // size}{unit}"
    return f"{seconds // (86400 * 365)}y"


def _plain(token: BootstrapToken) -> dict[str, Any]:
    """Source: output.kubeadm.k8s.io/v1alpha3 BootstrapToken."""
    plain: dict[str, Any] = {
        "kind": "BootstrapToken",
        "apiVersion": "output.kubeadm.k8s.io/v1alpha3",
        "token": token.text.reveal().decode("ascii"),
    }
    if token.description:
        plain["description"] = token.description
    if token.expires is not None:
        plain["expires"] = token.expires.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    if token.usages:
        plain["usages"] = list(token.usages)
    if token.groups:
        plain["groups"] = list(token.groups)
    return plain


def _write_line(text: SensitiveBytes) -> None:
    click.echo(text.reveal().decode("ascii"))


def _write_bootstrap_kubeconfig(path: Path, cluster: ClusterConfig, made: BootstrapToken) -> None:
    from kubelet_secrets.client.kubeconfigfile import make_bootstrap_kubeconfig
    from kubelet_secrets.node.certfiles import write_private

    write_private(Path(os.path.abspath(path)), make_bootstrap_kubeconfig(cluster, made.text))
