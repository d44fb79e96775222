"""Waiting for something to become true, with a watchdog; no test sleeps for a fixed time.

A test says what it waits for. The time is a watchdog, not an expectation: it is generous, it is
stretched by ``SHARDD_TESTS_PATIENCE`` (a machine may be slow, busy or stand still for some seconds;
sanitizer builds want more), and running into it fails the test with the sentence that says what
never came.
"""

import asyncio
import os
import time
from collections.abc import Callable
from typing import Final, TypeVar

PATIENCE: Final = float(os.environ.get("SHARDD_TESTS_PATIENCE", "3"))
WAIT_S: Final = 10.0 * PATIENCE

T = TypeVar("T")

_POLL_S_MIN: Final = 0.001
_POLL_S_MAX: Final = 0.05


class WaitedTooLong(AssertionError):
    """What a test waited for did not happen before the watchdog ran out."""


def wait_until(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """Poll ``condition`` until it returns something true, and return that."""
    deadline = time.monotonic() + timeout_s
    poll_s = _POLL_S_MIN
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"after {timeout_s:.1f} s still waiting for: {what}")
        time.sleep(poll_s)
        poll_s = min(poll_s * 1.5, _POLL_S_MAX)


def let_pass(seconds: float) -> None:
    """Time between two faults of a random schedule. Never to wait for something."""
    time.sleep(seconds)


async def wait_until_async(condition: Callable[[], T], what: str, timeout_s: float = WAIT_S) -> T:
    """The same for a test that runs an event loop."""
    deadline = time.monotonic() + timeout_s
    poll_s = _POLL_S_MIN
    while True:
        result = condition()
        if result:
            return result
        if time.monotonic() > deadline:
            raise WaitedTooLong(f"after {timeout_s:.1f} s still waiting for: {what}")
        await asyncio.sleep(poll_s)
        poll_s = min(poll_s * 1.5, _POLL_S_MAX)
