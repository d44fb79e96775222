"""The life of a process in its event loop: from its start to its end, and its pulse in between.

The pulse is ticks, which show in the process's slot that it lives, and how late they come. A tick
that comes late tells that something held the event loop up for as long.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final, Protocol

from shardd import log
from shardd.slots import Slots

TICK_S: Final = 0.05  # resolution of pings, write deadlines and heartbeats


class Lasting(Protocol):
    """A process as its event loop sees it."""

    def start(self) -> None:
        """Begins; called in the loop."""

    def fail(self, fault: BaseException) -> None:
        """Something that must not happen has happened: remembers it and stops the loop."""

    def close(self) -> None:
        """After the loop has ended; raises what `fail` was told."""


def run_loop(loop: asyncio.AbstractEventLoop, process: Lasting) -> None:
    """Runs the loop until the process stops it. An exception that nobody handles ends it."""

    def on_exception(_: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        process.fail(context.get("exception") or RuntimeError(context["message"]))

    loop.set_exception_handler(on_exception)
    loop.call_soon(process.start)
    try:
        loop.run_forever()
    finally:
        process.close()
        loop.close()


class Pulse:
    """Owned by one process, touched by its event loop only.

    Args:
        slots: the host's page.
        index: the own slot.
        loop: the event loop.
        tick: what else there is to do at every beat.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        slots: Slots,
        index: int,
        loop: asyncio.AbstractEventLoop,
        tick: Callable[[], None],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._slots = slots
        self._index = index
        self._loop = loop
        self._tick = tick
        self._clock = clock
        self._due: float | None = None

    def beat(self) -> None:
        """Beat now, and from now on."""
        now = self._clock()
        late_us = 0 if self._due is None else int((now - self._due) * 1e6)
        self._due = now + TICK_S
        self._loop.call_later(TICK_S, self.beat)
        self._slots.beat(self._index)
        if late_us > 0:
            self._slots.add(self._index, "loop_late_us", late_us)
        log.tick()
        self._tick()
