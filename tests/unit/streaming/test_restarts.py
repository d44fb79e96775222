"""What a server that is started again knows, and what its clients notice of that (sheet 9, 10)."""

from dataclasses import replace

import pytest

from shardd.config.streaming import StreamingOptions
from shardd.errors import StoreError
from shardd.streaming.store import SubscriptionRow
from tests.support.streaming_worker import Pool, Worker

FOO = b"foo"


@pytest.fixture
def pool() -> Pool:
    pool = Pool()
    pool.connect("me")
    return pool


def settle(pool: Pool) -> None:
    """Until positions are saved."""
    pool.advance(50)


def test_clients_publish_and_acknowledge_over_a_restart_as_if_nothing_had_been(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, max_in_flight=2)
    pool.publish_many("me", FOO, 3)
    assert pool.sequences() == [1, 2]
    settle(pool)
    pool.crash()
    assert pool.ping(b"connection-me") == b""
    assert pool.publish("me", FOO).error == ""
    assert pool.sequences() == []
    pool.ack(ack_inbox, FOO, 1)
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [(3, False)]


def test_what_was_in_flight_expires_as_if_sent_when_it_was_stored(pool: Pool) -> None:
    pool.subscribed("me", FOO, ack_wait_s=10)
    pool.publish("me", FOO)
    pool.advance(6000)
    pool.publish("me", FOO)
    settle(pool)
    assert pool.sequences() == [1, 2]
    pool.workers = [None]
    pool.set_clock(5000)
    pool.boot()
    # The first one is past its time, the second one not yet.
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [(1, True)]
    pool.advance(5000)
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [(2, True)]


def test_a_position_that_was_not_saved_is_given_up_not_a_message(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO)
    pool.publish("me", FOO)
    settle(pool)
    pool.ack(ack_inbox, FOO, 1)
    pool.publish("me", FOO)
    assert pool.sequences() == [1, 2]
    pool.workers = [None]
    pool.set_clock(40_000)
    pool.boot()
    assert [(each.sequence, each.redelivered) for each in pool.deliveries()] == [
        (1, True),
        (2, False),
    ]


def test_durables_that_were_offline_still_are(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO, durable_name="d")
    group_inbox = pool.subscribed("me", FOO, b"g", durable_name="d", queue_group="q")
    pool.publish_many("me", FOO, 2)
    pool.ack(ack_inbox, FOO, 1)
    pool.ack(group_inbox, FOO, 2)
    pool.close("me")
    pool.crash()
    pool.inbox.clear()
    pool.connect("me")
    pool.publish("me", FOO)
    pool.subscribed("me", FOO, durable_name="d")
    pool.subscribed("me", FOO, b"g", durable_name="d", queue_group="q")
    for inbox, pending in ((b"inbox", 2), (b"g", 1)):
        found = [(each.sequence, each.redelivered) for each in pool.deliveries(inbox)]
        assert found == [(pending, True), (3, False)]


def test_a_group_goes_on_behind_what_any_member_had(pool: Pool) -> None:
    one = pool.subscribed("me", FOO, b"one", queue_group="q")
    two = pool.subscribed("me", FOO, b"two", queue_group="q")
    pool.publish_many("me", FOO, 4)
    first, second = pool.sequences(b"one"), pool.sequences(b"two")
    pool.ack(one, FOO, *first)
    pool.ack(two, FOO, *second)
    holder = one if 4 in first else two
    pool.end("me", FOO, holder)
    settle(pool)
    pool.crash()
    pool.advance(60_000)
    assert pool.sequences(b"one") + pool.sequences(b"two") == []


def test_ids_are_not_given_again(pool: Pool) -> None:
    first = pool.subscribed("me", FOO)
    pool.crash()
    assert pool.subscribed("me", FOO, b"other") != first


def test_a_subscription_whose_client_is_none_any_more_ends(pool: Pool) -> None:
    pool.subscribed("me", FOO)
    pool.subscribed("me", FOO, b"d", durable_name="d")
    pool.subscribed("me", FOO, b"g", durable_name="d", queue_group="q")
    del pool.keeps[0].clients["me"]
    pool.crash()
    left = pool.channel(FOO).subscriptions.values()
    assert sorted((each.durable_name, each.queue_group) for each in left) == [
        ("", "d:q"),
        ("d", ""),
    ]
    assert all(each.is_offline for each in left)


def test_a_subscription_of_an_earlier_connection_of_the_client_ends(pool: Pool) -> None:
    """The lead had written who replaced it, its owner had not yet written its end."""
    pool.subscribed("me", FOO, durable_name="d")
    client = pool.keeps[0].clients["me"]
    pool.keeps[0].clients["me"] = replace(client, heartbeat_inbox=b"hb.new")
    pool.crash()
    (left,) = pool.channel(FOO).subscriptions.values()
    assert left.is_offline
    pool.subscribed("me", FOO, durable_name="d")
    pool.crash()
    (left,) = pool.channel(FOO).subscriptions.values()
    assert not left.is_offline


def test_a_position_beyond_the_end_of_a_damaged_log_is_set_back(pool: Pool) -> None:
    pool.subscribed("me", FOO)
    pool.publish_many("me", FOO, 2)
    settle(pool)
    rows = pool.keeps[0].subscriptions[FOO]
    (row,) = rows.values()
    rows[row.id] = row.moved(7, (2, 7))
    pool.crash()
    pool.inbox.clear()
    pool.publish("me", FOO)
    assert pool.sequences() == [3]


def test_an_ack_inbox_of_another_making_is_kept(pool: Pool) -> None:
    pool.publish("me", FOO)
    pool.keeps[0].subscriptions[FOO] = {
        5: SubscriptionRow(5, "me", b"inbox", b"_INBOX.imported", 1, 30, last_sent=0)
    }
    pool.crash()
    assert pool.sequences() == [1]
    pool.publish("me", FOO)
    assert pool.sequences() == []
    pool.ack(b"_INBOX.imported", FOO, 1)
    assert pool.sequences() == [2]
    assert pool.end("me", FOO, b"_INBOX.imported") == ""
    assert b"_INBOX.imported" not in pool.worker().bus.subscribed.values()


def test_the_store_of_another_cluster_is_refused(pool: Pool) -> None:
    pool.options = StreamingOptions(cluster_id="other")
    worker = Worker(pool, 0, pool.keeps[0])
    with pytest.raises(StoreError, match='"other" does not match recovered value of "test-'):
        worker.start()


def test_a_second_server_with_the_same_cluster_id_does_not_start(pool: Pool) -> None:
    second = Pool.__new__(Pool)
    second.__dict__ |= pool.__dict__ | {"workers": [], "keeps": [type(pool.keeps[0])()]}
    worker = Worker(second, 0, second.keeps[0])
    worker.bus.is_heard = lambda subject: True
    worker.start()
    worker.step()
    (question,) = [each for each in worker.bus.sent if each[0] == b"_STAN.discover.test-cluster"]
    answer = pool.request(question[0], question[2])
    assert answer
    worker.bus.hand(8, question[1], answer)
    assert worker.ready == ['discovered another streaming server with cluster ID "test-cluster"']
    assert not pool.keeps[0].clients.keys() - {"me"}


def test_a_server_that_hears_nothing_for_a_quarter_of_a_second_starts(pool: Pool) -> None:
    worker = Worker(pool, 0, type(pool.keeps[0])())
    worker.bus.is_heard = lambda subject: True
    worker.start()
    worker.step()
    pool.set_clock(249)
    worker.step()
    assert worker.ready == []
    pool.set_clock(1)
    worker.step()
    worker.step()
    assert worker.ready == [""]


def test_an_orderly_stop_loses_no_position(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", FOO)
    pool.publish_many("me", FOO, 2)
    pool.ack(ack_inbox, FOO, 1, 2)
    pool.worker().server.stop()
    pool.worker().store.close()
    pool.crash()
    pool.inbox.clear()
    pool.advance(60_000)
    assert pool.sequences() == []


def test_what_a_group_has_in_flight_is_stored_with_a_member_that_joins(pool: Pool) -> None:
    """The row of the new member tells how far the group is."""
    pool.subscribed("me", FOO, b"one", queue_group="q")
    pool.publish_many("me", FOO, 2)
    assert pool.sequences(b"one") == [1, 2]
    pool.subscribed("me", FOO, b"two", queue_group="q")
    pool.crash()
    pool.advance(60_000)
    assert set(pool.sequences(b"one") + pool.sequences(b"two")) == {1, 2}
