"""The command `shardd`: its subcommands, and how they end.

Every failure is one line on standard error, `shardd: ...`, and exit code 1.
"""

import sys
from collections.abc import Sequence
from importlib import import_module
from typing import Final

import click

from shardd.errors import ExitCode, InternalError, ShardError
from shardd.version import SHARDD_VERSION

_GROUP_FLAGS: Final = ("-h", "--help", "-v", "--version")
INTERRUPTED: Final = 130  # as a shell reports SIGINT
# Where each command is: its module below `shardd.cli`, and its name there.
_COMMANDS: Final = {
    "start": ("start", "command"),
    "streaming": ("start", "streaming_command"),
    "signal": ("signals", "command"),
    "routes": ("routes", "command"),
    "stream": ("stream", "group"),
    "top": ("top", "command"),
    "server": ("check", "group"),
    "pub": ("commands", "pub"),
    "sub": ("commands", "sub"),
    "request": ("commands", "request"),
    "reply": ("commands", "reply"),
    "bench": ("bench", "command"),
}


class Commands(click.Group):
    """Imports a command's module when it is asked for: a server starts without the others."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module, name = _COMMANDS[cmd_name]
        command: click.Command = getattr(import_module(f"shardd.cli.{module}"), name)
        return command


@click.group(
    name="shardd",
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(SHARDD_VERSION, "-v", "--version", message="shardd: v%(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """A NATS server that uses every core of a host, and small clients to try it with."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command line and returns the exit code.

    Flags without a command are those of `start`, so that a unit file made for nats-server needs no
    more than another program's name.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    if words and words[0].startswith("-") and words[0] not in _GROUP_FLAGS:
        words.insert(0, "start")
    try:
        code = group.main(words, prog_name="shardd", standalone_mode=False)
    except ShardError as error:
        click.echo(f"shardd: {error}", err=True)
        is_ours = isinstance(error, InternalError)
        return ExitCode.SUPERVISOR_FAULT if is_ours else ExitCode.CONFIGURATION
    except click.ClickException as error:
        click.echo(f"shardd: {error.format_message()}", err=True)
        return ExitCode.CONFIGURATION
    except click.Abort:
        return INTERRUPTED
    return code if isinstance(code, int) else ExitCode.CLEAN
