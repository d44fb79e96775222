"""The 503 answer to a request that nobody could get, and each condition for it."""

import pytest

from tests.support.fixtures import Join
from tests.support.wireclient import WireClient


def no_responders(reply: bytes, sid: bytes, subject: bytes) -> bytes:
    """The answer as nats-server 2.12 and later write it."""
    block = b"NATS/1.0 503\r\nNats-Subject: " + subject + b"\r\n\r\n"
    assert len(block) == 32 + len(subject)
    return b"HMSG %s %s %d %d\r\n%s\r\n" % (reply, sid, len(block), len(block), block)


@pytest.fixture
def requester(join: Join) -> WireClient:
    """A connection that wants to hear that nobody responds."""
    return join(headers=True, no_responders=True)


@pytest.mark.parametrize("subject", [b"nobody", b"nobody.a.b", b"n" * 900, b"no\xc3\xa9", b"no.*"])
def test_a_request_that_nobody_gets_is_answered_503(requester: WireClient, subject: bytes) -> None:
    requester.send(b"SUB nr.inbox 7\r\n")
    requester.publish(subject, b"hi", b"nr.inbox")
    requester.expect(no_responders(b"nr.inbox", b"7", subject))
    requester.expect_silence()


def test_the_answer_is_these_bytes(requester: WireClient) -> None:
    requester.send(b"SUB nr.exact 1\r\nPUB foo nr.exact 0\r\n\r\n")
    requester.expect(b"HMSG nr.exact 1 35 35\r\nNATS/1.0 503\r\nNats-Subject: foo\r\n\r\n\r\n")
    requester.expect_silence()


def test_a_request_with_headers_is_answered_too(requester: WireClient) -> None:
    requester.send(b"SUB nr.hpub 1\r\nHPUB nobody nr.hpub 12 12\r\nNATS/1.0\r\n\r\n\r\n")
    requester.expect(no_responders(b"nr.hpub", b"1", b"nobody"))
    requester.expect_silence()


def test_a_wildcard_inbox_hears_it(requester: WireClient) -> None:
    requester.send(b"SUB nr.wild.* 1\r\n")
    requester.publish(b"nobody", b"", b"nr.wild.99")
    requester.expect(no_responders(b"nr.wild.99", b"1", b"nobody"))
    requester.expect_silence()


def test_one_answer_comes_for_several_inboxes(requester: WireClient) -> None:
    requester.send(b"SUB nr.several 1\r\nSUB nr.several 2\r\nSUB nr.* 3\r\n")
    requester.publish(b"nobody", b"", b"nr.several")
    line = requester.expect_line()
    assert line.split()[2] in (b"1", b"2", b"3")
    requester.read_until(b"\r\n\r\n\r\n")
    requester.expect_silence()


def test_without_a_reply_there_is_no_answer(requester: WireClient) -> None:
    requester.send(b"SUB nr.noreply 1\r\nPUB nobody 0\r\n\r\n")
    requester.expect_silence()


def test_without_an_inbox_there_is_no_answer(requester: WireClient) -> None:
    requester.publish(b"nobody", b"", b"nr.nosuchinbox")
    requester.expect_silence()


def test_an_inbox_of_another_connection_does_not_count(join: Join, requester: WireClient) -> None:
    other = join(headers=True, no_responders=True)
    other.subscribe(b"nr.foreign", b"1")
    requester.publish(b"nobody", b"", b"nr.foreign")
    requester.expect_silence()
    other.expect_silence()


def test_an_inbox_in_a_queue_group_does_not_count(requester: WireClient) -> None:
    requester.send(b"SUB nr.queue workers 1\r\n")
    requester.publish(b"nobody", b"", b"nr.queue")
    requester.expect_silence()


@pytest.mark.parametrize("options", [{"headers": True}, {"headers": True, "no_responders": False}])
def test_without_the_option_there_is_no_answer(join: Join, options: dict[str, bool]) -> None:
    client = join(**options)
    client.send(b"SUB nr.option 1\r\n")
    client.publish(b"nobody", b"", b"nr.option")
    client.expect_silence()


def test_a_subscriber_elsewhere_is_a_responder(join: Join, requester: WireClient) -> None:
    responder = join()
    responder.subscribe(b"nr.somebody", b"1")
    requester.send(b"SUB nr.inbox.b 1\r\n")
    requester.publish(b"nr.somebody", b"?", b"nr.inbox.b")
    responder.expect_msg(b"nr.somebody", b"1", b"?", b"nr.inbox.b")
    requester.expect_silence()


def test_a_queue_member_elsewhere_is_a_responder(join: Join, requester: WireClient) -> None:
    responder = join()
    responder.subscribe(b"nr.member", b"1", b"workers")
    requester.send(b"SUB nr.inbox.c 1\r\n")
    requester.publish(b"nr.member", b"?", b"nr.inbox.c")
    responder.expect_msg(b"nr.member", b"1", b"?", b"nr.inbox.c")
    requester.expect_silence()


def test_an_own_subscription_is_a_responder(requester: WireClient) -> None:
    requester.send(b"SUB nr.inbox.d 1\r\nSUB nr.mine 2\r\n")
    requester.publish(b"nr.mine", b"?", b"nr.inbox.d")
    requester.expect_msg(b"nr.mine", b"2", b"?", b"nr.inbox.d")
    requester.expect_silence()


def test_an_own_subscription_without_echo_is_nobody(join: Join) -> None:
    client = join(headers=True, no_responders=True, echo=False)
    client.send(b"SUB nr.inbox.e 1\r\nSUB nr.quiet 2\r\n")
    client.publish(b"nr.quiet", b"?", b"nr.inbox.e")
    client.expect(no_responders(b"nr.inbox.e", b"1", b"nr.quiet"))
    client.expect_silence()


def test_each_request_is_answered(requester: WireClient) -> None:
    requester.send(b"SUB nr.each.* 1\r\n")
    for number in range(100):
        requester.publish(b"nobody", b"", b"nr.each.%d" % number)
    for number in range(100):
        requester.expect(no_responders(b"nr.each.%d" % number, b"1", b"nobody"))
    requester.expect_silence()


def test_the_answer_does_not_count_towards_a_maximum(requester: WireClient) -> None:
    requester.send(b"SUB nr.max 1\r\nUNSUB 1 1\r\n")
    for _ in range(3):
        requester.publish(b"nobody", b"", b"nr.max")
        requester.expect(no_responders(b"nr.max", b"1", b"nobody"))
    requester.publish(b"nr.max", b"counts")
    requester.expect_msg(b"nr.max", b"1", b"counts")
    requester.publish(b"nobody", b"", b"nr.max")
    requester.expect_silence()


def test_in_verbose_mode_the_publish_is_acknowledged_as_well(join: Join) -> None:
    client = join(headers=True, no_responders=True, verbose=True)
    client.send(b"SUB nr.verbose 1\r\nPUB nobody nr.verbose 0\r\n\r\nPING\r\n")
    answer = client.read_until(b"PONG\r\n")
    assert answer.count(b"+OK\r\n") == 2
    wanted = no_responders(b"nr.verbose", b"1", b"nobody")
    assert answer.replace(b"+OK\r\n", b"") == wanted + b"PONG\r\n"


def test_a_responder_that_left_is_nobody_after_its_pong(join: Join, requester: WireClient) -> None:
    responder = join()
    responder.subscribe(b"nr.left", b"1")
    requester.send(b"SUB nr.inbox.f 1\r\n")
    requester.publish(b"nr.left", b"?", b"nr.inbox.f")
    responder.expect_msg(b"nr.left", b"1", b"?", b"nr.inbox.f")
    responder.send(b"UNSUB 1\r\n")
    responder.ping()
    for _ in range(10_000):
        requester.send(b"PUB nr.left nr.inbox.f 0\r\n\r\nPING\r\n")
        if requester.read_until(b"PONG\r\n") != b"PONG\r\n":
            break
    else:
        pytest.fail("a subscription that was given up still counts as a responder")
    responder.expect_silence()
