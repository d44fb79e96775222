"""Connects, replacement of dead clients, pings, heartbeats and closes (sheet 3, 8)."""

import pytest

from shardd.config.streaming import StreamingOptions
from shardd.streaming.messages import ConnectRequest, ConnectResponse, PingResponse, PubAck
from shardd.streaming.receiver import CLOSE, DISCOVER, INQUIRY, PINGS
from tests.support.streaming_worker import NO_RESPONDERS, Pool

REGISTERED = "stan: clientID already registered"
INVALID_ID = "stan: invalid clientID: only alphanumeric and `-` or `_` characters allowed"
DISCOVER_SUBJECT = b"_STAN.discover.test-cluster"


@pytest.fixture
def pool() -> Pool:
    return Pool()


def test_the_answer_names_every_subject(pool: Pool) -> None:
    assert pool.connect("me") == ConnectResponse(
        pub_prefix=b"_STAN.pub.test-cluster",
        sub_requests=b"_STAN.sub.test-cluster",
        unsub_requests=b"_STAN.unsub.test-cluster",
        close_requests=b"_STAN.close.test-cluster",
        sub_close_requests=b"_STAN.subclose.test-cluster",
        ping_requests=b"_STAN.discover.test-cluster.pings",
        ping_interval=5,
        ping_max_out=88,
        protocol=1,
    )


def test_the_old_protocol_is_told_nothing_of_pings(pool: Pool) -> None:
    response = pool.connect("me", protocol=0, conn_id=b"")
    assert (response.ping_requests, response.ping_interval, response.protocol) == (b"", 0, 1)
    assert pool.publish("me", b"foo", conn_id=b"").error == ""


@pytest.mark.parametrize(
    ("client_id", "inbox", "error"),
    [
        ("me", b"", "stan: invalid connection request"),
        ("", b"", "stan: invalid connection request"),
        ("me", b"in box", "stan: invalid connection request"),
        ("me", b"in.*", "stan: invalid connection request"),
        ("me", b"in\r\nPUB x 0", "stan: invalid connection request"),
        ("", b"hb.x", INVALID_ID),
        ("a.b", b"hb.x", INVALID_ID),
        ("me\n", b"hb.x", INVALID_ID),
        ("\u00e9", b"hb.x", INVALID_ID),
    ],
)
def test_what_a_connect_must_be(pool: Pool, client_id: str, inbox: bytes, error: str) -> None:
    assert pool.connect(client_id, heartbeat_inbox=inbox).error == error


def test_an_unreadable_connect_is_refused(pool: Pool) -> None:
    answer = pool.request(DISCOVER_SUBJECT, b"\x0a\xff")
    assert ConnectResponse.decode(answer).error == "stan: invalid connection request"


def test_an_id_is_refused_while_its_owner_answers(pool: Pool) -> None:
    pool.connect("me")
    assert pool.connect("me", conn_id=b"other").error == REGISTERED
    assert pool.publish("me", b"foo").error == ""
    assert pool.publish("me", b"foo", conn_id=b"other").error == "stan: invalid publish request"


def test_an_owner_that_is_gone_is_replaced_at_once(pool: Pool) -> None:
    pool.connect("me")
    pool.gone.add(b"hb.me")
    assert pool.connect("me", heartbeat_inbox=b"hb.new", conn_id=b"new").error == ""
    assert pool.publish("me", b"foo").error == "stan: invalid publish request"
    assert pool.publish("me", b"foo", conn_id=b"new").error == ""


def test_a_silent_owner_is_replaced_after_half_a_second_and_others_wait_for_nothing(
    pool: Pool,
) -> None:
    pool.connect("me")
    pool.silent.add(b"hb.me")
    request = ConnectRequest(client_id="me", heartbeat_inbox=b"hb.new", conn_id=b"new")
    pool.send(DISCOVER_SUBJECT, request.encode(), b"first")
    pool.run()
    assert pool.connect("me", heartbeat_inbox=b"hb.third").error == REGISTERED
    pool.advance(499)
    assert pool.taken(b"first") == []
    pool.advance(1)
    (answer,) = pool.taken(b"first")
    assert ConnectResponse.decode(answer).error == ""


def test_no_responders_says_at_once_that_the_owner_is_gone(pool: Pool) -> None:
    pool.connect("me")
    pool.silent.add(b"hb.me")
    request = ConnectRequest(client_id="me", heartbeat_inbox=b"hb.new", conn_id=b"new")
    worker = pool.worker()
    worker.bus.hand(DISCOVER, DISCOVER_SUBJECT, request.encode(), b"first")
    (_, reply, _) = worker.bus.sent[-1]
    worker.bus.hand(INQUIRY, reply, b"", header=NO_RESPONDERS)
    pool.run()
    (answer,) = pool.taken(b"first")
    assert ConnectResponse.decode(answer).error == ""


def test_pings(pool: Pool) -> None:
    pool.connect("me")
    assert pool.ping(b"connection-me") == b""
    answer = pool.ping(b"other")
    assert answer is not None
    error = "client has been replaced or is no longer registered"
    assert PingResponse.decode(answer).error == error
    assert pool.request(DISCOVER_SUBJECT + b".pings", b"") is None
    assert pool.request(DISCOVER_SUBJECT + b".pings", b"\xff") is None


def test_a_client_that_misses_more_heartbeats_than_it_may_is_closed() -> None:
    pool = Pool(StreamingOptions(heartbeat_fail_count=2))
    pool.connect("me")
    pool.subscribed("me", b"foo")
    pool.subscribed("me", b"foo", b"durable", durable_name="d")
    pool.silent.add(b"hb.me")
    pool.advance(3 * 40_000 - 1)
    assert pool.ping(b"connection-me") == b""
    pool.advance(40_000)
    assert pool.ping(b"connection-me") != b""
    (left,) = pool.channel(b"foo").subscriptions.values()
    assert left.is_offline
    assert left.durable_name == "d"
    assert not pool.keeps[0].clients


def test_an_answer_makes_up_for_all_missed_heartbeats() -> None:
    pool = Pool(StreamingOptions(heartbeat_fail_count=1))
    pool.connect("me")
    for _ in range(4):
        pool.gone.add(b"hb.me")
        pool.advance(30_000)
        pool.gone.clear()
        pool.advance(30_000)
    assert pool.ping(b"connection-me") == b""


def test_a_ping_makes_the_server_ask_a_failing_client_again(pool: Pool) -> None:
    pool.connect("me")
    pool.gone.add(b"hb.me")
    pool.advance(30_000)
    client = pool.worker().server.core.clients.find("me")
    assert client is not None
    assert client.fail_count == 1
    pool.gone.clear()
    pool.ping(b"connection-me")
    pool.advance(1)
    assert client.fail_count == 0


def test_close_answers_errors(pool: Pool) -> None:
    assert pool.close("me").error == "stan: unknown clientID"
    answer = pool.request(b"_STAN.close.test-cluster", b"\x08")
    assert answer is not None
    assert b"stan: invalid close request" in answer
    pool.connect("me")
    answer = pool.request(b"_STAN.close.test-cluster", b"\x0a\x02me")
    assert answer == b""
    assert pool.connect("me").error == ""


def test_a_close_comes_behind_everything_that_was_received_before_it(pool: Pool) -> None:
    pool.connect("me")
    ack_inbox = pool.subscribed("me", b"foo", durable_name="d")
    pool.publish_many("me", b"foo", 2)
    replies = [pool.publish_nowait("me", b"foo") for _ in range(3)]
    pool.send(ack_inbox, b"\x0a\x03foo\x10\x01")
    pool.send(b"_STAN.close.test-cluster", b"\x0a\x02me", b"closed")
    late = pool.publish_nowait("me", b"foo")
    pool.run()
    order = [subject for subject, _, _ in pool.inbox]
    assert order.index(replies[-1]) < order.index(b"closed")
    assert all(PubAck.decode(*pool.taken(reply)).error == "" for reply in replies)
    assert PubAck.decode(*pool.taken(late)).error == "stan: invalid publish request"
    (row,) = pool.keeps[0].subscriptions[b"foo"].values()
    assert (row.is_closed, row.last_sent, row.pending) == (True, 2, (2,))


def test_requests_without_a_reply_are_served_without_an_answer(pool: Pool) -> None:
    worker = pool.worker()
    request = ConnectRequest(client_id="me", heartbeat_inbox=b"hb.me").encode()
    worker.bus.hand(DISCOVER, DISCOVER_SUBJECT, request)
    worker.bus.hand(PINGS, DISCOVER_SUBJECT + b".pings", b"\x0a\x01x")
    worker.bus.hand(CLOSE, b"_STAN.close.test-cluster", b"")
    pool.run()
    assert pool.inbox == []
    assert pool.connect("me").error == REGISTERED


def test_a_connect_that_cannot_be_stored_is_refused_and_undone(pool: Pool) -> None:
    pool.holds_commits = True
    request = ConnectRequest(client_id="me", heartbeat_inbox=b"hb.me").encode()
    pool.send(DISCOVER_SUBJECT, request, b"answer")
    pool.run()
    assert pool.taken(b"answer") == []
    pool.worker().store.finish(state_error="disk full")
    pool.run()
    (answer,) = pool.taken(b"answer")
    assert ConnectResponse.decode(answer).error == "disk full"
    pool.holds_commits = False
    pool.worker().store.finish() if pool.worker().store.is_committing else None
    assert pool.connect("me").error == ""


def test_nobody_is_told_that_it_is_stored_while_the_store_rests_after_a_failure(
    pool: Pool,
) -> None:
    store = pool.worker().store
    store.is_resting = True
    request = ConnectRequest(client_id="me", heartbeat_inbox=b"hb.me").encode()
    pool.send(DISCOVER_SUBJECT, request, b"answer")
    pool.advance(1000)
    assert pool.taken(b"answer") == []
    # What needs nothing of the store does not wait for it.
    assert pool.close("you").error == "stan: unknown clientID"
    store.is_resting = False
    pool.advance(250)
    (answer,) = pool.taken(b"answer")
    assert ConnectResponse.decode(answer).error == ""
    assert "me" in pool.keeps[0].clients
