"""What the supervisor has its workers do while they run: reload, and leave one by one."""

import dataclasses
import json
import logging
import os
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardd import limits, log
from shardd.config.core import Config
from shardd.config.model import Account
from shardd.errors import BootError, ConfigError, ExitCode
from shardd.orders import LameDuck, Reload, Shed
from shardd.process import Ended
from shardd.supervisor import Supervisor
from tests.support.supervised import CONFIG, SILENCE_S, WORKERS, Bench


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    caplog.set_level(logging.INFO, "shardd")
    monkeypatch.setattr(log, "configure", lambda *_: None)  # the test's own log stays
    with ExitStack() as stack:
        yield Bench(stack)


# --- reload --------------------------------------------------------------------------------------


def test_reload_reaches_every_worker_and_is_done_when_all_have_said_so(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    caplog.clear()
    bench.reload(max_payload=2000, config_digest="sha256:1")
    expected = dataclasses.replace(CONFIG, max_payload=2000, config_digest="sha256:1")
    assert bench.take(0) == [Reload(1, expected, {"$G": 0, "$SYS": 1})]
    bench.supervisor.step()
    assert caplog.messages == ['Trapped "hangup" signal', "Reloaded: max_payload = 2000"]
    assert len(bench.take(1)) == 1
    bench.supervisor.step()
    assert caplog.messages[2:] == ["Reloaded server configuration (sha256:1)"]
    bench.supervisor.step()
    assert len(caplog.messages) == 3
    assert bench.supervisor.setup.config == expected


@pytest.mark.parametrize(
    ("found", "reason"),
    [
        (ConfigError("file:1:2: no"), "file:1:2: no"),
        (BootError("unreadable"), "unreadable"),
        (OSError(24, "Too many open files"), "[Errno 24] Too many open files"),
        (
            dataclasses.replace(CONFIG, max_payload=9, workers=7),
            "config reload not supported for workers: old=, new=7",
        ),
        (
            dataclasses.replace(CONFIG, max_payload=9, pid_file="/no/such/pid"),
            "Could not write pidfile: open /no/such/pid: no such file or directory",
        ),
    ],
)
def test_reload_that_cannot_be_changes_nothing_and_tells_no_worker(
    bench: Bench,
    caplog: pytest.LogCaptureFixture,
    found: Config | Exception,
    reason: str,
) -> None:
    bench.boot()
    caplog.clear()
    bench.file = found
    bench.signal(signal.SIGHUP)
    assert caplog.messages == [
        'Trapped "hangup" signal',
        f"Failed to reload server configuration: {reason}",
    ]
    assert bench.take(0) == bench.take(1) == []
    assert bench.supervisor.setup is bench.setup


def test_a_fault_of_ours_in_reading_the_file_ends_no_server(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.file = ZeroDivisionError("a fault")
    bench.signal(signal.SIGHUP)
    assert caplog.messages[-1] == "Failed to reload server configuration"
    assert caplog.records[-1].exc_info
    bench.file = CONFIG
    bench.reload(debug=True)
    assert len(bench.take(0)) == 1


def test_replacement_after_a_reload_is_not_waited_for_and_finds_the_new_configuration(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.reload(max_payload=2000)
    bench.take(0)
    bench.supervisor.step()
    assert not caplog.messages[-1].startswith("Reloaded server")
    bench.end(1, -signal.SIGSEGV)
    assert caplog.messages[-1].startswith("Reloaded server configuration")
    bench.pass_time(limits.HEARTBEAT_S)
    assert bench.children.forked == [0, 1, 1]
    assert bench.supervisor.setup.config.max_payload == 2000
    assert bench.receivers[1].take() == []  # its predecessor's


def test_only_the_last_of_several_reloads_is_waited_for(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.reload(max_payload=2000)
    bench.receivers[0].answer(1)
    bench.receivers[1].answer(1)
    bench.reload(max_payload=3000, config_digest="sha256:2")
    assert not caplog.messages[-1].startswith("Reloaded server")
    for index in range(WORKERS):
        assert len(bench.take(index)) == 2
    bench.supervisor.step()
    said = [text for text in caplog.messages if text.startswith("Reloaded server")]
    assert said == ["Reloaded server configuration (sha256:2)"]


def test_accounts_keep_their_numbers_over_reloads(bench: Bench) -> None:
    bench.boot()
    accounts = {name: (Account(name=name),) for name in "AB"}
    bench.reload(accounts=accounts["A"])
    bench.reload(accounts=accounts["B"])
    bench.reload(accounts=accounts["A"] + accounts["B"])
    ids = [order.account_ids for order in bench.take(0) if isinstance(order, Reload)]
    assert ids[0] == {"$G": 0, "$SYS": 1, "A": 2}
    assert ids[1] == ids[2] == {"$G": 0, "$SYS": 1, "A": 2, "B": 3}


def test_connections_beyond_a_lower_limit_are_shed_when_all_have_reloaded(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.slots.add(0, "connections", 6)
    bench.slots.add(1, "connections", 2)
    bench.reload(max_connections=4)
    assert len(bench.take(0)) == len(bench.take(1)) == 1
    bench.supervisor.step()
    assert bench.take(0) == [Shed(3)]
    assert bench.take(1) == [Shed(1)]
    assert "Closed 4 connections to fall within max_connections" in caplog.messages


def test_worker_that_takes_no_orders_is_ended(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    while bench.orders[1].send(Shed(0)):
        pass
    bench.reload(debug=True)
    assert bench.children.sent == [(102, signal.SIGABRT)]
    assert "Worker 1, pid 102, takes no orders, ending it" in caplog.messages
    bench.take(0)
    bench.supervisor.step()
    assert caplog.messages[-1].startswith("Reloaded server configuration")


def test_new_warnings_are_said_and_old_ones_are_not_repeated(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.reload(warnings=("careful",))
    bench.reload(warnings=("careful", "more careful"))
    assert caplog.messages.count("careful") == 1
    assert caplog.messages.count("more careful") == 1


def test_pid_file_and_ports_file_follow_the_configuration(bench: Bench, tmp_path: Path) -> None:
    def ports() -> list[Path]:
        return sorted(path.parent for path in tmp_path.rglob("*.ports"))

    places = [tmp_path / name for name in ("a", "b")]
    for place in places:
        place.mkdir()
    bench.boot()
    for place in places:
        bench.reload(ports_file_dir=str(place), pid_file=str(place / "pid"))
        assert ports() == [place]
        assert (place / "pid").read_text() == str(os.getpid())
    (path,) = tmp_path.rglob("*.ports")
    port = bench.listener.getsockname()[1]
    assert json.loads(path.read_text()) == {"nats": [f"nats://127.0.0.1:{port}"]}
    bench.reload(ports_file_dir=str(tmp_path / "missing"))
    assert ports() == [places[1]]
    assert isinstance(bench.file, Config)
    bench.reload(ports_file_dir=None)
    assert ports() == []
    bench.reload(ports_file_dir=str(places[0]))
    bench.supervisor.close()
    assert ports() == []


def test_without_a_file_there_is_nothing_to_read_anew(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = Supervisor(bench.setup, bench.children, bench.signals, lambda: bench.now)
    bench.signals.waiting = [signal.SIGHUP]
    supervisor.step()
    assert caplog.messages[-1] == (
        "Failed to reload server configuration: can only reload config when a file is provided"
        " using -c or --config"
    )


# --- lame duck mode ------------------------------------------------------------------------------


def test_lame_duck_refuses_connections_before_any_worker_has_its_order(bench: Bench) -> None:
    bench.boot()
    address = bench.listener.getsockname()
    inherited = bench.listener.dup()  # as workers have it
    bench.signal(signal.SIGUSR2)
    with inherited, pytest.raises(ConnectionRefusedError):
        socket.create_connection(address)


def test_lame_duck_without_clients_stops_as_soon_as_the_workers_know(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    caplog.clear()
    bench.signal(signal.SIGUSR2)
    assert bench.take(0) == bench.take(1) == [LameDuck(1)]
    assert bench.children.sent == []
    bench.supervisor.step()
    assert bench.children.sent == [(101, signal.SIGTERM), (102, signal.SIGTERM)]
    bench.children.ends = [Ended(101, 0), Ended(102, 0)]
    assert bench.supervisor.serve() == ExitCode.CLEAN
    assert caplog.messages == [
        'Trapped "user defined signal 2" signal',
        "Entering lame duck mode, stop accepting new clients",
        "Initiating Shutdown...",
        "Server Exiting..",
    ]


def enter_lame_duck(bench: Bench) -> None:
    """With three clients."""
    bench.boot()
    bench.slots.add(1, "connections", 3)
    bench.signal(signal.SIGUSR2)
    bench.take(0)
    bench.take(1)
    bench.supervisor.step()


def test_lame_duck_lasts_until_the_last_client_has_gone(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    enter_lame_duck(bench)
    bench.pass_time(CONFIG.lame_duck_grace_s - 1.0)
    assert "Closing existing clients" not in caplog.messages
    bench.pass_time(2.0)
    assert caplog.messages.count("Closing existing clients") == 1
    assert bench.children.sent == []
    bench.slots.add(1, "connections", -3)
    bench.supervisor.step()
    assert bench.children.sent == [(101, signal.SIGTERM), (102, signal.SIGTERM)]
    assert caplog.messages.count("Closing existing clients") == 1


def test_lame_duck_ends_though_a_worker_lets_nobody_go(bench: Bench) -> None:
    enter_lame_duck(bench)
    bench.pass_time(CONFIG.lame_duck_duration_s - 1.0)
    assert bench.children.sent == []
    bench.pass_time(1.0 + SILENCE_S)
    assert bench.children.sent == [(101, signal.SIGTERM), (102, signal.SIGTERM)]


def test_lame_duck_ignores_a_term_a_hangup_and_itself_and_obeys_an_interrupt(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    enter_lame_duck(bench)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR2):
        bench.signal(number)
    assert bench.take(0) == []
    assert bench.children.sent == []
    bench.signal(signal.SIGINT)
    assert bench.children.sent == [(101, signal.SIGTERM), (102, signal.SIGTERM)]
    bench.children.ends = [Ended(101, 0), Ended(102, 0)]
    assert bench.supervisor.serve() == ExitCode.CLEAN
    assert caplog.messages.count("Entering lame duck mode, stop accepting new clients") == 1


def test_worker_that_dies_in_lame_duck_mode_is_not_replaced(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    enter_lame_duck(bench)
    bench.end(0, -signal.SIGSEGV)
    bench.pass_time(2 * limits.RESTART_BACKOFF_S_MAX)
    assert bench.children.forked == [0, 1]
    assert "Worker 0, pid 101, ended: SIGSEGV" in caplog.messages
    bench.end(1, -signal.SIGSEGV)  # and its three clients with it
    assert bench.supervisor.serve() == ExitCode.CLEAN
    assert not [record for record in caplog.records if record.levelno >= logging.CRITICAL]


def test_lame_duck_ends_a_worker_that_boots(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.boot()
    bench.slots.add(0, "connections", 1)
    bench.end(1, -signal.SIGSEGV)
    bench.pass_time(limits.HEARTBEAT_S)
    assert bench.children.forked == [0, 1, 1]
    caplog.clear()
    bench.signal(signal.SIGUSR2)
    assert bench.children.sent == [(103, signal.SIGTERM)]
    bench.end(1, -signal.SIGTERM)
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR]


def test_signals_while_the_server_stops_start_nothing_new(bench: Bench) -> None:
    bench.boot()
    bench.signal(signal.SIGTERM)
    sent = list(bench.children.sent)
    bench.signal(signal.SIGHUP)
    bench.signal(signal.SIGUSR2)
    assert bench.take(0) == bench.take(1) == []
    assert bench.children.sent == sent
