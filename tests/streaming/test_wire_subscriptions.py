"""Subscribing and what ends it, message by message: checks in order, positions, ack inboxes."""

from typing import Any, Final

import pytest

from shardd.streaming import messages as pb
from shardd.streaming.messages import StartPosition
from tests.streaming.conftest import Wire
from tests.support.streaming_wire import SUB, SUB_CLOSE, UNPARSABLE, UNSUB

COLON: Final = "stan: durable name of a durable queue subscriber can't contain the character ':'"
INVALID_SUBSCRIPTION: Final = "stan: invalid subscription"
UNKNOWN_CHANNEL: Final = "stan: unknown channel"
UNKNOWN_CLIENT: Final = "stan: unknown clientID"
ENDS: Final = {"unsubscribe": UNSUB, "close": SUB_CLOSE}

# Each check with a field that it refuses and one that passes: all are wrong at first, and mended
# one after the other.
CHECKS: Final[list[tuple[str, dict[str, Any], dict[str, Any]]]] = [
    ("stan: clientID missing", {"client_id": ""}, {"client_id": "nobody"}),
    ("stan: invalid ack wait time, should be >= 1s", {"ack_wait_s": 0}, {"ack_wait_s": 1}),
    ("stan: invalid MaxInflight, should be >= 1", {"max_in_flight": 0}, {"max_in_flight": 1}),
    ("stan: invalid start position", {"start_position": 5}, {"start_position": 0}),
    ("stan: invalid subject", {"subject": b"*"}, {"subject": b"lonely.x"}),
    (UNKNOWN_CLIENT, {"client_id": "nobody"}, {}),
]


def test_checks_come_in_their_order(wire: Wire) -> None:
    client = wire().connect()
    channel = f"lonely.{client.name}".encode()
    client.subscribe(channel)
    fields: dict[str, Any] = {"queue_group": "q", "durable_name": "a:b"}
    for _, bad, _ in reversed(CHECKS):
        fields |= bad
    for text, _, good in CHECKS:
        assert client.try_subscribe(channel, **fields).error == text
        fields |= good
    fields |= {"client_id": client.client_id, "subject": channel}
    assert client.try_subscribe(channel, **fields).error == COLON
    fields |= {"durable_name": "a", "queue_group": ""}
    assert client.try_subscribe(channel, **fields).error == "too many subscriptions per channel"


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"ack_wait_s": -1}, "stan: invalid ack wait time, should be >= 1s"),
        ({"max_in_flight": -1}, "stan: invalid MaxInflight, should be >= 1"),
        ({"start_position": -1}, "stan: invalid start position"),
        ({"start_position": 4}, ""),
        ({"durable_name": "a:b"}, ""),  # without a queue group
        ({"queue_group": "a:b"}, ""),
        ({"max_in_flight": 2**31 - 1, "ack_wait_s": 2**31 - 1}, ""),
        ({"start_position": 3, "start_sequence": 2**64 - 1}, ""),
        ({"start_position": 2, "start_time_delta_ns": -(2**63)}, ""),
        ({"start_position": 2, "start_time_delta_ns": 2**63 - 1}, ""),
    ],
    ids=str,
)
def test_odd_requests(wire: Wire, fields: dict[str, Any], error: str) -> None:
    client = wire().connect()
    answer = client.try_subscribe(client.channel(), **fields)
    assert (answer.error, bool(answer.ack_inbox)) == (error, not error)


@pytest.mark.parametrize("payload", [UNPARSABLE, b"\xff" * 5])
def test_what_is_no_request(wire: Wire, payload: bytes) -> None:
    answer = pb.SubscriptionResponse.decode(wire().request(SUB, payload))
    assert answer.error == "stan: invalid subscription request"


def test_an_empty_request_lacks_a_client(wire: Wire) -> None:
    answer = pb.SubscriptionResponse.decode(wire().request(SUB, b""))
    assert answer.error == "stan: clientID missing"


@pytest.mark.parametrize(
    ("fields", "first"),
    [
        ({"start_position": StartPosition.NEW_ONLY}, 9),
        ({"start_position": StartPosition.LAST_RECEIVED}, 8),
        ({"start_position": StartPosition.FIRST}, 4),
        ({"start_position": StartPosition.SEQUENCE}, 4),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 2}, 4),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 6}, 6),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 8}, 8),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 9}, 9),
        ({"start_position": StartPosition.SEQUENCE, "start_sequence": 2**64 - 1}, 9),
        ({"start_position": StartPosition.TIME_DELTA}, 9),
        ({"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": 10**12}, 4),
        ({"start_position": StartPosition.TIME_DELTA, "start_time_delta_ns": -(10**12)}, 9),
    ],
    ids=str,
)
def test_start_positions(wire: Wire, fields: dict[str, Any], first: int) -> None:
    client = wire().connect()
    channel = f"few.{client.name}".encode()
    client.fill(channel, 8)  # of which 4 to 8 are kept
    caught = client.subscribe(channel, **fields)
    client.publish(channel, b"")
    assert caught.inbox.sequences(10 - first) == list(range(first, 10))


@pytest.mark.parametrize("position", StartPosition)
def test_an_empty_channel_starts_with_its_next_message(wire: Wire, position: StartPosition) -> None:
    client = wire().connect()
    caught = client.subscribe(client.channel(), start_position=position, start_sequence=5)
    client.publish(client.channel(), b"", b"")
    assert caught.inbox.sequences(2) == [1, 2]


def test_each_subscription_has_an_ack_inbox_of_its_own(wire: Wire) -> None:
    client = wire().connect()
    inboxes = {client.try_subscribe(client.channel()).ack_inbox for _ in range(20)}
    assert len(inboxes) == 20
    assert all(each.startswith(b"_INBOX.") for each in inboxes)


@pytest.mark.parametrize("how", ENDS)
def test_what_ends_a_subscription_in_order_of_its_checks(wire: Wire, how: str) -> None:
    subject = ENDS[how]
    client, other = wire().connect(), wire().connect()
    channel = client.channel()
    caught = client.subscribe(channel)
    answer = pb.SubscriptionResponse.decode(client.request(subject, UNPARSABLE))
    assert answer.error == "stan: invalid unsubscribe request"
    answer = pb.SubscriptionResponse.decode(client.request(subject, b""))
    assert answer.error == UNKNOWN_CHANNEL
    ack_inbox = caught.ack_inbox
    assert client.unsubscribe(subject, client.channel("y"), ack_inbox) == UNKNOWN_CHANNEL
    nobody = {"client_id": "nobody"}
    error = client.unsubscribe(subject, channel, b"_INBOX.other", **nobody)
    assert error == INVALID_SUBSCRIPTION
    assert client.unsubscribe(subject, channel, ack_inbox, **nobody) == UNKNOWN_CLIENT
    assert other.unsubscribe(subject, channel, ack_inbox) == UNKNOWN_CLIENT
    assert client.unsubscribe(subject, channel, ack_inbox) == ""
    assert client.unsubscribe(subject, channel, ack_inbox) == INVALID_SUBSCRIPTION
    client.publish(channel, b"")
    assert caught.settled() == []


@pytest.mark.parametrize("how", ENDS)
def test_the_delivery_inbox_names_a_subscription_too(wire: Wire, how: str) -> None:
    client = wire().connect()
    caught = client.subscribe(client.channel())
    assert client.unsubscribe(ENDS[how], client.channel(), caught.inbox.subject) == ""
    assert caught.end(UNSUB) == INVALID_SUBSCRIPTION


def test_a_request_without_reply_is_carried_out(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.publish(channel, b"")
    caught = client.subscribe(channel)
    payload = pb.UnsubscribeRequest(
        client_id=client.client_id, subject=channel, inbox=caught.ack_inbox
    ).encode()
    client.client.publish(UNSUB, payload)
    assert client.unsubscribe(UNSUB, channel, caught.ack_inbox) == INVALID_SUBSCRIPTION


@pytest.mark.parametrize("group", ["", "q"])
@pytest.mark.parametrize("how", ENDS)
def test_a_durable_is_kept_by_a_close_and_ended_by_an_unsubscribe(
    wire: Wire, how: str, group: str
) -> None:
    client = wire().connect()
    channel = client.channel()
    client.publish(channel, b"", b"", b"")
    fields = {"durable_name": "d", "queue_group": group}
    caught = client.subscribe(channel, max_in_flight=2, **fields)
    assert caught.shown(2) == ["1", "2"]
    caught.ack(1)
    assert caught.shown(1) == ["3"]
    assert caught.end(ENDS[how]) == ""
    # Of a durable that goes on the new request's start position does not count.
    again = client.subscribe(channel, start_position=StartPosition.NEW_ONLY, **fields)
    client.publish(channel, b"")
    expected = ["4"] if how == "unsubscribe" else ["2 again 1", "3 again 1", "4"]
    assert again.shown(len(expected)) == expected
    assert again.settled() == []


def test_a_durable_has_one_subscriber_at_a_time_and_belongs_to_its_client(wire: Wire) -> None:
    client, other = wire().connect(), wire().connect()
    channel = client.channel()
    first = client.subscribe(channel, durable_name="d")
    duplicate = client.try_subscribe(channel, durable_name="d").error
    assert duplicate == "stan: duplicate durable registration"
    client.publish(channel, b"")
    assert other.subscribe(channel, durable_name="d").shown(1) == ["1"]
    assert first.shown(1) == ["1"]
    assert first.end(SUB_CLOSE) == ""
    # Closed is not gone: there is nothing left to unsubscribe, and the durable can go on.
    assert first.end(UNSUB) == INVALID_SUBSCRIPTION
    assert client.subscribe(channel, durable_name="d").shown(1) == ["1 again 1"]


def test_subscriptions_that_are_away_count_towards_the_limit(wire: Wire) -> None:
    client = wire().connect()
    channel = f"lonely.{client.name}".encode()
    assert client.subscribe(channel, durable_name="d").end(SUB_CLOSE) == ""
    full = "too many subscriptions per channel"
    assert client.try_subscribe(channel).error == full
    assert client.subscribe(channel, durable_name="d").end(UNSUB) == ""
    assert client.subscribe(channel).end(UNSUB) == ""
