"""The lexical rules of the client protocol: verbs, blanks, line ends, sizes, splitting."""

import pytest

from tests.support.fixtures import Join
from tests.support.wireclient import WireClient

UNKNOWN = b"Unknown Protocol Operation"


@pytest.mark.parametrize("verbs", [b"SUB PUB PING", b"sub pub ping", b"sUb Pub pInG"])
def test_verbs_are_case_insensitive(join: Join, verbs: bytes) -> None:
    sub, pub, ping = verbs.split()
    client = join()
    client.send(sub, b" case.a 1\r\n", pub, b" case.a 2\r\nhi\r\n", ping, b"\r\n")
    client.expect(b"MSG case.a 1 2\r\nhi\r\nPONG\r\n")


def test_connect_and_unsub_and_pong_are_case_insensitive(raw: WireClient) -> None:
    raw.send(b'cOnNeCt {"verbose":false}\r\nsub case.b 1\r\nuNsUb 1\r\npOnG\r\n')
    raw.send(b"PUB case.b 2\r\nhi\r\n")
    raw.expect_silence()


def test_hpub_is_case_insensitive(join: Join) -> None:
    client = join(headers=True)
    client.send(b"SUB case.c 1\r\nhPuB case.c 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")
    client.expect(b"HMSG case.c 1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n")


@pytest.mark.parametrize(
    "line",
    [
        b"PUB blank.a 2",
        b"PUB  blank.a  2",
        b"PUB\tblank.a\t2",
        b"PUB \t blank.a\t \t2",
        b"PUB blank.a 2 ",
        b"PUB blank.a 2\t \t",
    ],
)
def test_arguments_are_separated_by_runs_of_blanks_and_tabs(join: Join, line: bytes) -> None:
    client = join()
    client.send(b"SUB\t  blank.a \t 1 \t\r\n", line, b"\r\nhi\r\n")
    client.expect(b"MSG blank.a 1 2\r\nhi\r\n")
    client.send(b"UNSUB  \t1\t \r\nPUB blank.a 2\r\nhi\r\n")
    client.expect_silence()


def test_a_blank_before_the_verb_is_an_error(raw: WireClient) -> None:
    raw.send(b" PING\r\n")
    raw.expect_fatal(UNKNOWN)


def test_a_bare_line_feed_ends_a_control_line(join: Join) -> None:
    client = join()
    client.send(b"SUB lf.a 1\nPUB lf.a 2\nhi\r\nPING\nUNSUB 1\nPUB lf.a 0\n\r\nPING\n")
    client.expect(b"MSG lf.a 1 2\r\nhi\r\nPONG\r\nPONG\r\n")


def test_connect_may_end_in_a_bare_line_feed(raw: WireClient) -> None:
    raw.send(b"CONNECT {}\nPING\n")
    raw.expect(b"+OK\r\nPONG\r\n")


@pytest.mark.parametrize("end", [b"\n", b"\n\r", b"\r\r", b"\rX", b"X\r\n", b"  \r\n", b"PING\r\n"])
def test_a_payload_must_be_followed_by_cr_lf(join: Join, end: bytes) -> None:
    client = join()
    client.send(b"PUB end.a 2\r\nhi", end, b"PING\r\n")
    client.expect_fatal(UNKNOWN)


@pytest.mark.parametrize("line", [b"\r\n", b"\n"])
def test_an_empty_line_is_an_error(raw: WireClient, line: bytes) -> None:
    raw.send(line)
    raw.expect_fatal(UNKNOWN)


@pytest.mark.parametrize("line", [b"PING abc", b"ping \t 1 2 3", b"PINGPONG"])
def test_what_follows_ping_up_to_the_end_of_the_line_is_ignored(
    raw: WireClient, line: bytes
) -> None:
    raw.send(line, b"\r\n")
    raw.expect(b"PONG\r\n")
    raw.expect_silence()


@pytest.mark.parametrize("line", [b"PONG", b"PONG abc", b"+OK", b"+ok junk", b"INFO {}"])
def test_lines_that_only_a_server_would_send_are_ignored(raw: WireClient, line: bytes) -> None:
    raw.send(line, b"\r\n")
    raw.expect_silence()


def test_err_from_a_client_closes_its_connection_silently(raw: WireClient) -> None:
    raw.send(b"-ERR 'I give up'\r\n")
    raw.expect_closed()


@pytest.mark.parametrize("size", [b"2", b"02", b"000000002"])
def test_a_size_has_up_to_nine_digits(join: Join, size: bytes) -> None:
    client = join()
    client.send(b"SUB size.a 1\r\nPUB size.a ", size, b"\r\nhi\r\n")
    # nats-server relays the digits as they came; what they mean is all that a client can see.
    client.expect(b"MSG size.a 1 ")
    assert int(client.expect_line()) == 2
    client.expect(b"hi\r\n")
    client.expect_silence()


@pytest.mark.parametrize("size", [b"0000000002", b"+2", b"-2", b"0x2", b"2a", b"two", b"2.0"])
def test_a_size_that_is_no_number_closes_silently(join: Join, size: bytes) -> None:
    client = join()
    client.send(b"PUB size.b ", size, b"\r\nhi\r\n")
    client.expect_closed()


@pytest.mark.parametrize("sid", [b"1", b"007", b"abc", b"inbox-7.x", b"\xc3\xa9", b"-1", b"*"])
def test_a_sid_is_any_token(join: Join, sid: bytes) -> None:
    client = join()
    client.send(b"SUB sid.a ", sid, b"\r\nPUB sid.a 0\r\n\r\n")
    client.expect(b"MSG sid.a ", sid, b" 0\r\n\r\n")
    client.send(b"UNSUB ", sid, b"\r\nPUB sid.a 0\r\n\r\n")
    client.expect_silence()


@pytest.mark.parametrize(
    "payload", [b"", b"\r\n", b"\r\n\r\n", b"PUB split.x 2\r\nhi\r\n", bytes(range(256)), b"\0"]
)
def test_a_payload_is_relayed_byte_for_byte(join: Join, payload: bytes) -> None:
    client = join()
    client.send(b"SUB bytes.a 1\r\n")
    client.publish(b"bytes.a", payload)
    client.expect_msg(b"bytes.a", b"1", payload)
    client.expect_silence()


SCRIPT = (
    b'CONNECT {"verbose":true,"headers":true}\r\n'
    b"SUB split.* 1\r\nSUB split.> workers q1\r\n"
    b"PUB split.a 5\r\nhello\r\nPUB split.b reply.to 0\r\n\r\n"
    b"HPUB split.c 17 19\r\nNATS/1.0\r\nA:b\r\n\r\nhi\r\n"
    b"UNSUB q1\r\nUNSUB 1 4\r\nPUB split.a 1\r\nx\r\nPUB split.a 1\r\ny\r\nPING\r\n"
)


def test_a_script_may_arrive_one_byte_at_a_time(raw: WireClient) -> None:
    raw.send_split(SCRIPT)
    expect_script(raw)


def test_a_script_may_arrive_in_one_segment(raw: WireClient) -> None:
    raw.send(SCRIPT)
    expect_script(raw)


def expect_script(client: WireClient) -> None:
    """What the script makes the server send; where acknowledgements fall between is its choice."""
    answer = client.read_until(b"PONG\r\n")
    assert answer.count(b"+OK\r\n") == 10
    messages = answer.replace(b"+OK\r\n", b"").removesuffix(b"PONG\r\n")
    for sid in (b"1", b"q1"):
        for message in (
            b"MSG split.a %s 5\r\nhello\r\n" % sid,
            b"MSG split.b %s reply.to 0\r\n\r\n" % sid,
            b"HMSG split.c %s 17 19\r\nNATS/1.0\r\nA:b\r\n\r\nhi\r\n" % sid,
        ):
            assert messages.count(message) == 1, answer
            messages = messages.replace(message, b"")
    assert messages == b"MSG split.a 1 1\r\nx\r\n"
    client.expect_silence()


@pytest.mark.parametrize("cut", range(1, 27))
def test_a_message_may_be_cut_anywhere(join: Join, cut: int) -> None:
    message = b"PUB cut.a reply 7\r\n12345\r\n\r\n"
    client = join()
    client.send(b"SUB cut.a 1\r\n", message[:cut])
    client.send(message[cut:])
    client.expect(b"MSG cut.a 1 reply 7\r\n12345\r\n\r\n")
    client.expect_silence()


def test_many_control_lines_may_share_a_segment(join: Join) -> None:
    client = join()
    client.send(b"PING\r\n" * 1000)
    client.expect(b"PONG\r\n" * 1000)
    client.send(b"SUB many.a 1\r\n", b"PUB many.a 3\r\nabc\r\n" * 1000)
    client.expect(b"MSG many.a 1 3\r\nabc\r\n" * 1000)
    client.expect_silence()
