"""The rules of the streaming history checker find what they are for, in planted histories."""

import pytest

from tests.faults.streaming_history import (
    Acked,
    Closed,
    Delivered,
    Event,
    Killed,
    Read,
    Recovered,
    Refused,
    Sent,
    Stored,
    check,
)


def delivered(sequence: int, *, life: int = 1, again: bool = False) -> Delivered:
    return Delivered("d", life, "m", sequence, f"b{sequence}", again)


def acked(sequence: int, life: int = 1) -> Acked:
    return Acked("d", life, sequence)


SENT: list[Event] = [Sent("p", "b1"), Sent("p", "b2"), Stored("b1"), Stored("b2")]
READ: list[Event] = [Read(1, "b1"), Read(2, "b2")]
HANDLED: list[Event] = [delivered(1), acked(1), delivered(2), acked(2)]


@pytest.mark.parametrize(
    "middle",
    [
        HANDLED,
        [delivered(1), delivered(2), acked(2), delivered(1, again=True), acked(1)],
        # A kill sets the subscriber back, and takes an ack with it.
        [*HANDLED, Killed(), delivered(1), acked(1), Recovered()],
        # So it does to one that begins just then.
        [Killed(), Recovered(), delivered(2), delivered(1), acked(1), acked(2)],
        # An ack of the time of a kill may be lost, though the close is answered.
        [
            delivered(1), Killed(), acked(1), Recovered(), Closed("d", 1),
            delivered(1, life=2), acked(1, 2), delivered(2, life=2), acked(2, 2),
        ],
        # What was not acknowledged before a close comes again.
        [
            delivered(1), delivered(2), acked(2), Closed("d", 1),
            delivered(1, life=2, again=True), acked(1, 2),
        ],
        # What was under way at the close may still arrive.
        [delivered(1), acked(1), Closed("d", 1), delivered(1, again=True), delivered(2), acked(2)],
        # A message whose acknowledgement never came may be there, or not.
        [Sent("p", "b3"), *HANDLED],
        [Sent("p", "b3"), Refused("b3"), *HANDLED],
    ],
)  # fmt: skip
def test_allowed_histories(middle: list[Event]) -> None:
    assert check([*SENT, *middle, *READ]) == []


@pytest.mark.parametrize(
    ("history", "problem"),
    [
        ([*SENT, *HANDLED[:2], READ[0]], "contents: b2 was acknowledged and is lost"),
        ([SENT[0], Refused("b1"), READ[0]], "contents: b1 was refused and is there"),
        ([READ[0]], "contents: b1 was never sent"),
        ([*SENT, delivered(3), *READ], "contents: b3 was never sent"),
        (
            [*SENT, *HANDLED, Delivered("d", 1, "m", 2, "b1", is_redelivery=True), *READ],
            "sequences: 2 was b2 and then b1",
        ),
        ([*SENT, Read(1, "b1"), Read(2, "b1")], "sequences: b1 was at 1 and then at 2"),
        ([*SENT[:2], Stored("b2"), Read(2, "b2")], "sequences: read 2 where 1 was due"),
        (
            [Sent("p", "b1"), Sent("p", "b2"), delivered(1), acked(1), delivered(2), READ[0]],
            "sequences: 2 was delivered and 1 is the last",
        ),
        (
            [*SENT, Read(1, "b2"), Read(2, "b1")],
            "publisher_order: b1 is behind what was sent after it",
        ),
        (
            [*SENT, *HANDLED, delivered(1), *READ],
            "delivery_order: ('d', 1, 'm') got 1 as new after 2",
        ),
        (
            [*SENT, *HANDLED, Killed(), delivered(1), delivered(2), delivered(1), *READ],
            "delivery_order: ('d', 1, 'm') got 1 as new after 2",
        ),
        ([*SENT, *HANDLED[:2], *READ], "at_least_once: d never got 2"),
        (
            [*SENT, *HANDLED[:3], *READ],
            "at_least_once: d did not acknowledge 2; it did not return",
        ),
        (
            [*SENT, *HANDLED, Closed("d", 1), delivered(2, life=2, again=True), *READ],
            "positions: d got 2 again after a close that covered it",
        ),
        (
            [*SENT, Killed(), Recovered(), *HANDLED, Closed("d", 1), Killed(), Recovered(),
             delivered(1, life=2), *READ],
            "positions: d got 1 again after a close that covered it",
        ),
    ],
)  # fmt: skip
def test_forbidden_histories(history: list[Event], problem: str) -> None:
    assert problem in check(history)


def test_a_server_that_is_not_held_to_positions() -> None:
    history = [*SENT, *HANDLED, Closed("d", 1), delivered(1, life=2), *READ]
    assert check(history, keeps_positions=False) == []
    assert check(history)
