"""The documents of monitoring: fields and parameters of the original, over several workers."""

import json
from typing import Any

import pytest

from shardd.config.streaming import ChannelEntry, StoreLimits, StreamingOptions
from shardd.streaming import statistics
from tests.support.streaming_worker import START_NS, Pool

FACTS = statistics.ServerFacts(
    server_id="ID", version="1", runtime="python", now_ns=START_NS + 61 * 10**9, started_ns=START_NS
)


def ask(pool: Pool, path: str, **query: str) -> tuple[int, Any]:
    parts = [statistics.part(worker.server, path, query) for worker in pool.alive]
    parts = json.loads(json.dumps(parts))
    return statistics.document(parts, path, query, pool.options, FACTS)


@pytest.fixture(params=[1, 3])
def pool(request: pytest.FixtureRequest) -> Pool:
    pool = Pool(workers=request.param)
    for client_id in ("you", "me"):
        pool.connect(client_id)
    for name in (b"foo", b"bar", b"empty"):
        pool.subscribed("me", name)
    plain = pool.subscribed("me", b"foo", b"d", durable_name="d")
    group = pool.subscribed("me", b"foo", b"g", durable_name="d", queue_group="q", max_in_flight=1)
    for name in (b"foo", b"foo", b"bar"):
        pool.publish("you", name)
    pool.ack(plain, b"foo", 1, 2)
    pool.end("me", b"foo", plain)
    assert group
    return pool


def test_serverz(pool: Pool) -> None:
    status, document = ask(pool, "serverz")
    assert status == 200
    assert document == {
        "cluster_id": "test-cluster",
        "server_id": "ID",
        "version": "1",
        "go": "python",
        "state": "STANDALONE",
        "now": "2023-11-14T22:14:21Z",
        "start_time": "2023-11-14T22:13:20Z",
        "uptime": "1m1s",
        "clients": 2,
        "subscriptions": 5,
        "channels": 3,
        "total_msgs": 3,
        "total_bytes": document["total_bytes"],
        "in_msgs": 3,
        "in_bytes": document["in_bytes"],
        "out_msgs": 6,
        "out_bytes": document["out_bytes"],
    }
    assert document["total_bytes"] == document["out_bytes"] / 2 > 0


def test_storez_shows_limits_with_what_they_inherit() -> None:
    entries = (ChannelEntry("foo.>", max_msgs=7), ChannelEntry("foo.bar", max_age_s=1.5))
    pool = Pool(StreamingOptions(limits=StoreLimits(channels=entries)))
    _, document = ask(pool, "storez")
    limits = document["limits"]
    assert (document["type"], limits["max_channels"], limits["max_msgs"]) == (
        "MEMORY",
        100,
        1_000_000,
    )
    assert limits["channels"]["foo.bar"] == {
        "max_msgs": 7,
        "max_bytes": 1_024_000_000,
        "max_age": 1_500_000_000,
        "max_subscriptions": 1000,
        "max_inactivity": 0,
    }


def test_clientsz(pool: Pool) -> None:
    _, document = ask(pool, "clientsz")
    assert document["clients"] == [
        {"id": "me", "hb_inbox": "hb.me", "subs_count": 4},
        {"id": "you", "hb_inbox": "hb.you", "subs_count": 0},
    ]
    assert (document["count"], document["total"]) == (2, 2)
    _, document = ask(pool, "clientsz", limit="1", offset="1")
    assert [client["id"] for client in document["clients"]] == ["you"]
    assert (document["count"], document["total"], document["offset"], document["limit"]) == (
        1,
        2,
        1,
        1,
    )
    _, document = ask(pool, "clientsz", limit="abc", offset="-5")
    assert (document["count"], document["limit"], document["offset"]) == (2, 1024, 0)
    _, document = ask(pool, "clientsz", offset="99")
    assert (document["clients"], document["offset"]) == ([], 99)


def test_one_client(pool: Pool) -> None:
    _, document = ask(pool, "clientsz", client="me", subs="1")
    assert list(document) == ["id", "hb_inbox", "subs_count", "subscriptions"]
    assert {name: len(rows) for name, rows in document["subscriptions"].items()} == {
        "bar": 1,
        "empty": 1,
        "foo": 2,
    }
    assert ask(pool, "clientsz", client="nobody") == (404, "Client nobody not found")


def test_channelsz(pool: Pool) -> None:
    _, document = ask(pool, "channelsz")
    assert document["names"] == ["bar", "empty", "foo"]
    _, document = ask(pool, "channelsz", subs="1", limit="2")
    assert [channel["name"] for channel in document["channels"]] == ["bar", "empty"]
    assert (document["count"], document["total"]) == (2, 3)
    _, document = ask(pool, "channelsz", subs="1", limit="2", offset="2")
    assert [channel["name"] for channel in document["channels"]] == ["foo"]
    assert ask(pool, "channelsz", channel="zz") == (404, "Channel zz not found")


def test_one_channel(pool: Pool) -> None:
    _, document = ask(pool, "channelsz", channel="empty")
    assert document == {
        "name": "empty",
        "msgs": 0,
        "bytes": 0,
        "first_seq": 0,
        "last_seq": 0,
        "subs_count": 1,
    }
    pool.publish("you", b"foo")
    _, document = ask(pool, "channelsz", channel="foo", subs="1")
    assert (document["msgs"], document["first_seq"], document["last_seq"]) == (3, 1, 3)
    plain, offline, group = document["subscriptions"]
    assert list(plain) == [
        "client_id",
        "inbox",
        "ack_inbox",
        "is_durable",
        "is_offline",
        "max_inflight",
        "ack_wait",
        "last_sent",
        "pending_count",
        "is_stalled",
        "lag",
    ]
    assert (plain["last_sent"], plain["pending_count"], plain["lag"]) == (3, 3, 3)
    assert (offline["durable_name"], offline["is_offline"], offline["lag"]) == ("d", True, 1)
    assert (group["queue_name"], group["is_stalled"], group["lag"]) == ("d:q", True, 3)


def test_the_original_spelling_of_json(pool: Pool) -> None:
    kind, body = statistics.encoded({"a": "<b>&\u00e9"}, {})
    assert kind == "application/json"
    assert body.decode() == '{\n  "a": "\\u003cb\\u003e\\u0026\u00e9"\n}'
    assert statistics.encoded({}, {"callback": "f"}) == ("application/javascript", b"f({})")
    assert statistics.encoded("gone", {}) == ("text/plain; charset=utf-8", b"gone\n")


def test_there_are_no_other_paths(pool: Pool) -> None:
    with pytest.raises(KeyError):
        ask(pool, "nonsense")
