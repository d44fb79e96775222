"""What users asked the original for in vain: administration, and messages sent too often."""

import json
from typing import Any

import pytest

from shardd.config.streaming import StreamingOptions
from tests.support.streaming_worker import Pool

FOO = b"foo"
DEAD = b"dead"


def ask(pool: Pool, **request: Any) -> dict[str, Any]:
    answer = pool.request(b"_STAN.admin.test-cluster", json.dumps(request).encode())
    assert answer is not None
    document: dict[str, Any] = json.loads(answer)
    return document


@pytest.fixture(params=[1, 3])
def pool(request: pytest.FixtureRequest) -> Pool:
    pool = Pool(StreamingOptions(admin=True), workers=request.param)
    pool.connect("me")
    return pool


def test_nobody_listens_unless_it_is_configured() -> None:
    assert Pool().request(b"_STAN.admin.test-cluster", b'{"op": "channels"}') is None


def test_channels_are_listed(pool: Pool) -> None:
    for name in (b"b", b"a", b"c"):
        pool.publish("me", name)
    assert ask(pool, op="channels") == {"ok": True, "channels": ["a", "b", "c"]}


def test_a_channel_is_purged_and_goes_on_counting(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, max_in_flight=1)
    pool.publish_many("me", FOO, 4)
    assert ask(pool, op="purge", channel="foo", before=3) == {
        "ok": True,
        "purged": 2,
        "first": 3,
        "last": 4,
    }
    assert ask(pool, op="purge", channel="foo")["purged"] == 2
    pool.ack(ack_inbox, FOO, 1)
    pool.publish("me", FOO)
    assert pool.sequences() == [1, 5]


def test_a_channel_is_deleted_with_its_durables(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, durable_name="d")
    pool.publish("me", FOO)
    assert ask(pool, op="delete", channel="foo") == {
        "error": "the channel has active subscriptions: end them, or delete it with force"
    }
    pool.end("me", FOO, ack_inbox)
    assert ask(pool, op="delete", channel="foo") == {"ok": True, "deleted": 1}
    assert ask(pool, op="delete", channel="foo") == {"error": "there is no channel 'foo'"}
    assert not any(keeps.logs or keeps.subscriptions for keeps in pool.keeps)
    pool.subscribed("me", FOO)
    pool.publish("me", FOO)
    assert ask(pool, op="delete", channel="foo", force=True)["ok"]
    pool.publish("me", FOO)
    assert pool.channel(FOO).log.last == 1


def test_offline_durables_are_listed_and_deleted(pool: Pool) -> None:
    plain = pool.subscribed("me", FOO, durable_name="d")
    group = pool.subscribed("me", FOO, b"g", durable_name="d", queue_group="q")
    pool.publish_many("me", FOO, 2)
    pool.ack(plain, FOO, 1)
    error = {"error": "the durable is in use"}
    assert ask(pool, op="delete_durable", channel="foo", durable="d", client_id="me") == error
    assert ask(pool, op="delete_durable", channel="foo", durable="d", queue="q") == error
    pool.end("me", FOO, plain)
    pool.end("me", FOO, group)
    pool.publish("me", FOO)
    durables = ask(pool, op="durables", channel="foo")["durables"]
    assert durables == [
        {
            "durable": "d",
            "queue": "",
            "client_id": "me",
            "is_offline": True,
            "last_sent": 2,
            "pending": 1,
            "lag": 2,
        },
        {
            "durable": "d",
            "queue": "q",
            "client_id": "",
            "is_offline": True,
            "last_sent": 2,
            "pending": 2,
            "lag": 3,
        },
    ]
    assert ask(pool, op="delete_durable", channel="foo", durable="d", client_id="me")["ok"]
    assert ask(pool, op="delete_durable", channel="foo", durable="d", queue="q")["ok"]
    assert "error" in ask(pool, op="delete_durable", channel="foo", durable="d", queue="q")
    assert not any(rows for keeps in pool.keeps for rows in keeps.subscriptions.values())


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"{",
        b"[]",
        b'"x"',
        b'{"op": "x"}',
        b'{"op": ["purge"]}',
        b'{"op": "purge"}',
        b"[" * 99999,
    ],
)
def test_nonsense_is_answered_once_with_an_error(pool: Pool, payload: bytes) -> None:
    answer = pool.request(b"_STAN.admin.test-cluster", payload)
    assert answer is not None
    assert "error" in json.loads(answer)


@pytest.mark.parametrize("before", ["x", -1, True, 1.5])
def test_a_purge_needs_a_sequence(pool: Pool, before: object) -> None:
    pool.publish("me", FOO)
    assert ask(pool, op="purge", channel="foo", before=before) == {
        "error": "before is not a sequence"
    }


# --- messages that were sent too often -----------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_a_message_that_nobody_acknowledges_ends_in_the_dead_letter_channel(workers: int) -> None:
    options = StreamingOptions(redeliveries_max=2, dead_letter_channel="dead")
    pool = Pool(options, workers)
    pool.connect("me")
    ack_inbox = pool.subscribed("me", FOO, ack_wait_s=1)
    pool.subscribed("me", DEAD, b"undertaker")
    pool.publish("me", FOO, b"bad", reply=b"r")
    pool.publish("me", FOO, b"good")
    pool.ack(ack_inbox, FOO, 2)
    pool.advance(10_000)
    found = [(each.sequence, each.count) for each in pool.deliveries()]
    assert found == [(1, 0), (2, 0), (1, 1), (1, 2)]
    (buried,) = pool.deliveries(b"undertaker")
    assert buried.data == b"bad"
    assert pool.channel(FOO).subscriptions[1].in_flight.count == 0


def test_a_message_that_cannot_be_buried_stays_in_flight() -> None:
    pool = Pool(StreamingOptions(redeliveries_max=1, dead_letter_channel="dead"))
    pool.connect("me")
    pool.subscribed("me", FOO, ack_wait_s=1)
    pool.publish("me", FOO, b"bad")
    pool.advance(1000)
    pool.worker().store.refuse_channels = "disk full"
    pool.advance(1500)
    assert pool.channel(FOO).subscriptions[1].in_flight.sequences() == (1,)
    pool.worker().store.refuse_channels = ""
    pool.holds_commits = True
    pool.advance(1000)
    pool.worker().store.finish({DEAD: "disk full"})
    pool.holds_commits = False
    pool.run()
    assert pool.channel(FOO).subscriptions[1].in_flight.sequences() == (1,)
    pool.advance(1000)
    assert pool.channel(FOO).subscriptions[1].in_flight.count == 0
    assert pool.channel(DEAD).log.last == 1
    assert [each.count for each in pool.deliveries()] == [0, 1]


def test_without_a_dead_letter_channel_it_is_dropped() -> None:
    pool = Pool(StreamingOptions(redeliveries_max=1))
    pool.connect("me")
    pool.subscribed("me", FOO, ack_wait_s=1, queue_group="q")
    pool.publish("me", FOO)
    pool.advance(9000)
    assert [each.count for each in pool.deliveries()] == [0, 1]
    assert pool.channel(FOO).subscriptions[1].in_flight.count == 0
