"""``--help`` of every command: it is there, says what the command does, and comes fast, without loading the program."""

from __future__ import annotations

import re
import subprocess
import sys

import click
import pytest

from kubelet_secrets.cli.main import COMMANDS, cli
from tests.cli.command import environment, run_cli, the_line


def command_paths() -> list[tuple[str, ...]]:
    """Every command and every command of a group."""
    paths: list[tuple[str, ...]] = [()]
    context = click.Context(cli)
    for name in cli.list_commands(context):
        paths.append((name,))
        command = cli.get_command(context, name)
        if isinstance(command, click.Group):
            paths += [(name, each) for each in command.list_commands(context)]
    return paths


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_help_of(path: tuple[str, ...]) -> None:
    done = run_cli(*path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"Usage: {' '.join(('kubelet-secrets', *path))} ")
    # The sentence after the usage line, and every option explained (a line that is an option's name alone goes on below).
    assert re.search(r"^  [A-Z`].*", done.stdout, re.MULTILINE)
    assert "-h, --help" in done.stdout
    assert all(len(line) <= 100 for line in done.stdout.splitlines()), "it fits a terminal"


@pytest.mark.parametrize("path", command_paths(), ids=" ".join)
def test_every_option_says_what_it_is_for(path: tuple[str, ...]) -> None:
    command: click.Command = cli
    for name in path:
        assert isinstance(command, click.Group)
        found = command.get_command(click.Context(command), name)
        assert found is not None
        command = found
    for parameter in command.params:
        if isinstance(parameter, click.Option) and not parameter.hidden:
            choices = isinstance(parameter.type, click.Choice)
            assert parameter.help or choices, f"{' '.join(path)} {parameter.opts}"


def test_every_command_is_listed_with_its_line() -> None:
    done = run_cli("-h")
    for name in COMMANDS:
        assert re.search(rf"^  {name} +[A-Z]", done.stdout, re.MULTILINE), name


def test_help_loads_neither_trio_nor_the_filesystem() -> None:
    code = (
        "import sys; from kubelet_secrets.cli.main import cli\n"
        "for name in cli.list_commands(None): cli.get_command(None, name)\n"
        "print([m for m in ('trio', 'pyfuse3', 'cryptography', 'httpx2', 'starlette') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment())
    assert done.stdout == "[]\n", done.stdout + done.stderr


def test_version() -> None:
    done = run_cli("--version")
    assert re.fullmatch(r"kubelet-secrets, version \d+\.\d+\.\d+\S*\n", done.stdout)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        pytest.param(["nope"], "No such command 'nope'", id="command"),
        pytest.param(["up", "--nope"], "No such option '--nope'", id="option"),
        pytest.param(["env"], "Missing argument 'POD'", id="argument"),
        pytest.param(["agent"], "Missing option '--kubeconfig'", id="required-option"),
        pytest.param(["up", "--port", "70000"], "Invalid value for '--port': 70000 is not in the range", id="range"),
        pytest.param(["up", "--store-size", "5x"], "Invalid value for '--store-size': '5x': quantities must", id="size"),
        pytest.param(["up", "--store-size", "1"], "Invalid value for '--store-size': '1' is less than", id="small"),
        pytest.param(["tree", "p", "-o", "xml"], "Invalid value for '-o' / '--output': 'xml' is not one of", id="format"),
        pytest.param(["agent", "--kubeconfig", "/nope"], "Invalid value for '--kubeconfig': File '/nope' does not exist",
                     id="file"),
    ],
)  # fmt: skip
def test_wrong_command_line_is_one_line_and_status_2(arguments: list[str], line: str) -> None:
    done = run_cli(*arguments)
    said = the_line(done)
    assert done.returncode == 2
    assert said.startswith(f"kubelet-secrets: {line}"), said
    assert said.endswith(" --help`)")


@pytest.mark.parametrize(
    "arguments",
    [["status"], ["env", "p"], ["tree", "p"], ["audit"], ["audit", "-f"]],
    ids=lambda arguments: " ".join(arguments),
)
def test_no_agent_is_one_line(arguments: list[str]) -> None:
    done = run_cli(*arguments, env={"KUBELET_SECRETS_SOCKET": "/nonexistent/agent.sock"})
    assert done.returncode == 1
    assert the_line(done) == (
        "kubelet-secrets: no agent at /nonexistent/agent.sock: is `kubelet-secrets up` or `agent` running? "
        "(--socket names another)"
    )
