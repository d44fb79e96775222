"""Servers as real processes: nats-server and shardd behind one interface.

A test never knows which of the two it talks to; ``server_kind`` names it. Each server runs in a
directory of its own, listens on a port that the operating system chose, and says where in a ports
file. Stopping one waits for all its children and fails if any is left.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from functools import cache
from itertools import cycle
from pathlib import Path
from typing import Final

import psutil

from tests.support.waiting import PATIENCE, wait_until

Setting = str | int | bool

NATS_SERVER: Final = "nats-server"
SHARDD_KINDS: Final = ("shardd-1", "shardd-2", "shardd-4")
KINDS: Final = (NATS_SERVER, *SHARDD_KINDS)

START_S: Final = 15.0 * PATIENCE
STOP_S: Final = 15.0 * PATIENCE

# Processes that a fixture keeps alive on purpose; the leak detector does not count them.
KEPT_PIDS: Final[set[int]] = set()

# Where `free_port` looks, from a place of this run's own.
_FIRST_PORT: Final = 10_000 + random.SystemRandom().randrange(20_000)
_PORTS: Final[Iterator[int]] = cycle([*range(_FIRST_PORT, 32_000), *range(10_000, _FIRST_PORT)])


class BrokerError(AssertionError):
    """A server did not start, did not stop, or left something behind."""


class Broker(ABC):
    """One server process, owned by the test or fixture that made it."""

    kind: str
    workers: int = 1

    def __init__(self) -> None:
        self._directory = Path(tempfile.mkdtemp(prefix=f"{type(self).__name__.lower()}-"))
        self._process: subprocess.Popen[bytes] | None = None
        self._family: set[psutil.Process] = set()  # all that were ever seen, parent included
        self._host = ""
        self._port = 0
        # Where it is to listen, and by which address it is reached if that is another one.
        self.listen_address = "127.0.0.1"
        self.listen_port = -1
        self.reached_at = ""
        self._urls: dict[str, list[str]] = {}

    @abstractmethod
    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The argument vector that starts this server with these settings, or with the
        configuration file that was written."""

    @property
    def directory(self) -> Path:
        """Where the log, the ports file and a configuration file are."""
        return self._directory

    @property
    def host(self) -> str:
        """The address by which the server is reached."""
        return self.reached_at or self._host

    @property
    def port(self) -> int:
        """The port that the server listens on."""
        return self._port

    @property
    def url(self) -> str:
        """The address as client libraries want it."""
        return f"nats://{self.host}:{self._port}"

    @property
    def monitoring(self) -> str:
        """Where monitoring is asked, if the server has it."""
        return self._urls["monitoring"][0]

    @property
    def pid(self) -> int:
        """The process that was started: nats-server itself, or shardd's supervisor."""
        assert self._process is not None, "the server was not started"
        return self._process.pid

    @property
    def configuration(self) -> Path:
        """The configuration file, if it was started with one."""
        return self._directory / "server.conf"

    def start_text(self, text: str, *flags: str) -> None:
        """Start the server with this configuration file."""
        self.configuration.write_text(text)
        self._start([*self.command({}, has_file=True), *flags])

    def reload(self, text: str) -> str:
        """Rewrite the configuration file, send HUP, and return the line that answers it."""
        seen = len(self.log_text())
        self.configuration.write_text(text)
        os.kill(self.pid, signal.SIGHUP)

        def answer() -> str:
            for line in self.log_text()[seen:].splitlines():
                if "Reloaded server configuration" in line or "Failed to reload" in line:
                    return line
            return ""

        wait_until(lambda: bool(answer()), f"the reload of {self.kind}")
        return answer()

    def start(self, settings: Mapping[str, Setting] | None = None) -> None:
        """Start the server and return once it accepts connections."""
        self._start(self.command(settings or {}))

    def _start(self, command: list[str]) -> None:
        assert self._process is None, "the server was already started"
        with open(self._directory / "output", "ab") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
        try:
            wait_until(self._read_ports_file, f"the ports file of {self.kind}", START_S)
            self.processes()
        except BaseException:
            self.kill()
            raise

    def stop(self) -> int:
        """Send TERM, wait, check that no child is left, and return the exit code."""
        return self._end(signal.SIGTERM)

    def kill(self) -> int:
        """Send KILL to the process that was started, then the same checks."""
        return self._end(signal.SIGKILL)

    def is_alive(self) -> bool:
        """Whether the process that was started still runs."""
        return self._process is not None and self._process.poll() is None

    def log_text(self) -> str:
        """Everything that the server wrote: its log file and its standard streams."""
        texts = []
        for name in ("output", "log"):
            path = self._directory / name
            if path.exists():
                texts.append(path.read_text(errors="replace"))
        return "".join(texts)

    def processes(self) -> list[psutil.Process]:
        """The server's process and all its descendants that run now."""
        try:
            parent = psutil.Process(self.pid)
            running = [parent, *parent.children(recursive=True)]
        except psutil.NoSuchProcess:
            running = []
        self._family.update(running)
        return running

    def holds_connection_from(self, port: int) -> bool:
        """Whether some process of the server still has a connection open to our local ``port``.

        A server that drops a client which does not read cannot tell it so; the kernel knows.
        """
        for process in self.processes():
            try:
                connections = process.net_connections("tcp")
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
            if any(item.raddr and item.raddr.port == port for item in connections):
                return True
        return False

    def _read_ports_file(self) -> bool:
        if not self.is_alive():
            raise BrokerError(f"{self.kind} ended at start:\n{self.log_text()}")
        for path in self._directory.glob(f"*_{self.pid}.ports"):
            try:
                self._urls = json.loads(path.read_text())
                url = self._urls["nats"][0]
            except ValueError:
                return False  # it is being written
            host, _, port = url.partition("://")[2].rpartition(":")
            self._host, self._port = host, int(port)
            return True
        return False

    def _end(self, signal_number: signal.Signals) -> int:
        process = self._process
        if process is None:
            return 0
        self.processes()
        if process.poll() is None:
            process.send_signal(signal_number)
        try:
            code = process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            _end_all(list(self._family))
            raise BrokerError(f"{self.kind} did not stop:\n{self.log_text()}") from None
        finally:
            self._process = None
            KEPT_PIDS.discard(process.pid)
        _, alive = psutil.wait_procs(list(self._family), timeout=STOP_S)
        if alive:
            left = [(item.pid, item.name(), item.status()) for item in alive]
            _end_all(alive)
            raise BrokerError(f"{self.kind} left processes behind: {left}\n{self.log_text()}")
        shutil.rmtree(self._directory, ignore_errors=True)
        return code


class NatsServer(Broker):
    """The original, with a configuration file for its settings."""

    kind = NATS_SERVER

    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The command line; the settings go into a file beside the log."""
        if not has_file:
            lines = [f"{key}: {json.dumps(value)}\n" for key, value in settings.items()]
            self.configuration.write_text("".join(lines))
        return [
            nats_server_path(),
            *("-c", str(self.configuration)),
            *("-a", self.listen_address, "-p", str(self.listen_port)),
            *("--ports_file_dir", str(self._directory)),
            *("-l", str(self._directory / "log")),
        ]


class Shardd(Broker):
    """Ours, with each setting as ``--set KEY=VALUE``."""

    def __init__(self, workers: int) -> None:
        self.kind = f"shardd-{workers}"
        self.workers = workers
        super().__init__()

    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The command line; names and values are nats-server's."""
        arguments = [
            *(sys.executable, "-m", "shardd", "start"),
            *("-a", self.listen_address, "-p", str(self.listen_port)),
            *("--ports_file_dir", str(self._directory)),
            *("-l", str(self._directory / "log")),
            *("--workers", str(self.workers)),
            # A test that wants a connection on a certain worker tries until the kernel agrees.
            *("--set", "balance=false"),
        ]
        if has_file:
            arguments += ["-c", str(self.configuration)]
        for key, value in settings.items():
            text = value if isinstance(value, str) else json.dumps(value)
            arguments += ["--set", f"{key}={text}"]
        return arguments

    def worker_processes(self) -> list[psutil.Process]:
        """The workers in the order of their slots, as long as none was ever replaced."""
        children = psutil.Process(self.pid).children()
        return sorted(children, key=lambda child: (child.create_time(), child.pid))[: self.workers]


def free_port() -> int:
    """A port that nobody uses, for listeners whose port no ports file tells. It is none of those
    that the kernel gives to whoever does not care, and no other call returns it."""
    while True:
        port = next(_PORTS)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


def newest_child(broker: Broker) -> int:
    """The pid of the child that was forked last: of the router, if there is one and as long as
    nothing was replaced since."""
    children = psutil.Process(broker.pid).children()
    return int(max(children, key=lambda each: (each.create_time(), each.pid)).pid)


def make_broker(kind: str) -> Broker:
    """The server that ``kind`` names, not yet started."""
    if kind == NATS_SERVER:
        return NatsServer()
    name, _, workers = kind.partition("-")
    assert name == "shardd", kind
    return Shardd(int(workers))


@cache
def shardd_is_missing() -> str:
    """Why ``python -m shardd start`` cannot be run here; empty when it can."""
    command = [sys.executable, "-m", "shardd", "start", "--help"]
    result = subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False
    )
    if result.returncode == 0:
        return ""
    return f"{' '.join(command)} returned {result.returncode}: {result.stderr[-500:]}"


def nats_server_path() -> str:
    """Where the original is."""
    beside = Path(sys.executable).with_name("nats-server")
    found = str(beside) if os.access(beside, os.X_OK) else shutil.which("nats-server")
    if not found:
        raise BrokerError("there is no nats-server beside Python or in PATH")
    return found


def _end_all(processes: list[psutil.Process]) -> None:
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
