"""Limits on sizes, counts and pending bytes: the last value that passes, the first that fails."""

import pytest

from tests.support.broker import Broker
from tests.support.fixtures import Dial, Join, ServerWith
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

MIB = 1_048_576
TOO_LONG = b"maximum control line exceeded"


# --- max_payload ------------------------------------------------------------------------------


def test_a_payload_of_exactly_the_limit_passes(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"limit.exact", b"1")
    publisher.publish(b"limit.exact", b"x" * MIB)
    subscriber.expect_msg(b"limit.exact", b"1", b"x" * MIB)


@pytest.mark.parametrize("size", [b"1048577", b"999999999"])
def test_a_larger_payload_is_refused_before_it_is_sent(join: Join, size: bytes) -> None:
    client = join()
    client.send(b"PUB limit.over ", size, b"\r\n")
    client.expect_fatal(b"Maximum Payload Violation")


def test_a_larger_payload_that_is_sent_all_the_same_reaches_nobody(join: Join) -> None:
    subscriber, publisher, other = join(), join(), join()
    subscriber.subscribe(b"limit.sent", b"1")
    publisher.send(b"PUB limit.sent 1048577\r\n")
    publisher.expect(b"-ERR 'Maximum Payload Violation'\r\n")
    publisher.expect_closed()
    other.publish(b"limit.sent", b"next")
    subscriber.expect_msg(b"limit.sent", b"1", b"next")


def test_max_payload_is_a_setting(server_with: ServerWith, dial: Dial) -> None:
    server = server_with(max_payload=10)
    client = dial(server).connect()
    client.send(b"SUB limit.set 1\r\nPUB limit.set 10\r\n0123456789\r\n")
    client.expect(b"MSG limit.set 1 10\r\n0123456789\r\n")
    client.send(b"PUB limit.set 11\r\n")
    client.expect_fatal(b"Maximum Payload Violation")


def test_max_payload_of_minus_one_is_no_limit(server_with: ServerWith, dial: Dial) -> None:
    server = server_with(max_payload=-1)
    subscriber, publisher = dial(server).connect(), dial(server).connect()
    assert subscriber.info["max_payload"] == -1
    subscriber.subscribe(b"limit.none", b"1")
    payload = b"0123456789abcdef" * (10 * MIB // 16)
    publisher.publish(b"limit.none", payload)
    subscriber.expect_msg(b"limit.none", b"1", payload)


# --- max_control_line -------------------------------------------------------------------------


@pytest.mark.parametrize("line_end", [b"\r\n", b"\n"])
def test_arguments_of_4096_bytes_pass(join: Join, line_end: bytes) -> None:
    client = join()
    subject = b"s" * 4094
    client.send(b"SUB \t ", subject, b" 1", line_end)
    client.send(b"PUB  ", subject, b" 0", line_end, b"\r\n")
    client.expect_msg(subject, b"1", b"")
    client.expect_silence()


@pytest.mark.parametrize("verb", [b"SUB", b"PUB", b"HPUB", b"UNSUB", b"CONNECT", b"INFO", b"-ERR"])
@pytest.mark.parametrize("line_end", [b"\r\n", b"\n", b""])
def test_arguments_of_more_bytes_close(join: Join, verb: bytes, line_end: bytes) -> None:
    client = join(headers=True)
    client.send(verb, b" ", b"x" * 4097, line_end)
    client.expect_fatal(TOO_LONG)


def test_arguments_that_grow_too_long_byte_by_byte_close(raw: WireClient) -> None:
    raw.send(b"SUB ", b"x" * 4090)
    raw.send_split(b"123456")
    raw.send(b"7")
    raw.expect_fatal(TOO_LONG)


def test_a_delivered_line_may_be_longer_than_the_limit(join: Join) -> None:
    """The limit is for what clients send; the server adds the sid to what it delivers."""
    client = join()
    subject, sid, reply = b"l" * 2000, b"i" * 2000, b"r" * 2000
    client.send(b"SUB ", subject, b" ", sid, b"\r\n")
    client.publish(subject, b"hi", reply)
    client.expect_msg(subject, sid, b"hi", reply)


def test_max_control_line_is_a_setting(server_with: ServerWith, dial: Dial) -> None:
    server = server_with(max_control_line=100)
    client = dial(server).connect()
    subject = b"c" * 98
    client.send(b"SUB ", subject, b" 1\r\nPUB ", subject, b" 0\r\n\r\n")
    client.expect_msg(subject, b"1", b"")
    client.send(b"SUB ", subject, b"c 2\r\n")
    client.expect_fatal(TOO_LONG)


def test_a_raised_max_control_line_lets_longer_lines_pass(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_control_line=60_000)
    subscriber, publisher = dial(server).connect(name="n" * 50_000), dial(server).connect()
    subject = b"c" * 50_000
    subscriber.subscribe(subject, b"1")
    publisher.publish(subject, b"hi")
    subscriber.expect_msg(subject, b"1", b"hi")


# --- max_subscriptions, max_subscription_tokens ----------------------------------------------


def test_a_subscription_too_many_is_refused_and_the_connection_stays(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_subscriptions=3)
    client, other = dial(server).connect(), dial(server).connect()
    client.send(b"SUB subs.1 1\r\nSUB subs.2 2\r\nSUB subs.3 3\r\nSUB subs.4 4\r\n")
    client.expect_error(b"maximum subscriptions exceeded")
    client.publish(b"subs.4", b"hi")
    client.publish(b"subs.3", b"hi")
    client.expect_msg(b"subs.3", b"3", b"hi")
    client.send(b"UNSUB 1\r\nSUB subs.4 4\r\nPUB subs.4 0\r\n\r\n")
    client.expect_msg(b"subs.4", b"4", b"")
    client.expect_silence()
    other.send(b"SUB subs.1 1\r\nSUB subs.1 2\r\nSUB subs.1 3\r\n")
    other.expect_silence()


def test_a_refused_subscription_is_not_acknowledged(server_with: ServerWith, dial: Dial) -> None:
    client = dial(server_with(max_subscriptions=3)).connect(verbose=True)
    client.send(b"SUB ok.1 1\r\nSUB ok.2 2\r\nSUB ok.3 3\r\nSUB ok.4 4\r\n")
    client.expect(b"+OK\r\n+OK\r\n+OK\r\n")
    client.expect_error(b"maximum subscriptions exceeded")


def test_a_subscription_with_too_many_tokens_is_refused(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_subscription_tokens=3)
    client = dial(server).connect()
    client.send(b"SUB a.b.c 1\r\nSUB a.b.> 2\r\nPUB a.b.c.d 0\r\n\r\n")
    client.expect_msg(b"a.b.c.d", b"2", b"")
    client.send(b"SUB a.b.c.d 3\r\n")
    client.expect_error(b'Permissions Violation for Subscription to "a.b.c.d", too many tokens')
    client.send(b"SUB a.b.*.> workers 4\r\n")
    client.expect_error(b'Permissions Violation for Subscription to "a.b.*.>", too many tokens')


# --- max_connections --------------------------------------------------------------------------


def test_a_connection_too_many_gets_info_and_is_refused(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_connections=3)
    clients = [dial(server).connect() for _ in range(3)]
    for _ in range(8):
        dial(server).expect_fatal(b"maximum connections exceeded")
    for client in clients:
        client.ping()
    clients[0].finish()

    def is_admitted() -> bool:
        client = dial(server)
        client.send(b"PING\r\n")
        answer = client.expect_line()
        assert answer in (b"PONG\r\n", b"-ERR 'maximum connections exceeded'\r\n")
        return answer == b"PONG\r\n"

    wait_until(is_admitted, "the place of a closed connection to be free again")
    dial(server).expect_fatal(b"maximum connections exceeded")


def test_max_connections_of_zero_refuses_everybody(server_with: ServerWith, dial: Dial) -> None:
    server = server_with(max_connections=0)
    for _ in range(3):
        dial(server).expect_fatal(b"maximum connections exceeded")


# --- pending bytes and write deadline ---------------------------------------------------------

CHUNK = 65_536


def message(number: int) -> bytes:
    """What the subscriber of `slow` gets as message number ``number``."""
    return b"MSG slow 1 %d\r\n%08d%s\r\n" % (CHUNK, number, b"x" * (CHUNK - 8))


def publish_chunks(publisher: WireClient, numbers: range) -> None:
    for number in numbers:
        publisher.publish(b"slow", b"%08d%s" % (number, b"x" * (CHUNK - 8)))


def join_slow_subscriber(server: Broker, dial: Dial) -> WireClient:
    """A subscriber whose kernel takes only a little while the test does not read."""
    subscriber = dial(server, receive_bytes=4096).connect()
    subscriber.subscribe(b"slow", b"1")
    return subscriber


def expect_part_of_stream(subscriber: WireClient, count: int) -> None:
    """The dropped subscriber reads a part of the stream and then its end, and no error."""
    stream = b"".join(message(number) for number in range(count))
    received = subscriber.read_to_end()
    assert len(received) < len(stream)
    assert stream.startswith(received)


def test_a_subscriber_with_too_many_pending_bytes_is_dropped_alone(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_pending=2 * MIB)
    slow = join_slow_subscriber(server, dial)
    fast, publisher = dial(server).connect(), dial(server).connect()
    fast.subscribe(b"slow", b"1")
    for start in range(0, 400, 8):
        publish_chunks(publisher, range(start, start + 8))
        for number in range(start, start + 8):
            fast.expect(message(number))
    publisher.ping()
    expect_part_of_stream(slow, 400)
    fast.expect_silence()


def test_a_write_that_takes_longer_than_the_deadline_drops_the_subscriber(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(write_deadline="250ms")
    slow = join_slow_subscriber(server, dial)
    fast, publisher = dial(server).connect(), dial(server).connect()
    publish_chunks(publisher, range(300))
    publisher.ping()
    wait_until(
        lambda: not server.holds_connection_from(slow.local_port),
        "the connection that missed the write deadline to be closed",
    )
    expect_part_of_stream(slow, 300)
    fast.subscribe(b"slow", b"1")
    publish_chunks(publisher, range(3))
    fast.expect(message(0), message(1), message(2))


def test_a_subscriber_below_both_limits_gets_everything_late(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_pending=64 * MIB)
    slow = join_slow_subscriber(server, dial)
    publisher = dial(server).connect()
    publish_chunks(publisher, range(300))
    publisher.ping()
    for number in range(300):
        slow.expect(message(number))
    slow.expect_silence()


def test_without_the_stall_messages_are_dropped_and_the_subscriber_stays(
    server_with: ServerWith, dial: Dial
) -> None:
    server = server_with(max_pending=2 * MIB, no_fast_producer_stall=True)
    slow = join_slow_subscriber(server, dial)
    publisher = dial(server).connect()
    publish_chunks(publisher, range(400))
    publisher.ping()
    numbers = read_numbers(slow)

    def is_marker_through() -> bool:
        publish_chunks(publisher, range(999, 1000))
        publisher.ping()
        numbers.extend(read_numbers(slow))
        return numbers[-1] == 999

    wait_until(is_marker_through, "a message to a subscriber that reads again")
    before = [number for number in numbers if number != 999]
    assert before == sorted(set(before))
    assert 0 < len(before) < 400


def read_numbers(subscriber: WireClient) -> list[int]:
    """The numbers of all whole messages that come before the PONG."""
    subscriber.send(b"PING\r\n")
    numbers: list[int] = []
    while True:
        line = subscriber.expect_line()
        if line == b"PONG\r\n":
            return numbers
        assert line == b"MSG slow 1 %d\r\n" % CHUNK
        numbers.append(int(subscriber.read(CHUNK + 2)[:8]))
