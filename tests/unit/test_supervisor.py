"""The supervisor's loop with children that a test plays: forked, signalled, rung for, replaced."""

import logging
import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from shardd import limits
from shardd.errors import ExitCode
from shardd.process import Ended
from shardd.slots import State
from tests.support.supervised import SILENCE_S, Bench


@pytest.fixture
def bench(caplog: pytest.LogCaptureFixture) -> Iterator[Bench]:
    caplog.set_level(logging.INFO, "shardd")
    with ExitStack() as stack:
        yield Bench(stack)


def test_slot_is_prepared_before_the_fork_and_names_its_process_after(bench: Bench) -> None:
    seen = []
    start = bench.children.start

    def look_and_start(index: int) -> int:
        seen.append((bench.slots.state(index), bench.slots.incarnation(index)))
        return start(index)

    bench.children.start = look_and_start  # type: ignore[method-assign]
    bench.supervisor.step()
    assert seen == [(State.BOOTING, 1), (State.BOOTING, 1)]
    assert [bench.pid(0), bench.pid(1)] == [101, 102]


def test_server_is_ready_once_and_only_when_all_workers_are(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.supervisor.step()
    bench.slots.set_state(0, State.READY)
    bench.slots.set_state(1, State.JOINED)
    bench.supervisor.step()
    assert "Server is ready" not in caplog.messages
    bench.slots.set_state(1, State.READY)
    bench.supervisor.step()
    bench.supervisor.step()
    assert caplog.messages.count("Server is ready") == 1


def test_crash_clears_the_slot_rings_every_doorbell_and_says_one_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    pid = bench.pid(1)
    epoch = bench.slots.epoch
    caplog.clear()
    bench.end(1, -signal.SIGSEGV)
    assert bench.slots.state(1) == State.EMPTY
    assert bench.slots.epoch > epoch
    assert [os.eventfd_read(fd) for fd in bench.setup.doorbell_fds] == [1, 1]
    assert caplog.messages == [f"Worker 1, pid {pid}, ended: SIGSEGV, replacing it in 0.05s"]


def test_replacement_gets_the_same_slot_with_a_new_incarnation(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    bench.end(1, 1)
    bench.pass_time(limits.HEARTBEAT_S)
    assert bench.children.forked == [0, 1, 1]
    assert bench.slots.incarnation(1) == 2
    assert bench.slots.incarnation(0) == 1
    bench.slots.set_state(1, State.READY)
    bench.supervisor.step()
    assert caplog.messages[-1] == "Worker 1 is ready, pid 103"
    assert caplog.messages.count("Server is ready") == 1


def test_worker_that_was_ready_and_died_between_two_looks_is_no_failed_boot(bench: Bench) -> None:
    for _ in range(2 * limits.BOOT_FAILURES_MAX):
        bench.supervisor.step()
        bench.slots.set_state(0, State.READY)
        bench.slots.set_state(1, State.READY)
        bench.end(0, -signal.SIGSEGV)
        bench.pass_time(2 * limits.RESTART_BACKOFF_S_MAX)
        assert bench.slots.state(0) == State.BOOTING


def test_stranger_that_init_has_to_reap_changes_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    caplog.clear()
    bench.children.ends.append(Ended(77_777, 1))
    bench.supervisor.step()
    assert caplog.messages == []
    assert bench.children.forked == [0, 1]


def test_full_doorbell_does_not_hold_the_supervisor_up(bench: Bench) -> None:
    bench.boot()
    os.eventfd_write(bench.setup.doorbell_fds[0], 2**64 - 2)
    bench.end(1, 1)
    assert os.eventfd_read(bench.setup.doorbell_fds[1]) == 1


def test_silent_worker_gets_abort_and_then_kill_and_a_successor(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    pid = bench.pid(0)
    bench.pass_time(SILENCE_S + 2 * limits.HEARTBEAT_S, mute=(0,))
    assert bench.children.sent == [(pid, signal.SIGABRT), (pid, signal.SIGKILL)]
    assert f"Worker 0, pid {pid}: no heartbeat for 5.0s, ending it" in caplog.messages
    bench.pass_time(limits.HEARTBEAT_S)
    assert bench.children.forked == [0, 1, 0]


def test_supervisor_that_was_suspended_blames_nobody(bench: Bench) -> None:
    bench.boot()
    bench.pass_time(SILENCE_S - limits.HEARTBEAT_S, mute=(0, 1))
    bench.now += 600.0
    bench.supervisor.step()
    assert bench.children.sent == []


@pytest.mark.parametrize(
    ("number", "name"), [(signal.SIGTERM, "terminated"), (signal.SIGINT, "interrupt")]
)
def test_stop_tells_every_worker_and_ends_cleanly(
    bench: Bench, caplog: pytest.LogCaptureFixture, number: signal.Signals, name: str
) -> None:
    bench.boot()
    caplog.clear()
    bench.signals.waiting = [number]
    bench.supervisor.step()
    assert bench.children.sent == [(101, signal.SIGTERM), (102, signal.SIGTERM)]
    bench.children.ends = [Ended(101, 0), Ended(102, 0)]
    assert bench.supervisor.serve() == ExitCode.CLEAN
    assert caplog.messages == [
        f'Trapped "{name}" signal',
        "Initiating Shutdown...",
        "Server Exiting..",
    ]


def test_second_interrupt_kills_but_a_second_term_does_not(bench: Bench) -> None:
    bench.boot()
    bench.signals.waiting = [signal.SIGTERM, signal.SIGTERM]
    bench.supervisor.step()
    assert (101, signal.SIGKILL) not in bench.children.sent
    bench.signals.waiting = [signal.SIGINT]
    bench.supervisor.step()
    assert bench.children.sent[2:] == [(101, signal.SIGKILL), (102, signal.SIGKILL)]
    assert bench.supervisor.serve() == ExitCode.CLEAN


def test_failed_boots_end_the_server_with_their_own_code_and_one_clear_line(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.supervisor.step()
    bench.slots.set_state(1, State.READY)
    for _ in range(limits.BOOT_FAILURES_MAX):
        bench.pass_time(1.0)
        bench.end(0, 70)
    assert caplog.messages[-1] == "Worker 0 could not boot 3 times in a row, giving up"
    assert (bench.pid(1), signal.SIGTERM) in bench.children.sent
    bench.children.ends.append(Ended(bench.pid(1), 0))
    assert bench.supervisor.serve() == ExitCode.WORKER_BOOT_FAILED
    assert bench.children.forked == [0, 1] + (limits.BOOT_FAILURES_MAX - 1) * [0]


def test_fork_that_fails_is_tried_again(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    bench.boot()
    bench.children.fork_error = BlockingIOError(11, "Resource temporarily unavailable")
    bench.end(0, 1)
    bench.pass_time(1.0)
    assert "Could not fork worker 0: Resource temporarily unavailable" in caplog.messages[-1]
    assert bench.slots.state(0) == State.EMPTY
    bench.children.fork_error = None
    bench.pass_time(limits.RESTART_BACKOFF_S_MAX)
    assert bench.children.forked == [0, 1, 0]


def test_there_is_no_log_to_reopen_without_a_file(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.boot()
    caplog.clear()
    bench.signal(signal.SIGUSR1)
    assert caplog.messages == [
        'Trapped "user defined signal 1" signal',
        "File log re-open ignored, not a file logger",
    ]
    assert bench.children.sent == []
    assert bench.slots.state(0) == State.READY
