"""Servers that share the channels of a cluster id: what each is shown, whose lists overlap."""

from collections.abc import Callable

import pytest

from shardd.router.local import LocalClient
from shardd.streaming import receiver as sids
from shardd.streaming.mesh_bus import MeshBus
from shardd.streaming.messages import (
    ControlMessage,
    PubMsg,
    SubscriptionRequest,
    UnsubscribeRequest,
)
from shardd.streaming.partition_bus import PartitionBus, covers
from shardd.streaming.partitioning import LIST_BYTES_MAX, Partitions
from shardd.streaming.receiver_probe import ReceiverProbe
from tests.support.mesh_host import Host

PREFIX = b"_STAN.pub.test."


class Clock:
    """Callbacks that the test makes due."""

    def __init__(self) -> None:
        self.waiting: list[Entry] = []

    def later(self, seconds: float, callback: Callable[[], object]) -> "Entry":
        self.waiting.append(Entry(self, callback))
        return self.waiting[-1]

    def ring(self) -> None:
        waiting, self.waiting = self.waiting, []
        for entry in waiting:
            entry.callback()


class Entry:
    def __init__(self, clock: Clock, callback: Callable[[], object]) -> None:
        self._clock = clock
        self.callback = callback

    def cancel(self) -> None:
        self._clock.waiting.remove(self)


class Server:
    """A member of a host that serves some channels, and what it was shown."""

    def __init__(self, host: Host, slot: int, *entries: str) -> None:
        self.host = host
        member = host.start(slot)
        self.inner = MeshBus(member.dispatcher, member.mesh, member.doorbell, 0, b"$P.")
        self.clock = Clock()
        self.bus = PartitionBus(self.inner, entries, self.clock.later)
        self.got: list[tuple[int, bytes]] = []
        self.bus.receiver = ReceiverProbe(
            lambda sid, subject, reply, header, payload: self.got.append((sid, payload))
        )
        self.clients: dict[bytes, object] = {}
        self.connections: dict[bytes, object] = {}
        self.bus.know(self.clients, self.connections)
        self.bus.wake = lambda: self.inner.finish(host.now_ms)
        self.clashes: list[str] = []
        self.is_alone = False
        self.partitions = Partitions(
            self.bus, "test", f"server{slot}", entries, self.clock.later, self.clashes.append
        )

    def serve(self) -> None:
        self.bus.subscribe(sids.PUBLISH, PREFIX + b">")
        for sid in (sids.SUBSCRIBE, sids.UNSUBSCRIBE, sids.SUB_CLOSE, sids.DISCOVER):
            self.bus.subscribe(sid, b"request.%d" % sid)

    def ask(self) -> None:
        self.partitions.ask(lambda: setattr(self, "is_alone", True))
        self.inner.finish(self.host.now_ms)

    def run(self) -> None:
        self.inner.run(self.host.now_ms)


class Publisher:
    def __init__(self, host: Host) -> None:
        self.host = host
        self.member = host.start(0)
        self.local = LocalClient(self.member.dispatcher, lambda *got: None)

    def send(self, subject: bytes, payload: bytes) -> None:
        self.local.publish(subject, payload)
        self.member.finish()

    def publish(self, channel: bytes, client: str = "me", connection: bytes = b"") -> bytes:
        payload = PubMsg(client, b"guid", channel, b"", b"data", connection).encode()
        self.send(PREFIX + channel, payload)
        return payload


@pytest.fixture
def host() -> Host:
    return Host(3)


def settle(host: Host, *servers: Server) -> None:
    for _ in range(5):
        host.settle()
        for server in servers:
            server.run()
    host.settle()


def test_a_server_is_shown_its_own_channels_only(host: Host) -> None:
    publisher, server = Publisher(host), Server(host, 1, "foo", "bar.*", "deep.>")
    server.clients[b"me"] = 1
    server.serve()
    settle(host, server)
    for channel in (b"foo", b"bar.x", b"deep.a.b"):
        publisher.publish(channel)
    for channel in (b"other", b"bar", b"bar.x.y", b"deep"):
        publisher.publish(channel)
        payload = SubscriptionRequest("me", channel, "", b"i", 1, 1).encode()
        publisher.send(b"request.%d" % sids.SUBSCRIBE, payload)
        payload = UnsubscribeRequest("me", channel, b"i").encode()
        publisher.send(b"request.%d" % sids.UNSUBSCRIBE, payload)
    publisher.send(b"request.%d" % sids.SUB_CLOSE, UnsubscribeRequest("me", b"foo").encode())
    publisher.send(b"request.%d" % sids.DISCOVER, b"connect")
    publisher.send(b"request.%d" % sids.SUBSCRIBE, b"\xff\xff")
    settle(host, server)
    assert [sid for sid, _ in server.got] == [
        *([sids.PUBLISH] * 3),
        sids.SUB_CLOSE,
        sids.DISCOVER,
        sids.SUBSCRIBE,
    ]


def test_what_comes_before_its_sender_is_known_waits_in_order(host: Host) -> None:
    publisher, server = Publisher(host), Server(host, 1, "foo")
    server.serve()
    server.connections[b"known"] = 1
    settle(host, server)
    first = publisher.publish(b"foo", "me", b"mine")
    second = publisher.publish(b"foo", "other", b"known")
    third = publisher.publish(b"foo", "me", b"mine")
    settle(host, server)
    assert [payload for _, payload in server.got] == [second]
    assert server.bus.held == 2
    server.connections[b"mine"] = 1
    server.inner.finish(host.now_ms)
    assert [payload for _, payload in server.got] == [second, first, third]
    server.clock.ring()  # the time that was set has no more to do
    publisher.publish(b"foo", "me", b"mine")
    settle(host, server)
    assert len(server.got) == 4


def test_who_never_comes_is_waited_for_once(host: Host) -> None:
    publisher, server = Publisher(host), Server(host, 1, "foo")
    server.serve()
    settle(host, server)
    publisher.publish(b"foo", "stranger")
    request = SubscriptionRequest("stranger", b"foo", "", b"i", 1, 1).encode()
    publisher.send(b"request.%d" % sids.SUBSCRIBE, request)
    settle(host, server)
    assert server.got == []
    server.clock.ring()
    assert [sid for sid, _ in server.got] == [sids.PUBLISH, sids.SUBSCRIBE]
    publisher.publish(b"foo", "stranger")
    settle(host, server)
    assert len(server.got) == 3
    assert server.bus.held == 0


def test_lists_that_do_not_overlap_may_serve(host: Host) -> None:
    Publisher(host)
    one, two = Server(host, 1, "foo", "a.*"), Server(host, 2, "bar", "a.b.c")
    settle(host, one, two)
    one.ask()
    settle(host, one, two)
    before = one.is_alone  # for a second nobody else answers
    one.clock.ring()
    assert (before, one.is_alone) == (False, True)
    two.ask()
    settle(host, one, two)
    two.clock.ring()
    assert two.is_alone
    assert one.clashes + two.clashes == []


@pytest.mark.parametrize(
    ("first", "second", "clash"),
    [
        (("foo", "bar"), ("x", "bar"), "bar"),
        (("foo.*",), ("foo.baz",), "foo.baz"),
        (("foo.baz",), ("foo.>",), "foo.>"),
        ((">",), ("a.b", "c"), "a.b"),
    ],
)
def test_lists_that_overlap_may_not(
    host: Host, first: tuple[str, ...], second: tuple[str, ...], clash: str
) -> None:
    Publisher(host)
    one, two = Server(host, 1, *first), Server(host, 2, *second)
    settle(host, one, two)
    two.ask()
    settle(host, one, two)
    two.clock.ring()
    assert two.clashes == [f'channel "{clash}" causes conflict with channels on server "server1"']
    assert not two.is_alone
    assert one.clashes == []


def test_a_long_list_is_asked_for_in_parts(host: Host) -> None:
    Publisher(host)
    names = [f"channel.{number}.{'x' * 100}" for number in range(2 * LIST_BYTES_MAX // 100)]
    one, two = Server(host, 1, names[-1]), Server(host, 2, *names)
    settle(host, one, two)
    two.ask()
    settle(host, one, two)
    assert len(two.clashes) == 1
    assert names[-1] in two.clashes[0]


def test_nonsense_is_not_answered(host: Host) -> None:
    publisher, server = Publisher(host), Server(host, 1, "foo")
    settle(host, server)
    publisher.send(b"_STAN.part.test", b"\xff")
    publisher.send(b"_STAN.part.test", ControlMessage(3, "other", b"").encode())
    publisher.send(b"_STAN.part.test", ControlMessage(4, "other", b"\x03\x00fo").encode())
    publisher.send(b"_INBOX.part.server1", ControlMessage(4, "server1", b"foo").encode())
    settle(host, server)
    assert server.clashes == []


@pytest.mark.parametrize(
    ("pattern", "name", "is_covered"),
    [
        ("a", "a", True),
        ("a", "b", False),
        ("a.*", "a.b", True),
        ("a.*", "a.*", True),
        ("a.*", "a.>", False),
        ("a.>", "a.*", True),
        ("a.>", "a", False),
        (">", "a.b.c", True),
        ("*", "a.b", False),
        ("a.b", "a.*", False),
    ],
)
def test_covering(pattern: str, name: str, is_covered: bool) -> None:
    assert covers(pattern.split("."), name.split(".")) is is_covered
