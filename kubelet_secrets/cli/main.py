"""``kubelet-secrets``: the group of commands.

A command's module is imported only when it is used: trio, httpx2 and rich together cost half a second that ``--help`` and the
socket commands need not pay (docs/architecture.md, "Start-up").
"""

from __future__ import annotations

import importlib
import os
import sys

import click

from kubelet_secrets import __version__
from kubelet_secrets.errors import AlreadyTold, KubeletSecretsError, UsageError
from kubelet_secrets.logs import configure_logging

COMMANDS: dict[str, tuple[str, str]] = {
    # name: (module:attribute, the help line that the group shows without importing the module)
    "up": ("up:up", "Run an embedded API server and a node on this machine, and apply manifests."),
    "agent": ("agent:agent", "Run the node alone, against any API server."),
    "apiserver": ("apiserver:apiserver", "Run the embedded API server alone."),
    "token": ("token:token", "Create, list and delete the bootstrap tokens with which nodes join."),
    "explain": ("explain:explain", "Say offline what each container of a manifest would see, and why not."),
    "env": ("inspect:env", "Show a container's variables: as started, and as they would be now."),
    "tree": ("inspect:tree", "Show the secret files of a container as it sees them."),
    "why": ("why:why", "Say where a variable or a file comes from, or the exact rule that stops it."),
    "who-can": ("who_can:who_can", "Say who gets at a Secret: by role, by creating pods, by exec, as a node."),
    "audit": ("audit:audit", "Show who opened which secret file, and who was refused; check the trail."),
    "revoke": ("revoke:revoke", "End the readability of a pod's volume at once, also where it is open."),
    "status": ("inspect:status", "Show the node's pods as the agent sees them."),
    "logs": ("inspect:logs", "Print what a container wrote to its output."),
    "verify": ("verify:verify", "Prove on this machine that no secret reaches a disk, a log, a core dump or swap."),
    "image": ("image:image", "Import, list and remove container images of this machine's store."),
    "systemd-unit": ("systemd_unit:systemd_unit", "Print a systemd service that runs the node on this machine."),
    "demo": ("demo:demo", "Take the guided tour, on real containers, in under a minute."),
}


class LazyGroup(click.Group):
    """A group whose commands live in modules named in :data:`COMMANDS`."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module_name, _, attribute = COMMANDS[cmd_name][0].partition(":")
        module = importlib.import_module(f"kubelet_secrets.cli.{module_name}")
        command = getattr(module, attribute)
        assert isinstance(command, click.Command)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_line) for name, (_, help_line) in COMMANDS.items()])


@click.group(cls=LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="kubelet-secrets")
@click.option("-v", "--verbose", count=True, help="Log more to standard error; twice for debugging. Never values.")
@click.pass_context
def cli(ctx: click.Context, verbose: int) -> None:
    """Bring Kubernetes Secrets to the containers of one node, and to nobody else.

    Start with `kubelet-secrets demo`, or `kubelet-secrets up -f examples/`.
    """
    ctx.obj = verbose
    if os.environ.get("NO_COLOR"):  # no-color.org
        ctx.color = False
    configure_logging(verbose)


def main() -> None:
    """Entry point of the console script: one line and an exit status for everything that is expected to go wrong."""
    try:
        code = cli.main(prog_name="kubelet-secrets", standalone_mode=False)
        sys.exit(code if isinstance(code, int) else 0)
    except click.exceptions.Exit as exit_:
        sys.exit(exit_.exit_code)
    except click.ClickException as error:
        # click's own show() takes three lines to say it; NoArgsIsHelpError is the help text itself.
        context = getattr(error, "ctx", None)
        if isinstance(error, click.exceptions.NoArgsIsHelpError) or context is None:
            error.show()
        else:
            message = error.format_message().replace("\n", " ").rstrip(".")
            click.echo(f"kubelet-secrets: {message} (see `{context.command_path} --help`)", err=True)
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        sys.exit(130)
    except BrokenPipeError:
        # `kubelet-secrets audit | head`: nothing to say, and nowhere to say it. Python would complain once more at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(141)
    except BaseExceptionGroup as group:
        expected, rest = group.split(KubeletSecretsError)
        if rest is not None or expected is None:
            raise
        sys.exit(_report(expected))
    except KubeletSecretsError as error:
        sys.exit(_report(error))


def _report(error: BaseException) -> int:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, AlreadyTold):
        click.echo(f"kubelet-secrets: {error}", err=True)
    return 2 if isinstance(error, UsageError) else 1


if __name__ == "__main__":
    main()
