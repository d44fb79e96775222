"""Several workers that are one server: who answers, who is waited for, what a death changes."""

import pytest

from shardd.config.streaming import StoreLimits, StreamingOptions
from shardd.streaming import pool as pool_messages
from shardd.streaming.messages import PubAck, PubMsg
from shardd.streaming.receiver import CLOSE, DISCOVER, PINGS, PUBLISH
from shardd.streaming.subjects import partition_of
from tests.support.streaming_worker import Pool, Worker

WORKERS = 3


def name_for(worker: int, number: int = 0) -> bytes:
    """A channel that belongs to this worker."""
    names = (b"channel.%d" % each for each in range(1000))
    return [name for name in names if partition_of(name) % WORKERS == worker][number]


NAMES = [name_for(worker) for worker in range(WORKERS)]


@pytest.fixture
def pool() -> Pool:
    pool = Pool(workers=WORKERS)
    assert pool.connect("me").error == ""
    return pool


def test_each_channel_is_served_by_its_owner_alone(pool: Pool) -> None:
    for index, name in enumerate(NAMES):
        ack_inbox = pool.subscribed("me", name, b"in.%d" % index)
        assert pool.publish("me", name).error == ""
        assert pool.sequences(b"in.%d" % index) == [1]
        pool.ack(ack_inbox, name, 1)
        assert set(pool.worker(index).server.core.channels) == {name}
        assert pool.channel(name).subscriptions[1].in_flight.count == 0
        assert pool.end("me", name, ack_inbox) == ""


def test_what_nobody_can_read_is_answered_once(pool: Pool) -> None:
    for subject in (b"_STAN.sub", b"_STAN.unsub", b"_STAN.subclose", b"_STAN.close"):
        assert pool.request(subject + b".test-cluster", b"\xff")
    assert pool.subscribe("nobody", NAMES[1]).error == "stan: unknown clientID"
    assert pool.subscribe("me", b"bad.*").error == "stan: invalid subject"


def test_a_connect_is_answered_when_every_worker_knows_the_client(pool: Pool) -> None:
    for worker in pool.alive:
        assert worker.server.core.clients.find("me") is not None
    assert [set(keeps.clients) for keeps in pool.keeps] == [{"me"}, set(), set()]


def test_a_close_ends_the_subscriptions_of_all_workers(pool: Pool) -> None:
    for name in NAMES:
        pool.subscribed("me", name)
        pool.subscribed("me", name, b"d", durable_name="d")
    assert pool.close("me").error == ""
    for index, name in enumerate(NAMES):
        (left,) = pool.channel(name).subscriptions.values()
        assert left.is_offline
        assert [row.is_closed for row in pool.keeps[index].subscriptions[name].values()] == [True]
        assert pool.worker(index).server.core.clients.find("me") is None


def test_a_replaced_client_is_replaced_everywhere(pool: Pool) -> None:
    for name in NAMES:
        pool.subscribed("me", name, durable_name="d")
    pool.gone.add(b"hb.me")
    assert pool.connect("me", heartbeat_inbox=b"hb.new", conn_id=b"new").error == ""
    for name in NAMES:
        assert pool.publish("me", name).error == "stan: invalid publish request"
        assert pool.publish("me", name, conn_id=b"new").error == ""
        assert pool.subscribe("me", name, durable_name="d").error == ""


def test_a_client_without_heartbeat_is_closed_everywhere_and_failing_before() -> None:
    pool = Pool(StreamingOptions(heartbeat_fail_count=1), workers=WORKERS)
    pool.connect("me")
    for name in NAMES:
        pool.subscribed("me", name)
    pool.gone.add(b"hb.me")
    pool.advance(30_000)
    assert all(pool.channel(name).subscriptions[1].is_failing for name in NAMES)
    pool.advance(30_000)
    assert not any(pool.channel(name).subscriptions for name in NAMES)


def test_a_message_whose_channel_is_not_its_subject_reaches_the_owner(pool: Pool) -> None:
    subject = b"_STAN.pub.test-cluster." + NAMES[0]
    assert pool.publish("me", NAMES[1], b"x", nats_subject=subject).error == ""
    assert pool.channel(NAMES[1]).log.last == 1
    assert NAMES[1] in pool.worker(1).server.core.channels


def test_a_worker_that_is_dead_is_not_waited_for(pool: Pool) -> None:
    pool.kill(2)
    assert pool.connect("you").error == ""
    assert pool.close("me").error == ""
    pool.restart(2)
    clients = pool.worker(2).server.core.clients
    assert clients.find("you") is not None
    assert clients.find("me") is None


def test_a_silent_worker_is_waited_for_for_a_second(pool: Pool) -> None:
    pool.workers[2] = None  # nobody has noticed yet
    pool.send(b"_STAN.discover.test-cluster", b"\x0a\x03you\x12\x02hb", b"answer")
    pool.run()
    pool.advance(999)
    assert pool.taken(b"answer") == []
    pool.advance(1)
    assert len(pool.taken(b"answer")) == 1


def test_a_worker_that_is_started_again_serves_clients_as_before(pool: Pool) -> None:
    ack_inbox = pool.subscribed("me", NAMES[1])
    pool.publish("me", NAMES[1])
    pool.advance(50)
    assert pool.sequences() == [1]
    pool.kill(1)
    pool.restart(1)
    pool.ack(ack_inbox, NAMES[1], 1)
    assert pool.publish("me", NAMES[1]).error == ""
    assert pool.sequences() == [2]


def test_who_was_closed_while_a_worker_was_away_is_closed_there_too(pool: Pool) -> None:
    pool.subscribed("me", NAMES[1], durable_name="d")
    pool.kill(1)
    assert pool.close("me").error == ""
    assert pool.connect("me").error == ""
    pool.restart(1)
    (left,) = pool.channel(NAMES[1]).subscriptions.values()
    assert left.is_offline
    assert pool.subscribe("me", NAMES[1], durable_name="d").error == ""


def test_the_lead_is_replaced_and_its_followers_go_on(pool: Pool) -> None:
    pool.subscribed("me", NAMES[1])
    pool.kill(0)
    assert pool.publish("me", NAMES[1]).error == ""
    assert pool.ping(b"connection-me") is None
    pool.restart(0)
    assert pool.ping(b"connection-me") == b""
    assert pool.connect("you").error == ""
    for name in NAMES:
        assert pool.publish("you", name).error == ""
    assert pool.close("you").error == ""
    assert all(worker.server.core.clients.find("you") is None for worker in pool.alive)
    assert pool.sequences() == [1, 2]


def test_limits_of_the_server_hold_over_all_workers() -> None:
    pool = Pool(StreamingOptions(limits=StoreLimits(max_channels=2)), workers=WORKERS)
    pool.connect("me")
    assert pool.publish("me", NAMES[0]).error == ""
    assert pool.publish("me", NAMES[1]).error == ""
    assert pool.publish("me", NAMES[2]).error == "too many channels"
    pool.kill(2)
    pool.restart(2)
    assert pool.publish("me", NAMES[2]).error == "too many channels"
    upper = NAMES[1].upper()
    error = pool.publish("me", upper).error
    assert error.startswith(f'rejecting channel "{upper.decode()}" because channel "channel.')


def test_a_snapshot_of_many_clients_comes_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool_messages, "ENTRIES_MAX", 2)
    pool = Pool(workers=2)
    for number in range(5):
        pool.connect(f"client-{number}")
        pool.publish(f"client-{number}", b"channel.%d" % number)
    pool.kill(1)
    pool.restart(1)
    for worker in pool.alive:
        assert len(worker.server.core.clients) == 5
        assert worker.server.channels.count == 5


def test_a_follower_alone_waits_for_its_lead(pool: Pool) -> None:
    pool.kill(0)
    pool.kill(1)
    assert pool.workers[2] is not None
    pool.workers[1] = Worker(pool, 1, pool.keeps[1])
    pool.worker(1).start()
    pool.run()
    pool.advance(1000)
    assert pool.worker(1).ready == []
    pool.restart(0)
    pool.advance(300)
    assert pool.worker(1).ready == [""]
    assert pool.publish("me", NAMES[1]).error == ""


@pytest.mark.parametrize(
    "message",
    [
        pool_messages.Hello(1),
        pool_messages.Done(2, 7, "added"),
        pool_messages.ChannelNames(1, (b"\xff", b"b"), (), True, False),
        pool_messages.Bury(1, b"c", 2, 3, b"", b"\x00data"),
        pool_messages.Snapshot(("c", b"d"), ((1, "x", b"y"),), ("z",), True, False),
    ],
)
def test_messages_between_workers_survive_the_way(message: pool_messages.Message) -> None:
    assert pool_messages.decode(pool_messages.encode(message)) == message


def test_what_is_no_message_between_workers_is_an_error() -> None:
    with pytest.raises(ValueError, match="unknown"):
        pool_messages.decode(b"\x91\xa1x")


def test_a_publish_by_client_id_needs_no_connection(pool: Pool) -> None:
    message = PubMsg(client_id="me", guid=b"g", subject=NAMES[2], data=b"x")
    answer = pool.request(b"_STAN.pub.test-cluster." + NAMES[2], message.encode())
    assert answer is not None
    assert PubAck.decode(answer) == PubAck(guid=b"g")


def test_followers_may_be_done_with_a_close_before_the_lead_has_begun(pool: Pool) -> None:
    close = b"\x0a\x02me"
    for index in (1, 2):
        pool.worker(index).bus.hand(CLOSE, b"close", close, b"answer")
    pool.run()
    assert pool.taken(b"answer") == []
    pool.worker(0).bus.hand(CLOSE, b"close", close, b"answer")
    pool.run()
    assert pool.taken(b"answer") == [b""]


# --- nobody but its workers is heard in a pool ---------------------------------------------------

RESERVED = pool_messages.subject_of(0)


def test_a_client_cannot_make_the_server_speak_to_its_own_workers(pool: Pool) -> None:
    assert pool.connect("you", heartbeat_inbox=RESERVED).error == "stan: invalid connection request"
    error = "stan: invalid subscription request"
    assert pool.subscribe("me", NAMES[1], inbox=RESERVED).error == error
    worker = pool.worker(1)
    message = PubMsg(client_id="me", guid=b"g", subject=NAMES[1]).encode()
    worker.bus.hand(PUBLISH, b"_STAN.pub.test-cluster." + NAMES[1], message, RESERVED)
    worker.bus.hand(PUBLISH, b"_STAN.pub.test-cluster." + NAMES[1], b"\xff", RESERVED)
    pool.worker(0).bus.hand(DISCOVER, b"discover", b"", RESERVED)
    pool.worker(0).bus.hand(PINGS, b"pings", b"\x0a\x01x", RESERVED)
    assert not any(subject == RESERVED for each in pool.alive for subject, _, _ in each.bus.sent)
    pool.run()
    assert pool.channel(NAMES[1]).log.last == 1
