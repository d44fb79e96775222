"""When clients are let go by a server that is about to leave (sheet 6). No IO, no clock.

First nobody goes for the grace period, in which clients that listen find another server by
themselves. Then one after the other, spread over what is left of the duration, with gaps of random
length so that they do not all arrive elsewhere in step.
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
    """

    def __init__(
        self,
        clients: int,
        grace_s: float,
        duration_s: float,
        now: float,
        randomness: Randomness,
    ) -> None:
        spread_s = max(0.0, duration_s - grace_s)
        self._gap_s = min(_GAP_S_MAX, spread_s / max(clients, 1))
        self._next = now + grace_s
        self._clients = clients
        self._random = randomness

    def due(self, now: float) -> int:
        """How many clients are to be let go now."""
        count = 0
        while self._next <= now and count < self._clients:
            count += 1
            self._next += self._random.uniform(self._gap_s / 2, self._gap_s)
        return count
