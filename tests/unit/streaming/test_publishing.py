"""Publishes: what is refused, when it is acknowledged, and what a failed commit means (sheet 4)."""

import pytest

from shardd.config.streaming import ChannelLimits, StoreLimits, StreamingOptions
from shardd.streaming.messages import PubAck, StartPosition
from shardd.streaming.receiver import PUBLISH
from tests.support.streaming_worker import Pool

INVALID = "stan: invalid publish request"
NATS_SUBJECT = b"_STAN.pub.test-cluster.foo"


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.connect("me")
    return pool


@pytest.mark.parametrize(
    "fields",
    [
        {"guid": b""},
        {"subject": b""},
        {"subject": b"foo."},
        {"subject": b".foo"},
        {"subject": b"foo..bar"},
        {"subject": b"foo.*"},
        {"subject": b"foo.>"},
        {"subject": b"a*b"},
        {"subject": b"foo/bar"},
        {"conn_id": b"other"},
        {"conn_id": b"", "client_id": "other"},
    ],
)
def test_what_a_publish_must_be(pool: Pool, fields: dict) -> None:
    reply = pool.publish_nowait(
        fields.pop("client_id", "me"), b"foo", nats_subject=NATS_SUBJECT, **fields
    )
    pool.run()
    (ack,) = pool.taken(reply)
    assert PubAck.decode(ack).error == INVALID
    assert b"foo" not in pool.worker().server.core.channels


@pytest.mark.parametrize("payload", [b"", b"\xff", b"\x0a\x05me", b"\x10\x01"])
def test_what_cannot_be_read_is_refused_without_a_guid(pool: Pool, payload: bytes) -> None:
    pool.send(NATS_SUBJECT, payload, b"ack")
    pool.run()
    assert [PubAck.decode(each) for each in pool.taken(b"ack")] == [PubAck(error=INVALID)]


def test_the_connection_decides_and_the_client_id_is_ignored(pool: Pool) -> None:
    assert pool.publish("nobody", b"foo", conn_id=b"connection-me").error == ""


@pytest.mark.parametrize("name", [b"with space", b"tab\there", b"$x", b"_STAN.x", b"\xc3\xa9"])
def test_channels_may_have_odd_names(pool: Pool, name: bytes) -> None:
    assert pool.publish("me", name, nats_subject=NATS_SUBJECT).error == ""
    assert pool.channel(name).log.last == 1


def test_strict_subjects_refuse_a_channel_that_is_not_its_nats_subject() -> None:
    pool = Pool(StreamingOptions(strict_subjects=True))
    pool.connect("me")
    assert pool.publish("me", b"bar", nats_subject=NATS_SUBJECT).error == INVALID
    assert pool.publish("me", b"foo", nats_subject=NATS_SUBJECT).error == ""


def test_nothing_is_acknowledged_or_delivered_before_the_commit(pool: Pool) -> None:
    pool.subscribed("me", b"foo")
    pool.holds_commits = True
    first = pool.publish_nowait("me", b"foo")
    pool.run()
    second = pool.publish_nowait("me", b"foo")
    pool.run()
    assert pool.inbox == []
    store = pool.worker().store
    store.finish()
    pool.run()
    assert [subject for subject, _, _ in pool.inbox] == [b"inbox", first]
    store.finish()
    pool.run()
    assert [subject for subject, _, _ in pool.inbox] == [b"inbox", first, b"inbox", second]
    assert pool.worker().wakes >= 2


def test_acks_leave_in_the_order_of_the_messages(pool: Pool) -> None:
    replies = [pool.publish_nowait("me", channel) for channel in (b"a", b"b", b"a", b"c")]
    pool.run()
    assert [subject for subject, _, _ in pool.inbox] == replies
    assert [PubAck.decode(payload).guid for _, _, payload in pool.inbox] == [
        b"guid-%d" % number for number in range(2, 6)
    ]


def test_a_message_without_a_reply_is_stored_and_not_acknowledged(pool: Pool) -> None:
    message = b"\x0a\x02me\x12\x01g\x1a\x03foo"
    pool.worker().bus.hand(PUBLISH, NATS_SUBJECT, message)
    pool.run()
    assert pool.inbox == []
    assert pool.channel(b"foo").log.last == 1


def test_a_failed_commit_refuses_its_messages_and_those_appended_since(pool: Pool) -> None:
    pool.subscribed("me", b"foo")
    pool.publish("me", b"foo")
    assert pool.sequences() == [1]
    pool.holds_commits = True
    lost = pool.publish_nowait("me", b"foo")
    kept = pool.publish_nowait("me", b"bar")
    pool.run()
    also_lost = pool.publish_nowait("me", b"foo")
    also_kept = pool.publish_nowait("me", b"bar")
    pool.subscribe_nowait("me", b"foo", b"new", start_position=StartPosition.NEW_ONLY)
    pool.run()
    store = pool.worker().store
    store.finish({b"foo": "no space left"})
    pool.run()
    for reply in (lost, also_lost):
        (ack,) = pool.taken(reply)
        assert PubAck.decode(ack).error == "no space left"
    assert PubAck.decode(*pool.taken(kept)).error == ""
    assert pool.taken(also_kept) == []
    store.finish()
    pool.run()
    assert PubAck.decode(*pool.taken(also_kept)).error == ""
    pool.holds_commits = False
    # The sequences are given again, and nobody was left beyond the end.
    assert pool.publish("me", b"foo", b"again").error == ""
    assert pool.sequences() == [2]
    assert pool.sequences(b"new") == [2]


def test_a_channel_that_cannot_be_made_is_said_to_the_publisher(pool: Pool) -> None:
    pool.worker().store.refuse_channels = "disk on fire"
    assert pool.publish("me", b"foo").error == "disk on fire"


def test_there_may_be_so_many_channels() -> None:
    pool = Pool(StreamingOptions(limits=StoreLimits(max_channels=2)))
    pool.connect("me")
    assert pool.publish("me", b"a").error == ""
    assert pool.subscribe("me", b"b").error == ""
    assert pool.publish("me", b"c").error == "too many channels"
    assert pool.subscribe("me", b"c").error == "too many channels"
    assert pool.publish("me", b"a").error == ""


def test_names_that_differ_in_case_only_are_refused(pool: Pool) -> None:
    pool.publish("me", b"foo.Bar")
    error = (
        'rejecting channel "Foo.bar" because channel "foo.Bar" alreay exists'
        " (different cases not allowed)"
    )
    assert pool.publish("me", b"Foo.bar").error == error


def test_a_channel_that_nobody_uses_is_deleted_and_begins_anew() -> None:
    limits = StoreLimits(defaults=ChannelLimits(max_inactivity_s=10))
    pool = Pool(StreamingOptions(limits=limits))
    pool.connect("me")
    pool.publish_many("me", b"foo", 3)
    pool.advance(9_000)
    pool.publish("me", b"foo")
    ack_inbox = pool.subscribed("me", b"foo", durable_name="d")
    pool.advance(20_000)
    assert pool.channel(b"foo").log.last == 4
    pool.end("me", b"foo", ack_inbox)
    pool.advance(9_999)
    assert pool.channel(b"foo").log.last == 4
    pool.holds_commits = True
    pool.advance(1)
    assert pool.publish_refused("me", b"foo") == "stan: channel is being deleted"
    pool.worker().store.finish()
    pool.holds_commits = False
    pool.run()
    assert b"foo" not in pool.keeps[0].logs
    pool.publish("me", b"foo")
    assert pool.channel(b"foo").log.last == 1
    assert not pool.channel(b"foo").subscriptions


def test_messages_go_when_they_are_too_old() -> None:
    limits = StoreLimits(defaults=ChannelLimits(max_age_s=5))
    pool = Pool(StreamingOptions(limits=limits))
    pool.connect("me")
    pool.publish("me", b"foo")
    pool.advance(3000)
    pool.publish("me", b"foo")
    pool.advance(2000)
    assert pool.channel(b"foo").log.first == 2
    pool.advance(3000)
    assert pool.channel(b"foo").log.messages == 0
    pool.publish("me", b"foo")
    pool.advance(5000)
    assert (pool.channel(b"foo").log.first, pool.channel(b"foo").log.last) == (4, 3)


def test_the_clock_of_messages_never_goes_back(pool: Pool) -> None:
    pool.publish("me", b"foo")
    before = pool.channel(b"foo").log.last_timestamp_ns
    pool.now_ns -= 10**9
    pool.publish("me", b"foo")
    assert pool.channel(b"foo").log.last_timestamp_ns == before
