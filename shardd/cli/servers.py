"""Which process is meant when a command is for a running server: one that is named by its pid or
its pid file, or the only one that runs (sheet 13.4).

A server's workers share its command line, but only the process that was started, their parent, is
ever looked up: it is the one that handles signals and holds the runtime directory.
"""

import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from shardd.errors import ConfigError

_PYTHON: Final = re.compile(r"python[0-9.]*|pypy[0-9.]*")
_OPTIONS_WITH_VALUE: Final = ("-W", "-X")  # of Python
# What asks `start` for something else than to start.
_NO_START: Final = re.compile(r"--?(t|sl|signal|h|help|v|version)(=.*)?")


def find(target: str) -> int:
    """The pid of the server that a pid or a pid file names; of the only one when it is empty.

    Raises:
        ConfigError: there is no such server, or more than one.
    """
    return _pid_of(target) if target else _only_server()


def is_server(words: Sequence[str]) -> bool:
    """Whether this is the command line of a server that was started."""
    rest = _arguments(words)
    if not rest:
        return False
    if rest[0] in ("start", "streaming"):
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
