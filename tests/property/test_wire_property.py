"""The parser against its plain-Python twin, and whole input against split input.

Inputs come in three kinds: streams that follow the grammar (with its odd corners), such streams
with bytes changed, and letters of the protocol in any order.
"""

from hypothesis import given, settings
from hypothesis import strategies as st

from shardd import wire
from tests.support import wire_oracle
from tests.support.wire_oracle import Limits, Result, Trouble, parse_in_pieces

SETTINGS = settings(deadline=None, max_examples=300)
SPLIT_SETTINGS = settings(deadline=None, max_examples=120)


def parse(data: bytes, limits: Limits) -> Result:
    return Result(
        *wire.parse(
            data,
            control_line_max=limits.control_line_max,
            payload_max=limits.payload_max,
            headers=limits.headers,
        )
    )


# --- inputs -------------------------------------------------------------------------------------

blanks = st.sampled_from([b" ", b" ", b" ", b" ", b"\t", b"  ", b" \t "])
line_ends = st.sampled_from([b"\r\n", b"\r\n", b"\r\n", b"\n"])
names = st.one_of(
    st.sampled_from([b"a", b"foo.bar", b"_INBOX.x.1", b"foo.*", b">", b"7", b"10", b"\xc3\xa9"]),
    st.binary(min_size=1, max_size=12).map(
        lambda raw: bytes(byte for byte in raw if byte not in b" \t\r\n") or b"n"
    ),
)
payloads = st.one_of(
    st.binary(max_size=40), st.sampled_from([b"", b"\r\n", b"PING\r\n", b"x" * 100])
)


@st.composite
def verbs(draw: st.DrawFn, name: bytes) -> bytes:
    """The verb in some mixture of cases."""
    fold = draw(st.sampled_from([bytes.upper, bytes.upper, bytes.lower, bytes.title]))
    return fold(name)


@st.composite
def sizes(draw: st.DrawFn, value: int) -> bytes:
    """The size, sometimes with leading zeros, seldom wrong."""
    width = draw(st.sampled_from([1, 1, 1, 1, 1, 2, 9, 10]))
    wrong = draw(st.sampled_from([0, 0, 0, 0, 0, 0, 0, 1, -1]))
    return b"%0*d" % (width, max(value + wrong, 0))


@st.composite
def publishes(draw: st.DrawFn) -> bytes:
    has_header = draw(st.booleans())
    payload = draw(payloads)
    words = [draw(verbs(b"HPUB" if has_header else b"PUB")), draw(names)]
    words += draw(st.lists(names, max_size=1))
    if has_header:
        words.append(draw(sizes(draw(st.integers(0, len(payload))))))
    words.append(draw(sizes(len(payload))))
    line = words[0] + b"".join(draw(blanks) + word for word in words[1:])
    line += draw(st.sampled_from([b"", b"", b"", b" ", b"\t "]))
    return line + draw(line_ends) + payload + b"\r\n"


@st.composite
def lines(draw: st.DrawFn) -> bytes:
    """Every verb but the publishing ones."""
    verb, low, high = draw(
        st.sampled_from([(b"SUB", 2, 3), (b"SUB", 1, 4), (b"UNSUB", 1, 2), (b"UNSUB", 0, 3)])
    )
    arguments = draw(st.lists(names, min_size=low, max_size=high))
    text = draw(st.binary(max_size=20))
    others = [
        verb + b"".join(draw(blanks) + word for word in arguments),
        verb + b"".join(draw(blanks) + word for word in arguments),
        b"PING" + text,
        draw(st.sampled_from([b"PING", b"PONG", b"+OK", b"-ERR 'x'", b"ping ", b"Pong\t"])),
        draw(st.sampled_from([b"CONNECT", b"INFO", b"-ERR "])) + b" " + text,
        b'CONNECT {"verbose":false}',
    ]
    return draw(st.sampled_from(others)) + draw(line_ends)


streams = st.lists(st.one_of(publishes(), lines()), max_size=5).map(b"".join)


@st.composite
def mutated_streams(draw: st.DrawFn) -> bytes:
    data = bytearray(draw(streams))
    for _ in range(draw(st.integers(1, 4))):
        position = draw(st.integers(0, len(data)))
        removed = draw(st.integers(0, 3))
        added = st.sampled_from([b"", b" ", b"\r", b"\n", b"\r\n", b"\t", b"0", b"\x00", b"PUB "])
        data[position : position + removed] = draw(added)
    return bytes(data)


letters = st.lists(
    st.sampled_from(
        [b"PUB ", b"HPUB ", b"SUB ", b"UNSUB ", b"PING", b"CONNECT", b"+OK", b"-ERR ", b"INFO"]
        + [bytes([byte]) for byte in b"PUBHSINGOKCERT+-puba.  \t\r\n\n\n00123\x00\x0b\x80"]
    ),
    max_size=30,
).map(b"".join)

inputs = st.one_of(streams, mutated_streams(), letters, st.binary(max_size=60))
limits_choices = st.one_of(
    st.just(Limits()),
    st.builds(
        Limits,
        control_line_max=st.sampled_from([0, 1, 7, 8, 9, 20, 4096]),
        payload_max=st.sampled_from([-1, 0, 1, 20, 40, 1_048_576]),
        headers=st.booleans(),
    ),
)


# --- properties ---------------------------------------------------------------------------------


@SETTINGS
@given(streams, limits_choices)
def test_streams_of_the_grammar_give_what_the_oracle_gives(data: bytes, limits: Limits) -> None:
    assert parse(data, limits) == wire_oracle.parse(data, limits)


@SETTINGS
@given(st.one_of(mutated_streams(), letters, st.binary(max_size=60)), limits_choices)
def test_spoilt_and_random_input_gives_what_the_oracle_gives(data: bytes, limits: Limits) -> None:
    assert parse(data, limits) == wire_oracle.parse(data, limits)


@SPLIT_SETTINGS
@given(inputs, limits_choices)
def test_input_split_at_any_byte_gives_what_the_whole_gives(data: bytes, limits: Limits) -> None:
    whole = parse(data, limits)
    for position in range(len(data) + 1):
        pieces = [data[:position], data[position:]]
        assert parse_in_pieces(lambda tail: parse(tail, limits), pieces) == whole, position


@SPLIT_SETTINGS
@given(inputs, limits_choices)
def test_input_byte_by_byte_gives_what_the_whole_gives(data: bytes, limits: Limits) -> None:
    pieces = [data[index : index + 1] for index in range(len(data))]
    assert parse_in_pieces(lambda tail: parse(tail, limits), pieces) == parse(data, limits)


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
    if result.trouble != Trouble.INCOMPLETE:
        assert result.needed == 0
    elif rest > 0 and result.needed:
        # With as many bytes as were asked for, the operation is decided.
        filled = parse(data[result.consumed :] + b"\r\n" * result.needed, limits)
        assert filled.operations or filled.trouble == Trouble.UNKNOWN_OPERATION


@SETTINGS
@given(names, st.lists(names, max_size=1), payloads, st.one_of(st.none(), st.integers(0, 200)))
def test_a_canonical_tail_is_the_frame_to_deliver(
    subject: bytes, replies: list[bytes], payload: bytes, header: int | None
) -> None:
    header_len = None if header is None else min(header, len(payload))
    numbers = [] if header_len is None else [header_len]
    words = [*replies, *(b"%d" % number for number in [*numbers, len(payload)])]
    frame = b" " + b" ".join(words) + b"\r\n" + payload + b"\r\n"
    verb = b"PUB " if header_len is None else b"HPUB "
    result = parse(verb + subject + frame, Limits())
    reply = replies[0] if replies else None
    name = verb.decode().strip()
    expected = (name, subject, reply, header_len, payload, True, frame)
    assert result == Result([expected], len(verb + subject + frame), 0, Trouble.INCOMPLETE)
