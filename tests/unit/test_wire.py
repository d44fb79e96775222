"""The client protocol parser, rule by rule; every expectation is what nats-server answered."""

import pytest

from shardd import wire
from tests.support.wire_oracle import Limits, Operation, Trouble

LIMIT = Limits().control_line_max
PAYLOAD_LIMIT = Limits().payload_max


def only(data: bytes) -> Operation:
    """The single operation that `data` is, and all of it."""
    operations, consumed, needed, trouble = wire.parse(data)
    assert (consumed, needed, trouble) == (len(data), 0, Trouble.INCOMPLETE)
    (operation,) = operations
    return operation


def refusal(data: bytes, *, headers: bool = True) -> int:
    """Why `data` is refused at its first operation."""
    operations, consumed, needed, trouble = wire.parse(data, headers=headers)
    assert (operations, consumed, needed) == ([], 0, 0)
    return trouble


def is_incomplete(data: bytes) -> bool:
    operations, consumed, _, trouble = wire.parse(data)
    return (operations, consumed, trouble) == ([], 0, Trouble.INCOMPLETE)


# --- each verb ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "operation"),
    [
        (b"PUB a 3\r\nxyz\r\n", ("PUB", b"a", None, None, b"xyz", True, b" 3\r\nxyz\r\n")),
        (b"PUB a r 3\r\nxyz\r\n", ("PUB", b"a", b"r", None, b"xyz", True, b" r 3\r\nxyz\r\n")),
        (b"PUB a 12 1\r\nx\r\n", ("PUB", b"a", b"12", None, b"x", True, b" 12 1\r\nx\r\n")),
        (b"PUB a 1x 1\r\nx\r\n", ("PUB", b"a", b"1x", None, b"x", True, b" 1x 1\r\nx\r\n")),
        (b"PUB a 0\r\n\r\n", ("PUB", b"a", None, None, b"", True, b" 0\r\n\r\n")),
        (b"PUB a 2\r\n\r\n\r\n", ("PUB", b"a", None, None, b"\r\n", True, b" 2\r\n\r\n\r\n")),
        (b"HPUB a 2 3\r\nxyz\r\n", ("HPUB", b"a", None, 2, b"xyz", True, b" 2 3\r\nxyz\r\n")),
        (b"HPUB a r 3 3\r\nxyz\r\n", ("HPUB", b"a", b"r", 3, b"xyz", True, b" r 3 3\r\nxyz\r\n")),
        (b"HPUB a 0 1\r\nx\r\n", ("HPUB", b"a", None, 0, b"x", True, b" 0 1\r\nx\r\n")),
        (b"HPUB a 0 0\r\n\r\n", ("HPUB", b"a", None, 0, b"", True, b" 0 0\r\n\r\n")),
        (b"SUB a 1\r\n", ("SUB", b"a", None, b"1")),
        (b"SUB a.> q sid-x\r\n", ("SUB", b"a.>", b"q", b"sid-x")),
        (b"UNSUB 7\r\n", ("UNSUB", b"7", 0)),
        (b"UNSUB 7 12\r\n", ("UNSUB", b"7", 12)),
        (b"PING\r\n", ("PING",)),
        (b"PONG\r\n", ("PONG",)),
        (b"+OK\r\n", ("+OK",)),
        (b"-ERR 'Stale Connection'\r\n", ("-ERR", b"'Stale Connection'")),
        (b'CONNECT {"a": 1}\r\n', ("CONNECT", b'{"a": 1}')),
        (b'INFO {"a": 1} \r\n', ("INFO", b'{"a": 1}')),
    ],
)
def test_each_verb_gives_its_fields(data: bytes, operation: Operation) -> None:
    assert only(data) == operation
    verb, blank, rest = data.partition(b" ")
    if blank:
        assert only(verb.lower() + blank + rest) == operation
        assert only(verb.swapcase() + blank + rest) == operation
        assert only(verb.title() + blank + rest) == operation


@pytest.mark.parametrize(
    "data",
    [b"PING", b"PONG", b"+OK", b"SUB a 1", b"UNSUB 1 2", b"-ERR x", b"CONNECT {}", b"INFO {}"],
)
def test_a_bare_line_feed_ends_a_line_like_carriage_return_and_line_feed(data: bytes) -> None:
    assert only(data + b"\n") == only(data + b"\r\n")


@pytest.mark.parametrize("line", [b"PING", b"PONG", b"+OK"])
@pytest.mark.parametrize("junk", [b" ", b"X", b" abc", b"\t\x00\xff", b"\r", b"\r\r"])
def test_junk_after_a_verb_without_arguments_is_ignored(line: bytes, junk: bytes) -> None:
    assert only(line + junk + b"\r\n") == (line.decode(),)


@pytest.mark.parametrize("verb", ["CONNECT", "INFO"])
def test_connect_and_info_need_no_blank_before_their_text(verb: str) -> None:
    name = verb.encode()
    assert only(name + b"{}\r\n") == (verb, b"{}")
    assert only(name + b"\t {} \t\r\n") == (verb, b"{}")
    assert only(name + b" {\r}\r\n") == (verb, b"{\r}")
    assert only(name + b"\r\n") == (verb, b"")
    assert only(name + b" \n") == (verb, b"")


@pytest.mark.parametrize(
    "maximum", [b"0", b"-1", b"+1", b"abc", b"1x", b"1234567890", b"0000000001"]
)
def test_an_unsub_maximum_that_is_no_number_means_at_once(maximum: bytes) -> None:
    assert only(b"UNSUB 1 " + maximum + b"\r\n") == ("UNSUB", b"1", 0)


def test_an_unsub_maximum_may_have_nine_digits_with_leading_zeros() -> None:
    assert only(b"UNSUB 1 000000001\r\n") == ("UNSUB", b"1", 1)
    assert only(b"UNSUB 1 999999999\r\n") == ("UNSUB", b"1", 999_999_999)


def test_a_carriage_return_inside_sub_and_unsub_separates_like_a_blank() -> None:
    assert only(b"SUB a\r1\r\n") == ("SUB", b"a", None, b"1")
    assert only(b"SUB \ra 1\r\r\n") == ("SUB", b"a", None, b"1")
    assert only(b"UNSUB z\r1\r\n") == ("UNSUB", b"z", 1)


@pytest.mark.parametrize(
    "name", [b"a\x00b", b"\xff\xfe", b"a\x0bb", b"\x1f", b"..", b"a.*", b"\x7f"]
)
def test_names_may_hold_any_byte_but_blanks_and_line_ends(name: bytes) -> None:
    tail = b" " + name + b" 1\r\nx\r\n"
    expected = ("PUB", name, name, None, b"x", True, tail)
    assert only(b"PUB " + name + tail) == expected
    assert only(b"SUB " + name + b" " + name + b"\r\n") == ("SUB", name, None, name)


# --- what can be delivered as it stands -----------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"PUB a r 1\r\n",
        b"pub  a r 1\r\n",
        b"PUB\ta r 1\r\n",
        b"PUB \t a r 1\r\n",
        b"HPUB a r 1 1\r\n",
        b"HPUB\ta 0 1\r\n",
    ],
)
def test_a_publish_is_canonical_when_all_after_the_subject_is(line: bytes) -> None:
    operation = only(line + b"x\r\n")
    subject, payload, is_canonical, tail = operation[1], *operation[4:]
    assert (subject, payload, is_canonical) == (b"a", b"x", True)
    assert tail == line[line.index(b"a") + 1 :] + b"x\r\n"


@pytest.mark.parametrize(
    "line",
    [
        b"PUB a  1\r\n",
        b"PUB a\t1\r\n",
        b"PUB a 1 \r\n",
        b"PUB a 1\t\r\n",
        b"PUB a 1\n",
        b"PUB a 01\r\n",
        b"PUB a 000000001\r\n",
        b"PUB a  r 1\r\n",
        b"PUB a\tr 1\r\n",
        b"PUB a r  1\r\n",
        b"PUB a r\t1\r\n",
        b"PUB a r 01\r\n",
        b"HPUB a  1 1\r\n",
        b"HPUB a 1\t1\r\n",
        b"HPUB a 01 1\r\n",
        b"HPUB a 1 01\r\n",
        b"HPUB a 00 1\r\n",
        b"HPUB a 1 1 \r\n",
        b"HPUB a r 1 1 \r\n",
        b"HPUB a r 1 1 \n",
        b"HPUB a 1 1\n",
    ],
)
def test_a_publish_with_odd_blanks_zeros_or_line_end_is_not_canonical(line: bytes) -> None:
    operation = only(line + b"x\r\n")
    subject, payload, is_canonical = operation[1], *operation[4:6]
    assert (subject, payload, is_canonical) == (b"a", b"x", False)


def test_two_zeros_are_the_size_zero_and_not_canonical() -> None:
    assert only(b"PUB a 00\r\n\r\n") == ("PUB", b"a", None, None, b"", False, b" 00\r\n\r\n")


# --- incomplete ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        b"PUB a r 3\r\nxyz\r\n",
        b"HPUB a r 2 3\r\nxyz\r\n",
        b"PUB \t a 0\n\r\n",
        b"SUB a q 1\r\n",
        b"UNSUB 1 2\r\n",
        b"PING\r\n",
        b"PONG\r\n",
        b"+OK\r\n",
        b"-ERR 'x'\r\n",
        b"CONNECT {}\r\n",
        b"INFO {}\r\n",
    ],
)
def test_every_part_of_an_operation_is_incomplete(data: bytes) -> None:
    for length in range(len(data)):
        assert is_incomplete(data[:length]), data[:length]
    assert only(data)


def test_needed_is_known_from_the_end_of_the_control_line_to_the_end_of_the_payload() -> None:
    line, payload = b"PUB a 3\r\n", b"xyz\r\n"
    whole = line + payload
    for length in range(len(line)):
        assert wire.parse(whole[:length])[2] == 0
    for length in range(len(line), len(whole)):
        assert wire.parse(whole[:length])[2] == len(whole)
    assert wire.parse(b"HPUB a 2 10\nxy")[2] == len(b"HPUB a 2 10\n") + 10 + 2


def test_needed_counts_from_the_first_byte_that_was_not_consumed() -> None:
    operations, consumed, needed, trouble = wire.parse(b"PING\r\nPUB a 3\r\n")
    assert (operations, consumed, trouble) == ([("PING",)], 6, Trouble.INCOMPLETE)
    assert needed == len(b"PUB a 3\r\nxyz\r\n")


# --- refused ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        *(b"X", b"\r", b"\n", b" ", b"\x00", b"\xff", b"\x10UB a 0\r\n", b"\x0bOK\r\n", b"\rERR x"),
        *(b"PX", b"PUX", b"PUBX", b"PUB\r", b"PUB\n", b"PUB\x00a 0\r\n\r\n", b"PIX", b"PINX"),
        *(b"HX", b"HM", b"HPX", b"HPUBX", b"SX", b"SUBX", b"SUB\r", b"UX", b"UNSUBX", b"UNSUB\r"),
        *(b"POX", b"CX", b"CONNECX", b"IX", b"INFX", b"+X", b"+OX", b"-X", b"-ERX", b"-ERRX"),
        *(b"-ERR\r\n", b"UNSUB\r\n", b"SUB\n"),
    ],
)
def test_what_no_verb_begins_with_is_unknown_at_once(data: bytes) -> None:
    assert refusal(data) == Trouble.UNKNOWN_OPERATION


@pytest.mark.parametrize(
    "line", [b"MSG a 1 0", b"HMSG a 1 0 0", b"RS+ $G a", b"RS- $G a", b"RMSG $G a 0", b"LS+ a"]
)
def test_the_verbs_of_servers_are_unknown(line: bytes) -> None:
    assert refusal(line + b"\r\n\r\n") == Trouble.UNKNOWN_OPERATION


@pytest.mark.parametrize(
    "end", [b"\n", b"X", b"\rX", b"\n\r", b"\r\r", b"X\r\n", b" \r\n", b"\x00\r\n"]
)
@pytest.mark.parametrize("start", [b"PUB a 3\r\nxyz", b"PUB a 3\nxyz", b"HPUB a 1 3\r\nxyz"])
def test_a_payload_not_followed_by_its_line_end_is_refused_at_the_first_wrong_byte(
    start: bytes, end: bytes
) -> None:
    assert refusal(start + end) == Trouble.UNKNOWN_OPERATION
    assert refusal(start + end + b"PING\r\n" * 3) == Trouble.UNKNOWN_OPERATION
    if end[:1] != b"\r":
        assert refusal(start + end[:1]) == Trouble.UNKNOWN_OPERATION


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            b"",
            b" ",
            b"a",
            b"a b c 1",
            b"a b c d e f 1",
            b"a x",
            b"a -1",
            b"a +1",
            b"a 0x1",
            b"a 1x",
        ),
        *(b"a r 1x", b"a 1.0", b"a 1234567890", b"a 0000000001", b"a r 0000000001", b"a 9" * 9),
        *(b"\ra 1", b"a\r 1", b"a \r1", b"a 1\r", b"a 1\r ", b"a 1\rx", b"a\rb 1", b"a 1\x0b"),
    ],
)
def test_bad_arguments_of_pub_close_without_a_word(arguments: bytes) -> None:
    assert refusal(b"PUB " + arguments + b"\r\nx\r\n") == Trouble.BAD_ARGUMENTS


@pytest.mark.parametrize(
    "arguments",
    [
        *(
            b"",
            b"a",
            b"a 1",
            b"a r x 1",
            b"a b c 1 1",
            b"a b c d e 1 1",
            b"a x 1",
            b"a 1 x",
            b"a 4 3",
        ),
        *(b"a 1 1234567890", b"a 1234567890 1", b"a -1 1", b"a 1\r 1", b"a 2000001 2000000"),
        *(b"a b c 1 1 ", b"a b c 1 1 \r", b"a r 1 1 x"),
    ],
)
def test_bad_arguments_of_hpub_close_without_a_word(arguments: bytes) -> None:
    assert refusal(b"HPUB " + arguments + b"\r\nx\r\n") == Trouble.BAD_ARGUMENTS


@pytest.mark.parametrize(
    "line",
    [
        *(b"SUB ", b"SUB a", b"SUB a b c d", b"SUB a b c d e f", b"SUB a\x0b1", b"SUB a 1\r2\r3"),
        *(b"UNSUB ", b"UNSUB \t ", b"UNSUB a b c", b"UNSUB a b c d e f"),
    ],
)
def test_bad_arguments_of_sub_and_unsub_close_without_a_word(line: bytes) -> None:
    assert refusal(line + b"\r\n") == Trouble.BAD_ARGUMENTS


def test_a_line_feed_ends_the_line_even_before_the_first_argument() -> None:
    assert refusal(b"PUB \na 0\r\n\r\n") == Trouble.BAD_ARGUMENTS
    assert refusal(b"SUB \na 1\r\n") == Trouble.BAD_ARGUMENTS


@pytest.mark.parametrize("arguments", [b"a 1 2", b"a", b"", b"a 0 2000000"])
def test_hpub_without_headers_is_refused_when_its_line_is_complete(arguments: bytes) -> None:
    assert refusal(b"HPUB " + arguments + b"\r\n", headers=False) == Trouble.HEADERS_NOT_ALLOWED
    assert wire.parse(b"HPUB " + arguments + b"\r", headers=False) == ([], 0, 0, 0)


def test_operations_before_a_refused_one_are_given() -> None:
    data = b"PING\r\nPUB a 1\r\nx\r\nNO\r\nPING\r\n"
    operations, consumed, _, trouble = wire.parse(data)
    assert [operation[0] for operation in operations] == ["PING", "PUB"]
    assert (consumed, trouble) == (data.index(b"NO"), Trouble.UNKNOWN_OPERATION)


# --- limits -------------------------------------------------------------------------------------


def test_the_payload_limit_is_checked_before_the_payload_arrives() -> None:
    assert is_incomplete(b"PUB a %d\r\n" % PAYLOAD_LIMIT)
    assert is_incomplete(b"PUB a %d\r" % (PAYLOAD_LIMIT + 1))
    for line in (b"PUB a %d", b"PUB a r %d", b"HPUB a 1 %d"):
        assert refusal(line % (PAYLOAD_LIMIT + 1) + b"\r\n") == Trouble.PAYLOAD_TOO_LARGE
        assert refusal(line % 999_999_999 + b"\n") == Trouble.PAYLOAD_TOO_LARGE


def test_a_complete_payload_over_the_limit_is_refused_too() -> None:
    data = b"PUB a 4\r\nwxyz\r\n"
    assert wire.parse(data, payload_max=4)[1] == len(data)
    assert wire.parse(data, payload_max=3) == ([], 0, 0, Trouble.PAYLOAD_TOO_LARGE)
    assert wire.parse(b"PUB a 0\r\n\r\n", payload_max=0)[3] == Trouble.INCOMPLETE


def test_a_negative_payload_limit_is_none() -> None:
    operations, consumed, needed, trouble = wire.parse(b"PUB a 999999999\r\nx", payload_max=-1)
    assert (operations, consumed, trouble) == ([], 0, Trouble.INCOMPLETE)
    assert needed == len(b"PUB a 999999999\r\n") + 999_999_999 + 2


FILLED = [
    (b"PUB ", b" 1", b"x\r\n"),
    (b"PUB ", b" r 1", b"x\r\n"),
    (b"PUB ", b" 1  ", b"x\r\n"),
    (b"HPUB ", b" 0 1", b"x\r\n"),
    (b"SUB ", b" 1", b""),
    (b"UNSUB ", b"", b""),
    (b"CONNECT ", b"", b""),
    (b"INFO ", b"", b""),
    (b"-ERR ", b"", b""),
    (b"PING", b"", b""),
    (b"PONG", b"", b""),
    (b"+OK", b"", b""),
]


@pytest.mark.parametrize(("verb", "last", "payload"), FILLED)
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_the_argument_part_may_be_as_long_as_the_limit_and_no_longer(
    verb: bytes, last: bytes, payload: bytes, end: bytes
) -> None:
    longest = b"a" * (LIMIT - len(last)) + last
    for blanks in (b"", b"" if verb[-1:].isalpha() else b" \t "):
        assert only(verb + blanks + longest + end + payload)
        assert refusal(verb + blanks + b"a" + longest + end + payload) == (
            Trouble.CONTROL_LINE_TOO_LONG
        )


@pytest.mark.parametrize(("verb", "last", "payload"), FILLED)
def test_an_argument_part_over_the_limit_is_refused_before_its_line_feed_comes(
    verb: bytes, last: bytes, payload: bytes
) -> None:
    assert is_incomplete(verb + b"a" * LIMIT)
    assert is_incomplete(verb + b"a" * LIMIT + b"\r")
    for more in (b"a", b"\ra", b"\r\r", b"a\r", b"a" * 100_000):
        assert refusal(verb + b"a" * LIMIT + more) == Trouble.CONTROL_LINE_TOO_LONG


def test_blanks_before_the_arguments_are_bounded_by_the_limit_of_their_own() -> None:
    assert only(b"PUB" + b" " * LIMIT + b"a 0\r\n\r\n")[1] == b"a"
    assert is_incomplete(b"PUB" + b"\t" * LIMIT)
    assert refusal(b"PUB" + b" " * (LIMIT + 1)) == Trouble.CONTROL_LINE_TOO_LONG
    assert refusal(b"SUB" + b" " * (LIMIT + 1) + b"a 1\r\n") == Trouble.CONTROL_LINE_TOO_LONG


def test_a_line_that_is_too_long_is_too_long_before_it_is_anything_else() -> None:
    assert refusal(b"PUB " + b"a" * 5000 + b"\r\n") == Trouble.CONTROL_LINE_TOO_LONG
    long = b"HPUB " + b"a" * 5000 + b"\r\n"
    assert refusal(long, headers=False) == Trouble.CONTROL_LINE_TOO_LONG


def test_the_largest_control_line_limit_does_not_overflow() -> None:
    data = b"PUB a 1\r\nx\r\nSUB a"
    operations, consumed, _, trouble = wire.parse(data, control_line_max=2**64 - 1)
    assert (len(operations), consumed, trouble) == (1, data.index(b"SUB"), Trouble.INCOMPLETE)


def test_the_benchmark_door_counts_every_operation() -> None:
    assert wire.parse_repeatedly(b"PUB a 1\r\nx\r\nPING\r\n" * 5, 3) == 30
