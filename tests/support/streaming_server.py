"""Servers of NATS Streaming as real processes: the original and shardd behind one interface.

The original is built once, with Go, into `build/streaming/`; where that cannot be done, tests that
need it are skipped. Both are started from one configuration file, with what a test wants inside its
`streaming { }` block. A server keeps its port over restarts and its store in a directory that
belongs to the test.
"""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Final

import psutil
import pytest

from tests.support.broker import START_S, Broker, BrokerError, Setting
from tests.support.waiting import wait_until

ORIGINAL: Final = "nats-streaming-server"
SHARDD: Final = "shardd-streaming-1"
SHARDD_POOL: Final = "shardd-streaming-2"
STREAMING_KINDS: Final = (ORIGINAL, SHARDD)
JUDGED_KINDS: Final = (*STREAMING_KINDS, SHARDD_POOL)

CLUSTER_ID: Final = "test-cluster"

_SERVER_PACKAGE: Final = "github.com/nats-io/nats-streaming-server@v0.25.6"
_BENCH_PACKAGE: Final = "github.com/nats-io/stan.go/examples/stan-bench@v0.10.4"
_BUILD: Final = Path(__file__).resolve().parents[2] / "build" / "streaming"
_MAKE_S: Final = 600.0


class StreamingServer(Broker):
    """One server with one cluster, owned by the test or fixture that made it."""

    def __init__(self, options: str = "", data: Path | None = None) -> None:
        """`options` are lines of the `streaming { }` block; with `data` the store is FILE."""
        super().__init__()
        self._options = options
        self._data = data
        self._monitor_url = ""

    @property
    def monitor_url(self) -> str:
        """Where `/streaming/serverz` and its kin are asked for."""
        assert self._monitor_url, f"{self.kind} said nothing of monitoring"
        return self._monitor_url

    def start(self, settings: Mapping[str, Setting] | None = None) -> None:
        """Start the server and return once it serves streaming clients; again after `kill` or
        `stop`, with the same port and store."""
        self._directory.mkdir(exist_ok=True)
        super().start(settings)

    def stop(self) -> int:
        """Send TERM; the exit code for that is 143, which counts as 0 here."""
        code = super().stop()
        return 0 if code == 143 else code

    def restart(self, signal_number: signal.Signals = signal.SIGKILL) -> None:
        """End the server in this way and start it again."""
        self._end(signal_number)
        self.start()

    def kill_all(self) -> None:
        """SIGKILL every process of it at once, as a power cut would."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        self._end(signal.SIGKILL)

    def _write_configuration(self, settings: Mapping[str, Setting]) -> None:
        """The file that both kinds are started with."""
        port = self._port or -1
        store = f"store: FILE\n  dir: {json.dumps(str(self._data))}" if self._data else ""
        lines = "".join(f"{key}: {json.dumps(value)}\n" for key, value in settings.items())
        self.configuration.write_text(f"""\
listen: "127.0.0.1:{port}"
http: "127.0.0.1:-1"
ports_file_dir: {json.dumps(str(self.directory))}
{lines}streaming {{
  cluster_id: "{CLUSTER_ID}"
  {store}
  {self._options}
}}
""")

    def _read_ports_file(self) -> bool:
        if not super()._read_ports_file():
            return False
        for path in self._directory.glob(f"*_{self.pid}.ports"):
            self._monitor_url = next(iter(json.loads(path.read_text()).get("monitoring", ())), "")
        return True


class OriginalServer(StreamingServer):
    """nats-streaming-server 0.25.6, with its own NATS server inside."""

    kind = ORIGINAL

    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The command line; everything else is in the file."""
        if not has_file:
            self._write_configuration(settings)
        return [str(original_server_path()), "-c", str(self.configuration)]

    def start(self, settings: Mapping[str, Setting] | None = None) -> None:
        """Start it and return once it serves; its NATS port opens some time earlier."""
        super().start(settings)
        try:
            wait_until(self._is_ready, f"{self.kind} to be ready", START_S)
        except BaseException:
            self.kill()
            raise

    def _is_ready(self) -> bool:
        if not self.is_alive():
            raise BrokerError(f"{self.kind} ended at start:\n{self.log_text()}")
        return "STREAM: Streaming Server is ready" in self.log_text()


class SharddStreaming(StreamingServer):
    """Ours, embedded: as many workers for clients as for streaming."""

    def __init__(self, workers: int, options: str = "", data: Path | None = None) -> None:
        self.kind = f"shardd-streaming-{workers}"
        self.workers = workers
        super().__init__(options, data)

    def command(self, settings: Mapping[str, Setting], *, has_file: bool = False) -> list[str]:
        """The command line; everything else is in the file."""
        if not has_file:
            self._write_configuration(settings)
        return [
            *(sys.executable, "-m", "shardd", "start", "-c", str(self.configuration)),
            *("--workers", str(self.workers), "--streaming", str(self.workers)),
        ]


def make_streaming_server(
    kind: str, options: str = "", data: Path | None = None
) -> StreamingServer:
    """The server that `kind` names, not yet started; skips the test where there is none."""
    if kind == ORIGINAL:
        original_server_path()
        return OriginalServer(options, data)
    name, _, workers = kind.rpartition("-")
    assert name == "shardd-streaming", kind
    if not shardd_has_streaming():
        pytest.skip("this shardd has no streaming pool: `shardd start` knows no --streaming")
    return SharddStreaming(int(workers), options, data)


@cache
def shardd_has_streaming() -> bool:
    """Whether `shardd start` has the flag."""
    command = [sys.executable, "-m", "shardd", "start", "--help"]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    return "--streaming" in shown.stdout


@cache
def original_server_path() -> Path:
    """The original server, built if need be."""
    return _installed(_SERVER_PACKAGE)


@cache
def original_bench_path() -> Path:
    """The original Go client's benchmark, built if need be."""
    return _installed(_BENCH_PACKAGE)


def _installed(package: str) -> Path:
    """The program of a Go package; skips the test if it cannot be built."""
    program = _BUILD / package.partition("@")[0].rpartition("/")[2]
    if program.exists():
        return program
    if shutil.which("go") is None:
        pytest.skip("go is not installed")
    _BUILD.mkdir(parents=True, exist_ok=True)
    done = subprocess.run(
        ["go", "install", package],
        cwd=_BUILD,
        capture_output=True,
        text=True,
        timeout=_MAKE_S,
        env={**os.environ, "GOBIN": str(_BUILD), "GOFLAGS": ""},
        check=False,
    )
    if done.returncode:
        pytest.skip(f"go cannot build {package}: {done.stderr.strip()[-300:]}")
    return program
