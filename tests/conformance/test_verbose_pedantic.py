"""Verbose: what is acknowledged. Pedantic: which subjects are complained about."""

import pytest

from tests.support.fixtures import Join
from tests.support.wireclient import WireClient


@pytest.mark.parametrize(
    "command",
    [
        b"SUB verbose.a 1\r\n",
        b"SUB verbose.a workers 1\r\n",
        b"UNSUB 1\r\n",
        b"UNSUB 99\r\n",
        b"UNSUB 1 5\r\n",
        b"PUB verbose.nobody 2\r\nhi\r\n",
        b"PUB verbose.nobody reply 0\r\n\r\n",
        b"HPUB verbose.nobody 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        b'CONNECT {"verbose":true}\r\n',
    ],
)
def test_a_command_is_acknowledged_once(join: Join, command: bytes) -> None:
    client = join(verbose=True, headers=True)
    client.send(command)
    client.expect(b"+OK\r\n")
    client.expect_silence()


@pytest.mark.parametrize("command", [b"PONG\r\n", b"+OK\r\n", b"INFO {}\r\n"])
def test_a_line_that_is_no_command_is_not_acknowledged(join: Join, command: bytes) -> None:
    client = join(verbose=True)
    client.send(command)
    client.expect_silence()


def test_ping_gets_only_its_pong(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"PING\r\nPING\r\n")
    client.expect(b"PONG\r\nPONG\r\n")
    client.expect_silence()


def test_pub_is_acknowledged_when_its_payload_has_arrived(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"PUB verbose.late 5\r\nhel")
    client.send(b"lo\r\n")
    client.expect(b"+OK\r\n")
    client.expect_silence()


def test_before_connect_everything_is_acknowledged(raw: WireClient) -> None:
    raw.send(b"SUB verbose.early 1\r\n")
    raw.expect(b"+OK\r\n")
    raw.send(b"UNSUB 1\r\n")
    raw.expect(b"+OK\r\n")


def test_a_duplicate_sid_is_acknowledged(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"SUB verbose.dup 1\r\nSUB verbose.dup 1\r\n")
    client.expect(b"+OK\r\n+OK\r\n")
    client.expect_silence()


def test_an_own_message_and_the_acknowledgement_both_arrive(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"SUB verbose.own 1\r\nPUB verbose.own 2\r\nhi\r\nPING\r\n")
    answer = client.read_until(b"PONG\r\n")
    assert answer.count(b"+OK\r\n") == 2
    assert answer.replace(b"+OK\r\n", b"") == b"MSG verbose.own 1 2\r\nhi\r\nPONG\r\n"


def test_ok_of_a_sub_means_that_others_reach_it(join: Join) -> None:
    """Visibility in verbose mode: no PING needed."""
    publisher = join()
    for number in range(50):
        subject = b"verbose.visible.%d" % number
        subscriber = join(verbose=True)
        subscriber.send(b"SUB ", subject, b" 1\r\n")
        subscriber.expect(b"+OK\r\n")
        publisher.publish(subject, b"hi")
        subscriber.expect_msg(subject, b"1", b"hi")
        subscriber.close()


def test_an_invalid_subscription_gets_the_error_and_no_acknowledgement(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"SUB verbose..bad 1\r\n")
    client.expect_error(b"Invalid Subject")


def test_a_reserved_publish_gets_the_error_and_no_acknowledgement(join: Join) -> None:
    client = join(verbose=True)
    client.send(b"PUB _GR_.x 0\r\n\r\n")
    client.expect_error(b'Permissions Violation for Publish to "_GR_.x"')


INVALID_TO_PUBLISH = [b"p..a", b".p", b"p.", b"p.*", b"*", b">", b"p.>", b"*.p", b"p.*.q"]
VALID_TO_PUBLISH = [
    b"p",
    b"p.q",
    b"p*",
    b"p.q*",
    b"p>",
    b">p",
    b"p.>q",
    b"p**",
    b"\xc3\xa9",
    b"p.\0",
]


@pytest.mark.parametrize("subject", INVALID_TO_PUBLISH)
def test_pedantic_complains_about_an_invalid_publish_subject(join: Join, subject: bytes) -> None:
    client = join(pedantic=True)
    client.publish(subject, b"hi")
    client.expect_error(b"Invalid Publish Subject")


@pytest.mark.parametrize("subject", VALID_TO_PUBLISH)
def test_pedantic_accepts_a_literal_publish_subject(join: Join, subject: bytes) -> None:
    client = join(pedantic=True)
    client.publish(subject, b"hi")
    client.expect_silence()


@pytest.mark.parametrize("subject", INVALID_TO_PUBLISH)
def test_without_pedantic_no_publish_subject_is_checked(join: Join, subject: bytes) -> None:
    client = join()
    client.publish(subject, b"hi")
    client.expect_silence()


def test_pedantic_and_verbose_give_the_error_then_the_acknowledgement(join: Join) -> None:
    client = join(pedantic=True, verbose=True)
    client.publish(b"ped..a", b"hi")
    client.expect(b"-ERR 'Invalid Publish Subject'\r\n+OK\r\n")
    client.expect_silence()


def test_pedantic_still_routes_the_message(join: Join) -> None:
    subscriber, publisher = join(), join(pedantic=True)
    subscriber.subscribe(b"pedroute.*", b"1")
    publisher.publish(b"pedroute.*", b"hi")
    publisher.expect_error(b"Invalid Publish Subject")
    subscriber.expect_msg(b"pedroute.*", b"1", b"hi")


def test_before_connect_publish_subjects_are_checked(raw: WireClient) -> None:
    raw.send(b"PUB ped..early 0\r\n\r\n")
    raw.expect(b"-ERR 'Invalid Publish Subject'\r\n+OK\r\n")
    raw.expect_silence()


def test_pedantic_does_not_check_replies(join: Join) -> None:
    client = join(pedantic=True)
    client.publish(b"pedreply.a", b"hi", b"bad..reply.*")
    client.expect_silence()


def test_pedantic_checks_hpub_too(join: Join) -> None:
    client = join(pedantic=True, headers=True)
    client.send(b"HPUB ped.* 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    client.expect_error(b"Invalid Publish Subject")
