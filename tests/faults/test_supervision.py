"""The supervisor with real processes: what survives whose death, and what a start refuses.

The workers are stand-ins (`fake_host`), so that what is tested is the supervisor alone.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from shardd import limits
from shardd.errors import ExitCode
from tests.support.waiting import WAIT_S, wait_until

FAKE_HOST = Path(__file__).with_name("fake_host.py")
ROOT = Path(__file__).resolve().parents[2]


class FakeHost:
    """One supervisor process and its workers, in a directory of its own."""

    def __init__(
        self, directory: Path, runtime_place: Path, behaviour: str, config: dict[str, Any]
    ) -> None:
        directory.mkdir(exist_ok=True)
        self._runtime_place = runtime_place
        self.directory = directory
        self.log = directory / "output"
        settings = {
            "host": "127.0.0.1",
            "port": -1,
            "workers": 2,
            "ports_file_dir": str(directory),
            "pid_file": str(directory / "pid"),
        }
        arguments = {"config": settings | config, "behaviour": behaviour}
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, str(FAKE_HOST), json.dumps(arguments)],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=os.environ | {"PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(runtime_place)},
                start_new_session=True,
            )
        self.supervisor = psutil.Process(self.process.pid)
        self.family: set[psutil.Process] = set()

    @property
    def ports_file(self) -> Path:
        return self.directory / f"shardd_{self.process.pid}.ports"

    def text(self) -> str:
        """Everything it wrote."""
        return self.log.read_text()

    def wait_ready(self) -> "FakeHost":
        def is_ready() -> bool:
            assert self.process.poll() is None, self.text()
            return "Server is ready" in self.text()

        wait_until(is_ready, "the server to be ready")
        return self

    def port(self) -> int:
        url = json.loads(self.ports_file.read_text())["nats"][0]
        return int(url.rpartition(":")[2])

    def runtime_directories(self) -> list[Path]:
        """What it has, or left, in the place for such directories."""
        return list(self._runtime_place.glob(f"shardd-{self.process.pid}-*"))

    def workers(self) -> list[psutil.Process]:
        """The workers that live now."""
        found = [
            child for child in self.supervisor.children() if child.status() != psutil.STATUS_ZOMBIE
        ]
        self.family.update(found)
        return found

    def end(self) -> None:
        """After the test: nothing of it may be left."""
        self.process.terminate()
        try:
            self.process.wait(limits.STOP_S_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        wait_gone(self.family)


Start = Callable[..., FakeHost]


@pytest.fixture
def runtime_place() -> Iterator[Path]:
    """Where the hosts of a test have their runtime directories: pytest's own paths are too long."""
    place = Path(tempfile.mkdtemp(prefix="rt-", dir="/tmp"))
    yield place
    shutil.rmtree(place)


@pytest.fixture
def start(tmp_path: Path, runtime_place: Path) -> Iterator[Start]:
    """``start(behaviour, workers=1)``: a host, ended after the test."""
    hosts: list[FakeHost] = []

    def start_host(behaviour: str = "", **config: Any) -> FakeHost:
        host = FakeHost(tmp_path / f"host-{len(hosts)}", runtime_place, behaviour, config)
        hosts.append(host)
        return host

    yield start_host
    for host in hosts:
        host.end()


def wait_gone(processes: Iterable[psutil.Process]) -> None:
    """Waits until these have ended; whether init has reaped them is not the server's business."""

    def is_gone(process: psutil.Process) -> bool:
        try:
            return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
        except psutil.NoSuchProcess:
            return True

    wait_until(lambda: all(is_gone(process) for process in processes), "processes to end")


def ask(port: int, host: str = "127.0.0.1") -> tuple[int, int, int]:
    """Who serves a connection: index, incarnation, pid."""
    with socket.create_connection((host, port), WAIT_S) as connection:
        data = b""
        while chunk := connection.recv(100):
            data += chunk
    index, incarnation, pid = data.split()
    return int(index), int(incarnation), int(pid)


def can_bind(port: int) -> bool:
    """Whether a server could have this port, alone, right now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
            probe.listen()
        except OSError:
            return False
    return True


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_stop_signal_ends_everything_with_code_zero(start: Start, number: signal.Signals) -> None:
    host = start().wait_ready()
    port, workers = host.port(), host.workers()
    assert len(workers) == 2
    assert len(host.runtime_directories()) == 1
    host.process.send_signal(number)
    assert host.process.wait(WAIT_S) == 0
    assert not any(worker.is_running() for worker in workers)
    assert can_bind(port)
    assert host.runtime_directories() == []
    assert host.text().count("has stopped by itself") == 2
    assert host.text().splitlines()[-1].endswith("[INF] Server Exiting..")


def test_interrupt_from_the_terminal_reaches_the_whole_group_and_ends_it_cleanly(
    start: Start,
) -> None:
    host = start().wait_ready()
    host.workers()
    os.killpg(host.process.pid, signal.SIGINT)
    assert host.process.wait(WAIT_S) == 0
    assert host.text().count("has stopped by itself") == 2
    assert "[ERR]" not in host.text()


def test_killed_supervisor_takes_every_worker_along_and_frees_the_port(start: Start) -> None:
    host = start().wait_ready()
    port, workers = host.port(), host.workers()
    for _ in range(4):
        ask(port)  # leaves connections in TIME_WAIT
    host.process.kill()
    host.process.wait()
    wait_gone(workers)
    assert can_bind(port)
    successor = start(port=port).wait_ready()
    assert ask(port)[2] in {worker.pid for worker in successor.workers()}


def test_supervisor_killed_while_its_workers_boot_leaves_none_behind(start: Start) -> None:
    host = start("first worker never boots")
    workers = wait_until(lambda: host.workers()[1:] and host.workers(), "two workers")
    host.process.kill()
    host.process.wait()
    wait_gone(workers)


def test_runtime_directory_that_a_killed_server_left_is_cleared_by_the_next(start: Start) -> None:
    first = start().wait_ready()
    other = start().wait_ready()
    first.process.kill()
    first.process.wait()
    assert len(first.runtime_directories()) == 1
    start().wait_ready()
    assert first.runtime_directories() == []
    assert len(other.runtime_directories()) == 1


def test_crashed_worker_is_replaced_and_the_other_one_stays(start: Start) -> None:
    host = start().wait_ready()
    victim, survivor = host.workers()
    victim.kill()
    wait_until(lambda: "is ready, pid" in host.text(), "a replacement")
    workers = host.workers()
    assert survivor in workers
    assert victim not in workers
    assert len(workers) == 2
    assert f"pid {victim.pid}, ended: SIGKILL, replacing it in 0.05s" in host.text()


def test_connection_made_while_a_worker_is_away_is_served_by_its_replacement(start: Start) -> None:
    host = start(workers=1).wait_ready()
    (worker,) = host.workers()
    port = host.port()
    worker.suspend()
    with socket.create_connection(("127.0.0.1", port), WAIT_S) as waiting:
        worker.kill()
        index, incarnation, pid = waiting.makefile().readline().split()
    assert (index, incarnation) == ("0", "2")
    assert int(pid) != worker.pid


def test_stopped_worker_is_killed_and_replaced(start: Start) -> None:
    host = start(heartbeat_silence_s=1.5).wait_ready()
    victim, survivor = host.workers()
    victim.suspend()
    wait_until(lambda: "is ready, pid" in host.text(), "a replacement")
    assert not victim.is_running()
    assert survivor in host.workers()
    assert f"pid {victim.pid}: no heartbeat for 1.5s, ending it" in host.text()
    assert f"pid {victim.pid}, ended: SIGKILL" in host.text()


def test_worker_that_hangs_leaves_its_stack_in_the_log(start: Start) -> None:
    host = start("first worker hangs", heartbeat_silence_s=1.5).wait_ready()
    host.workers()
    wait_until(lambda: "Worker 0 is ready, pid" in host.text(), "a replacement")
    assert "Fatal Python error: Aborted" in host.text()
    assert "in hang" in host.text()
    assert "ended: SIGABRT" in host.text()


@pytest.mark.slow
def test_group_that_was_suspended_as_a_whole_goes_on_with_the_same_workers(start: Start) -> None:
    host = start(heartbeat_silence_s=1.5).wait_ready()
    workers = host.workers()
    os.killpg(host.process.pid, signal.SIGSTOP)
    until = time.monotonic() + 4.0
    wait_until(lambda: time.monotonic() > until, "time to pass")
    os.killpg(host.process.pid, signal.SIGCONT)
    until = time.monotonic() + 1.5
    wait_until(lambda: time.monotonic() > until, "time to pass")
    assert host.workers() == workers
    assert "[ERR]" not in host.text()


def test_worker_that_ignores_the_stop_is_killed_by_a_second_interrupt(start: Start) -> None:
    host = start("stubborn").wait_ready()
    host.workers()
    host.process.send_signal(signal.SIGINT)
    wait_until(lambda: "Initiating Shutdown" in host.text(), "the stop to begin")
    assert host.process.poll() is None
    host.process.send_signal(signal.SIGINT)
    assert host.process.wait(limits.STOP_S_MAX - 1) == 0


@pytest.mark.slow
def test_worker_that_ignores_the_stop_is_killed_in_the_end(start: Start) -> None:
    host = start("stubborn").wait_ready()
    host.workers()
    host.process.send_signal(signal.SIGTERM)
    assert host.process.wait(limits.STOP_S_MAX + WAIT_S) == 0
    assert host.text().count("did not stop within 5.0s, killing it") == 2


@pytest.mark.parametrize(
    ("behaviour", "ending"),
    [("exit while booting", "exit code 7"), ("raise while booting", "exit code 70")],
)
def test_worker_that_cannot_boot_ends_the_server_with_its_own_code(
    start: Start, behaviour: str, ending: str
) -> None:
    host = start(behaviour, workers=1)
    assert host.process.wait(WAIT_S) == ExitCode.WORKER_BOOT_FAILED
    text = host.text()
    assert text.count(f"ended while booting: {ending}") == limits.BOOT_FAILURES_MAX
    assert "[FTL] Worker 0 could not boot 3 times in a row, giving up" in text
    assert "Server is ready" not in text
    assert not host.ports_file.exists()


def test_exception_of_a_worker_is_logged_with_its_traceback(start: Start) -> None:
    host = start("raise while booting", workers=1)
    host.process.wait(WAIT_S)
    assert "[ERR] Worker 0 failed" in host.text()
    assert "RuntimeError: no way to boot" in host.text()


def test_port_that_another_program_has_is_refused_as_nats_server_does(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        host = start(port=port)
        assert host.process.wait(WAIT_S) == ExitCode.CONFIGURATION
    last = host.text().splitlines()[-1]
    assert last.endswith(
        f"[FTL] Error listening on port: 127.0.0.1:{port},"
        f' "listen tcp 127.0.0.1:{port}: bind: address already in use"'
    )
    assert not (host.directory / "pid").exists()


@pytest.mark.parametrize("address", ["127.0.0.1", "0.0.0.0"])
def test_port_that_another_shardd_has_is_refused_though_its_sockets_share_it(
    start: Start, address: str
) -> None:
    port = start(host=address).wait_ready().port()
    second = start(host=address, port=port)
    assert second.process.wait(WAIT_S) == ExitCode.CONFIGURATION
    assert "address already in use" in second.text()


def test_of_several_servers_started_together_on_one_port_exactly_one_gets_it(start: Start) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    hosts = [start(port=port) for _ in range(4)]

    def is_decided() -> bool:
        return all(host.process.poll() is not None or "is ready" in host.text() for host in hosts)

    wait_until(is_decided, "every server to start or to give up")
    codes = sorted(str(host.process.poll()) for host in hosts)
    assert codes == ["1", "1", "1", "None"]


@pytest.mark.parametrize(
    ("config", "line"),
    [
        ({"host": "no-such-host.invalid"}, "listen tcp: lookup no-such-host.invalid: no such host"),
        ({"host": "192.0.2.77"}, "bind: cannot assign requested address"),
        ({"pid_file": "/no/such/pid"}, "Could not write pidfile: open /no/such/pid: no such file"),
        ({"ports_file_dir": "/no/such"}, "Error writing ports file (/no/such/shardd_"),
    ],
)
def test_start_that_cannot_be_says_one_line_and_returns_one(
    start: Start, config: dict[str, str], line: str
) -> None:
    host = start(**config)
    assert host.process.wait(WAIT_S) == ExitCode.CONFIGURATION
    assert line in host.text().splitlines()[-1]
    assert "Traceback" not in host.text()


def test_pid_file_has_digits_only_and_stays_while_the_ports_file_goes(start: Start) -> None:
    host = start().wait_ready()
    pid_file = host.directory / "pid"
    assert pid_file.read_bytes() == str(host.process.pid).encode()
    assert host.ports_file.read_text() == f'{{"nats":["nats://127.0.0.1:{host.port()}"]}}'
    host.process.terminate()
    host.process.wait()
    assert pid_file.exists()
    assert not host.ports_file.exists()


@pytest.mark.parametrize("address", ["0.0.0.0", "::"])
def test_either_wildcard_serves_both_families_and_lists_every_address(
    start: Start, address: str
) -> None:
    host = start(host=address).wait_ready()
    port = host.port()
    shown = "[::]" if address == "::" else address
    assert f"Listening for client connections on {shown}:{port}" in host.text()
    assert ask(port)
    urls = json.loads(host.ports_file.read_text())["nats"]
    assert f"nats://127.0.0.1:{port}" in urls
    if f"nats://[::1]:{port}" in urls:
        assert ask(port, "::1")


def test_connections_are_spread_over_the_workers(start: Start) -> None:
    host = start().wait_ready()
    port = host.port()
    wait_until(lambda: len({ask(port)[0] for _ in range(20)}) == 2, "both workers to serve")


def test_worker_holds_its_own_listening_socket_and_no_other(start: Start) -> None:
    host = start(workers=3).wait_ready()
    for worker in host.workers():
        listening = [item for item in worker.net_connections() if item.status == "LISTEN"]
        assert len(listening) == 1
    targets = [
        {os.readlink(path) for path in Path(f"/proc/{process.pid}/fd").iterdir()}
        for process in (host.supervisor, host.workers()[0])
    ]
    of_supervisor_alone = targets[0] - targets[1]
    (directory,) = host.runtime_directories()
    assert str(directory) in of_supervisor_alone
    assert any(target.startswith("pipe:") for target in of_supervisor_alone)


def test_runtime_directory_can_be_entered_by_the_servers_user_alone(start: Start) -> None:
    host = start().wait_ready()
    (directory,) = host.runtime_directories()
    assert directory.stat().st_mode & 0o777 == 0o700


def test_pinned_workers_have_one_core_each(start: Start) -> None:
    cores = sorted(os.sched_getaffinity(0))
    host = start(workers=len(cores), pin=True).wait_ready()
    affinities = sorted(worker.cpu_affinity() for worker in host.workers())
    assert affinities == [[core] for core in cores]


def test_workers_may_open_as_many_files_as_the_system_allows(start: Start) -> None:
    host = start().wait_ready()
    soft, hard = host.workers()[0].rlimit(psutil.RLIMIT_NOFILE)
    assert soft == hard


def test_log_is_reopened_on_usr1(start: Start, tmp_path: Path) -> None:
    log_file = tmp_path / "server.log"
    host = start(log_file=str(log_file))
    wait_until(lambda: log_file.exists() and "is ready" in log_file.read_text(), "the server")
    workers = host.workers()
    log_file.rename(tmp_path / "server.log.1")
    host.process.send_signal(signal.SIGUSR1)
    wait_until(log_file.exists, "the new log file")
    wait_until(lambda: "File log re-opened" in log_file.read_text(), "the line in the new file")
    assert host.workers() == workers


def test_a_hangup_without_a_file_is_answered_and_survived(start: Start) -> None:
    host = start().wait_ready()
    workers = host.workers()
    host.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "can only reload config when a file" in host.text(), "the answer")
    assert ask(host.port())
    assert host.workers() == workers


def test_start_up_lines_come_in_the_order_of_nats_server(start: Start) -> None:
    host = start(server_name="one").wait_ready()
    words = [
        "Starting shardd",
        "  Version:  ",
        "  Shardd:   ",
        "  Name:     one",
        "  ID:       N",
        "  Workers:  2",
        "Listening for client connections on 127.0.0.1:",
        "Server is ready",
    ]
    lines = [line.partition("[INF] ")[2] for line in host.text().splitlines()]
    assert len(lines) == len(words)
    assert all(line.startswith(word) for line, word in zip(lines, words, strict=True))
