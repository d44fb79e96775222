"""How clients are let go by a server that leaves (sheet 6). No IO, no clock.

In lame duck mode nobody goes for the grace period, in which clients that listen find another server
by themselves. Then one after the other, spread over what is left of the duration, with gaps of
random length so that they do not all arrive elsewhere in step.

A server that is told to stop lets everybody go at once, but says first what it has queued for them:
as long as that gets less, and within a bound.
"""

from typing import Final, Protocol

_GAP_S_MAX: Final = 1.0  # a server with few clients does not wait longer than it has to


class Randomness(Protocol):
    """What this module needs of a `random.Random`."""

    def uniform(self, a: float, b: float) -> float:
        """A number between two others."""


class LameDuckSchedule:
    """The schedule of one worker.

    Args:
        clients: that it has.
        grace_s, duration_s: of the whole.
        now: monotonic seconds, when it begins.
        randomness: for the gaps.
        host_clients: that all workers of the host have; None: this is the only one.
    """

    def __init__(
        self,
        clients: int,
        grace_s: float,
        duration_s: float,
        now: float,
        randomness: Randomness,
        host_clients: int | None = None,
    ) -> None:
        spread_s = max(0.0, duration_s - grace_s)
        total = max(clients, host_clients or 0, 1)
        # Workers close side by side, so each takes the time that one server with all clients would.
        share = total / max(clients, 1)
        self._gap_s = share * min(_GAP_S_MAX, spread_s / total)
        self._next = now + grace_s
        self._clients = clients
        self._random = randomness

    def due(self, now: float) -> int:
        """How many clients are to be let go now: of those that it began with, each once."""
        count = 0
        while self._next <= now and self._clients > 0:
            count += 1
            self._clients -= 1
            self._next += self._random.uniform(self._gap_s / 2, self._gap_s)
        return count


class DrainPolicy:
    """When a worker that is told to stop has waited long enough for its clients to read.

    Args:
        queued: bytes that wait for all its clients.
        now: monotonic seconds, when it begins.
        idle_s: how long nobody may take a byte.
        limit_s: how long it may take in all.
    """

    def __init__(self, queued: int, now: float, idle_s: float, limit_s: float) -> None:
        self._least = queued
        self._idle_s = idle_s
        self._idle_at = now + idle_s
        self._end_at = now + limit_s

    def is_over(self, queued: int, now: float) -> bool:
        """Whether who has not read by now never will in time."""
        if queued < self._least:
            self._least = queued
            self._idle_at = now + self._idle_s
        return queued == 0 or now >= min(self._idle_at, self._end_at)
