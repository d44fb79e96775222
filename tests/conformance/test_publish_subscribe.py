"""Delivery: who gets a message, how often, in which order, and with which subject.

Subscribers and publishers are connections of their own, so on a server with several workers the
messages cross between processes.
"""

import pytest

from tests.support.fixtures import Dial, Join, ServerWith
from tests.support.wireclient import WireClient

# (subscription, subject, whether a message to the subject reaches it)
MATCHES = [
    (b"m.a", b"m.a", True),
    (b"m.a", b"m.A", False),
    (b"m.a", b"m.a.b", False),
    (b"m.a", b"m", False),
    (b"m.*", b"m.a", True),
    (b"m.*", b"m", False),
    (b"m.*", b"m.a.b", False),
    (b"m.*.c", b"m.b.c", True),
    (b"m.*.c", b"m.b.d", False),
    (b"*.mm", b"a.mm", True),
    (b"*.mm.*", b"a.mm.c", True),
    (b"m.>", b"m.a", True),
    (b"m.>", b"m.a.b.c.d.e.f", True),
    (b"m.>", b"m", False),
    (b"m.*.>", b"m.a", False),
    (b"m.*.>", b"m.a.b", True),
    (b"m.*.>", b"m.a.b.c", True),
    # a wildcard is one only as a whole token
    (b"m.x*", b"m.x*", True),
    (b"m.x*", b"m.xy", False),
    (b"m.>x", b"m.>x", True),
    (b"m.>x", b"m.ax", False),
    (b"m.a>b.c", b"m.a>b.c", True),
    (b"m.**", b"m.**", True),
    (b"m.**", b"m.ab", False),
    # a wildcard in a published subject is a literal
    (b"m.*", b"m.*", True),
    (b"m.*", b"m.>", True),
    (b"m.>", b"m.>", True),
    (b"m.>", b"m.*.x", True),
    (b"m.a", b"m.*", False),
    (b"m.a", b"m.>", False),
    (b"m.a.b", b"m.>", False),
    # an invalid published subject reaches nobody
    (b"m.>", b"m..a", False),
    (b"m.>", b"m.a.", False),
    (b"m.>", b".m.a", False),
    (b"m.*", b"m.", False),
    (b"m.*.a", b"m..a", False),
    # subjects are bytes
    ("m.grüße.日本".encode(), "m.grüße.日本".encode(), True),
    (b"m.\x00.\x01", b"m.\x00.\x01", True),
    (b"m.\xff\xfe", b"m.\xff\xfe", True),
    (b"m.\"quo'ted\\", b"m.\"quo'ted\\", True),
    (b"m.$x", b"m.$x", True),
    (b"$SYS.made.up", b"$SYS.made.up", True),
    (b"m." + b"long" * 500, b"m." + b"long" * 500, True),
    (b"m" + b".t" * 200, b"m" + b".t" * 200, True),
    (b"m" + b".*" * 100, b"m" + b".t" * 100, True),
]


@pytest.mark.parametrize(("subscription", "subject", "is_match"), MATCHES)
def test_a_message_reaches_exactly_the_subscriptions_that_match(
    join: Join, subscription: bytes, subject: bytes, is_match: bool
) -> None:
    subscriber, publisher = join(), join()
    subscriber.send(b"SUB end.of.match 9\r\n")
    subscriber.subscribe(subscription, b"1")
    publisher.publish(subject, b"hi")
    publisher.publish(b"end.of.match", b"")
    if is_match:
        subscriber.expect_msg(subject, b"1", b"hi")
    subscriber.expect_msg(b"end.of.match", b"9", b"")


@pytest.mark.parametrize(("subscription", "subject", "is_match"), MATCHES)
def test_matching_is_the_same_for_an_own_subscription(
    join: Join, subscription: bytes, subject: bytes, is_match: bool
) -> None:
    client = join()
    client.send(b"SUB ", subscription, b" 1\r\n")
    client.publish(subject, b"hi")
    if is_match:
        client.expect_msg(subject, b"1", b"hi")
    client.expect_silence()


def test_one_wildcard_for_everything_sees_every_valid_subject(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(server_name="for-everything")  # a server of its own: it hears all
    subscriber, publisher = dial(server).connect(), dial(server).connect()
    subscriber.subscribe(b">", b"all")
    for subject in (b"every.a", b"every", b"every..x", b"every.a.b.*", b"$every"):
        publisher.publish(subject, b"hi")
    for subject in (b"every.a", b"every", b"every.a.b.*", b"$every"):
        subscriber.expect_msg(subject, b"all", b"hi")
    subscriber.expect_silence()


def test_a_message_carries_the_sid_of_each_subscription(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.send(b"SUB sids.a 1\r\nSUB sids.a two\r\nSUB sids.* 3\r\n")
    subscriber.subscribe(b"sids.>", b"4")
    publisher.publish(b"sids.a", b"hi")
    length = len(b"MSG sids.a 1 2\r\nhi\r\n" * 4) + len(b"tw")
    copies = subscriber.read(length).split(b"hi\r\n")
    assert sorted(copies) == [
        b"",
        b"MSG sids.a 1 2\r\n",
        b"MSG sids.a 3 2\r\n",
        b"MSG sids.a 4 2\r\n",
        b"MSG sids.a two 2\r\n",
    ]
    subscriber.expect_silence()


def test_a_sid_that_is_in_use_keeps_its_first_subscription(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.send(b"SUB dup.a 1\r\nSUB dup.b 1\r\nSUB dup.a workers 1\r\n")
    subscriber.subscribe(b"dup.end", b"2")
    publisher.publish(b"dup.b", b"no")
    publisher.publish(b"dup.a", b"yes")
    publisher.publish(b"dup.end", b"")
    subscriber.expect_msg(b"dup.a", b"1", b"yes")
    subscriber.expect_msg(b"dup.end", b"2", b"")


def test_the_same_sid_on_two_connections_is_two_subscriptions(join: Join) -> None:
    first, second, publisher = join(), join(), join()
    first.subscribe(b"samesid.a", b"1")
    second.subscribe(b"samesid.a", b"1")
    publisher.publish(b"samesid.a", b"hi")
    first.expect_msg(b"samesid.a", b"1", b"hi")
    second.expect_msg(b"samesid.a", b"1", b"hi")
    first.close()
    publisher.publish(b"samesid.a", b"again")
    second.expect_msg(b"samesid.a", b"1", b"again")


def test_a_reply_is_relayed_as_it_is(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"reply.a", b"1")
    for reply in (b"_INBOX.x.1", b"bad..reply", b"*", b">", b"\xc3\xa9.\x01", b"r" * 1000):
        publisher.publish(b"reply.a", b"hi", reply)
        subscriber.expect_msg(b"reply.a", b"1", b"hi", reply)


def test_a_request_and_its_answer_cross_between_connections(join: Join) -> None:
    responder, requester = join(), join()
    responder.subscribe(b"service.a", b"s")
    for number in range(200):
        inbox = b"inbox.%d" % number
        # In one segment: whoever answers must already see the subscription.
        requester.send(b"SUB ", inbox, b" i\r\nPUB service.a ", inbox, b" 1\r\n?\r\n")
        responder.expect_msg(b"service.a", b"s", b"?", inbox)
        responder.publish(inbox, b"!")
        requester.expect_msg(inbox, b"i", b"!")
        requester.send(b"UNSUB i\r\n")


def test_without_echo_own_messages_do_not_come_back(join: Join) -> None:
    client, other = join(echo=False), join()
    client.subscribe(b"echo.a", b"1")
    other.subscribe(b"echo.a", b"2")
    client.publish(b"echo.a", b"mine")
    other.expect_msg(b"echo.a", b"2", b"mine")
    client.expect_silence()
    other.publish(b"echo.a", b"theirs")
    client.expect_msg(b"echo.a", b"1", b"theirs")
    other.expect_msg(b"echo.a", b"2", b"theirs")


def test_echo_can_be_switched_on_again(join: Join) -> None:
    client = join(echo=False)
    client.send(b'CONNECT {"echo":true}\r\nSUB echo.b 1\r\nPUB echo.b 0\r\n\r\n')
    client.expect(b"MSG echo.b 1 0\r\n\r\n")


def test_echo_is_the_default(join: Join) -> None:
    client = join()
    client.send(b"SUB echo.c 1\r\nPUB echo.c 2\r\nhi\r\n")
    client.expect(b"MSG echo.c 1 2\r\nhi\r\n")


def test_messages_of_one_connection_arrive_in_the_order_published(join: Join) -> None:
    subscribers, publisher = [join() for _ in range(4)], join()
    for subscriber in subscribers:
        subscriber.subscribe(b"order.>", b"1")
    count = 2000
    for number in range(count):
        publisher.publish(b"order.%d" % (number % 7), b"%06d" % number)
    wanted = b"".join(
        b"MSG order.%d 1 6\r\n%06d\r\n" % (number % 7, number) for number in range(count)
    )
    for subscriber in subscribers:
        subscriber.expect(wanted)
        subscriber.expect_silence()


def test_large_and_small_messages_keep_their_order(join: Join) -> None:
    """Whatever path a message takes, its neighbours do not overtake it."""
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"sizes.a", b"1")
    sizes = [0, 1_048_576, 1, 600_000, 7, 0, 70_000, 300_000, 2, 1_048_576, 3]
    for number, size in enumerate(sizes):
        publisher.publish(b"sizes.a", bytes([65 + number]) * size)
    for number, size in enumerate(sizes):
        subscriber.expect_msg(b"sizes.a", b"1", bytes([65 + number]) * size)
    subscriber.expect_silence()


@pytest.mark.parametrize("size", [0, 1, 127, 128, 4095, 4096, 65_535, 65_536, 131_072, 1_048_576])
def test_a_payload_of_any_size_crosses_unchanged(join: Join, size: int) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"size.cross", b"1")
    payload = (bytes(range(251)) * (size // 251 + 1))[:size]
    publisher.publish(b"size.cross", payload)
    publisher.publish(b"size.cross", b"next", b"reply")
    subscriber.expect_msg(b"size.cross", b"1", payload)
    subscriber.expect_msg(b"size.cross", b"1", b"next", b"reply")


def test_fan_out_reaches_every_subscriber_once(join: Join) -> None:
    subscribers = [join() for _ in range(24)]
    for number, subscriber in enumerate(subscribers):
        subscriber.subscribe(b"fan.a" if number % 2 else b"fan.*", b"%d" % number)
    publisher = join()
    for text in (b"one", b"two", b"three"):
        publisher.publish(b"fan.a", text)
    for number, subscriber in enumerate(subscribers):
        for text in (b"one", b"two", b"three"):
            subscriber.expect_msg(b"fan.a", b"%d" % number, text)
        subscriber.expect_silence()


def test_a_subscription_is_visible_to_all_after_the_pong(join: Join) -> None:
    publishers = [join() for _ in range(8)]
    for number in range(40):
        subject = b"visible.%d" % number
        subscriber = join()
        subscriber.send(b"SUB ", subject, b" 1\r\nPING\r\n")
        subscriber.expect(b"PONG\r\n")
        for publisher in publishers:
            publisher.publish(subject, b"hi")
        for _ in publishers:
            subscriber.expect_msg(subject, b"1", b"hi")
        subscriber.close()


def test_a_subscription_is_seen_by_its_own_connection_at_once(join: Join) -> None:
    client = join()
    for number in range(100):
        client.send(b"SUB own.a %d\r\nPUB own.a 1\r\nx\r\nUNSUB %d\r\n" % (number, number))
        client.send(b"PUB own.a 1\r\ny\r\n")
        client.expect(b"MSG own.a %d 1\r\nx\r\n" % number)
    client.expect_silence()


def test_a_publisher_may_close_right_after_its_last_message(join: Join) -> None:
    subscriber = join()
    subscriber.subscribe(b"hasty.a", b"1")
    for number in range(20):
        publisher: WireClient = join()
        publisher.publish(b"hasty.a", b"%d" % number)
        publisher.close()
        subscriber.expect_msg(b"hasty.a", b"1", b"%d" % number)


def test_many_subscriptions_of_one_connection_are_all_found(join: Join) -> None:
    subscriber, publisher = join(), join()
    count = 5000
    subscriber.send(b"".join(b"SUB manysubs.%d.x %d\r\n" % (n, n) for n in range(count)))
    subscriber.ping()
    publisher.send(b"".join(b"PUB manysubs.%d.x 1\r\nz\r\n" % n for n in range(count)))
    subscriber.expect(b"".join(b"MSG manysubs.%d.x %d 1\r\nz\r\n" % (n, n) for n in range(count)))
    subscriber.expect_silence()


def test_what_a_publisher_knows_sent_is_there_before_any_later_answer(join: Join) -> None:
    publisher = join()
    subscribers = [join() for _ in range(8)]
    for subscriber in subscribers:
        subscriber.subscribe(b"m.>", b"1")
        subscriber.ping()
    for number in range(100):
        publisher.publish(b"m.a", b"%d" % number)
        publisher.ping()
        for subscriber in subscribers:
            subscriber.send(b"PING\r\n")
        for subscriber in subscribers:
            subscriber.expect_msg(b"m.a", b"1", b"%d" % number)
            subscriber.expect(b"PONG\r\n")
