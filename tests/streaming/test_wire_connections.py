"""Connecting, pings, heartbeats, replacing and closing, message by message."""

import time
from typing import Final

import pytest

from shardd.streaming import messages as pb
from tests.streaming.conftest import Judged, Wire
from tests.support.streaming_wire import (
    CLOSE,
    DISCOVER,
    PINGS,
    PUB,
    SUB_CLOSE,
    UNPARSABLE,
    StreamingWire,
)
from tests.support.waiting import wait_until

INVALID: Final = "stan: invalid connection request"
BAD_ID: Final = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
TAKEN: Final = "stan: clientID already registered"
REPLACED: Final = "client has been replaced or is no longer registered"
UNKNOWN: Final = "stan: unknown clientID"
# A client is given up after the second failure; silence is noticed after half a second, which is
# time enough for one that answers on a busy machine.
IMPATIENT: Final = """store_limits { max_channels: 0 }
  hb_interval: "200ms", hb_timeout: "500ms", hb_fail_count: 1"""


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", INVALID),
        (UNPARSABLE, INVALID),
        (pb.ConnectRequest(client_id="a").encode(), INVALID),
        (pb.ConnectRequest(client_id="a b").encode(), INVALID),
        *(
            (pb.ConnectRequest(client_id=each, heartbeat_inbox=b"h").encode(), BAD_ID)
            for each in ("", "a.b", "a b", "a/b", "a\n", "ä", "a*", "a:b")
        ),
    ],
)
def test_refused_connections(wire: Wire, payload: bytes, error: str) -> None:
    answer = wire().request(DISCOVER, payload)
    assert answer == pb.ConnectResponse(error=error).encode()


@pytest.mark.parametrize(
    ("protocol", "interval", "has_pings"),
    [(0, 5, False), (-1, 5, False), (1, 5, True), (1, 0, True), (7, 5, True), (1, -3, True)],
)
def test_answer_to_a_connect_names_subjects_and_echoes_the_ping_settings(
    wire: Wire, protocol: int, interval: int, has_pings: bool
) -> None:
    client = wire()
    answer = client.request(
        DISCOVER,
        client.connect_request(
            protocol=protocol, conn_id=b"c", ping_interval=interval, ping_max_out=9
        ),
    )
    expected = pb.ConnectResponse(
        pub_prefix=PUB[:-1],
        sub_requests=b"_STAN.sub.test-cluster",
        unsub_requests=b"_STAN.unsub.test-cluster",
        close_requests=CLOSE,
        sub_close_requests=SUB_CLOSE,
        protocol=1,
        ping_requests=PINGS if has_pings else b"",
        ping_interval=interval if has_pings else 0,
        ping_max_out=9 if has_pings else 0,
    )
    assert answer == expected.encode()


@pytest.mark.parametrize("client_id", ["-", "_", "A-b_9", "x" * 200])
def test_accepted_client_ids(wire: Wire, client_id: str) -> None:
    client = wire().connect(client_id)
    assert client.close() == ""


def test_unknown_fields_of_a_request_are_skipped(wire: Wire) -> None:
    client = wire()
    request = client.connect_request() + b"\xfa\x06\x02hi\xf0\x06\x05"
    assert pb.ConnectResponse.decode(client.request(DISCOVER, request)).error == ""


def test_a_live_client_keeps_its_id(wire: Wire) -> None:
    first, second = wire().connect(), wire()
    inbox = second.open_inbox()
    request = second.connect_request(client_id=first.client_id)
    second.client.publish(DISCOVER, request, inbox.subject)
    first.answers_heartbeats = False
    asked = first.heartbeats.next()
    assert asked.payload == b""
    first.client.publish(asked.reply, b"anything")
    assert pb.ConnectResponse.decode(inbox.next().payload).error == TAKEN
    assert first.ping() == ""


def test_a_client_whose_connection_is_gone_is_replaced(wire: Wire) -> None:
    first, second = wire().connect(), wire()
    old = first.conn_id
    first.close_inbox(first.heartbeats)
    second.connect(first.client_id)
    assert second.ping(old) == REPLACED
    assert second.ping() == ""


def test_a_silent_client_is_replaced_after_half_a_second(wire: Wire) -> None:
    first, second, third = wire().connect(), wire(), wire()
    first.answers_heartbeats = False
    start = time.monotonic()
    inbox = second.open_inbox()
    request = second.connect_request(client_id=first.client_id)
    second.client.publish(DISCOVER, request, inbox.subject)
    first.heartbeats.next()
    # While the old one is waited for, others are refused at once.
    assert third.try_connect(client_id=first.client_id).error == TAKEN
    assert pb.ConnectResponse.decode(inbox.next().payload).error == ""
    assert time.monotonic() - start >= 0.45
    assert third.ping(first.conn_id) == REPLACED


def test_replacing_ends_plain_subscriptions_and_frees_durable_ones(wire: Wire) -> None:
    first, second = wire().connect(), wire()
    channel = first.channel()
    first.publish(channel, b"1")
    plain = first.subscribe(channel)
    durable = first.subscribe(channel, durable_name="d")
    assert plain.shown(1) == durable.shown(1) == ["1"]
    first.close_inbox(first.heartbeats)
    second.connect(first.client_id)
    resumed = second.subscribe(channel, durable_name="d")
    second.publish(channel, b"2")
    assert resumed.shown(2) == ["1 again 1", "2"]
    second.settle(channel)
    first.flush()
    assert plain.inbox.rest() == durable.inbox.rest() == []


def test_client_pings(wire: Wire) -> None:
    client = wire().connect()
    assert client.ping() == ""
    assert client.ping(b"another") == REPLACED
    # To these nobody answers, and the next one is answered as ever.
    silent = client.open_inbox()
    client.client.publish(PINGS, b"", silent.subject)
    client.client.publish(PINGS, UNPARSABLE, silent.subject)
    client.client.publish(PINGS, pb.Ping(conn_id=client.conn_id).encode())
    assert client.ping() == ""
    client.flush()
    assert not silent.arrived
    assert client.close() == ""
    assert client.ping() == REPLACED


@pytest.mark.parametrize(
    ("payload", "error"),
    [
        (b"", UNKNOWN),
        (UNPARSABLE, "stan: invalid close request"),
        (pb.CloseRequest(client_id="nobody").encode(), UNKNOWN),
    ],
)
def test_refused_closes(wire: Wire, payload: bytes, error: str) -> None:
    assert wire().request(CLOSE, payload) == pb.CloseResponse(error=error).encode()


def test_close_frees_the_id_and_anybody_may_close_anybody(wire: Wire) -> None:
    client, other = wire().connect(), wire()
    assert other.close(client.client_id) == ""
    assert client.close() == UNKNOWN
    assert client.try_publish(client.channel()).error == "stan: invalid publish request"
    other.connect(client.client_id)


def test_close_is_behind_all_that_was_sent_before_it(wire: Wire) -> None:
    client = wire().connect()
    channel = client.channel()
    client.fill(channel, 300)
    durable = client.subscribe(channel, durable_name="d")
    assert durable.inbox.sequences(300) == list(range(1, 301))
    acks = client.open_inbox()
    for number in range(300):
        body = client.pub_message(channel, b"%d" % number)
        client.client.publish(PUB + channel, body, acks.subject)
        durable.ack(number + 1)
    assert client.close() == ""
    answers = [acks.next().payload for _ in range(300)]
    assert set(answers) == {pb.PubAck(guid=b"guid").encode()}
    # What was sent to the durable before the close is pending; what it acknowledged is not.
    client.connect()
    again = client.subscribe(channel, durable_name="d", max_in_flight=1)
    assert again.inbox.take(1)[0].sequence == 301


@pytest.fixture
def impatient(shared: Judged) -> StreamingWire:
    """A client of a server that gives clients up after a fraction of a second."""
    return StreamingWire(shared(IMPATIENT))


def test_heartbeats_come_and_a_client_that_answers_stays(impatient: StreamingWire) -> None:
    with impatient as client:
        client.answers_heartbeats = False
        client.connect()
        for _ in range(4):
            asked = client.heartbeats.next()
            assert (asked.payload, bool(asked.reply)) == (b"", True)
            client.client.publish(asked.reply, b"")
        assert client.ping() == ""


def test_a_client_that_fails_heartbeats_is_closed(impatient: StreamingWire) -> None:
    with impatient as client:
        client.answers_heartbeats = False
        client.connect()
        channel = client.channel()
        client.publish(channel, b"1")
        client.subscribe(channel, durable_name="d").shown(1)
        # One failure may be made good; the second in a row is one too many.
        client.heartbeats.next()
        client.client.publish(client.heartbeats.next().reply, b"")
        client.heartbeats.next()
        client.heartbeats.next()
        wait_until(lambda: client.ping() == REPLACED, "the client's end")
        client.answers_heartbeats = True
        client.connect()
        assert client.subscribe(channel, durable_name="d").shown(1) == ["1 again 1"]


def test_a_client_without_a_connection_fails_at_once(impatient: StreamingWire) -> None:
    with impatient as client:
        client.connect()
        client.close_inbox(client.heartbeats)
        wait_until(lambda: client.ping() == REPLACED, "the client's end")
