"""Publishing, message by message: what is refused, what is stored, what comes out of it."""

import time
from typing import Any, Final

import pytest

from shardd.streaming import messages as pb
from tests.streaming.conftest import Wire
from tests.support.streaming_wire import PUB, UNPARSABLE

INVALID: Final = "stan: invalid publish request"
ODD_CHANNELS: Final = (
    b"a b",
    b"a\tb",
    "ä.ö".encode(),
    b"$x",
    b"_STAN.x",
    b"\xfe\xff",
    b"a\r\nb",
    b'"',
)
BAD_CHANNELS: Final = (b"", b"a/b", b"/", b"*", b">", b"a.*", b"a*b", b"a.>", b"a>b", b".", b".a",
                       b"a.", b"a..b")  # fmt: skip


@pytest.mark.parametrize(
    ("fields", "is_stored"),
    [
        ({"guid": b""}, False),
        ({"conn_id": b"unknown"}, False),
        ({"conn_id": b"", "client_id": "unknown"}, False),
        ({"conn_id": b"", "client_id": ""}, False),
        ({"client_id": "unknown"}, True),  # the connection id alone counts
        ({"client_id": ""}, True),
        ({"conn_id": b""}, True),
        ({"sha256": b"anything"}, True),
        ({"guid": b"\xff\x00\r\n" * 20}, True),
    ],
    ids=str,
)
def test_who_may_publish(wire: Wire, fields: dict[str, Any], is_stored: bool) -> None:
    client = wire().connect()
    answer = client.try_publish(client.channel(), b"x", **fields)
    guid = fields.get("guid", b"guid")
    assert answer == pb.PubAck(guid=guid, error="" if is_stored else INVALID)
    caught = client.subscribe(client.channel())
    client.publish(client.channel(), b"last")
    seen = [message.data for message in caught.inbox.take(2 if is_stored else 1)]
    assert seen == [b"x", b"last"][-len(seen) :]


@pytest.mark.parametrize("payload", [b"", UNPARSABLE, b"\x12\x01g\x1a\x7f", b"\xff" * 20])
def test_what_is_no_message_is_refused(wire: Wire, payload: bytes) -> None:
    client = wire().connect()
    answer = pb.PubAck.decode(client.request(PUB + client.channel(), payload))
    assert answer.error == INVALID


@pytest.mark.parametrize("channel", BAD_CHANNELS)
def test_names_that_no_channel_may_have(wire: Wire, channel: bytes) -> None:
    client = wire().connect()
    assert client.try_publish(channel) == pb.PubAck(guid=b"guid", error=INVALID)
    assert client.try_subscribe(channel).error == "stan: invalid subject"


@pytest.mark.parametrize("name", ODD_CHANNELS)
def test_names_that_only_the_field_can_hold(wire: Wire, name: bytes) -> None:
    client = wire().connect()
    channel = client.channel("") + name
    client.publish(channel, b"before")
    caught = client.subscribe(channel)
    client.publish(channel, b"after")
    assert [(each.subject, each.data) for each in caught.inbox.take(2)] == [
        (channel, b"before"),
        (channel, b"after"),
    ]
    caught.ack(1, 2)
    assert client.subscribe(channel, durable_name="d").inbox.sequences(2) == [1, 2]


def test_the_field_decides_and_not_the_nats_subject(wire: Wire) -> None:
    client = wire().connect()
    meant, said = client.channel("meant"), client.channel("said")
    client.publish(said, b"1")
    caught, other = client.subscribe(meant), client.subscribe(said)
    for number in range(10):
        payload = client.pub_message(meant, b"%d" % number)
        answer = client.request(PUB + said, payload)
        assert pb.PubAck.decode(answer) == pb.PubAck(guid=b"guid")
    assert caught.inbox.sequences(10) == list(range(1, 11))
    assert other.settled() == ["1"]


def test_a_message_comes_out_with_what_it_was_given_and_nothing_else(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    caught = client.subscribe(channel)
    before = time.time_ns()
    client.publish(channel, b"\x00\xffbody", reply=b"answer.here", sha256=b"sum")
    client.publish(channel, b"")
    raw = [caught.inbox.next() for _ in range(2)]
    first, second = (pb.MsgProto.decode(each.payload) for each in raw)
    assert before <= first.timestamp_ns <= second.timestamp_ns <= time.time_ns()
    expected = pb.MsgProto(
        sequence=1,
        subject=channel,
        reply=b"answer.here",
        data=b"\x00\xffbody",
        timestamp_ns=first.timestamp_ns,
    )
    assert raw[0].payload == expected.encode()
    expected = pb.MsgProto(sequence=2, subject=channel, timestamp_ns=second.timestamp_ns)
    assert raw[1].payload == expected.encode()
    assert all(each.reply == b"" for each in raw)


def test_unknown_fields_are_skipped_and_the_last_of_a_field_counts(wire: Wire) -> None:
    client = wire().connect()
    caught = client.subscribe(client.channel())
    payload = client.pub_message(client.channel(), b"first")
    payload += b"\xfa\x06\x02hi\xf0\x06\x05\xf9\x06" + bytes(8) + b"\xfd\x06" + bytes(4)
    payload += b"\x2a\x04last"
    answer = client.request(PUB + client.channel(), payload)
    assert pb.PubAck.decode(answer) == pb.PubAck(guid=b"guid")
    assert caught.inbox.take(1)[0].data == b"last"


def test_a_publish_without_reply_is_stored(wire: Wire) -> None:
    client = wire().connect()
    payload = client.pub_message(client.channel(), b"silent")
    client.client.publish(PUB + client.channel(), payload)
    client.publish(client.channel(), b"last")
    caught = client.subscribe(client.channel())
    assert [each.data for each in caught.inbox.take(2)] == [b"silent", b"last"]


def test_acknowledgements_come_in_order_and_sequences_without_gap(wire: Wire) -> None:
    first, second = wire().connect(), wire().connect()
    channel = first.channel()
    caught = second.subscribe(channel, max_in_flight=2000)
    acks = {client: client.open_inbox() for client in (first, second)}
    for number in range(500):
        for client, inbox in acks.items():
            name = f"{client.name}-{number}".encode()
            payload = client.pub_message(channel, name, guid=name)
            client.client.publish(PUB + channel, payload, inbox.subject)
    for client, inbox in acks.items():
        for number in range(500):
            guid = f"{client.name}-{number}".encode()
            assert pb.PubAck.decode(inbox.next().payload) == pb.PubAck(guid=guid)
    messages = caught.inbox.take(1000)
    assert [each.sequence for each in messages] == list(range(1, 1001))
    times = [each.timestamp_ns for each in messages]
    assert times == sorted(times)
    for client in (first, second):
        mine = [each.data for each in messages if each.data.startswith(client.name.encode())]
        assert mine == [f"{client.name}-{number}".encode() for number in range(500)]


def test_errors_and_acknowledgements_under_way_together(wire: Wire) -> None:
    client = wire().connect()
    inbox = client.open_inbox()
    for number in range(50):
        guid = b"%d" % number
        conn_id = client.conn_id if number % 5 else b"unknown"
        payload = client.pub_message(client.channel(), guid, guid=guid, conn_id=conn_id)
        client.client.publish(PUB + client.channel(), payload, inbox.subject)
    answers = [pb.PubAck.decode(inbox.next().payload) for _ in range(50)]
    good = [answer.guid for answer in answers if not answer.error]
    assert good == [b"%d" % number for number in range(50) if number % 5]
    assert {answer.error for answer in answers} == {"", INVALID}
    caught = client.subscribe(client.channel())
    assert [each.data for each in caught.inbox.take(40)] == good


def test_names_that_differ_in_case_only(wire: Wire) -> None:
    client = wire().connect()
    lower, upper = client.channel("name"), client.channel("Name")
    client.publish(lower, b"")
    # The spelling is the original's.
    text = (
        f'rejecting channel "{upper.decode()}" because channel "{lower.decode()}" alreay exists'
        " (different cases not allowed)"
    )
    assert client.try_publish(upper) == pb.PubAck(guid=b"guid", error=text)
    assert client.try_subscribe(upper).error == text


def test_old_messages_go_when_a_channel_is_full(wire: Wire) -> None:
    client = wire().connect()
    channel = f"few.{client.name}".encode()
    slow = client.subscribe(channel, max_in_flight=1)
    client.publish(channel, *[b"x"] * 8)
    assert slow.shown(1) == ["1"]
    assert client.subscribe(channel).shown(5) == ["4", "5", "6", "7", "8"]
    slow.ack(1)  # 2 and 3 are gone: the next is what is there
    assert slow.shown(1) == ["4"]
