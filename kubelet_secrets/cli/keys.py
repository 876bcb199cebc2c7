"""``kubelet-secrets apiserver keys``: the keys of an ``EncryptionConfiguration``, made, rotated and counted. Never printed.

The file is kube-apiserver's own, so ``new`` and ``rotate`` serve a real one as well; ``status`` asks the embedded server, or
reads its data directory. What a stage means is decided in ``apiserver/keyrotation.py``.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from kubelet_secrets.cli.output import output_option, print_objects, print_table

if TYPE_CHECKING:
    from kubelet_secrets.apiserver.keycount import KeyUse

_REWRITE = "kubectl get secrets -A -o json | kubectl replace -f -"
_NEXT = {
    "add": "Every API server has to read the file before the next step: restart it, or wait if it reloads. Then rotate again.",
    "promote": f"Restart the server, or wait if it reloads; then write everything anew:\n  {_REWRITE}\n"
    "Rotate again after ten minutes: watches may go back that far, to what lies under the old key.",
    "drop": "The rotation is complete. Backups that were made before it still need the old key.",
}


@click.group()
def keys() -> None:
    """Make, rotate and count the keys that Secrets are encrypted with in the store."""
    from kubelet_secrets.fusefs.hardening import harden_process

    harden_process()  # as far as the user's privileges go


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--provider",
    type=click.Choice(["secretbox", "aesgcm", "aescbc"]),
    default="secretbox",
    show_default=True,
    help="The cipher. aesgcm has to be rotated every 200,000 writes, aescbc is not authenticated.",
)
@click.option(
    "--resources", default="secrets", show_default=True, help="What to encrypt, comma separated: secrets,configmaps."
)
def new(file: Path, provider: str, resources: str) -> None:
    """Write FILE, an EncryptionConfiguration with one random key, 0600. A file that exists is left alone."""
    from kubelet_secrets.apiserver import keyrotation
    from kubelet_secrets.errors import HostError

    if file.exists():
        raise HostError(f"{file} exists: what is encrypted with its keys could not be read without them")
    wanted = [name.strip() for name in resources.split(",") if name.strip()]
    _write(file, keyrotation.make_configuration(provider, wanted, os.urandom))
    click.echo(f"{file}: {provider} with key1, for {', '.join(wanted)}")
    click.echo(f"Keep a copy in a safe place. Give it to the server with --encryption-provider-config {file}", err=True)


@keys.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--stage",
    "stage_name",
    type=click.Choice(["add", "promote", "drop"]),
    default=None,
    help="What to do.  [default: what comes next, by the names of the keys]",
)
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), default=None, help="To drop: of an admin."
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=None, help="To drop: of the server."
)
@click.option("--unchecked", is_flag=True, help="Drop without looking whether something still needs the old keys.")
def rotate(file: Path, stage_name: str | None, kubeconfig: Path | None, data_dir: Path | None, unchecked: bool) -> None:
    """Take the rotation of FILE's keys one step further: add a key, promote it, drop the old ones.

    Between two steps every API server has to read the file, and before the last one everything has to be written anew; what to
    do is printed. Old keys are dropped when nothing in the store is under them any more: name the server or its data directory.
    Comments in the file are not kept.
    """
    from kubelet_secrets.apiserver import keyrotation
    from kubelet_secrets.apiserver.keyrotation import CannotRotate, Stage
    from kubelet_secrets.errors import UsageError

    configuration = _read(file)
    try:
        stage = Stage(stage_name) if stage_name else keyrotation.next_stage(configuration)
        if stage is Stage.DROP and not unchecked:
            _check_unused(keyrotation.old_keys(configuration), kubeconfig, data_dir, file)
        lines = keyrotation.rotate(configuration, stage, os.urandom)
    except CannotRotate as error:
        raise UsageError(f"{file}: {error}") from None
    _write(file, configuration)
    for line in lines:
        click.echo(line)
    click.echo(_NEXT[stage.value], err=True)


@keys.command()
@click.option(
    "--kubeconfig", type=click.Path(path_type=Path, dir_okay=False), default=None, help="Ask the running server."
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path, file_okay=False), default=None, help="Read it, while no server does."
)
@click.option(
    "--encryption-provider-config",
    "file",
    type=click.Path(path_type=Path, dir_okay=False),
    default=None,
    help="With --data-dir: the server's configuration.  [default: the one in the directory]",
)
@output_option("table", "json", "yaml")
def status(kubeconfig: Path | None, data_dir: Path | None, file: Path | None, output: str) -> None:
    """Count the stored objects under each key. Those that are stale are not under the key that writes now; those that are
    unreadable lie under one that the configuration does not have.

    Exits with 1 when there are any of either.
    """
    found = _count(kubeconfig, data_dir, file)
    if output == "table":
        rows = [[use.resource, use.key, str(use.objects), _state(use)] for use in found]
        print_table(["RESOURCE", "KEY", "OBJECTS", "STATE"], rows)
    else:
        print_objects([_plain(use) for use in found], output)
    lost = [use for use in found if not use.is_readable]
    for use in lost:
        text = f"{use.objects} {use.resource} unreadable: the configuration has no {use.key}; put it back to read them"
        click.echo(text, err=True)
    stale = sum(use.objects for use in found if use.is_readable and not use.is_current)
    if stale:
        click.echo(f"{stale} stale: their next write puts them under the key that writes now:\n  {_REWRITE}", err=True)
    if stale or lost:
        sys.exit(1)


# --- counting --------------------------------------------------------------------------------------------------------


def _check_unused(old: list[str], kubeconfig: Path | None, data_dir: Path | None, file: Path) -> None:
    from kubelet_secrets.errors import HostError

    if kubeconfig is None and data_dir is None:
        raise click.UsageError("to drop keys, name the server (--kubeconfig) or its --data-dir, or say --unchecked")
    for use in _count(kubeconfig, data_dir, file):
        if use.key in old:
            raise HostError(
                f"{use.objects} {use.resource} are still under {use.key}: write them anew first:\n  {_REWRITE}"
            )


def _count(kubeconfig: Path | None, data_dir: Path | None, file: Path | None) -> list[KeyUse]:
    if (kubeconfig is None) == (data_dir is None):
        raise click.UsageError("one of --kubeconfig and --data-dir is needed")
    if kubeconfig is not None:
        import trio

        return trio.run(_ask, kubeconfig)
    assert data_dir is not None
    return _read_store(data_dir, file)


async def _ask(kubeconfig: Path) -> list[KeyUse]:
    from kubelet_secrets.apiserver.keycount import KeyUse
    from kubelet_secrets.client.kubeconfig import load_kubeconfig
    from kubelet_secrets.client.rest import open_client
    from kubelet_secrets.errors import HostError, NotFound

    async with open_client(load_kubeconfig(kubeconfig)) as client:
        try:
            answer = await client.request_json("GET", "/debug/encryption")
        except NotFound:
            raise HostError(f"the server {client.host} does not tell: only the embedded API server does") from None
    return [KeyUse(**entry) for entry in answer["objects"]]


def _read_store(data_dir: Path, file: Path | None) -> list[KeyUse]:
    from contextlib import closing

    from kubelet_secrets.apiserver import encryptionconfig
    from kubelet_secrets.apiserver.encryption_source import DEFAULT_FILE
    from kubelet_secrets.apiserver.journal import FILE_NAME, open_journal
    from kubelet_secrets.apiserver.keycount import count_keys
    from kubelet_secrets.errors import HostError

    if not (data_dir / FILE_NAME).exists():
        raise HostError(f"data directory {data_dir}: no store in it")
    path = file or data_dir / DEFAULT_FILE
    configuration = encryptionconfig.parse_configuration(encryptionconfig.read_content(path), str(path))
    with closing(open_journal(data_dir)) as journal:
        return count_keys(journal.live_values(), configuration)


# --- the file --------------------------------------------------------------------------------------------------------


def _read(file: Path) -> dict[str, Any]:
    """The file's plain data, once it is known to be valid. Raises: UsageError."""
    import yaml

    from kubelet_secrets.apiserver import encryptionconfig

    content = encryptionconfig.read_content(file)
    encryptionconfig.parse_configuration(content, str(file))
    plain: dict[str, Any] = yaml.load(content, Loader=yaml.CSafeLoader)
    return plain


def _write(file: Path, configuration: dict[str, Any]) -> None:
    """Replace the file as a whole, 0600, with what the server will accept. Raises: UsageError, HostError."""
    import yaml

    from kubelet_secrets.apiserver import encryptionconfig, pki
    from kubelet_secrets.errors import HostError
    from kubelet_secrets.sensitive import SensitiveBytes

    content = yaml.safe_dump(configuration, sort_keys=False).encode()
    encryptionconfig.parse_configuration(content, str(file))
    try:
        pki.write_private(file, SensitiveBytes(content))
    except OSError as error:
        raise HostError(f"{file}: {(error.strerror or 'cannot be written').lower()}") from None


def _state(use: KeyUse) -> str:
    if not use.is_readable:
        return "unreadable"
    return "" if use.is_current else "stale"


def _plain(use: KeyUse) -> dict[str, Any]:
    return {
        "resource": use.resource,
        "key": use.key,
        "objects": use.objects,
        "current": use.is_current,
        "readable": use.is_readable,
    }
