"""The command `shardd`: its subcommands, and how they end.

Every failure is one line on standard error, `shardd: ...`, and exit code 1.
"""

import sys
from collections.abc import Sequence
from typing import Final

import click

from shardd.cli import bench, check, commands, routes, signals, start, stream, top
from shardd.errors import ExitCode, InternalError, ShardError
from shardd.version import SHARDD_VERSION

_GROUP_FLAGS: Final = ("-h", "--help", "-v", "--version")
INTERRUPTED: Final = 130  # as a shell reports SIGINT


@click.group(
    name="shardd",
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)
@click.version_option(SHARDD_VERSION, "-v", "--version", message="shardd: v%(version)s")
@click.pass_context
def group(context: click.Context) -> None:
    """A NATS server that uses every core of a host, and small clients to try it with."""
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


group.add_command(start.command)
group.add_command(start.streaming_command)
group.add_command(signals.command)
group.add_command(routes.command)
group.add_command(stream.group)
group.add_command(top.command)
group.add_command(check.group)
group.add_command(commands.pub)
group.add_command(commands.sub)
group.add_command(commands.request)
group.add_command(commands.reply)
group.add_command(bench.command)


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
