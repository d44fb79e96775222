"""What is in flight, what comes again and when, and who of a queue group gets it."""

import time
from typing import Final

import pytest

from shardd.streaming import messages as pb
from tests.streaming.conftest import Judged, Wire
from tests.support.streaming_wire import SUB_CLOSE, UNPARSABLE, UNSUB, StreamingWire, Subscription

SECOND_NS: Final = 1_000_000_000


def raw_acks(client: StreamingWire, caught: Subscription, *payloads: bytes) -> None:
    """Bytes to an ack inbox."""
    for payload in payloads:
        client.client.publish(caught.ack_inbox, payload)


def test_no_more_than_max_in_flight_and_one_more_for_each_ack(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 20)
    caught = client.subscribe(channel, max_in_flight=3)
    assert caught.settled() == ["1", "2", "3"]
    caught.ack(2)
    assert caught.settled() == ["4"]
    caught.ack(1, 4)
    assert caught.settled() == ["5", "6"]
    caught.ack(3, 5, 6)
    assert caught.settled() == ["7", "8", "9"]


@pytest.mark.parametrize("group", ["", "q"])
def test_acks_that_mean_nothing_are_ignored(wire: Wire, group: str) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 5)
    caught = client.subscribe(channel, max_in_flight=1, queue_group=group)
    assert caught.shown(1) == ["1"]
    raw_acks(client, caught, b"", UNPARSABLE, pb.Ack(subject=channel).encode(), b"\xff" * 30)
    caught.ack(2, 5, 6, 2**64 - 1)
    assert caught.settled() == []
    caught.ack(1, 1, 1)
    assert caught.settled() == ["2"]


def test_an_ack_is_known_by_its_inbox_and_sequence(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 2)
    first = client.subscribe(channel, max_in_flight=1)
    second = client.subscribe(channel, max_in_flight=1)
    first.ack(1)
    assert first.settled() == ["1", "2"]
    assert second.settled() == ["1"]


def test_an_ack_with_a_reply_is_not_answered(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 2)
    caught = client.subscribe(channel, max_in_flight=1)
    inbox = client.open_inbox()
    payload = pb.Ack(subject=channel, sequence=1).encode()
    client.client.publish(caught.ack_inbox, payload, inbox.subject)
    assert caught.shown(2) == ["1", "2"]
    client.settle(channel)
    assert not inbox.arrived


def test_redeliveries_come_after_ack_wait_counted_and_beyond_max_in_flight(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.publish(channel, b"one", b"two", b"three", reply=b"r")
    start = time.monotonic()
    caught = client.subscribe(channel, max_in_flight=2, ack_wait_s=1)
    assert caught.shown(2) == ["1", "2"]
    assert caught.shown(2) == ["1 again 1", "2 again 1"]
    assert time.monotonic() - start >= 0.98
    again = caught.inbox.next()
    message = pb.MsgProto.decode(again.payload)
    expected = pb.MsgProto(
        sequence=1,
        subject=channel,
        reply=b"r",
        data=b"one",
        timestamp_ns=message.timestamp_ns,
        redelivered=True,
        redelivery_count=2,
    )
    assert again.payload == expected.encode()
    assert time.monotonic() - start >= 1.98
    assert caught.shown(1) == ["2 again 2"]
    caught.ack(1, 2)
    assert caught.shown(1) == ["3"]
    assert caught.settled() == []


def test_the_timer_of_each_message_is_its_own(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.publish(channel, b"", b"", b"")
    caught = client.subscribe(channel, ack_wait_s=1)
    assert caught.shown(3) == ["1", "2", "3"]
    caught.ack(1, 3)
    assert caught.shown(1) == ["2 again 1"]
    client.publish(channel, b"")
    # In this order, unless it took a second to publish.
    assert sorted(caught.shown(2)) == ["2 again 2", "4"]
    assert caught.shown(1) == ["4 again 1"]


def test_what_limits_removed_is_not_delivered_again(wire: Wire) -> None:
    client = wire().connect()
    channel = f"few.{client.name}".encode()
    client.publish(channel, b"", b"")
    caught = client.subscribe(channel, max_in_flight=2, ack_wait_s=1)
    assert caught.shown(2) == ["1", "2"]
    client.publish(channel, *[b""] * 5)  # 3 to 7 are kept
    # Both are dropped as they come due, and make room.
    assert caught.shown(2) == ["3", "4"]


def test_a_queue_group_shares_and_each_member_gets_its_own_in_order(wire: Wire) -> None:
    client, other = wire().connect(), wire().connect()
    channel = client.channel()
    plain = client.subscribe(channel)
    members = [
        one.subscribe(channel, queue_group="q", max_in_flight=4) for one in (client, other, client)
    ]
    other.fill(channel, 20)
    assert plain.inbox.sequences(20) == list(range(1, 21))
    client.settle(channel)
    other.settle(channel)
    got = [member.inbox.rest() for member in members]
    assert got == [["1", "4", "7", "10"], ["2", "5", "8", "11"], ["3", "6", "9", "12"]]
    members[2].ack(3, 9)
    client.settle(channel)
    assert members[2].inbox.rest() == ["13", "14"]


def test_queue_groups_are_told_apart_by_name_and_durable(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    groups = [
        client.subscribe(channel, queue_group=queue, durable_name=durable)
        for queue in ("q", "r")
        for durable in ("", "d", "e")
    ]
    client.fill(channel, 3)
    assert [group.shown(3) for group in groups] == [["1", "2", "3"]] * 6


def test_a_late_ack_counts_wherever_the_message_has_gone(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 1)
    slow = client.subscribe(channel, queue_group="q", ack_wait_s=1, max_in_flight=1)
    assert slow.shown(1) == ["1"]
    quick = client.subscribe(channel, queue_group="q", ack_wait_s=1, max_in_flight=1)
    assert quick.shown(1) == ["1 again 1"]
    # It has left the first, which has room again; its ack takes it from the second.
    client.publish(channel, b"")
    assert slow.shown(1) == ["2"]
    slow.ack(1)
    client.settle(channel)
    client.publish(channel, b"")
    assert quick.shown(1) == ["3"]


@pytest.mark.parametrize("end", [UNSUB, SUB_CLOSE], ids=["unsubscribe", "close"])
@pytest.mark.parametrize("durable", ["", "d"])
def test_what_a_leaving_member_had_goes_to_the_others(wire: Wire, end: bytes, durable: str) -> None:
    client = wire().connect()
    channel = client.channel()
    members = [client.subscribe(channel, queue_group="q", durable_name=durable) for _ in range(3)]
    client.fill(channel, 9)
    assert members[0].shown(3) == ["1", "4", "7"]
    assert members[0].end(end) == ""
    assert members[1].shown(3) == ["2", "5", "8"]
    assert members[2].shown(3) == ["3", "6", "9"]
    inboxes = [member.inbox for member in members[1:]]
    while sum(len(inbox.arrived) for inbox in inboxes) < 3:
        client.receive()
    assert all(inbox.arrived for inbox in inboxes)
    moved = inboxes[0].rest() + inboxes[1].rest()
    assert sorted(moved) == ["1 again 1", "4 again 1", "7 again 1"]


def test_a_group_without_members_forgets_unless_it_is_durable(wire: Wire) -> None:
    client, other = wire().connect(), wire().connect()
    channel = client.channel()
    client.fill(channel, 3)
    for durable, expected in (("", ["1", "2", "3"]), ("d", ["2 again 1", "3 again 1"])):
        first = client.subscribe(channel, queue_group="q", durable_name=durable)
        assert first.shown(3) == ["1", "2", "3"]
        first.ack(1)
        assert first.end(SUB_CLOSE) == ""
        second = other.subscribe(channel, queue_group="q", durable_name=durable)
        assert second.shown(len(expected)) == expected
        assert second.settled() == []


def test_the_last_unsubscribe_ends_a_durable_group_and_others_do_not(wire: Wire) -> None:
    client, other = wire().connect(), wire().connect()
    channel = client.channel()
    client.fill(channel, 2)
    first = client.subscribe(channel, queue_group="q", durable_name="d")
    assert first.shown(2) == ["1", "2"]
    second = other.subscribe(channel, queue_group="q", durable_name="d")
    assert first.end(UNSUB) == ""
    assert sorted(second.shown(2)) == ["1 again 1", "2 again 1"]
    assert second.end(UNSUB) == ""
    assert client.subscribe(channel, queue_group="q", durable_name="d").shown(2) == ["1", "2"]


def test_a_durable_group_outlives_its_clients(wire: Wire) -> None:
    first, second = wire().connect(), wire().connect()
    channel = first.channel()
    first.fill(channel, 4)
    caught = first.subscribe(channel, queue_group="q", durable_name="d")
    assert caught.shown(4) == ["1", "2", "3", "4"]
    caught.ack(2, 4)
    assert first.close() == ""
    resumed = second.subscribe(channel, queue_group="q", durable_name="d")
    assert resumed.shown(2) == ["1 again 1", "3 again 1"]


@pytest.mark.parametrize("is_killed", [False, True], ids=["stop", "kill"])
def test_a_restart_asks_nothing_of_clients(own: Judged, *, is_killed: bool) -> None:
    server = own()
    with StreamingWire(server) as client:
        client.connect()
        channel = client.channel()
        client.fill(channel, 6)
        caught = client.subscribe(channel, max_in_flight=4)
        assert caught.shown(4) == ["1", "2", "3", "4"]
        caught.ack(1, 3)
        assert caught.shown(2) == ["5", "6"]
        client.publish(channel, b"")  # what was acknowledged before it is stored with it
        client.settle(channel)
    if is_killed:
        server.kill_all()
    else:
        server.stop()
    server.start()
    with StreamingWire(server) as again:
        # Nobody connects: the connection id, the inbox and the ack inbox are what they were.
        again.conn_id = client.conn_id
        again.client.send(b"SUB ", caught.inbox.subject, b" 90\r\n")
        again.client.send(b"SUB ", client.heartbeats.subject, b" ", again.heartbeats.sid, b"\r\n")
        inbox = again.open_inbox()
        again._inboxes[b"90"] = inbox
        assert again.ping() == ""
        resumed = Subscription(again, channel, inbox, caught.ack_inbox)
        resumed.ack(2, 4, 5, 6)
        again.publish(channel, b"")
        sequences = []
        while 8 not in sequences:
            sequences += inbox.sequences(1)
        assert set(sequences) <= {2, 4, 5, 6, 7, 8}
        assert again.close(client.client_id) == ""


@pytest.mark.parametrize("is_killed", [False, True], ids=["stop", "kill"])
def test_what_was_pending_comes_again_when_its_time_is_over(
    own: Judged, *, is_killed: bool
) -> None:
    server = own()
    with StreamingWire(server) as client:
        client.connect()
        channel = client.channel()
        client.fill(channel, 2)
        durable = client.subscribe(channel, durable_name="d", ack_wait_s=1)
        assert durable.shown(2) == ["1", "2"]
        durable.ack(1)
        client.publish(channel, b"")
        while durable.shown(1) != ["3"]:
            """The second may be due already."""
    if is_killed:
        server.kill_all()
    else:
        server.stop()
    server.start()
    with StreamingWire(server) as again:
        again.client.send(b"SUB ", durable.inbox.subject, b" 90\r\n")
        inbox = again.open_inbox()
        again._inboxes[b"90"] = inbox
        seen: set[int] = set()
        while not seen >= {2, 3}:
            seen.update(inbox.sequences(1))
        assert seen <= {1, 2, 3} if is_killed else seen == {2, 3}
