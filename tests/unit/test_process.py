"""Signals as a queue, and endings in words. Forks are tested in tests/faults/test_supervision."""

import os
import select
import signal
from collections.abc import Iterator

import pytest

from shardd.process import Ended, SignalQueue


@pytest.fixture
def queue() -> Iterator[SignalQueue]:
    queue = SignalQueue([signal.SIGUSR1, signal.SIGUSR2])
    yield queue
    queue.close()


def test_signal_waits_in_the_queue_until_it_is_taken(queue: SignalQueue) -> None:
    assert queue.take() == []
    os.kill(os.getpid(), signal.SIGUSR1)
    assert select.select([queue], [], [], 0)[0] == [queue]
    assert queue.take() == [signal.SIGUSR1]
    assert queue.take() == []


def test_signals_are_taken_in_the_order_in_which_they_came(queue: SignalQueue) -> None:
    for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2):
        os.kill(os.getpid(), number)
    assert queue.take() == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGUSR2]


def test_closing_puts_the_former_handlers_and_wakeup_back() -> None:
    def own_handler(number: int, frame: object) -> None:
        """A handler that somebody had before."""

    before = signal.signal(signal.SIGUSR1, own_handler)
    try:
        SignalQueue([signal.SIGUSR1]).close()
        assert signal.getsignal(signal.SIGUSR1) is own_handler
        assert signal.set_wakeup_fd(-1) == -1
    finally:
        signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize(
    ("code", "text"),
    [(0, "exit code 0"), (7, "exit code 7"), (-signal.SIGSEGV, "SIGSEGV"), (-63, "signal 63")],
)
def test_ending_is_said_in_words(code: int, text: str) -> None:
    assert Ended(1, code).text == text
