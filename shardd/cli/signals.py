"""`shardd signal` and `-sl`: a signal for a running server (sheet 13.4)."""

import os
import signal
from typing import Final

import click

from shardd.cli import servers
from shardd.errors import ConfigError, ExitCode

COMMANDS: Final = {
    "stop": signal.SIGKILL,
    "quit": signal.SIGINT,
    "term": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
    "ldm": signal.SIGUSR2,
}


def send(text: str) -> int:
    """Sends what `COMMAND[=PID]` or `COMMAND[=FILE]` says; returns the exit code.

    Raises:
        ConfigError: there is no such command, or no one server that it can be for.
    """
    name, _, target = text.partition("=")
    number = COMMANDS.get(name)
    if number is None:
        raise ConfigError(f'unknown signal "{name}"')
    pid = servers.find(target)
    try:
        os.kill(pid, number)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f'signal "{name}" {pid}: {reason}') from None
    return ExitCode.CLEAN


@click.command("signal", short_help="Send a signal to a running server.")
@click.argument("text", metavar="stop|quit|term|reopen|reload|ldm[=PID|=FILE]")
def command(text: str) -> int:
    """Sends a signal to the only running server, or to the one with this pid or pid file."""
    return send(text)
