"""Which servers are dialed again, when, and what counts as a try that has failed."""

import random

import pytest

from shardd.routes.roster import RETRY_S, RETRY_S_MAX, Roster
from shardd.values import RouteUrl

URL = RouteUrl("10.0.0.1", 6222)


def roster_of(*, has_backoff: bool = False) -> Roster:
    roster = Roster("SELF", 0, has_backoff, random.Random(1))
    roster.set_explicit((URL,), 0.0)
    return roster


@pytest.mark.parametrize("has_backoff", [False, True])
def test_a_route_that_ends_has_not_failed_to_be_dialed(has_backoff: bool) -> None:
    roster = roster_of(has_backoff=has_backoff)
    (dial,) = roster.due(0.0, frozenset())
    roster.registered(dial, "PEER")
    roster.lost(dial, 100.0)
    assert dial.attempts == 0
    assert not roster.due(100.0 + RETRY_S * 0.8, frozenset())
    # The first one that fails from here on is the first, so it is told.
    assert roster.due(100.0 + RETRY_S * 1.2, frozenset()) == [dial]
    roster.failed(dial, 102.0)
    assert dial.attempts == 1


def test_handshakes_that_fail_are_tried_at_growing_intervals() -> None:
    roster = roster_of(has_backoff=True)
    now, waits = 0.0, []
    for _ in range(8):
        (dial,) = roster.due(now, frozenset())
        roster.failed(dial, now)
        waits.append(dial.due_at - now)
        now = dial.due_at
    assert waits[0] < 1.2 * RETRY_S
    assert waits[:5] == sorted(set(waits[:5]))
    assert waits[-1] > 0.8 * RETRY_S_MAX
