"""Subjects that belong to the server, and how a refused subject is quoted."""

import pytest

from tests.support.fixtures import Join


@pytest.mark.parametrize("subject", [b"_GR_.a", b"_GR_.a.b.c", b"$GR.a", b"$NRG.a", b"$NRG.a.b"])
def test_publishing_to_a_reserved_subject_is_refused(join: Join, subject: bytes) -> None:
    client = join()
    client.send(b"SUB ", subject, b" 1\r\n")
    client.publish(subject, b"hi")
    client.expect_error(b'Permissions Violation for Publish to "' + subject + b'"')


@pytest.mark.parametrize(
    "subject",
    [
        b"_R_.a",
        b"$JS.ACK.a",
        b"$GNR.a",
        b"$JS.API.a",
        b"_GR",
        b"$G",
        b"$SYS.a",
        b"x._GR_.a",
        b"_gr_.a",
    ],
)
def test_publishing_to_a_similar_subject_is_allowed(join: Join, subject: bytes) -> None:
    client = join()
    client.send(b"SUB ", subject, b" 1\r\n")
    client.publish(subject, b"hi")
    client.expect_msg(subject, b"1", b"hi")
    client.expect_silence()


@pytest.mark.parametrize(
    "reply", [b"_R_.a", b"_R_.a.b", b"$JS.ACK.a", b"$JS.ACK.a.b.c", b"_GR_.a", b"$GR.a"]
)
def test_a_reserved_reply_is_refused_and_the_message_dropped(join: Join, reply: bytes) -> None:
    client = join()
    client.send(b"SUB reserved.reply 1\r\n")
    client.publish(b"reserved.reply", b"hi", reply)
    client.expect_error(b'Permissions Violation for Publish with Reply of "' + reply + b'"')


@pytest.mark.parametrize(
    "reply", [b"_R_", b"$JS.API.a", b"$GNR.a", b"$NRG.a", b"_INBOX.a", b"$SYS.a"]
)
def test_a_similar_reply_is_allowed(join: Join, reply: bytes) -> None:
    client = join()
    client.send(b"SUB allowed.reply 1\r\n")
    client.publish(b"allowed.reply", b"hi", reply)
    client.expect_msg(b"allowed.reply", b"1", b"hi", reply)
    client.expect_silence()


@pytest.mark.parametrize("subject", [b"_GR_.>", b"$GR.>", b"$NRG.>", b"_R_.>", b"$JS.ACK.>"])
def test_subscribing_to_reserved_subjects_is_allowed(join: Join, subject: bytes) -> None:
    client = join(verbose=True)
    client.send(b"SUB ", subject, b" 1\r\nSUB ", subject, b" workers 2\r\n")
    client.expect(b"+OK\r\n+OK\r\n")


def test_the_reserved_queue_name_is_refused(join: Join) -> None:
    client = join()
    client.send(b"SUB reserved.queue _sys_ 1\r\n")
    client.expect_error(
        b'Permissions Violation for Subscription to "reserved.queue" using queue "_sys_"'
    )
    client.publish(b"reserved.queue", b"hi")
    client.expect_silence()


def test_a_refused_reply_leaves_the_connection_working(join: Join) -> None:
    client = join(headers=True)
    client.send(b"SUB works.a 1\r\nHPUB works.a _R_.x 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
    client.expect_error(b'Permissions Violation for Publish with Reply of "_R_.x"')
    client.publish(b"works.a", b"hi")
    client.expect_msg(b"works.a", b"1", b"hi")


QUOTED = [
    (b'a"b', b'a\\"b'),
    (b"a\\b", b"a\\\\b"),
    (b"a'b", b"a'b"),
    (b"\x01", b"\\x01"),
    (b"\x00", b"\\x00"),
    (b"\x7f", b"\\x7f"),
    (b"\x1b[0m", b"\\x1b[0m"),
    (b"\x07\x08\x0b\x0c", b"\\a\\b\\v\\f"),
    ("é日本".encode(), "é日本".encode()),
    (b"\xff", b"\\xff"),
    (b"\xc3", b"\\xc3"),
    (b"a\xc3(", b"a\\xc3("),
    ("\u00a0".encode(), b"\\u00a0"),
    ("\u200b".encode(), b"\\u200b"),
    ("\ufeff".encode(), b"\\ufeff"),
    ("\u0085".encode(), b"\\u0085"),
    ("😀".encode(), "😀".encode()),
    ("\U000e0001".encode(), b"\\U000e0001"),
    (b"\xed\xa0\x80", b"\\xed\\xa0\\x80"),
    (b"%s%d", b"%s%d"),
]


@pytest.mark.parametrize(("raw_text", "quoted"), QUOTED)
def test_a_refused_subject_is_quoted_like_a_go_string(
    join: Join, raw_text: bytes, quoted: bytes
) -> None:
    client = join()
    client.publish(b"_GR_." + raw_text, b"")
    client.expect_error(b'Permissions Violation for Publish to "_GR_.' + quoted + b'"')


@pytest.mark.parametrize(("raw_text", "quoted"), QUOTED[:6])
def test_a_refused_reply_is_quoted_the_same_way(join: Join, raw_text: bytes, quoted: bytes) -> None:
    client = join()
    client.publish(b"x", b"", b"_R_." + raw_text)
    client.expect_error(b'Permissions Violation for Publish with Reply of "_R_.' + quoted + b'"')


@pytest.mark.parametrize(("raw_text", "quoted"), QUOTED[:6])
def test_a_refused_subscription_is_quoted_the_same_way(
    join: Join, raw_text: bytes, quoted: bytes
) -> None:
    client = join()
    client.send(b"SUB ", raw_text, b" _sys_ 1\r\n")
    text = b'Permissions Violation for Subscription to "' + quoted + b'" using queue "_sys_"'
    client.expect_error(text)


def test_system_subjects_are_ordinary_in_an_ordinary_account(join: Join) -> None:
    subscriber, publisher = join(), join()
    subscriber.subscribe(b"$SYS.>", b"1")
    publisher.publish(b"$SYS.ACCOUNT.mine", b"hi")
    subscriber.expect_msg(b"$SYS.ACCOUNT.mine", b"1", b"hi")
