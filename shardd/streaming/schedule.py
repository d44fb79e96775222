"""What is to happen later: deadlines in milliseconds of the clock that is handed in.

For the rare things (heartbeats, ack waits of whole subscriptions, limits): an entry in a heap each.
"""

import heapq
from collections.abc import Callable


class Timer:
    """One thing that is to happen, unless it is cancelled."""

    __slots__ = ("callback", "deadline_ms")

    def __init__(self, deadline_ms: int, callback: Callable[[], object]) -> None:
        self.deadline_ms = deadline_ms
        self.callback: Callable[[], object] | None = callback

    def cancel(self) -> None:
        """It does not happen. Cancelling what has happened does nothing."""
        self.callback = None


class Schedule:
    """All timers of one streaming worker; those with one deadline go off in the order of making."""

    def __init__(self) -> None:
        self._heap: list[tuple[int, int, Timer]] = []
        self._made = 0

    def at(self, deadline_ms: int, callback: Callable[[], object]) -> Timer:
        """Calls back once the clock shows this."""
        timer = Timer(deadline_ms, callback)
        self._made += 1
        heapq.heappush(self._heap, (deadline_ms, self._made, timer))
        return timer

    @property
    def next_ms(self) -> int | None:
        """When the next one goes off; None: there is none."""
        while self._heap and self._heap[0][2].callback is None:
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def run(self, now_ms: int) -> None:
        """Calls what is due. What that makes due at once waits for the next time."""
        due = []
        while self._heap and self._heap[0][0] <= now_ms:
            due.append(heapq.heappop(self._heap)[2])
        for timer in due:
            callback = timer.callback
            timer.callback = None
            if callback is not None:
                callback()
