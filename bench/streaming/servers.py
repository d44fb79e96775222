"""The streaming servers under test: starting them on a store, what they cost, ending them.

Each has its durable store as it comes: what it calls FILE, with its default durability. Limits are
off. The store outlives the server, so that a server can be started on a store that is full.
"""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench.servers import (
    HOST,
    LOG_TAIL_BYTES,
    STOP_S_MAX,
    ServerFailure,
    read_pss_bytes,
)
from bench.streaming.client import Client, free_port

ORIGINAL: Final = "nats-streaming-server"
CLUSTER_ID: Final = "bench"
TOOLS: Final = Path(__file__).resolve().parents[2] / "build" / "streaming"
MODULES: Final = {
    ORIGINAL: "github.com/nats-io/nats-streaming-server@v0.25.6",
    "stan-bench": "github.com/nats-io/stan.go/examples/stan-bench@v0.10.4",
}
FILES_MAX: Final = 10_000
MAKE_S: Final = 600.0
POLL_S: Final = 0.002
# The original reads a store again at some 15 ms a channel: minutes for ten thousand of them.
START_S_MAX: Final = 600.0


def find_tool(name: str) -> Path:
    """A program in Go: from PATH, or built below `build/` from the module proxy."""
    program = TOOLS / name
    if not program.exists():
        if found := shutil.which(name):
            return Path(found)
        if shutil.which("go") is None:
            raise ServerFailure(f"no {name}, and no go to build it")
        TOOLS.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["go", "install", MODULES[name]],
            capture_output=True,
            text=True,
            timeout=MAKE_S,
            env={**os.environ, "GOBIN": str(TOOLS), "GOFLAGS": ""},
            check=False,
        )
        if done.returncode:
            raise ServerFailure(f"go cannot build {name}: {done.stderr.strip()[-LOG_TAIL_BYTES:]}")
    return program


@dataclass(frozen=True, slots=True)
class StreamingContender:
    """A server to be measured: the original, or `shardd-N` with N streaming workers."""

    label: str
    workers: int  # streaming workers; 0 for the original

    def command(self) -> list[str]:
        """The command without port and store."""
        if not self.workers:
            # It keeps three files of each channel open, up to this many; without, it fails at the
            # operating system's limit.
            return [str(find_tool(ORIGINAL)), "--file_fds_limit", str(FILES_MAX)]
        # As many workers for clients as cores, as it comes.
        return [sys.executable, "-m", "shardd", "start", "--streaming", str(self.workers)]

    def version(self) -> str:
        """What the program says of its version."""
        command = self.command()[: 3 if self.workers else 1]
        done = subprocess.run(
            [*command, "--version"], capture_output=True, text=True, timeout=20, check=False
        )
        if done.returncode != 0:
            text = done.stderr.strip()[-LOG_TAIL_BYTES:]
            raise ServerFailure(f"{self.label} does not run: {text}")
        return next(word for word in done.stdout.replace(",", " ").split() if word[-1].isdigit())


def parse_contenders(text: str) -> list[StreamingContender]:
    """Two servers, as in `shardd-1,nats-streaming-server`; the same twice gets a numbered label."""
    contenders = []
    for name in (each.strip() for each in text.split(",")):
        program, _, number = name.rpartition("-")
        if name == ORIGINAL:
            contenders.append(StreamingContender(name, 0))
        elif program == "shardd" and number.isdecimal() and int(number):
            contenders.append(StreamingContender(name, int(number)))
        else:
            raise ValueError(f"unknown server {name!r}: {ORIGINAL}, shardd-1, shardd-2 ...")
    if len(contenders) != 2:
        raise ValueError("two servers are compared")
    first, second = contenders
    if first.label == second.label:
        second = StreamingContender(second.label + "-again", second.workers)
    return [first, second]


class StreamingServer:
    """A server and its store; whoever made it closes it."""

    def __init__(self, contender: StreamingContender) -> None:
        """Make the store's directory; nothing is started."""
        self.contender = contender
        self.port = free_port()
        self._directory = Path(tempfile.mkdtemp(prefix="shardd-bench-"))
        self._log = self._directory / "output"
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """Where clients connect."""
        return f"nats://{HOST}:{self.port}"

    def launch(self) -> float:
        """Start the process and do not wait; returns the moment, monotonic seconds."""
        store = ["-st", "FILE", "--dir", str(self._directory / "store")]
        limits = ["-mm", "0", "-mb", "0", "-mc", "0"]
        where = ["-a", HOST, "-p", str(self.port), "-cid", CLUSTER_ID]
        # An installed package has its bytecode: the first start here makes it, as installing does.
        environment = {
            name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"
        }
        moment = time.monotonic()
        with self._log.open("ab") as output:
            self._process = subprocess.Popen(
                [*self.contender.command(), *where, *store, *limits],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=environment,
                start_new_session=True,
            )
        return moment

    def start(self) -> None:
        """Start it and wait until it has accepted a streaming client."""
        self.launch()
        with self.first_client() as client:
            client.close_session()

    def first_client(self) -> Client:
        """The first client that it accepts, waited for."""
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            self.check_alive()
            with contextlib.suppress(OSError, EOFError):
                client = Client(HOST, self.port, CLUSTER_ID)
                if client.try_open("first"):
                    return client
                client.close()
            time.sleep(POLL_S)
        raise ServerFailure(f"{self.contender.label} serves no client: {self.log_tail()}")

    def check_alive(self) -> None:
        """Raise when the server has ended by itself."""
        assert self._process is not None, "the server was not started"
        status = self._process.poll()
        if status is not None:
            text = f"{self.contender.label} ended with status {status}: {self.log_tail()}"
            raise ServerFailure(text)

    def log_tail(self) -> str:
        """The last that it wrote beside what every server says."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "; ".join(line for line in lines if "[INF]" not in line)[-LOG_TAIL_BYTES:]

    def _processes(self) -> Sequence[psutil.Process]:
        assert self._process is not None, "the server was not started"
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def pss_bytes(self) -> int:
        """Memory of all its processes; a page that n of them share counts as one n-th in each."""
        return int(self._sum(lambda process: read_pss_bytes(process.pid)))

    def cpu_s(self) -> float:
        """User and system time of all its processes so far."""
        return self._sum(lambda process: sum(process.cpu_times()[:2]))

    def _sum(self, measure: Callable[[psutil.Process], float]) -> float:
        try:
            return sum(measure(process) for process in self._processes())
        except (psutil.Error, OSError) as error:
            raise ServerFailure(f"a process of {self.contender.label} ended: {error}") from error

    def stop(self) -> None:
        """End it, by force when it does not listen; the store stays."""
        if self._process is None:
            return
        family: Sequence[psutil.Process] = ()
        with contextlib.suppress(psutil.NoSuchProcess):
            family = self._processes()
        self._process.send_signal(signal.SIGTERM)
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S_MAX)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        self._process = None

    def close(self) -> None:
        """End it and remove the store."""
        self.stop()
        shutil.rmtree(self._directory, ignore_errors=True)
