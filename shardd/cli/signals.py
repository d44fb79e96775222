"""`shardd signal` and `-sl`: a signal for a running server, found by its pid, its pid file, or as
the only one that runs (sheet 13.4).

A server's workers share its command line, but only the process that was started, their parent, is
ever looked up: it is the one that handles signals.
"""

import os
import re
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import click

from shardd.errors import ConfigError, ExitCode

COMMANDS: Final = {
    "stop": signal.SIGKILL,
    "quit": signal.SIGINT,
    "term": signal.SIGTERM,
    "reopen": signal.SIGUSR1,
    "reload": signal.SIGHUP,
    "ldm": signal.SIGUSR2,
}

_PYTHON: Final = re.compile(r"python[0-9.]*|pypy[0-9.]*")
_OPTIONS_WITH_VALUE: Final = ("-W", "-X")  # of Python
# What asks `start` for something else than to start.
_NO_START: Final = re.compile(r"--?(t|sl|signal|h|help|v|version)(=.*)?")


def send(text: str) -> int:
    """Sends what `COMMAND[=PID]` or `COMMAND[=FILE]` says; returns the exit code.

    Raises:
        ConfigError: there is no such command, or no one server that it can be for.
    """
    name, _, target = text.partition("=")
    number = COMMANDS.get(name)
    if number is None:
        raise ConfigError(f'unknown signal "{name}"')
    pid = _pid_of(target) if target else _only_server()
    try:
        os.kill(pid, number)
    except OSError as error:
        reason = os.strerror(error.errno or 0).lower()
        raise ConfigError(f'signal "{name}" {pid}: {reason}') from None
    return ExitCode.CLEAN


def is_server(words: Sequence[str]) -> bool:
    """Whether this is the command line of a server that was started."""
    rest = _arguments(words)
    if not rest:
        return False
    if rest[0] == "start":
        rest = rest[1:]
    elif not rest[0].startswith("-"):  # another command: pub, sub, signal
        return False
    return not any(_NO_START.fullmatch(word) for word in rest)


def _arguments(words: Sequence[str]) -> Sequence[str]:
    """What follows the program's name, if the program is this one: as a script or as a module."""
    if not words:
        return ()
    if not _PYTHON.fullmatch(Path(words[0]).name):
        return words[1:] if Path(words[0]).name == "shardd" else ()
    index = 1
    while index < len(words) and words[index].startswith("-"):
        if words[index] == "-m":
            return words[index + 2 :] if words[index + 1 : index + 2] == ["shardd"] else ()
        index += 2 if words[index] in _OPTIONS_WITH_VALUE else 1
    is_script = index < len(words) and Path(words[index]).name == "shardd"
    return words[index + 1 :] if is_script else ()


def _pid_of(target: str) -> int:
    """A pid, or what a pid file holds."""
    text = target
    if not _is_number(text):
        try:
            text = Path(target).read_text("ascii", "replace").strip()
        except OSError as error:
            reason = os.strerror(error.errno or 0).lower()
            raise ConfigError(f"could not read pid file {target}: {reason}") from None
    # Zero would be a group of processes; 1 may be a server, in a container.
    if not _is_number(text) or not 1 <= int(text) < 2**31:
        raise ConfigError(f"invalid pid: {text}")
    return int(text)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 20


def _only_server() -> int:
    """The pid of the one supervisor that runs here."""
    pids = sorted(_servers())
    if not pids:
        raise ConfigError("no shardd processes running")
    if len(pids) > 1:
        raise ConfigError("multiple shardd processes running:", *map(str, pids))
    return pids[0]


def _servers() -> Iterator[int]:
    """Supervisors: servers whose parent is none."""
    import psutil  # only this command needs it

    parents: dict[int, int] = {}
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        if is_server(process.info["cmdline"] or []):
            parents[process.info["pid"]] = process.info["ppid"]
    return (pid for pid, parent in parents.items() if parent not in parents)


@click.command("signal", short_help="Send a signal to a running server.")
@click.argument("text", metavar="stop|quit|term|reopen|reload|ldm[=PID|=FILE]")
def command(text: str) -> int:
    """Sends a signal to the only running server, or to the one with this pid or pid file."""
    return send(text)
