"""``kubelet-secrets systemd-unit``: the service file for this installation, to standard output. Changes nothing."""

from __future__ import annotations

import importlib.resources
import os
import re
import sys
from pathlib import Path

import click
from click.core import ParameterSource

from kubelet_secrets.cli.agent import agent

_PLAIN = re.compile(r"[\w/.,:=@+-]+", re.ASCII)


@click.command(context_settings={"ignore_unknown_options": True}, options_metavar="")
@click.argument("options", nargs=-1, type=click.UNPROCESSED, metavar="[AGENT OPTIONS]")
def systemd_unit(options: tuple[str, ...]) -> None:
    """Print a systemd service that runs `kubelet-secrets agent` with those options.

    \b
        kubelet-secrets systemd-unit --kubeconfig /etc/kubernetes/kubelet.conf |
            sudo tee /etc/systemd/system/kubelet-secrets.service
        sudo systemctl daemon-reload
        sudo systemctl enable --now kubelet-secrets

    Paths are made absolute. `systemctl restart` stops the node's containers;
    after an update of the program use `systemctl reload`, which does not.
    """
    words = [*_executable(), "agent", *_checked(options)]
    template = importlib.resources.files("kubelet_secrets.systemd").joinpath("kubelet-secrets.service").read_text()
    click.echo(template.replace("@COMMAND@", " ".join(map(quote, words))), nl=False)


def quote(word: str) -> str:
    """As systemd.service(5), "Command lines", and systemd.unit(5), "Specifiers", want a word that is meant literally."""
    word = word.replace("%", "%%").replace("$", "$$")
    if _PLAIN.fullmatch(word):
        return word
    return '"' + word.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _executable() -> list[str]:
    script = Path(sys.executable).with_name("kubelet-secrets")
    return [str(script)] if script.exists() else [sys.executable, "-P", "-m", "kubelet_secrets.cli.main"]


def _checked(options: tuple[str, ...]) -> list[str]:
    """The options as the agent's command reads them: what it would refuse is refused now, and paths do not depend on where.

    Raises:
        click.UsageError: as ``kubelet-secrets agent`` would.
    """
    context = agent.make_context("agent", list(options))
    if context.params["kubeconfig"] is None and context.params["bootstrap_kubeconfig"] is None:
        raise click.UsageError("Missing option '--kubeconfig' or '--bootstrap-kubeconfig'")
    words = []
    for parameter in agent.params:
        assert parameter.name is not None
        if context.get_parameter_source(parameter.name) is not ParameterSource.COMMANDLINE:
            continue
        value = context.params[parameter.name]
        for each in value if isinstance(value, (tuple, list)) else [value]:
            if isinstance(each, bool):
                words.append((parameter.opts if each else parameter.secondary_opts)[0])
            else:
                words += [parameter.opts[0], os.path.abspath(each) if isinstance(each, Path) else str(each)]
    return words
