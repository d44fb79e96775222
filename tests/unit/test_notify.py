"""What a service manager hears, from the notifier alone and from a supervisor."""

import os
import re
import signal
import socket
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from shardd import limits
from shardd.notify import Notifier
from shardd.slots import State
from tests.support.supervised import SILENCE_S, Bench


class Manager:
    """The manager's end of the socket."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(name.replace("@", "\0", 1))
        self._socket.setblocking(False)

    def heard(self) -> list[str]:
        """Every message since the last call."""
        messages = []
        try:
            while True:
                messages.append(self._socket.recv(4096).decode())
        except BlockingIOError:
            return messages

    def close(self) -> None:
        self._socket.close()


@pytest.fixture(params=["path", "abstract"])
def manager(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Manager]:
    abstract = f"@shardd-test-{os.getpid()}-{os.urandom(4).hex()}"
    made = Manager(str(tmp_path / "notify") if request.param == "path" else abstract)
    yield made
    made.close()


@pytest.fixture
def bench(manager: Manager) -> Iterator[Bench]:
    with ExitStack() as stack:
        benches: list[Bench] = []
        notifier = Notifier(manager.name, 2.0, lambda: benches[0].now if benches else 0.0)
        benches.append(Bench(stack, notifier=notifier))
        yield benches[0]


def test_children_do_not_inherit_what_is_taken_from_the_environment(manager: Manager) -> None:
    environment = {
        "NOTIFY_SOCKET": manager.name,
        "WATCHDOG_USEC": "3000000",
        "WATCHDOG_PID": str(os.getpid()),
        "HOME": "/",
    }
    notifier = Notifier.from_environment(environment)
    notifier.alive()

    assert environment == {"HOME": "/"}
    assert manager.heard() == ["WATCHDOG=1"]
    assert 1.0 < notifier.wait_s() <= 1.5


@pytest.mark.parametrize(
    "variables",
    [
        {"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"},
        {"WATCHDOG_USEC": "x"},
        {"WATCHDOG_USEC": ""},
        {},
    ],
)
def test_a_watchdog_that_is_not_meant_for_this_process_hears_nothing(
    manager: Manager, variables: dict[str, str]
) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": manager.name} | variables)
    notifier.alive()

    assert manager.heard() == []
    assert notifier.wait_s() == float("inf")


@pytest.mark.parametrize("address", ["", "relative", "@nobody-listens-here", "/nonexistent/x"])
def test_without_a_manager_nothing_happens(address: str) -> None:
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready("x")
    notifier.alive()
    notifier.stopping("y")


def test_a_manager_that_does_not_read_is_not_waited_for(manager: Manager) -> None:
    notifier = Notifier(manager.name)
    for number in range(2000):
        notifier.status(str(number))


def test_a_start_and_a_stop(bench: Bench, manager: Manager) -> None:
    bench.supervisor.step()
    bench.slots.set_state(0, State.READY)
    bench.supervisor.step()
    assert manager.heard() == []  # one worker is not the server
    bench.slots.set_state(1, State.READY)
    bench.supervisor.step()
    assert manager.heard()[0] == "READY=1\nSTATUS=Serving on port 4222, workers: 2"

    bench.pass_time(limits.HEARTBEAT_S)
    manager.heard()
    bench.signal(signal.SIGTERM)
    assert manager.heard() == ["STOPPING=1\nSTATUS=Stopping"]


def test_a_reload_is_over_when_every_worker_has_taken_it(bench: Bench, manager: Manager) -> None:
    bench.boot()
    manager.heard()
    bench.reload(max_connections=10)
    (message,) = [each for each in manager.heard() if each != "WATCHDOG=1"]
    assert re.fullmatch(
        r"RELOADING=1\nSTATUS=Reloading the configuration\nMONOTONIC_USEC=\d+", message
    )
    bench.take(0)
    bench.supervisor.step()
    assert manager.heard() == []
    bench.take(1)
    bench.supervisor.step()
    assert manager.heard() == ["READY=1\nSTATUS=Serving on port 4222, workers: 2"]


def test_a_reload_that_fails_is_over_as_well(bench: Bench, manager: Manager) -> None:
    bench.boot()
    manager.heard()
    bench.reload(port=4223)

    states = [each.partition("\n")[0] for each in manager.heard()]
    assert states[:2] == ["RELOADING=1", "READY=1"]


def test_lame_duck_mode_is_a_stop_that_may_take_its_time(bench: Bench, manager: Manager) -> None:
    bench.boot()
    manager.heard()
    bench.signal(signal.SIGUSR2)

    config = bench.setup.config
    (message,) = [each for each in manager.heard() if each.startswith("STOPPING=1\n")]
    within_s = int(message.rpartition("EXTEND_TIMEOUT_USEC=")[2]) / 1e6
    assert within_s > config.lame_duck_duration_s + config.heartbeat_silence_s


def test_the_watchdog_hears_at_half_its_time(bench: Bench, manager: Manager) -> None:
    bench.boot()
    manager.heard()
    bench.pass_time(10.0)

    assert manager.heard() == 10 * ["WATCHDOG=1"]


def test_the_watchdog_hears_nothing_while_a_worker_hangs_that_cannot_be_ended(
    bench: Bench, manager: Manager
) -> None:
    bench.boot()
    bench.children.signal = lambda pid, number: None  # type: ignore[method-assign]
    bench.pass_time(SILENCE_S, mute=(1,))
    manager.heard()
    bench.pass_time(10.0, mute=(1,))

    assert "WATCHDOG=1" not in manager.heard()


def test_a_worker_that_is_replaced_is_no_reason_to_start_the_server_anew(
    bench: Bench, manager: Manager
) -> None:
    bench.boot()
    manager.heard()
    bench.end(1, -signal.SIGSEGV)
    bench.pass_time(5.0)

    heard = manager.heard()
    assert heard.count("WATCHDOG=1") == 5
    assert "STATUS=1 of 2 processes are ready, the others are being replaced" in heard


def test_the_watchdog_hears_nothing_while_no_worker_serves(bench: Bench, manager: Manager) -> None:
    bench.boot()
    bench.end(0, -signal.SIGSEGV)
    bench.end(1, -signal.SIGSEGV)
    manager.heard()
    bench.pass_time(5.0)
    assert "WATCHDOG=1" not in manager.heard()
    bench.slots.set_state(0, State.READY)
    bench.pass_time(2.0)

    assert "WATCHDOG=1" in manager.heard()


def test_the_watchdog_hears_until_the_end_of_lame_duck_mode(bench: Bench, manager: Manager) -> None:
    bench.boot()
    bench.slots.add(0, "connections", 1)
    bench.signal(signal.SIGUSR2)
    bench.take(0)
    bench.take(1)
    manager.heard()
    bench.pass_time(5.0)

    assert manager.heard() == 5 * ["WATCHDOG=1"]
