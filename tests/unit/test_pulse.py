"""Ticks beat in the slot and count how late they come."""

from collections.abc import Callable
from typing import Any, cast

from shardd.pulse import TICK_S, Pulse
from shardd.slots import Slots


class FakeLoop:
    """Keeps the next call for the test to make."""

    def __init__(self) -> None:
        self.next: Callable[[], None] | None = None

    def call_later(self, delay: float, callback: Callable[[], None]) -> None:
        assert delay == TICK_S
        self.next = callback


def test_late_ticks_are_counted_and_early_ones_are_not() -> None:
    slots, loop, ticks = Slots(2), FakeLoop(), []
    now = [100.0]
    pulse = Pulse(slots, 1, cast(Any, loop), lambda: ticks.append(now[0]), lambda: now[0])
    pulse.beat()
    for passed in (TICK_S, TICK_S + 0.010, TICK_S - 0.010, TICK_S + 0.5):
        now[0] += passed
        assert loop.next is not None
        loop.next()
    assert len(ticks) == 5
    assert slots.heartbeat(1) == 5
    assert abs(slots.counters(1)["loop_late_us"] - 510_000) <= 5
    assert slots.counters(0)["loop_late_us"] == 0
