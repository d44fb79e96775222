"""The pace at which clients are let go."""

import itertools
from random import Random

import pytest

from shardd.lameduck import DrainPolicy, LameDuckSchedule

START = 1000.0


def closings(schedule: LameDuckSchedule, until: float) -> list[float]:
    """When each client goes, looked at every millisecond, as seconds after the start."""
    times: list[float] = []
    for millisecond in range(round(until * 1000) + 1):
        times += [millisecond / 1000] * schedule.due(START + millisecond / 1000)
    return times


def test_nobody_goes_before_the_grace_is_over_and_the_first_right_then(rng: Random) -> None:
    times = closings(LameDuckSchedule(5, 10.0, 30.0, START, rng), 40.0)
    assert times[0] == pytest.approx(10.0, abs=0.002)
    assert len(times) == 5


def test_gaps_are_random_between_half_and_all_of_an_even_share(rng: Random) -> None:
    times = closings(LameDuckSchedule(100, 2.0, 12.0, START, rng), 14.0)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) == 100
    assert all(0.049 <= gap <= 0.101 for gap in gaps)
    assert max(gaps) - min(gaps) > 0.01
    assert times[-1] <= 12.0


def test_few_clients_go_a_second_apart_at_the_most(rng: Random) -> None:
    times = closings(LameDuckSchedule(3, 1.0, 120.0, START, rng), 10.0)
    assert len(times) == 3
    assert times[-1] <= 3.001


def test_workers_side_by_side_take_as_long_as_one_server_with_all_clients(rng: Random) -> None:
    one = closings(LameDuckSchedule(20, 1.0, 120.0, START, rng), 30.0)
    each = [
        closings(LameDuckSchedule(own, 1.0, 120.0, START, rng, host_clients=20), 30.0)
        for own in (15, 5)
    ]
    assert [len(times) for times in each] == [15, 5]
    assert 10.0 <= one[-1] <= 20.1
    assert all(8.0 <= times[-1] <= 20.1 for times in each)


def test_without_a_spread_all_go_when_the_grace_ends(rng: Random) -> None:
    schedule = LameDuckSchedule(7, 5.0, 5.0, START, rng)
    assert schedule.due(START + 4.999) == 0
    assert schedule.due(START + 5.0) == 7
    assert schedule.due(START + 100.0) == 0


def test_a_worker_that_was_held_up_makes_up_for_it(rng: Random) -> None:
    schedule = LameDuckSchedule(50, 1.0, 11.0, START, rng)
    assert schedule.due(START + 600.0) == 50


def test_a_worker_without_clients_closes_none(rng: Random) -> None:
    assert closings(LameDuckSchedule(0, 0.0, 1.0, START, rng, host_clients=9), 2.0) == []


def test_draining_ends_when_nothing_is_queued() -> None:
    policy = DrainPolicy(100, START, 0.5, 4.0)
    assert not policy.is_over(100, START)
    assert policy.is_over(0, START)


def test_draining_goes_on_while_what_is_queued_gets_less_and_no_longer() -> None:
    policy = DrainPolicy(1000, START, 0.5, 4.0)
    assert not any(policy.is_over(1000 - step, START + 0.4 * step) for step in range(1, 6))
    assert not policy.is_over(995, START + 2.4)
    assert not policy.is_over(2000, START + 2.49)  # more was queued: nobody has read
    assert policy.is_over(995, START + 2.5)


def test_draining_has_an_end_however_fast_clients_read() -> None:
    policy = DrainPolicy(10**9, START, 0.5, 4.0)
    assert not any(policy.is_over(10**9 - step, START + 0.1 * step) for step in range(40))
    assert policy.is_over(1, START + 4.0)
