"""The system around the server: what of it is too small for what is configured.

`look` reads limits of the kernel and of the cgroup; what cannot be read is left out, as in
containers that hide it. `complaints` compares them with the configuration and says in one line
each what is too small, what will happen and what to do. When all is well it says nothing.
"""

import contextlib
import math
import resource
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from shardd import limits
from shardd.config.core import Config

# Descriptors of a process beside its connections: listeners, doorbells, rings, ZeroMQ, log, store.
DESCRIPTORS_OWN: Final = 64
DESCRIPTORS_PER_PROCESS: Final = 8
# The default of max_connections is nobody's wish: with room for so many nothing is said of it.
CONNECTIONS_USUAL: Final = 10_000
# Memory of one process at rest that it shares with nobody, and of the program that all share.
PROCESS_BYTES: Final = 16 * 1_048_576
PROGRAM_BYTES: Final = 32 * 1_048_576
_UNLIMITED_V1: Final = 1 << 60  # version 1 says "no limit" as a number that no host has


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What there is; None where it is not known or has no limit."""

    open_files: int | None = None  # RLIMIT_NOFILE, as it is now
    backlog_max: int | None = None  # net.core.somaxconn
    cores: float | None = None  # of the cgroup: time it may use, as cores
    memory_bytes: int | None = None  # of the cgroup
    memory_key: str = ""  # what the cgroup calls that
    commit_bytes_left: int | None = None  # where memory is not overcommitted: what is left of it


def look(root: Path = Path("/")) -> Surroundings:
    """Reads the system's limits; `root` is where /proc and /sys are found."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    cores, memory_bytes, memory_key = _cgroup(root)
    return Surroundings(
        open_files=None if soft == resource.RLIM_INFINITY else soft,
        backlog_max=_integer(root / "proc/sys/net/core/somaxconn"),
        cores=cores,
        memory_bytes=memory_bytes,
        memory_key=memory_key,
        commit_bytes_left=_commit_bytes_left(root),
    )


def complaints(config: Config, found: Surroundings) -> list[str]:
    """What is too small for this configuration, one line each."""
    lines = [
        _of_open_files(config, found.open_files),
        _of_backlog(found.backlog_max),
        _of_cores(config, found.cores),
    ]
    needed = memory_needed(config)
    if found.memory_bytes is not None and found.memory_bytes < needed:
        lines.append(
            f"{found.memory_key} of this cgroup is {_mib(found.memory_bytes)},"
            f" {config.process_count} processes with their rings take {_mib(needed)}"
            " before any client comes: raise it, or start fewer workers"
        )
    if found.commit_bytes_left is not None and found.commit_bytes_left < needed:
        lines.append(
            "vm.overcommit_memory is 2 and"
            f" {_mib(max(found.commit_bytes_left, 0))} may still be promised, this server asks for"
            f" {_mib(needed)}: workers may not start; raise vm.overcommit_ratio or set"
            " vm.overcommit_memory to 0"
        )
    return [line for line in lines if line]


def memory_needed(config: Config) -> int:
    """What the processes take at rest with full rings, roughly."""
    return PROGRAM_BYTES + config.process_count * (PROCESS_BYTES + config.ring_bytes)


def _of_open_files(config: Config, limit: int | None) -> str:
    """The limit is each process's. Without balancing one worker may get all connections."""
    if limit is None or config.max_connections <= 0:
        return ""
    shares = config.worker_count if config.balance else 1
    own = DESCRIPTORS_OWN + DESCRIPTORS_PER_PROCESS * config.process_count
    needed = math.ceil(config.max_connections / shares) + own
    room = max(limit - own, 0) * shares
    is_wish = config.max_connections != limits.CONNECTIONS_MAX
    if limit >= needed or (not is_wish and room >= CONNECTIONS_USUAL):
        return ""
    return (
        f"A process may open {limit} files (RLIMIT_NOFILE), which is enough for about {room}"
        f" connections, max_connections is {config.max_connections}: raise the limit to {needed}"
        " (LimitNOFILE= in a unit, ulimit -n in a shell), or lower max_connections"
    )


def _of_backlog(maximum: int | None) -> str:
    if maximum is None or maximum >= limits.LISTEN_BACKLOG:
        return ""
    return (
        f"net.core.somaxconn is {maximum}: when many clients come at once, no more than these wait"
        f" for each worker and the others are refused or delayed; set it to {limits.LISTEN_BACKLOG}"
    )


def _of_cores(config: Config, cores: float | None) -> str:
    if cores is None or config.worker_count <= math.ceil(cores):
        return ""
    return (
        f"This cgroup may use the time of {cores:g} cores, {config.worker_count} workers start:"
        f" they would be stopped in the middle of their work; set workers to {math.ceil(cores)},"
        " or raise the limit"
    )


# --- reading --------------------------------------------------------------------------------------


def _cgroup(root: Path) -> tuple[float | None, int | None, str]:
    """The narrowest limits of the own cgroup and those above it: cores, memory, its key."""
    cores: list[float] = []
    memory: list[tuple[int, str]] = []
    for controllers, path in _memberships(root):
        base = root / "sys/fs/cgroup"
        names = [""] if not controllers else sorted(controllers & {"cpu", "memory"})
        for name in names:
            for directory in _upwards(base / name, path):
                cores += _cores_of(directory)
                memory += _memory_of(directory)
    narrowest = min(memory, default=(None, ""))
    return min(cores, default=None), narrowest[0], narrowest[1]


def _memberships(root: Path) -> list[tuple[set[str], str]]:
    """The controllers and the path of each hierarchy; no controllers: version 2."""
    rows = []
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, _, rest = line.partition(":")
        controllers, colon, path = rest.partition(":")
        if colon:
            rows.append((set(filter(None, controllers.split(","))), path))
    return rows


def _upwards(base: Path, path: str) -> list[Path]:
    """A cgroup's directory and those above it. In a container the path may be that outside, and
    is not there; what is, is the container's own at the top."""
    directory = base / path.lstrip("/")
    if ".." in directory.parts or not directory.is_dir():
        return [base]
    return [directory, *(each for each in directory.parents if each.is_relative_to(base))]


def _cores_of(directory: Path) -> list[float]:
    words = _text(directory / "cpu.max").split()
    if not words:
        words = [_text(directory / f"cpu.cfs_{name}_us").strip() for name in ("quota", "period")]
    if len(words) == 2 and words[0].isdecimal() and words[1].isdecimal() and int(words[1]):
        return [int(words[0]) / int(words[1])]
    return []  # "max", -1, or not there


def _memory_of(directory: Path) -> list[tuple[int, str]]:
    found = []
    for key in ("memory.max", "memory.high", "memory.limit_in_bytes"):
        limit = _integer(directory / key)
        if limit is not None and 0 < limit < _UNLIMITED_V1:
            found.append((limit, key))
    return found


def _commit_bytes_left(root: Path) -> int | None:
    if _integer(root / "proc/sys/vm/overcommit_memory") != 2:
        return None
    fields = {}
    for line in _text(root / "proc/meminfo").splitlines():
        key, _, value = line.partition(":")
        words = value.split()
        if len(words) == 2 and words[0].isdecimal():
            fields[key] = 1024 * int(words[0])
    if "CommitLimit" not in fields or "Committed_AS" not in fields:
        return None
    return fields["CommitLimit"] - fields["Committed_AS"]


def _text(path: Path) -> str:
    with contextlib.suppress(OSError, UnicodeDecodeError):
        return path.read_text()
    return ""


def _integer(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdecimal() else None


def _mib(count: int) -> str:
    return f"{count / 1_048_576:.0f} MiB"
