"""What the supervisor does about streaming workers: names, refusals, another try, whole losses."""

import logging
import signal
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from shardd import limits
from shardd.config.streaming import StreamingOptions
from shardd.errors import ExitCode
from shardd.slots import State
from tests.support.supervised import WORKERS, Bench

FIRST, SECOND = WORKERS, WORKERS + 1
MakeBench = Callable[..., Bench]


@pytest.fixture
def make(caplog: pytest.LogCaptureFixture) -> Iterator[MakeBench]:
    caplog.set_level(logging.INFO, "shardd")
    with ExitStack() as stack:
        yield lambda store, **more: Bench(stack, StreamingOptions(workers=2, store=store, **more))


def finish(bench: Bench) -> int:
    """The server ends; its exit code."""
    for index in range(bench.count):
        if bench.pid(index):
            bench.end(index, 0)
    return bench.supervisor.serve()


def test_streaming_is_ready_with_the_server(
    make: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make("FILE")
    bench.supervisor.step()
    for index in range(WORKERS):
        bench.slots.set_state(index, State.READY)
    bench.slots.set_state(FIRST, State.READY)
    bench.slots.set_state(SECOND, State.JOINED)
    bench.supervisor.step()
    assert "Server is ready" not in caplog.messages
    bench.slots.set_state(SECOND, State.READY)
    bench.supervisor.step()
    assert caplog.messages[-2:] == ["Server is ready", "STREAM: Streaming Server is ready"]


def test_a_streaming_worker_is_replaced_under_its_own_name(
    make: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make("FILE")
    bench.boot()
    pid = bench.pid(SECOND)
    caplog.clear()
    bench.end(SECOND, -signal.SIGKILL)
    bench.pass_time(limits.HEARTBEAT_S)
    bench.slots.set_state(SECOND, State.READY)
    bench.supervisor.step()
    assert caplog.messages == [
        f"Streaming 1, pid {pid}, ended: SIGKILL, replacing it in 0.05s",
        f"Streaming 1 is ready, pid {bench.pid(SECOND)}",
    ]
    assert bench.children.sent == []


def test_a_refusal_at_start_ends_the_server_at_once(
    make: MakeBench, caplog: pytest.LogCaptureFixture
) -> None:
    bench = make("FILE")
    bench.supervisor.step()
    bench.end(FIRST, ExitCode.CONFIGURATION)
    assert bench.children.sent == [(bench.pid(SECOND), signal.SIGTERM)]
    assert finish(bench) == ExitCode.CONFIGURATION
    assert not any("replacing" in line for line in caplog.messages)


def test_a_crash_at_start_is_tried_again_and_then_given_up(make: MakeBench) -> None:
    bench = make("FILE")
    bench.supervisor.step()
    for _ in range(limits.BOOT_FAILURES_MAX):
        bench.end(FIRST, 70)
        bench.pass_time(2 * limits.RESTART_BACKOFF_S_MAX, mute=())
    assert finish(bench) == ExitCode.WORKER_BOOT_FAILED


def test_a_store_that_cannot_be_reached_at_start_is_waited_for(make: MakeBench) -> None:
    bench = make("SQL")
    bench.supervisor.step()
    for index in (*range(WORKERS), SECOND):
        bench.slots.set_state(index, State.READY)
    for _ in range(3 * limits.BOOT_FAILURES_MAX):
        bench.end(FIRST, ExitCode.STORE_UNAVAILABLE)
        bench.pass_time(2 * limits.RESTART_BACKOFF_S_MAX)
        assert bench.slots.state(FIRST) == State.BOOTING
    assert not bench.children.sent


def test_a_store_that_is_gone_later_is_tried_again_for_ever(make: MakeBench) -> None:
    bench = make("FILE")
    bench.boot()
    bench.end(FIRST, -signal.SIGKILL)
    for _ in range(3 * limits.BOOT_FAILURES_MAX):
        bench.pass_time(2 * limits.RESTART_BACKOFF_S_MAX)
        assert bench.slots.state(FIRST) == State.BOOTING
        bench.end(FIRST, ExitCode.CONFIGURATION)
    assert not bench.children.sent


def test_a_worker_that_reads_a_store_may_take_long(make: MakeBench) -> None:
    bench = make("FILE")
    bench.supervisor.step()
    for index in (*range(WORKERS), SECOND):
        bench.slots.set_state(index, State.READY)
    bench.pass_time(limits.STREAMING_BOOT_S_MAX - 2 * limits.HEARTBEAT_S)
    assert bench.children.sent == []
    bench.pass_time(4 * limits.HEARTBEAT_S)
    assert bench.children.sent[0][1] == signal.SIGABRT


@pytest.mark.parametrize(("store", "lost"), [("MEMORY", 1), ("FILE", 0)])
def test_a_store_in_memory_is_lost_as_a_whole(make: MakeBench, store: str, lost: int) -> None:
    bench = make(store)
    bench.boot()
    other = bench.pid(FIRST)
    bench.end(SECOND, -signal.SIGSEGV)
    assert bench.children.sent == [(other, signal.SIGKILL)] * lost
    bench.pass_time(limits.HEARTBEAT_S)
    assert bench.children.sent == [(other, signal.SIGKILL)] * lost  # and the next ones live


@pytest.mark.parametrize(("victim", "lost"), [(FIRST, 1), (SECOND, 0)])
def test_a_pool_of_a_group_ends_with_its_lead(
    make: MakeBench, caplog: pytest.LogCaptureFixture, victim: int, lost: int
) -> None:
    bench = make("FILE", ft_group="g")
    bench.boot()
    assert "Server is ready" in caplog.messages
    assert "STREAM: Streaming Server is ready" not in caplog.messages  # the active one says so
    other = bench.pid(SECOND if victim == FIRST else FIRST)
    bench.end(victim, -signal.SIGKILL)
    assert bench.children.sent == [(other, signal.SIGKILL)] * lost


def test_the_lead_of_a_group_may_have_had_the_lock_before_the_host_was_ready(
    make: MakeBench,
) -> None:
    bench = make("FILE", ft_group="g")
    bench.supervisor.step()
    other = bench.pid(SECOND)
    bench.end(FIRST, -signal.SIGKILL)
    assert bench.children.sent == [(other, signal.SIGKILL)]


def test_a_worker_without_a_store_takes_nobody_along(make: MakeBench) -> None:
    bench = make("MEMORY")
    bench.boot()
    bench.end(0, -signal.SIGSEGV)
    assert bench.children.sent == []


def test_streaming_workers_stop_first_so_that_what_they_answer_still_passes(
    make: MakeBench,
) -> None:
    bench = make("FILE")
    bench.boot()
    pids = [bench.pid(index) for index in range(bench.count)]
    bench.signal(signal.SIGTERM)
    assert bench.children.sent == [(pid, signal.SIGTERM) for pid in pids[FIRST:]]
    bench.end(FIRST, 0)
    assert len(bench.children.sent) == 2
    bench.end(SECOND, 0)
    assert bench.children.sent[2:] == [(pid, signal.SIGTERM) for pid in pids[:FIRST]]


def test_a_streaming_worker_that_does_not_stop_holds_nobody_up_for_ever(make: MakeBench) -> None:
    bench = make("FILE")
    bench.boot()
    bench.signal(signal.SIGTERM)
    bench.pass_time(limits.STOP_S_MAX - limits.HEARTBEAT_S)
    assert len(bench.children.sent) == 2
    bench.pass_time(2 * limits.HEARTBEAT_S)
    assert [number for _, number in bench.children.sent[2:]] == [signal.SIGTERM] * bench.count
    bench.pass_time(limits.STOP_S_MAX)
    assert [number for _, number in bench.children.sent[-bench.count :]] == (
        [signal.SIGKILL] * bench.count
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 0)])
def test_the_exit_code_says_which_signal_ended_it(
    make: MakeBench, number: signal.Signals, code: int
) -> None:
    bench = make("FILE")
    bench.boot()
    bench.signal(number)
    assert finish(bench) == code
