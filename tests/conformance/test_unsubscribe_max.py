"""UNSUB, at once and after a number of messages; the count starts with the SUB."""

import pytest

from tests.support.fixtures import Join
from tests.support.wireclient import WireClient


@pytest.fixture(params=["own", "other"])
def pair(request: pytest.FixtureRequest, join: Join) -> tuple[WireClient, WireClient]:
    """A subscriber and its publisher: the same connection, or two."""
    subscriber = join()
    return subscriber, subscriber if request.param == "own" else join()


def publish_many(subscriber: WireClient, publisher: WireClient, subject: bytes, count: int) -> None:
    """Publish 0, 1, 2 ... and then an end marker that the subscriber waits for elsewhere."""
    for number in range(count):
        publisher.publish(subject, b"%d" % number)
    publisher.publish(subject + b".end", b"")


def expect_numbers(subscriber: WireClient, subject: bytes, sid: bytes, numbers: range) -> None:
    for number in numbers:
        subscriber.expect_msg(subject, sid, b"%d" % number)
    subscriber.expect_msg(subject + b".end", b"end", b"")


def test_unsub_ends_delivery(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB un.a 1\r\nSUB un.a.end end\r\nUNSUB 1\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"un.a", 3)
    expect_numbers(subscriber, b"un.a", b"1", range(0))


@pytest.mark.parametrize("maximum", [b"abc", b"0", b"-3"])
def test_a_maximum_that_is_no_positive_number_means_now(
    pair: tuple[WireClient, WireClient], maximum: bytes
) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB now.a 1\r\nSUB now.a.end end\r\nUNSUB 1 ", maximum, b"\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"now.a", 3)
    expect_numbers(subscriber, b"now.a", b"1", range(0))


@pytest.mark.parametrize("maximum", [1, 2, 5, 100])
def test_exactly_the_maximum_arrives(pair: tuple[WireClient, WireClient], maximum: int) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB max.a 1\r\nSUB max.a.end end\r\nUNSUB 1 %d\r\n" % maximum)
    subscriber.ping()
    publish_many(subscriber, publisher, b"max.a", maximum + 10)
    expect_numbers(subscriber, b"max.a", b"1", range(maximum))
    subscriber.expect_silence()


def test_fewer_than_the_maximum_all_arrive(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB few.a 1\r\nSUB few.a.end end\r\nUNSUB 1 10\r\n")
    subscriber.ping()
    for _ in range(3):
        publish_many(subscriber, publisher, b"few.a", 3)
        expect_numbers(subscriber, b"few.a", b"1", range(3))
    publish_many(subscriber, publisher, b"few.a", 3)
    expect_numbers(subscriber, b"few.a", b"1", range(1))


def test_deliveries_before_the_unsub_count(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB since.a 1\r\nSUB since.a.end end\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"since.a", 3)
    expect_numbers(subscriber, b"since.a", b"1", range(3))
    subscriber.send(b"UNSUB 1 5\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"since.a", 5)
    expect_numbers(subscriber, b"since.a", b"1", range(2))


@pytest.mark.parametrize("maximum", [1, 2, 3])
def test_a_maximum_already_reached_ends_it_now(
    pair: tuple[WireClient, WireClient], maximum: int
) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB reached.a 1\r\nSUB reached.a.end end\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"reached.a", 3)
    expect_numbers(subscriber, b"reached.a", b"1", range(3))
    subscriber.send(b"UNSUB 1 %d\r\n" % maximum)
    subscriber.ping()
    publish_many(subscriber, publisher, b"reached.a", 3)
    expect_numbers(subscriber, b"reached.a", b"1", range(0))


def test_a_later_unsub_changes_the_maximum(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB raise.a 1\r\nSUB raise.a.end end\r\nUNSUB 1 2\r\nUNSUB 1 4\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"raise.a", 10)
    expect_numbers(subscriber, b"raise.a", b"1", range(4))
    subscriber.send(b"SUB raise.a 1\r\nUNSUB 1 4\r\nUNSUB 1 2\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"raise.a", 10)
    expect_numbers(subscriber, b"raise.a", b"1", range(2))


def test_plain_unsub_overrides_a_pending_maximum(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB over.a 1\r\nSUB over.a.end end\r\nUNSUB 1 5\r\nUNSUB 1\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"over.a", 3)
    expect_numbers(subscriber, b"over.a", b"1", range(0))


def test_a_sid_is_free_again_after_its_maximum(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    for _ in range(3):
        subscriber.send(b"SUB free.a 1\r\nSUB free.a.end end\r\nUNSUB 1 2\r\n")
        subscriber.ping()
        publish_many(subscriber, publisher, b"free.a", 4)
        expect_numbers(subscriber, b"free.a", b"1", range(2))


def test_a_new_subscription_of_an_old_sid_counts_from_zero(
    pair: tuple[WireClient, WireClient],
) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB zero.a 1\r\nSUB zero.a.end end\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"zero.a", 3)
    expect_numbers(subscriber, b"zero.a", b"1", range(3))
    subscriber.send(b"UNSUB 1\r\nSUB zero.a 1\r\nUNSUB 1 4\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"zero.a", 10)
    expect_numbers(subscriber, b"zero.a", b"1", range(4))


def test_a_duplicate_sub_does_not_reset_the_count(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB dupmax.a 1\r\nSUB dupmax.a.end end\r\nUNSUB 1 3\r\nSUB dupmax.a 1\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"dupmax.a", 10)
    expect_numbers(subscriber, b"dupmax.a", b"1", range(3))


def test_each_sid_has_a_maximum_of_its_own(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB each.a 1\r\nSUB each.a 2\r\nSUB each.a.end end\r\n")
    subscriber.send(b"UNSUB 1 1\r\nUNSUB 2 3\r\n")
    subscriber.ping()
    publish_many(subscriber, publisher, b"each.a", 5)
    answer = subscriber.read_until(b"MSG each.a.end end 0\r\n\r\n")
    assert answer.count(b"MSG each.a 1 1\r\n") == 1
    assert answer.count(b"MSG each.a 2 1\r\n") == 3


def test_a_wildcard_subscription_counts_all_subjects(pair: tuple[WireClient, WireClient]) -> None:
    subscriber, publisher = pair
    subscriber.send(b"SUB wild.max.* 1\r\nUNSUB 1 3\r\nSUB wild.end end\r\n")
    subscriber.ping()
    for name in (b"a", b"b", b"c", b"d"):
        publisher.publish(b"wild.max." + name, b"")
    publisher.publish(b"wild.end", b"")
    for name in (b"a", b"b", b"c"):
        subscriber.expect_msg(b"wild.max." + name, b"1", b"")
    subscriber.expect_msg(b"wild.end", b"end", b"")


def test_a_message_of_several_publishers_counts_once_each(join: Join) -> None:
    subscriber, publishers = join(), [join() for _ in range(4)]
    subscriber.send(b"SUB several.a 1\r\nUNSUB 1 20\r\n")
    subscriber.subscribe(b"several.end", b"end")
    for publisher in publishers:
        for _ in range(10):
            publisher.publish(b"several.a", b"x")
        publisher.publish(b"several.end", b"x")
    messages = b""
    while messages.count(b"several.end") < 4:
        messages += subscriber.expect_line()
    assert messages.count(b"MSG several.a 1 1\r\n") == 20
    subscriber.read_until(b"x\r\n")
    subscriber.expect_silence()


def test_an_exhausted_queue_member_hands_over_to_the_others(join: Join) -> None:
    limited, other, publisher = join(), join(), join()
    limited.send(b"SUB qmax.a g 1\r\nUNSUB 1 5\r\n")
    limited.ping()
    other.subscribe(b"qmax.a", b"1", b"g")
    total = 200
    for _ in range(total):
        publisher.publish(b"qmax.a", b"x")
    other.expect(b"MSG qmax.a 1 1\r\nx\r\n" * (total - 5))
    other.expect_silence()
    limited.expect(b"MSG qmax.a 1 1\r\nx\r\n" * 5)
    limited.expect_silence()


def test_after_the_maximum_nobody_responds(join: Join) -> None:
    subscriber, publisher = join(), join(headers=True, no_responders=True)
    subscriber.send(b"SUB gone.a 1\r\nUNSUB 1 1\r\n")
    subscriber.ping()
    publisher.send(b"SUB gone.inbox 9\r\n")
    publisher.publish(b"gone.a", b"", b"gone.inbox")
    subscriber.expect_msg(b"gone.a", b"1", b"", b"gone.inbox")
    for _ in range(10_000):
        publisher.send(b"PUB gone.a gone.inbox 0\r\n\r\nPING\r\n")
        if publisher.read_until(b"PONG\r\n").startswith(b"HMSG gone.inbox 9 38 38\r\n"):
            break
    else:
        pytest.fail("an exhausted subscription still counts as a responder")
    subscriber.expect_silence()
