"""`shardd signal` and `-sl`: a signal for a running server, found by its pid, its pid file, or as
the only one that runs (sheet 13.4).
"""

import os
import signal
from collections.abc import Iterator
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


def send(text: str) -> int:
    """Sends what `COMMAND[=PID]` or `COMMAND[=FILE]` says; returns the exit code.

    Raises:
        ConfigError: there is no such command, or no one server that it can be for.
    """
    name, equals, target = text.partition("=")
    number = COMMANDS.get(name)
    if number is None:
        raise ConfigError(f'unknown signal "{name}": use {", ".join(COMMANDS)}')
    pid = _pid_of(target) if equals else _only_server()
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        raise ConfigError(f"signal {name!r} to pid {pid}: no such process") from None
    except PermissionError:
        raise ConfigError(f"signal {name!r} to pid {pid}: operation not permitted") from None
    return ExitCode.CLEAN


def _pid_of(target: str) -> int:
    """A pid, or what a pid file holds."""
    text = target
    if not text.isdigit():
        try:
            text = Path(target).read_text("ascii", "replace").strip()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise ConfigError(f"could not read pid file {target}: {reason}") from None
    if not text.isdigit() or int(text) <= 1:
        raise ConfigError(f"invalid pid: {target}")
    return int(text)


def _only_server() -> int:
    """The pid of the one supervisor that runs here."""
    pids = sorted(_servers())
    if not pids:
        raise ConfigError("no shardd processes running")
    if len(pids) > 1:
        found = "\n".join(str(pid) for pid in pids)
        raise ConfigError(f"multiple shardd processes running:\n{found}")
    return pids[0]


def _servers() -> Iterator[int]:
    """Supervisors: processes of this program whose parent is none."""
    import psutil  # only this command needs it

    family: dict[int, int] = {}
    for process in psutil.process_iter(["pid", "ppid", "cmdline"]):
        words = process.info["cmdline"] or []
        if process.info["pid"] != os.getpid() and _is_server(words):
            family[process.info["pid"]] = process.info["ppid"]
    return (pid for pid, parent in family.items() if parent not in family)


def _is_server(words: list[str]) -> bool:
    """Whether this is the command line of a server that was started."""
    names = [Path(word).name for word in words[:3]]
    is_program = "shardd" in names or ("-m" in words[:3] and "shardd" in words[:4])
    return is_program and not {"-t", "-sl", "--signal", "signal"} & set(words)


@click.command("signal", short_help="Send a signal to a running server.")
@click.argument("text", metavar="stop|quit|term|reopen|reload|ldm[=PID|=FILE]")
def command(text: str) -> int:
    """Sends a signal to the only running server, or to the one with this pid or pid file."""
    return send(text)
