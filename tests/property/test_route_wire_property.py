"""The route parser against its plain-Python twin, and whole input against split input.

Inputs are streams that follow the grammar (with its odd corners), such streams with bytes changed,
and letters of the protocol in any order; each under limits of a route, of one for a single account,
and such that small inputs meet them.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd.routes import wire
from tests.support import route_oracle
from tests.support.route_oracle import Limits, Trouble
from tests.support.wire_oracle import Result, parse_in_pieces

SETTINGS = settings(deadline=None, max_examples=400)
SPLIT_SETTINGS = settings(deadline=None, max_examples=120)


def parse(data: bytes, limits: Limits) -> Result:
    operations, consumed, trouble, needed = wire.parse(
        data,
        control_line_max=limits.control_line_max,
        payload_max=limits.payload_max,
        has_account=limits.has_account,
    )
    return Result(operations, consumed, needed if trouble == 0 else 0, trouble)


def without_needed(result: Result) -> Result:
    """What is needed is a hint about memory, which depends on where the input was split."""
    return Result(result.operations, result.consumed, 0, result.trouble)


# --- inputs -------------------------------------------------------------------------------------

blanks = st.sampled_from([b" ", b" ", b" ", b" ", b"\t", b"  ", b" \r "])
line_ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])
names = st.one_of(
    st.sampled_from([b"$G", b"A", b"foo.bar", b"_INBOX.x.1", b"foo.*", b">", b"7", b"|", b"+"]),
    st.binary(min_size=1, max_size=8).map(
        lambda raw: bytes(byte for byte in raw if byte not in b" \t\r\n") or b"n"
    ),
)
payloads = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"PING\r\n", b"RS+ $G a\r\n"])
)
numbers = st.sampled_from([b"1", b"2", b"0", b"-1", b"07", b"x", b"999999999", b"1234567890"])


@st.composite
def lines(draw: st.DrawFn, words: list[bytes]) -> bytes:
    """Words as a line: blanks between them, and sometimes behind."""
    fold = draw(st.sampled_from([bytes.upper, bytes.upper, bytes.lower, bytes.title]))
    line = fold(words[0]) + b"".join(draw(blanks) + word for word in words[1:])
    return line + draw(st.sampled_from([b"", b"", b"", b" ", b"\t"])) + draw(line_ends)


@st.composite
def messages(draw: st.DrawFn) -> bytes:
    verb = draw(st.sampled_from([b"RMSG", b"RMSG", b"HMSG", b"HMSG", b"LMSG"]))
    payload = draw(payloads)
    words = [verb, *([b"origin"] if verb == b"LMSG" else []), draw(names), draw(names)]
    forms = [[], [draw(names)], [b"|"], [b"+", draw(names)], [b"+"]]
    form = draw(st.sampled_from(forms))
    words += form
    if form[:1] in ([b"|"], [b"+"]):
        words += draw(st.lists(names, max_size=3))
    if verb == b"HMSG":
        words.append(b"%d" % draw(st.integers(0, len(payload) + draw(st.sampled_from([0, 0, 1])))))
    wrong = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 1, -1]))
    words.append(b"%0*d" % (draw(st.sampled_from([1, 1, 1, 2])), max(len(payload) + wrong, 0)))
    return draw(lines(words)) + payload + b"\r\n"


@st.composite
def interest(draw: st.DrawFn) -> bytes:
    verb = draw(st.sampled_from([b"RS+", b"RS+", b"RS-", b"LS+", b"LS-"]))
    words = [verb, *draw(st.lists(names, min_size=0, max_size=4))]
    return draw(lines([*words, *draw(st.lists(numbers, max_size=1))]))


@st.composite
def others(draw: st.DrawFn) -> bytes:
    verbs = [b"PING", b"PONG", b"INFO", b"CONNECT", b"+OK", b"-ERR", b"A+", b"A-", b"SUB", b"UNSUB"]
    text = draw(st.one_of(st.binary(max_size=12), st.just(b"{}"), st.just(b"'x'")))
    return draw(lines([draw(st.sampled_from(verbs)), *draw(st.sampled_from([[], [text]]))]))


streams = st.lists(st.one_of(messages(), interest(), others()), max_size=5).map(b"".join)


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(streams))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 3))
        added = st.sampled_from([b"", b" ", b"\r", b"\n", b"\r\n", b"\t", b"0", b"\x00", b"RS+ "])
        data[position : position + removed] = draw(added)
    return bytes(data)


letters = st.lists(
    st.sampled_from(
        [b"RMSG ", b"HMSG ", b"RS+ ", b"RS- ", b"LS+ ", b"PING", b"INFO", b"-ERR ", b"A+", b" | "]
        + [bytes([byte]) for byte in b"RSHLMGPINAUBKE+-rs.  \t\r\n\n\n00123|K\x00\x0b\x80"]
    ),
    max_size=30,
).map(b"".join)

spoilt = st.one_of(mutated_streams(), letters, st.binary(max_size=60))
inputs = st.one_of(streams, spoilt)
limits_choices = st.one_of(
    st.just(Limits()),
    st.just(Limits(has_account=False)),
    st.builds(
        Limits,
        # A line has room for the longest verb: below that, too long and unknown are one.
        control_line_max=st.sampled_from([7, 8, 9, 12, 20, 65_536]),
        payload_max=st.sampled_from([0, 1, 20, 40, 1_048_576]),
        has_account=st.booleans(),
    ),
)


# --- properties ---------------------------------------------------------------------------------


@SETTINGS
@given(streams, limits_choices)
def test_streams_of_the_grammar_give_what_the_oracle_gives(data: bytes, limits: Limits) -> None:
    assert parse(data, limits) == route_oracle.parse(data, limits)


@SETTINGS
@given(spoilt, limits_choices)
def test_spoilt_and_random_input_gives_what_the_oracle_gives(data: bytes, limits: Limits) -> None:
    assert parse(data, limits) == route_oracle.parse(data, limits)


@SPLIT_SETTINGS
@given(inputs, limits_choices)
def test_input_split_at_any_byte_gives_what_the_whole_gives(data: bytes, limits: Limits) -> None:
    whole = without_needed(parse(data, limits))
    for position in range(len(data) + 1):
        pieces = [data[:position], data[position:]]
        found = parse_in_pieces(lambda tail: parse(tail, limits), pieces)
        assert without_needed(found) == whole, position


@SPLIT_SETTINGS
@given(inputs, limits_choices)
def test_input_byte_by_byte_gives_what_the_whole_gives(data: bytes, limits: Limits) -> None:
    pieces = [data[index : index + 1] for index in range(len(data))]
    found = parse_in_pieces(lambda tail: parse(tail, limits), pieces)
    assert without_needed(found) == without_needed(parse(data, limits))


@SETTINGS
@given(inputs, limits_choices, st.binary(max_size=20))
def test_a_refusal_never_changes_when_more_arrives(
    data: bytes, limits: Limits, more: bytes
) -> None:
    result = parse(data, limits)
    if result.trouble != Trouble.INCOMPLETE:
        assert parse(data + more, limits) == result


@SETTINGS
@given(inputs, limits_choices)
def test_no_more_is_consumed_than_there_is_and_needed_is_beyond_it(
    data: bytes, limits: Limits
) -> None:
    result = parse(data, limits)
    rest = len(data) - result.consumed
    assert rest >= 0
    assert result.needed == 0 or result.needed > rest
