"""Whatever one connection does, the others go on: the server survives every kind of bad client.

Each test lets clients misbehave while a well-behaved pair of connections keeps exchanging messages.
Random input comes from the printed seed.
"""

import contextlib
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.support.broker import Broker
from tests.support.fixtures import Dial, Join
from tests.support.wireclient import WireClient

UNKNOWN = b"Unknown Protocol Operation"

SCRIPT = (
    b'CONNECT {"verbose":false,"headers":true,"no_responders":true,"lang":"x"}\r\nPING\r\n'
    b"SUB bad.* 1\r\nSUB bad.* workers 2\r\nUNSUB 1 3\r\nPUB bad.a 5\r\nhello\r\n"
    b"PUB bad.b bad.c 0\r\n\r\nHPUB bad.d 12 14\r\nNATS/1.0\r\n\r\nhi\r\nUNSUB 2\r\nPONG\r\n"
)


class GoodPair:
    """Two connections that everybody else must not disturb."""

    def __init__(self, join: Join) -> None:
        self._one, self._two = join(), join()
        self._one.subscribe(b"good.to.one", b"1")
        self._two.subscribe(b"good.to.two", b"2")
        self._count = 0

    def check(self) -> None:
        """A message each way, which is exactly what arrives."""
        self._count += 1
        text = b"%d" % self._count
        self._one.publish(b"good.to.two", text)
        self._two.expect_msg(b"good.to.two", b"2", text)
        self._two.publish(b"good.to.one", text)
        self._one.expect_msg(b"good.to.one", b"1", text)
        self._one.expect_silence()


@pytest.fixture
def pair(join: Join) -> Iterator[GoodPair]:
    """A pair that works before and after each test."""
    pair = GoodPair(join)
    pair.check()
    yield pair
    pair.check()


def send_anyway(client: WireClient, data: bytes) -> None:
    """Send what the server may have stopped listening to."""
    with contextlib.suppress(ConnectionError):
        client.send(data)


def test_random_bytes_disturb_nobody(
    server: Broker, dial: Dial, pair: GoodPair, rng: random.Random
) -> None:
    for _ in range(60):
        client = dial(server)
        send_anyway(client, rng.randbytes(rng.randrange(1, 6000)))
        pair.check()
        client.finish()


def test_random_bytes_behind_each_verb_disturb_nobody(
    server: Broker, dial: Dial, pair: GoodPair, rng: random.Random
) -> None:
    verbs = [b"PUB ", b"SUB ", b"UNSUB ", b"HPUB ", b"CONNECT ", b"INFO ", b"-ERR ", b"MSG ", b"P"]
    for verb in verbs * 6:
        client = dial(server)
        noise = rng.randbytes(rng.randrange(1, 300)).replace(b"\n", b" ")
        send_anyway(client, verb + noise + b"\r\n")
        pair.check()
        client.finish()


def test_damaged_scripts_disturb_nobody(
    server: Broker, dial: Dial, pair: GoodPair, rng: random.Random
) -> None:
    for _ in range(100):
        script = bytearray(SCRIPT)
        for _ in range(rng.randrange(1, 6)):
            position = rng.randrange(len(script))
            change = rng.randrange(3)
            if change == 0:
                script[position] = rng.randrange(256)
            elif change == 1:
                del script[position : position + rng.randrange(1, 10)]
            else:
                script[position:position] = rng.choice([b"\r\n", b" ", b"9", b"\0", b"PUB "])
        client = dial(server)
        cut = rng.randrange(len(script))
        send_anyway(client, bytes(script[:cut]))
        send_anyway(client, bytes(script[cut:]))
        pair.check()
        client.finish()


@pytest.mark.parametrize("length", range(1, len(SCRIPT), 7))
def test_a_script_that_stops_anywhere_disturbs_nobody(
    server: Broker, dial: Dial, pair: GoodPair, length: int
) -> None:
    stopping, aborting = dial(server), dial(server)
    stopping.send(SCRIPT[:length])
    aborting.send(SCRIPT[:length])
    pair.check()
    stopping.finish()
    reset(aborting)


def reset(client: WireClient) -> None:
    """Close with a TCP reset instead of an orderly end."""
    client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


def test_half_a_line_is_not_executed_when_the_connection_ends(
    server: Broker, dial: Dial, pair: GoodPair
) -> None:
    for half in (b"PUB good.to.one 2\r\nhi", b"PUB good.to.one 2\r\nhi\r", b"PUB good.to.two 0"):
        client = dial(server)
        client.send(b'CONNECT {"verbose":false}\r\n', half)
        client.finish()
        pair.check()


def test_a_client_that_only_stops_sending_is_closed(join: Join) -> None:
    client = join()
    client.send(b"SUB halfclosed.a 1\r\nPUB halfclosed.a 2\r\nhi\r\n")
    client.expect_msg(b"halfclosed.a", b"1", b"hi")
    client.socket.shutdown(socket.SHUT_WR)
    client.expect_closed()


def test_a_giant_line_is_refused_while_it_arrives(
    server: Broker, dial: Dial, pair: GoodPair
) -> None:
    for start in (b"SUB ", b"PUB a", b'CONNECT {"name":"', b"UNSUB "):
        client = dial(server)
        send_anyway(client, start + b"x" * 4_000_000)
        pair.check()
        client.read_to_end()


def test_a_giant_word_is_refused_at_its_first_letter(raw: WireClient, pair: GoodPair) -> None:
    send_anyway(raw, b"x" * 4_000_000)
    pair.check()
    assert raw.read_to_end() in (b"-ERR '" + UNKNOWN + b"'\r\n", b"")


@pytest.mark.parametrize(
    ("giant", "answer"),
    [
        (b"PING " + b"x" * 4_000_000 + b"\r\n", b"PONG\r\n"),
        (b"SUB " + b" " * 1_000_000 + b"blanks.a 1\r\n", b"+OK\r\n"),
    ],
)
def test_a_giant_line_without_giant_arguments_is_taken_or_refused(
    raw: WireClient, pair: GoodPair, giant: bytes, answer: bytes
) -> None:
    """nats-server counts neither blanks nor what follows PING; no client depends on that."""
    send_anyway(raw, giant)
    pair.check()
    first = raw.expect_line()
    if first != answer:
        assert first == b"-ERR 'maximum control line exceeded'\r\n"
        raw.expect_closed()


@pytest.mark.parametrize(
    ("text", "error"),
    [
        (b"PUB wrong.a 5\r\nhi\r\nPING\r\n", UNKNOWN),  # the payload is "hi\r\nP"
        (b"PUB wrong.a 1\r\nhi\r\n", UNKNOWN),
        (b"PUB wrong.a 0\r\nhi\r\n", UNKNOWN),
        (b"HPUB wrong.a 3 3\r\nhi\r\n\r\n\r\n", UNKNOWN),
        (b"HPUB wrong.a 999999 999999999\r\n", b"Maximum Payload Violation"),
    ],
)
def test_a_wrong_size_closes_only_its_own_connection(
    join: Join, pair: GoodPair, text: bytes, error: bytes
) -> None:
    client = join(headers=True)
    client.send(text)
    client.expect_fatal(error)


def test_a_size_without_its_payload_waits_for_ever(join: Join, pair: GoodPair) -> None:
    waiting = [join() for _ in range(10)]
    for client in waiting:
        client.send(b"PUB wait.a 1048576\r\nonly a little")
    pair.check()
    rest = 1_048_576 - len(b"only a little")
    waiting[0].send(b"x" * rest, b"\r\n")
    waiting[0].expect_silence()


def test_deeply_nested_json_is_survived(raw: WireClient, pair: GoodPair) -> None:
    depth = 2000
    raw.send(b'CONNECT {"verbose":false,"x":' + b"[" * depth + b"]" * depth + b"}\r\n")
    send_anyway(raw, b"PING\r\n")
    # Whether an option that nobody reads may be that deep is the parser's choice.
    assert raw.read(6) in (b"PONG\r\n", b"")


@pytest.mark.parametrize("number", [b"1e400", b"9" * 1000, b"-0", b"1E-999"])
def test_extreme_numbers_in_json_are_survived(
    raw: WireClient, pair: GoodPair, number: bytes
) -> None:
    raw.send(b'CONNECT {"verbose":false,"x":', number, b"}\r\n")
    raw.expect_silence()


@pytest.mark.parametrize("number", [b"1e400", b"9" * 1000, b"1e0", b"0.5"])
def test_a_protocol_number_that_is_no_plain_integer_closes(
    raw: WireClient, pair: GoodPair, number: bytes
) -> None:
    raw.send(b'CONNECT {"protocol":', number, b"}\r\n")
    raw.expect_closed()


def test_text_that_is_not_utf_8_in_connect_is_survived(raw: WireClient, pair: GoodPair) -> None:
    raw.send(b'CONNECT {"verbose":false,"name":"\xff\xfe\xc3","lang":"\\ud800"}\r\n')
    raw.expect_silence()


def test_connections_that_end_at_once_disturb_nobody(
    server: Broker, dial: Dial, pair: GoodPair
) -> None:
    for number in range(60):
        with socket.create_connection((server.host, server.port)) as quick:
            if number % 3 == 0:
                quick.sendall(SCRIPT)
            if number % 2 == 0:
                quick.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if number % 10 == 0:
            pair.check()


def test_a_subscriber_that_never_reads_holds_up_nobody(
    server: Broker, dial: Dial, join: Join, pair: GoodPair
) -> None:
    lazy = dial(server, receive_bytes=4096).connect()
    lazy.subscribe(b"lazy.a", b"1")
    reader, publisher = join(), join()
    reader.subscribe(b"lazy.a", b"1")
    payload = b"z" * 32_768
    for _ in range(500):
        publisher.publish(b"lazy.a", payload)
        reader.expect_msg(b"lazy.a", b"1", payload)
    pair.check()
    publisher.ping()
    reset(lazy)


def test_a_client_that_never_reads_its_pongs_disturbs_nobody(
    server: Broker, dial: Dial, pair: GoodPair
) -> None:
    lazy = dial(server, receive_bytes=4096)
    for _ in range(20):
        send_anyway(lazy, b"PING\r\n" * 10_000)
        pair.check()
    reset(lazy)


def test_a_client_that_never_reads_its_errors_disturbs_nobody(
    server: Broker, dial: Dial, pair: GoodPair
) -> None:
    lazy = dial(server, receive_bytes=4096)
    for _ in range(10):
        send_anyway(lazy, b"SUB a..b 1\r\n" * 5_000)
        pair.check()
    reset(lazy)


def test_subscriptions_that_come_and_go_disturb_nobody(join: Join, pair: GoodPair) -> None:
    client = join()
    for round_number in range(10):
        client.send(b"".join(b"SUB churn.%d.%d %d\r\n" % (round_number, n, n) for n in range(1000)))
        pair.check()
        client.send(b"".join(b"UNSUB %d\r\n" % n for n in range(1000)))
    client.ping()


def test_a_flood_of_one_connection_leaves_room_for_others(join: Join, pair: GoodPair) -> None:
    flooding = join()
    flood = b"PUB flood.nobody 16\r\n0123456789abcdef\r\n" * 20_000
    for _ in range(5):
        flooding.send(flood)
        pair.check()
    flooding.ping()
