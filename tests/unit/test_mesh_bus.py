"""A streaming worker's way to NATS inside a host: what it is handed, what it publishes, when."""

import itertools

import pytest

from shardd.errors import InternalError
from shardd.router.dispatch import Dispatcher
from shardd.router.local import LocalClient
from shardd.router.sublist import Sublist
from shardd.streaming.mesh_bus import MeshBus
from shardd.streaming.receiver_probe import ReceiverProbe, publish_pieces
from tests.support.mesh_host import RING_BYTES, Host, Member

Delivery = tuple[int, bytes, bytes, bytes, bytes]
PRIVATE = b"$POOL."
HEADER = b"NATS/1.0 503\r\n\r\n"


class Streaming:
    """A member of a host that has a bus, and what the bus handed over."""

    def __init__(self, host: Host, slot: int, account: int = 0) -> None:
        self.host = host
        self.member = host.start(slot)
        self.bus = MeshBus(
            self.member.dispatcher, self.member.mesh, self.member.doorbell, account, PRIVATE
        )
        self.got: list[Delivery] = []
        self.bus.receiver = ReceiverProbe(lambda *delivery: self.got.append(delivery))

    def run(self) -> None:
        """A pass, as the event loop would start it."""
        self.bus.run(self.host.now_ms)


class Worker:
    """A member with one client that keeps what it gets."""

    def __init__(self, host: Host, slot: int) -> None:
        self.member: Member = host.start(slot)
        self.got: list[tuple[bytes, ...]] = []
        self.client = LocalClient(self.member.dispatcher, lambda *got: self.got.append(got))

    def publish(self, subject: bytes, payload: bytes, reply: bytes = b"", **more: object) -> int:
        taken = self.client.publish(subject, payload, reply, **more)  # type: ignore[arg-type]
        self.member.finish()
        return taken


@pytest.fixture
def host() -> Host:
    return Host(3)


def test_a_message_arrives_in_its_parts(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    streaming.bus.subscribe(7, b"a.*")
    streaming.bus.subscribe(2**64 - 1, b"b.>")
    host.settle()
    assert worker.publish(b"a.b", b"payload", b"back", header=HEADER) == 1
    assert worker.publish(b"b.c.d", b"") == 1
    assert worker.publish(b"c", b"nobody") == 0
    streaming.run()
    assert streaming.got == [
        (7, b"a.b", b"back", HEADER, b"payload"),
        (2**64 - 1, b"b.c.d", b"", b"", b""),
    ]
    assert streaming.bus.messages_in == 2


def test_what_it_publishes_reaches_clients_of_other_workers(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    worker.client.subscribe(b"in.box", None, b"1")
    host.settle()
    assert publish_pieces(streaming.bus, b"in.box", b"stored", b"+more", b"re.ply") == 1
    assert streaming.bus.send(b"in.box", b"plain") is True
    assert streaming.bus.send(b"nobody", b"x") is False
    streaming.bus.finish(host.now_ms)
    host.settle()
    assert worker.got == [
        (b"1", b"in.box", b"re.ply", b"", b"stored+more"),
        (b"1", b"in.box", b"", b"", b"plain"),
    ]


def test_a_message_larger_than_the_ring_takes_passes_in_order(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    worker.client.subscribe(b"inbox", None, b"1")
    streaming.bus.subscribe(1, b"big")
    host.settle()
    large = bytes(range(256)) * 4096  # 1 MiB
    streaming.bus.send(b"inbox", b"before")
    assert publish_pieces(streaming.bus, b"inbox", large, b"tail", b"") == 1
    streaming.bus.send(b"inbox", b"behind")
    streaming.bus.finish(host.now_ms)
    worker.publish(b"big", large)
    host.settle()
    streaming.run()
    assert [got[4] for got in worker.got] == [b"before", large + b"tail", b"behind"]
    assert [got[4] for got in streaming.got] == [large]


def test_the_pool_speaks_where_no_client_can_hear_or_be_heard(host: Host) -> None:
    worker, one, two = Worker(host, 0), Streaming(host, 1), Streaming(host, 2)
    worker.client.subscribe(b">", None, b"1")
    one.bus.subscribe(1, PRIVATE + b"hello")
    two.bus.subscribe(1, PRIVATE + b"hello")
    host.settle()
    assert one.bus.send(PRIVATE + b"hello", b"from one") is True
    one.bus.finish(host.now_ms)
    assert worker.publish(PRIVATE + b"hello", b"from a client") == 0 + 1  # its own wildcard
    host.settle()
    one.run()
    two.run()
    assert two.got == [(1, PRIVATE + b"hello", b"", b"", b"from one")]
    assert one.got == []  # what it says itself does not come back
    assert [got[4] for got in worker.got] == [b"from a client"]


def test_only_clients_of_its_account_are_served(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1, account=3)
    streaming.bus.subscribe(1, b"pub")
    worker.client.subscribe(b"box", None, b"1")
    worker.client.subscribe(b"box", None, b"3", account=3)
    host.settle()
    assert worker.publish(b"pub", b"global") == 0
    assert worker.publish(b"pub", b"served", account=3) == 1
    streaming.bus.send(b"box", b"answer")
    streaming.bus.finish(host.now_ms)
    host.settle()
    streaming.run()
    assert [got[4] for got in streaming.got] == [b"served"]
    assert [got[0] for got in worker.got] == [b"3"]


def test_a_flush_waits_until_everybody_knows(host: Host) -> None:
    Worker(host, 0)
    streaming = Streaming(host, 1)
    host.settle()
    answers: list[int] = []
    streaming.bus.subscribe(1, b"a")
    streaming.bus.flush(lambda: answers.append(1))
    streaming.run()
    assert answers == []  # the announcement is still on its way
    streaming.bus.flush(lambda: answers.append(2))
    host.settle()
    streaming.run()
    assert answers == [1, 2]
    streaming.bus.flush(lambda: answers.append(3))  # with nothing new
    streaming.run()
    assert answers == [1, 2, 3]


def test_a_flush_does_not_wait_for_a_process_that_died(host: Host) -> None:
    Worker(host, 0)
    streaming = Streaming(host, 1)
    host.settle()
    answers: list[int] = []
    streaming.bus.subscribe(1, b"a")
    streaming.bus.flush(lambda: answers.append(1))
    streaming.run()
    host.kill(0, 0)
    host.reap(0)
    streaming.run()
    assert answers == [1]


def test_a_full_ring_is_told_and_room_is_told(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    worker.client.subscribe(b"box", None, b"1")
    host.settle()
    rooms: list[bool] = []
    streaming.bus.on_room = lambda: rooms.append(streaming.bus.is_congested)
    payload = bytes(1000)
    sent = 0
    while not streaming.bus.is_congested:
        streaming.bus.send(b"box", payload + b"%d" % sent)
        sent += 1
        assert sent < 2 * RING_BYTES // 1000
    streaming.bus.send(b"box", b"what must leave may")
    streaming.bus.finish(host.now_ms)
    assert streaming.bus.is_congested
    assert rooms == []
    for _ in range(10):
        worker.member.run()
        streaming.run()
    host.settle()
    assert rooms == [False]
    assert len(worker.got) == sent + 1
    assert worker.got[-1][4] == b"what must leave may"


def test_the_end_of_a_pass_is_called_before_anything_leaves(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    worker.client.subscribe(b"box", None, b"1")
    streaming.bus.subscribe(1, b"request")
    host.settle()
    begun: list[int] = []
    streaming.bus.begin_pass = lambda: begun.append(len(streaming.got))
    streaming.bus.end_pass = lambda: streaming.bus.send(b"box", b"%d" % len(streaming.got))
    worker.publish(b"request", b"a")
    worker.publish(b"request", b"b")
    streaming.run()
    host.settle()
    assert worker.got[0][4] == b"2"
    assert begun[0] == 0


def test_an_unsubscribed_number_is_free_again_and_hears_nothing(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    streaming.bus.subscribe(1, b"a")
    with pytest.raises(InternalError):
        streaming.bus.subscribe(1, b"b")
    with pytest.raises(ValueError, match="not a valid subject"):
        streaming.bus.subscribe(2, b"a..b")
    streaming.bus.unsubscribe(1)
    streaming.bus.unsubscribe(1)
    streaming.bus.subscribe(1, b"b")
    host.settle()
    streaming.bus.finish(host.now_ms)
    host.settle()
    assert worker.publish(b"a", b"x") == 0
    assert worker.publish(b"b", b"y") == 1
    streaming.run()
    assert [got[1] for got in streaming.got] == [b"b"]
    streaming.bus.close()
    assert streaming.bus.subscriptions == 0


def test_the_receiver_may_answer_subscribe_and_unsubscribe(host: Host) -> None:
    worker, streaming = Worker(host, 0), Streaming(host, 1)
    numbers = itertools.count(10)

    def receive(sid: int, subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
        streaming.bus.send(reply, payload.upper())
        streaming.bus.subscribe(next(numbers), b"more.%d" % sid)
        streaming.bus.unsubscribe(sid)

    streaming.bus.receiver = ReceiverProbe(receive)
    streaming.bus.subscribe(1, b"request")
    worker.client.subscribe(b"box", None, b"1")
    host.settle()
    worker.publish(b"request", b"hello", b"box")
    worker.publish(b"request", b"again", b"box")
    host.settle()
    streaming.run()
    host.settle()
    assert [got[4] for got in worker.got] == [b"HELLO"]
    assert streaming.bus.subscriptions == 1


def test_a_process_alone_has_no_flush_to_wait_for() -> None:
    host = Host(1)
    streaming = Streaming(host, 0)
    host.settle()
    answers: list[int] = []
    streaming.bus.subscribe(1, b"a")
    streaming.bus.flush(lambda: answers.append(1))
    streaming.run()
    assert answers == [1]
    assert Dispatcher(Sublist(), None, 0, 1).is_full is False
