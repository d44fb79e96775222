"""Each -ERR text, each silent close, and what is tolerated although it looks wrong.

A connection that is closed takes nothing else with it: every test here ends with the server still
serving, because the fixtures say so.
"""

import pytest

from tests.support.broker import make_broker
from tests.support.fixtures import Dial, Join
from tests.support.wireclient import WireClient

UNKNOWN = b"Unknown Protocol Operation"

UNKNOWN_LINES = [
    b"FOO",
    b"P",
    b"PI",
    b"PUBX a 0",
    b"SUBSCRIBE a 1",
    b"UNSUBSCRIBE 1",
    b"CONN {}",
    b"PUB",
    b"SUB",
    b"HPUB",
    b"UNSUB",
    b"-ERR",
    b"-X",
    b"+x",
    b"\0",
    b"\x16\x03\x01\x02\x00\x01",
    b"GET / HTTP/1.1",
    b"{}",
]

SERVER_LINES = [
    b"MSG a 1 0\r\n",
    b"HMSG a 1 12 12",
    b"RS+ $G a",
    b"RS- $G a",
    b"RMSG $G a 0\r\n",
    b"LS+ a",
    b"LS- a",
    b"LMSG a 0\r\n",
    b"A+ $G",
    b"A- $G",
]

SILENT_LINES = [
    b"PUB ",
    b"PUB a",
    b"PUB a b c 0\r\n",
    b"PUB a -1",
    b"PUB a x",
    b"PUB a 1.5",
    b"PUB a 0000000000",
    b"PUB a 99999999999999999999",
    b"SUB ",
    b"SUB a",
    b"SUB a b c d",
    b"UNSUB ",
    b"UNSUB 1 2 3",
    b"HPUB ",
    b"HPUB a 0",
    b"HPUB a b c 12 12",
    b"HPUB a -1 5",
    b"HPUB a x 5",
    b"HPUB a 12 x",
    b"HPUB a 12 5",
    b"CONNECT",
    b"CONNECT ",
    b"INFO",
    b"INFO x",
    b"-ERR 'bye'",
]

TOLERATED_LINES = [
    b"UNSUB 99",
    b"UNSUB 99 5",
    b"UNSUB 99 abc",
    b"UNSUB unknown 0",
    b"PONG",
    b"+OK",
    b"INFO {}",
    b"PUB nobody.listens 2\r\nhi",
    b"PUB .x 2\r\nhi",
    b"PUB x. 2\r\nhi",
    b"PUB x..y 2\r\nhi",
    b"PUB > 0\r\n",
    b"PUB * 0\r\n",
    b"PUB x reply..bad 0\r\n",
    b"HPUB x 0 2\r\nhi",
]


@pytest.mark.parametrize("line", UNKNOWN_LINES)
def test_an_unknown_line_is_answered_and_closes(join: Join, line: bytes) -> None:
    client = join(headers=True)
    client.send(line, b"\r\nPING\r\n")
    client.expect_fatal(UNKNOWN)


@pytest.mark.parametrize("line", SERVER_LINES)
def test_a_line_between_servers_is_answered_and_closes(join: Join, line: bytes) -> None:
    client = join(headers=True)
    client.send(line, b"\r\nPING\r\n")
    client.expect_fatal(UNKNOWN)


@pytest.mark.parametrize("line", SILENT_LINES)
def test_a_line_with_bad_arguments_closes_silently(join: Join, line: bytes) -> None:
    client = join(headers=True)
    client.send(line, b"\r\nPING\r\n")
    client.expect_closed()


@pytest.mark.parametrize("line", SILENT_LINES)
def test_bad_arguments_close_silently_in_verbose_mode_too(join: Join, line: bytes) -> None:
    client = join(headers=True, verbose=True, pedantic=True)
    client.send(line, b"\r\nPING\r\n")
    client.expect_closed()


@pytest.mark.parametrize("line", TOLERATED_LINES)
def test_a_harmless_line_is_tolerated(join: Join, line: bytes) -> None:
    client = join(headers=True)
    client.send(line, b"\r\n")
    client.expect_silence()


def test_hpub_without_headers_in_connect_closes_silently(join: Join) -> None:
    client = join()
    client.send(b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    client.expect_closed()


def test_hpub_before_connect_closes_silently(raw: WireClient) -> None:
    raw.send(b"HPUB a 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    raw.expect_closed()


@pytest.mark.parametrize(
    "subject",
    [b"a..b", b".a", b"a.", b".", b"..", b">.a", b"a.>.b", b"a.>.>", b"*..a", b"a..>"],
)
def test_sub_to_an_invalid_subject_is_answered_and_stays_open(join: Join, subject: bytes) -> None:
    client = join()
    client.send(b"SUB ", subject, b" 1\r\n")
    client.expect_error(b"Invalid Subject")
    client.send(b"SUB ", subject, b" workers 2\r\n")
    client.expect_error(b"Invalid Subject")


def test_a_refused_sub_leaves_its_sid_free(join: Join) -> None:
    client = join()
    client.send(b"SUB refused..a 1\r\nSUB refused.a 1\r\nPUB refused.a 0\r\n\r\n")
    client.expect(b"-ERR 'Invalid Subject'\r\nMSG refused.a 1 0\r\n\r\n")
    client.expect_silence()


def test_what_came_before_a_fatal_line_is_still_done(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"before.fatal", b"1")
    publisher.send(b"PUB before.fatal 2\r\nhi\r\nPUB before.fatal 1\r\nx\r\nFOO\r\n")
    publisher.expect_fatal(UNKNOWN)
    subscriber.expect(b"MSG before.fatal 1 2\r\nhi\r\nMSG before.fatal 1 1\r\nx\r\n")
    subscriber.expect_silence()


def test_what_came_after_a_fatal_line_is_not_done(join: Join) -> None:
    subscriber, publisher, other = join(), join(), join()
    subscriber.subscribe(b"after.fatal", b"1")
    publisher.send(b"FOO\r\nPUB after.fatal 2\r\nhi\r\n")
    publisher.expect_fatal(UNKNOWN)
    other.publish(b"after.fatal", b"sentinel")
    subscriber.expect_msg(b"after.fatal", b"1", b"sentinel")
    subscriber.expect_silence()


def test_a_closed_connection_loses_its_subscriptions(join: Join) -> None:
    dying, publisher = join(), join(headers=True, no_responders=True)
    dying.subscribe(b"dying.a", b"1")
    publisher.send(b"SUB inbox.dying 1\r\n")
    publisher.publish(b"dying.a", b"", b"inbox.dying")
    dying.expect_msg(b"dying.a", b"1", b"", b"inbox.dying")
    dying.send(b"FOO\r\n")
    dying.expect_fatal(UNKNOWN)
    # How long it takes until everyone has forgotten the subscription is nobody's promise.
    for _ in range(10_000):
        publisher.send(b"PUB dying.a inbox.dying 0\r\n\r\nPING\r\n")
        if publisher.read_until(b"PONG\r\n").startswith(b"HMSG inbox.dying 1 39 39\r\n"):
            return
    pytest.fail("the subscription of a closed connection still counts as a responder")


def test_a_stopping_server_closes_connections_silently(server_kind: str, dial: Dial) -> None:
    broker = make_broker(server_kind)
    broker.start()
    try:
        clients = [dial(broker), dial(broker).connect(), dial(broker).connect(verbose=True)]
    finally:
        code = broker.stop()
    assert code == 0
    for client in clients:
        client.expect_closed()
