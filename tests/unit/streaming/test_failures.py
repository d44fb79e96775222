"""A store that cannot write, or not yet: who is told what, and what is undone."""

import logging

import pytest

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming.messages import (
    PubAck,
    StartPosition,
    SubscriptionRequest,
    SubscriptionResponse,
)
from shardd.streaming.store import ClientRow
from tests.support.streaming_worker import Pool

FOO = b"foo"
SUB = b"_STAN.sub.test-cluster"


@pytest.fixture
def pool() -> Pool:
    limits = StoreLimits(defaults=ChannelLimits(max_inactivity_s=10))
    pool = Pool(StreamingOptions(admin=True, limits=limits))
    pool.connect("me")
    return pool


def failing(pool: Pool, subject: bytes, payload: bytes) -> bytes:
    """The answer to a request whose commit fails, once."""
    pool.holds_commits = True
    pool.send(subject, payload, b"answer")
    pool.run()
    assert pool.taken(b"answer") == []
    pool.holds_commits = False
    pool.worker().store.finish(state_error="disk full")
    pool.run()
    (answer,) = pool.taken(b"answer")
    return answer


def request_of(durable: str = "", queue: str = "") -> bytes:
    return SubscriptionRequest(
        client_id="me",
        subject=FOO,
        queue_group=queue,
        inbox=b"failed",
        max_in_flight=5,
        ack_wait_s=1,
        durable_name=durable,
        start_position=StartPosition.FIRST,
    ).encode()


@pytest.mark.parametrize(("durable", "queue"), [("", ""), ("d", ""), ("", "q"), ("d", "q")])
def test_a_subscription_that_cannot_be_stored_is_undone(
    pool: Pool, durable: str, queue: str
) -> None:
    pool.publish("me", FOO)
    answer = failing(pool, SUB, request_of(durable, queue))
    assert SubscriptionResponse.decode(answer).error == "disk full"
    pool.advance(1000)
    assert pool.deliveries(b"failed") == []
    assert not pool.channel(FOO).subscriptions
    assert not pool.keeps[0].subscriptions.get(FOO)
    pool.subscribed("me", FOO, durable_name=durable, queue_group=queue)
    assert pool.sequences() == [1]


@pytest.mark.parametrize("queue", ["", "q"])
def test_a_durable_that_could_not_be_resumed_waits_on_where_it_was(pool: Pool, queue: str) -> None:
    ack_inbox = pool.subscribed("me", FOO, durable_name="d", queue_group=queue)
    pool.publish_many("me", FOO, 2)
    pool.ack(ack_inbox, FOO, 1)
    pool.end("me", FOO, ack_inbox)
    pool.inbox.clear()
    answer = failing(pool, SUB, request_of("d", queue))
    assert SubscriptionResponse.decode(answer).error == "disk full"
    pool.advance(1000)
    pool.subscribed("me", FOO, durable_name="d", queue_group=queue)
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [(2, True)]
    assert pool.deliveries(b"failed") == []


def test_a_channel_is_being_deleted_until_that_is_stored(pool: Pool) -> None:
    pool.publish("me", FOO)
    answer = failing(pool, b"_STAN.admin.test-cluster", b'{"op": "delete", "channel": "foo"}')
    assert answer == b'{"error": "disk full"}'
    assert pool.publish_refused("me", FOO) == "stan: channel is being deleted"
    pool.advance(2000)
    assert FOO not in pool.keeps[0].logs
    assert pool.publish("me", FOO).error == ""
    assert pool.channel(FOO).log.last == 1


def test_a_channel_with_messages_that_wait_for_a_commit_is_not_deleted(pool: Pool) -> None:
    pool.publish("me", FOO)
    pool.holds_commits = True
    reply = pool.publish_nowait("me", FOO)
    pool.advance(11_000)
    answer = pool.request(b"_STAN.admin.test-cluster", b'{"op": "delete", "channel": "foo"}')
    assert answer is not None
    assert b"try again" in answer
    pool.worker().store.finish()
    pool.holds_commits = False
    pool.run()
    assert pool.taken(reply)
    assert pool.channel(FOO).log.last == 2
    pool.advance(11_000)
    assert FOO not in pool.worker().server.core.channels


def test_rows_that_cannot_be_written_are_tried_again_without_anybody_asking(pool: Pool) -> None:
    pool.holds_commits = True
    pool.send(b"_STAN.close.test-cluster", b"\x0a\x02me")
    pool.run()
    store = pool.worker().store
    store.finish(state_error="disk full")
    pool.run()
    assert store.commits == 3  # the server's row, the client's, this one; none of its own accord
    pool.advance(249)
    assert store.commits == 3
    pool.advance(1)
    assert store.commits == 4
    store.finish()
    assert not pool.keeps[0].clients


def test_a_client_that_cannot_be_asked_for_heartbeats_is_dropped_at_the_start(pool: Pool) -> None:
    pool.keeps[0].clients["odd"] = ClientRow("odd", b"not a subject", b"c")
    pool.crash()
    assert pool.worker().server.core.clients.find("odd") is None
    assert set(pool.keeps[0].clients) == {"me"}


def test_the_log_has_channels_as_plain_text(pool: Pool, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "shardd.streaming")
    pool.publish("me", "caf\u00e9\x1b[2J".encode())
    pool.advance(20_000)
    assert caplog.messages == ["channel caf\u00e9\\x1b[2J: deleted, nobody used it"]


def test_what_the_store_says_of_a_failure_is_not_said_again(
    pool: Pool, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "shardd.streaming")
    pool.publish("me", FOO)
    pool.holds_commits = True
    reply = pool.publish_nowait("me", FOO)
    pool.run()
    pool.holds_commits = False
    pool.worker().store.finish({FOO: "disk full"})
    pool.run()
    (ack,) = pool.taken(reply)
    assert PubAck.decode(ack).error == "disk full"
    assert failing(pool, SUB, request_of())
    pool.publish("me", FOO)
    assert caplog.messages == []
