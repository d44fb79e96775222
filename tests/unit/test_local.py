"""A client without a socket: what its callback gets, and what its callback may do."""

import gc
from collections.abc import Callable, Iterator

import pytest

from shardd.errors import InternalError
from shardd.router.dispatch import Dispatcher
from shardd.router.local import LocalClient
from shardd.router.sublist import Sublist
from tests.support.mesh_host import Host

Delivery = tuple[bytes, bytes, bytes, bytes, bytes]
HEADER = b"NATS/1.0\r\nKey: value\r\n\r\n"


class Recorder:
    """A client that keeps what it gets, and then does what it is told to."""

    def __init__(self, dispatcher: Dispatcher) -> None:
        self.got: list[Delivery] = []
        self.then: Callable[[Delivery], object] = lambda delivery: None
        self.client = LocalClient(dispatcher, self._take)

    def _take(self, *delivery: bytes) -> None:
        self.got.append(delivery)
        self.then(delivery)

    def payloads(self) -> list[bytes]:
        return [delivery[4] for delivery in self.got]


class NoMesh:
    """Peers of a process that has none."""

    sequence = 0

    def __init__(self, sublist: Sublist) -> None:
        self._sublist = sublist

    def announce(self) -> None:
        self._sublist.take_changes()


@pytest.fixture
def dispatcher() -> Iterator[Dispatcher]:
    sublist = Sublist()
    dispatcher = Dispatcher(sublist, None, 0, 1)
    dispatcher.bind(NoMesh(sublist))
    yield dispatcher
    dispatcher.finish()


@pytest.fixture
def one(dispatcher: Dispatcher) -> Recorder:
    return Recorder(dispatcher)


@pytest.fixture
def other(dispatcher: Dispatcher) -> Recorder:
    return Recorder(dispatcher)


def test_a_message_arrives_in_its_parts(one: Recorder, other: Recorder) -> None:
    one.client.subscribe(b"a.*", None, b"7")
    assert other.client.publish(b"a.b", b"payload", b"back", HEADER) == 1
    assert other.client.publish(b"a.c", b"") == 1
    assert other.client.publish(b"b", b"nobody") == 0
    assert one.got == [
        (b"7", b"a.b", b"back", HEADER, b"payload"),
        (b"7", b"a.c", b"", b"", b""),
    ]


def test_accounts_do_not_hear_each_other(one: Recorder, other: Recorder) -> None:
    one.client.subscribe(b"a", None, b"1", account=5)
    assert other.client.publish(b"a", b"x") == 0
    assert other.client.publish(b"a", b"y", account=5) == 1
    assert one.payloads() == [b"y"]


def test_one_member_of_a_group_gets_a_message(one: Recorder, other: Recorder) -> None:
    one.client.subscribe(b"a", b"q", b"1")
    other.client.subscribe(b"a", b"q", b"1")
    for _ in range(20):
        assert one.client.publish(b"a", b"x") == 1
    assert len(one.got) + len(other.got) == 20


def test_without_echo_a_client_does_not_hear_itself(one: Recorder, other: Recorder) -> None:
    for recorder in (one, other):
        recorder.client.subscribe(b"a", None, b"1")
    assert one.client.publish(b"a", b"x", echo=False) == 1
    assert (one.payloads(), other.payloads()) == ([], [b"x"])


def test_a_sid_in_use_keeps_its_first_subscription(one: Recorder) -> None:
    assert one.client.subscribe(b"a", None, b"1")
    assert not one.client.subscribe(b"b", None, b"1")
    assert one.client.subscriptions == 1
    assert one.client.publish(b"b", b"x") == 0


def test_a_maximum_ends_a_subscription_and_frees_its_sid(one: Recorder, other: Recorder) -> None:
    one.client.subscribe(b"a", None, b"1")
    other.client.publish(b"a", b"0")
    one.client.unsubscribe(b"1", 2)
    assert [other.client.publish(b"a", b"%d" % number) for number in (1, 2)] == [1, 0]
    assert one.payloads() == [b"0", b"1"]
    assert one.client.subscriptions == 0
    assert one.client.subscribe(b"a", None, b"1")


def test_a_maximum_that_is_reached_already_ends_it_now(one: Recorder, other: Recorder) -> None:
    one.client.subscribe(b"a", None, b"1")
    other.client.publish(b"a", b"x")
    one.client.unsubscribe(b"1", 1)
    one.client.unsubscribe(b"1", 1)
    assert other.client.publish(b"a", b"y") == 0


def test_a_callback_that_sets_the_maximum_counts_the_message_at_hand(
    one: Recorder, other: Recorder
) -> None:
    one.client.subscribe(b"a", None, b"1")
    one.then = lambda delivery: one.client.unsubscribe(b"1", 1)
    assert [other.client.publish(b"a", b"x") for _ in range(2)] == [1, 0]
    assert one.client.subscriptions == 0


def test_an_answer_from_the_callback_does_not_overtake_what_it_answers(
    one: Recorder, other: Recorder
) -> None:
    for number in range(4):
        one.client.subscribe(b"a", None, b"%d" % number)
        other.client.subscribe(b">", None, b"%d" % number)
    one.then = lambda delivery: one.client.publish(b"answer", delivery[4] + b"!")
    assert one.client.publish(b"a", b"x") == 8
    assert other.payloads() == [b"x"] * 4 + [b"x!"] * 16


def test_a_subscription_that_a_callback_ended_gets_nothing_more(
    one: Recorder, other: Recorder
) -> None:
    for number in range(6):
        one.client.subscribe(b"a", None, b"%d" % number)

    def end_all(delivery: Delivery) -> None:
        for number in range(6):
            one.client.unsubscribe(b"%d" % number)

    one.then = end_all
    assert other.client.publish(b"a", b"x") == 1
    assert one.client.subscribe(b"a", None, b"0")
    assert one.client.subscribe(b"a", None, b"1")
    assert one.client.publish(b"a", b"x") == 2
    assert len(one.got) == 2


def test_a_client_closed_by_a_callback_gets_nothing_more(one: Recorder, other: Recorder) -> None:
    for recorder in (one, other):
        for number in range(4):
            recorder.client.subscribe(b"a", None, b"%d" % number)

    def close_both(delivery: Delivery) -> None:
        one.client.close()
        other.client.close()

    one.then = other.then = close_both
    third = Recorder(one.client.dispatcher)
    assert third.client.publish(b"a", b"x") == 1
    assert len(one.got) + len(other.got) == 1


def test_targets_of_a_message_published_in_a_callback_leave_the_outer_ones_alone() -> None:
    host = Host(2)
    near, far = (host.start(slot) for slot in range(2))
    host.settle()
    groups = [b"%d" % number for number in range(5)]
    recorder = Recorder(near.dispatcher)
    recorder.then = lambda delivery: near.clients[0].publish(b"b", 1)
    # Some before and some behind the others, in whatever order groups are served.
    for group in groups[:3]:
        recorder.client.subscribe(b"a", b"near" + group, group)
    answering = near.clients[0].subscribe(b"a", b"local")
    for group in groups:
        far.clients[0].subscribe(b"a", group)
    far.clients[1].subscribe(b"b", b"other")
    host.settle()
    for group in groups[3:]:
        recorder.client.subscribe(b"a", b"near" + group, group)
    near.clients[1].publish(b"a", 1)
    near.finish()
    host.settle()
    host.check_rest()
    message, *answers = host.model.messages
    assert message.groups == {*groups, b"local"}
    assert [answer.groups for answer in answers] == [{b"other"}] * len(groups)
    assert answering.received == [0]
    near.clients.clear()
    for doorbell in host.doorbells:
        doorbell.close()


def test_a_client_that_is_dropped_leaves_nothing_behind(
    dispatcher: Dispatcher, other: Recorder
) -> None:
    dropped = Recorder(dispatcher)
    dropped.client.subscribe(b"a", None, b"1")
    del dropped
    gc.collect(1)
    assert other.client.publish(b"a", b"x") == 0
    assert dispatcher.sublist.subscriptions == 0


def test_a_closed_client_refuses(one: Recorder) -> None:
    one.client.subscribe(b"a", None, b"1")
    one.client.close()
    one.client.close()
    assert one.client.is_closed
    with pytest.raises(InternalError, match="closed"):
        one.client.publish(b"a", b"x")
    with pytest.raises(InternalError, match="closed"):
        one.client.subscribe(b"a", None, b"1")


@pytest.mark.parametrize("subject", [b"", b"a b", b"a\r\nPING\r\n", b"a..b", b"*", b"a.>"])
def test_what_cannot_be_published_to_is_refused(one: Recorder, subject: bytes) -> None:
    with pytest.raises(ValueError, match="published to"):
        one.client.publish(subject, b"x")
    if subject:
        with pytest.raises(ValueError, match="published to"):
            one.client.publish(b"a", b"x", reply=subject)


def test_an_exception_of_the_callback_is_seen_by_the_publisher(
    one: Recorder, other: Recorder
) -> None:
    def fail(delivery: Delivery) -> None:
        raise LookupError("nothing here")

    one.client.subscribe(b"a", None, b"1")
    one.then = fail
    for recorder in (one, other, one):
        with pytest.raises(LookupError):
            recorder.client.publish(b"a", b"x")
    one.then = lambda delivery: None
    assert one.client.publish(b"a", b"x") == 1
    assert len(one.got) == 4
