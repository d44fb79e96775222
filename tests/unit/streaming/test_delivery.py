"""Delivery, acks, stalling and redelivery: what one subscription is sent, and when (sheet 5, 6)."""

import pytest

from shardd.streaming.bus_probe import SlowLog
from shardd.streaming.messages import StartPosition
from tests.support.streaming_worker import Pool

CHANNEL = b"orders.new"


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    assert pool.connect("me").error == ""
    return pool


def test_a_message_is_delivered_before_its_publisher_has_its_ack(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL)
    reply = pool.publish_nowait("me", CHANNEL, b"hello")
    pool.run()
    assert [subject for subject, _, _ in pool.inbox] == [b"inbox", reply]
    (delivery,) = pool.deliveries()
    assert (delivery.sequence, delivery.data, delivery.redelivered) == (1, b"hello", False)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"start_position": StartPosition.NEW_ONLY}, []),
        ({"start_position": StartPosition.LAST_RECEIVED}, [5]),
        ({"start_position": StartPosition.FIRST}, [1, 2, 3, 4, 5]),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 3}, [3, 4, 5]),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 0}, [1, 2, 3, 4, 5]),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 99}, []),
        ({"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": 2 * 10**9}, [4, 5]),
        (
            {"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": 10**15},
            [1, 2, 3, 4, 5],
        ),
        ({"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": 0}, []),
        ({"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": -(10**9)}, []),
    ],
)
def test_start_positions(pool: Pool, fields: dict, expected: list[int]) -> None:
    for _ in range(5):
        pool.publish("me", CHANNEL)
        pool.advance(1000)
    pool.subscribed("me", CHANNEL, **fields)
    assert pool.sequences() == expected
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [6]


def test_an_ack_lets_exactly_one_more_message_through_when_it_is_stalled(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", CHANNEL, max_in_flight=2)
    pool.publish_many("me", CHANNEL, 5)
    assert pool.sequences() == [1, 2]
    pool.ack(ack_inbox, CHANNEL, 1)
    assert pool.sequences() == [3]
    pool.ack(ack_inbox, CHANNEL, 1)
    assert pool.sequences() == []
    pool.ack(ack_inbox, CHANNEL, 2, 3)
    assert pool.sequences() == [4, 5]


def test_an_ack_for_another_channel_or_garbage_is_ignored(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", CHANNEL, max_in_flight=1)
    pool.publish_many("me", CHANNEL, 2)
    pool.ack(ack_inbox, b"other", 1)
    pool.send(ack_inbox, b"\xff\xff")
    pool.send(ack_inbox + b"x", b"")
    pool.send(ack_inbox + b"99999999999999999999999", b"")
    pool.run()
    assert pool.sequences() == [1]


def test_redelivery_counts_and_keeps_the_rhythm_of_the_first_delivery(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL, ack_wait_s=1)
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [1]
    pool.advance(980)
    assert pool.deliveries() == []
    for count in (1, 2, 3):
        pool.advance(1000 if count > 1 else 20)
        (again,) = pool.deliveries()
        assert (again.sequence, again.redelivered, again.count) == (1, True, count)


def test_what_expires_within_fifteen_milliseconds_is_sent_again_together(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL, ack_wait_s=1)
    pool.publish("me", CHANNEL)
    pool.set_clock(15)
    pool.publish("me", CHANNEL)
    pool.set_clock(1)
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [1, 2, 3]
    pool.advance(984)
    assert pool.sequences() == [1, 2]
    pool.advance(16)
    assert pool.sequences() == [3]


def test_redelivery_does_not_mind_the_limit_of_what_is_in_flight(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL, ack_wait_s=1, max_in_flight=3)
    pool.publish_many("me", CHANNEL, 5)
    assert pool.sequences() == [1, 2, 3]
    pool.advance(1000)
    assert pool.sequences() == [1, 2, 3]


def test_messages_that_limits_removed_are_skipped_and_forgotten(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", CHANNEL, ack_wait_s=1, max_in_flight=2)
    pool.publish_many("me", CHANNEL, 6)
    assert pool.sequences() == [1, 2]
    channel = pool.channel(CHANNEL)
    channel.log.drop_before(5)
    pool.advance(1000)
    # What was in flight is no longer there; delivery goes on behind the gap.
    assert pool.sequences() == [5, 6]
    pool.ack(ack_inbox, CHANNEL, 5, 6)
    channel.log.drop_before(7)
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [7]


def test_a_subscription_behind_an_emptied_log_goes_on_with_the_next_message(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", CHANNEL, max_in_flight=1)
    pool.publish_many("me", CHANNEL, 3)
    assert pool.sequences() == [1]
    pool.channel(CHANNEL).log.drop_before(4)
    pool.ack(ack_inbox, CHANNEL, 1)
    assert pool.sequences() == []
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [4]


def test_many_messages_are_delivered_over_several_passes(pool: Pool) -> None:
    pool.worker().server.core.traffic.deliveries_max = 10
    pool.publish_many("me", CHANNEL, 35)
    pool.subscribed("me", CHANNEL)
    for _ in range(5):
        pool.run()
    assert pool.sequences() == list(range(1, 36))


def test_a_congested_bus_holds_deliveries_back_but_not_answers(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL, ack_wait_s=1)
    bus = pool.worker().bus
    bus.congested_after = 2
    replies = [pool.publish_nowait("me", CHANNEL) for _ in range(4)]
    pool.run()
    assert pool.sequences() == [1, 2]
    assert all(pool.taken(reply) for reply in replies)
    bus.make_room()
    pool.run()
    assert pool.sequences() == [3, 4]
    bus.congested_after = 1
    pool.advance(1000)
    assert pool.sequences() == [1]
    pool.advance(500)
    bus.make_room()
    pool.run()
    assert pool.sequences() == [2, 3, 4]


def test_a_client_without_heartbeat_is_sent_nothing_again_until_it_answers(pool: Pool) -> None:
    pool.subscribed("me", CHANNEL, ack_wait_s=20)
    pool.publish("me", CHANNEL)
    pool.gone.add(b"hb.me")
    pool.advance(31_000)
    assert len(pool.deliveries()) == 2  # one is due before the first heartbeat
    pool.publish("me", CHANNEL)
    assert pool.sequences() == [2]  # what is new still goes out
    pool.advance(60_000)
    assert pool.sequences() == []
    pool.gone.clear()
    pool.advance(60_000)
    assert set(pool.sequences()) == {1, 2}


# --- a log that has to fetch its messages --------------------------------------------------------


@pytest.mark.parametrize("queue_group", ["", "q"])
def test_delivery_goes_on_when_the_log_has_fetched_what_is_next(
    pool: Pool, queue_group: str
) -> None:
    pool.worker().store.make_log = SlowLog
    pool.publish_many("me", CHANNEL, 5)
    ack_inbox = pool.subscribed("me", CHANNEL, ack_wait_s=1, queue_group=queue_group)
    log = pool.channel(CHANNEL).log
    assert isinstance(log, SlowLog)
    assert pool.sequences() == []
    pool.advance(500)
    assert log.asked == 1, "asked again although it is being fetched"
    log.load(3)
    pool.run()
    assert pool.sequences() == [1, 2, 3]
    log.load(5)
    pool.run()
    assert pool.sequences() == [4, 5]
    # What is to be sent again may have to be fetched, too.
    pool.ack(ack_inbox, CHANNEL, 1, 2, 3)
    log.loaded = 0
    asked = log.asked
    pool.advance(3000)
    assert pool.deliveries() == []
    assert log.asked <= asked + 2
    log.load(5)
    pool.run()
    assert [(each.sequence, each.count) for each in pool.deliveries()] == [(4, 1), (5, 1)]


def test_what_was_in_flight_before_a_restart_may_have_to_be_fetched(pool: Pool) -> None:
    pool.worker().store.make_log = SlowLog
    pool.subscribed("me", CHANNEL, ack_wait_s=1)
    pool.publish("me", CHANNEL)
    log = pool.channel(CHANNEL).log
    assert isinstance(log, SlowLog)
    log.load(1)
    pool.run()
    assert pool.sequences() == [1]
    pool.save()
    log.loaded = 0
    pool.crash()
    pool.advance(5000)
    assert pool.deliveries() == []
    log.load(1)
    pool.run()
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [(1, True)]
