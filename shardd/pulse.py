"""The pulse of a process: ticks, which show in its slot that it lives, and how late they come.

A tick that comes late tells that something held the event loop up for as long.
"""

import asyncio
import time
from collections.abc import Callable
from typing import Final

from shardd.slots import Slots

TICK_S: Final = 0.05  # resolution of pings, write deadlines and heartbeats


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
        self._tick()
