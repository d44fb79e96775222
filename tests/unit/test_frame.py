"""Records of a ring: what is written is read back, and what contradicts itself is refused."""

import itertools
import struct
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from shardd.router import frame_probe
from tests.support import frame_oracle
from tests.support.frame_oracle import HEADER, Header, offset_of

U32_MAX = 2**32 - 1
LENT = 8  # MESSAGE_IS_LENT: where the publisher's bytes lie is nobody else's business


def tail_of(reply=b"", payload=b"", header_len=None):
    return frame_probe.tail_of(reply, payload, header_len)[0]


def targets_of(record):
    """Every target, one after the other; None at the end when one is refused."""
    header = frame_oracle.header_of(record)
    assert header is not None
    found: list[tuple[int, bytes] | None] = []
    offset = 0
    while offset < header.targets_len:
        target = frame_probe.read_target_at(record, offset)
        if target is None:
            return [*found, None]
        found.append(target[:2])
        offset = target[2]
    return found


# --- the tail --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "tail"),
    [
        ({}, b" 0\r\n\r\n"),
        ({"payload": b"hi"}, b" 2\r\nhi\r\n"),
        ({"reply": b"_INBOX.1", "payload": b"hi"}, b" _INBOX.1 2\r\nhi\r\n"),
        (
            {"payload": b"NATS/1.0\r\n\r\nhi", "header_len": 12},
            b" 12 14\r\nNATS/1.0\r\n\r\nhi\r\n",
        ),
        (
            {"reply": b"r", "payload": b"NATS/1.0\r\n\r\n", "header_len": 12},
            b" r 12 12\r\nNATS/1.0\r\n\r\n\r\n",
        ),
    ],
)
def test_the_tail_is_the_rest_of_a_delivered_line(arguments, tail):
    assert tail_of(**arguments) == tail


@settings(deadline=None, max_examples=100)
@given(
    st.binary(max_size=20),
    st.integers(0, 10_000).map(lambda size: b"p" * size),
    st.one_of(st.none(), st.integers(0, 2**64 - 1)),
)
def test_a_tail_never_needs_more_than_the_room_asked_for_it(reply, payload, header_len):
    tail, room_len = frame_probe.tail_of(reply, payload, header_len)
    assert len(tail) <= room_len


@settings(deadline=None, max_examples=200)
@given(st.integers(0, 64).flatmap(lambda bits: st.integers(0, 2**bits - 1)))
def test_numbers_are_written_in_decimal(value):
    assert frame_probe.number(value) == b"%d" % value


@pytest.mark.parametrize("value", [0, 9, 10, 99, 100, 2**32, 10**19, 2**64 - 1])
def test_numbers_at_the_ends_of_a_width_are_written_in_decimal(value):
    assert frame_probe.number(value) == b"%d" % value


# --- written and read back -------------------------------------------------------------------

u32 = st.integers(0, U32_MAX)
u64 = st.integers(0, 2**64 - 1)


@st.composite
def messages(draw: st.DrawFn) -> dict[str, Any]:
    """The arguments of `frame_probe.write` for a message that can be."""
    reply = draw(st.binary(max_size=20))
    payload = draw(st.binary(max_size=60))
    header_len = draw(st.one_of(st.none(), st.integers(0, len(payload))))
    return {
        "subject": draw(st.binary(max_size=30)),
        "tail": tail_of(reply, payload, header_len),
        "sizes": (len(reply), header_len or 0, len(payload)),
        "targets": draw(st.lists(st.tuples(u32, st.binary(max_size=17)), max_size=5)),
        "account": draw(u32),
        "flags": draw(st.integers(0, 15)),
        "publisher": draw(u64),
        "processes": draw(u64),
        "kind": draw(st.sampled_from([1, 2])),
        "hops": draw(st.integers(0, 255)),
    }


@settings(deadline=None, max_examples=200)
@given(messages())
def test_a_record_gives_back_the_message_and_the_targets_it_was_written_from(message):
    record = frame_probe.write(**message)
    assert frame_probe.read(record) == (
        message["account"],
        message["flags"] & ~LENT,
        message["publisher"],
        message["subject"],
        message["tail"],
        *message["sizes"],
    )
    assert targets_of(record) == message["targets"]


@settings(deadline=None, max_examples=200)
@given(messages())
def test_a_record_is_laid_out_as_the_oracle_lays_it_out(message):
    reply_len, header_len, total_len = message["sizes"]
    header = Header(
        length=0,
        subject_len=0,
        tail_len=0,
        target_count=0,
        targets_len=0,
        account=message["account"],
        processes=message["processes"],
        publisher=message["publisher"],
        reply_len=reply_len,
        header_len=header_len,
        total_len=total_len,
        flags=message["flags"] & ~LENT,
        hops=message["hops"],
        kind=message["kind"],
    )
    record = frame_probe.write(**message)
    assert record == frame_oracle.encode(
        header, message["targets"], message["subject"], message["tail"]
    )
    assert len(record) % 8 == 0


def test_a_record_may_be_followed_by_others():
    record = frame_probe.write(b"a", tail_of(), (0, 0, 0))
    assert frame_probe.read(record + b"\xff" * 40) == frame_probe.read(record)


def test_a_message_with_a_plain_empty_subject_and_blank_tail_is_a_record_too():
    # What stands in for a message that travels another way.
    record = frame_probe.write(b"", b"    ", (0, 0, 0), kind=2, publisher=9)
    assert frame_probe.read(record) == (0, 0, 9, b"", b"    ", 0, 0, 0)


# --- contradictions --------------------------------------------------------------------------

NAMES = [(3, b"workers"), (63, b""), (0, b"abcd")]
RECORD = frame_probe.write(
    b"sub.ject", tail_of(b"reply", b"NATS/1.0\r\n\r\nhi", 12), (5, 12, 14), targets=NAMES
)
GIVEN = Header(*HEADER.unpack_from(RECORD))
SPARE = GIVEN.length - (HEADER.size + GIVEN.targets_len + GIVEN.subject_len + GIVEN.tail_len)
# What the tail has beside reply and payload, less what it must have.
SLACK = GIVEN.tail_len - (GIVEN.total_len + GIVEN.reply_len + 3)


def changed(**values):
    """The record with other values in its header."""
    return replace(GIVEN, **values).packed() + RECORD[HEADER.size :]


def test_the_record_that_the_cases_below_change_is_a_good_one():
    assert frame_probe.read(RECORD) is not None
    assert targets_of(RECORD) == NAMES
    assert changed() == RECORD


@pytest.mark.parametrize("available", [0, 1, 8, HEADER.size - 1])
def test_less_than_a_header_is_refused(available):
    assert frame_probe.read(RECORD[:available]) is None


@pytest.mark.parametrize("missing", [1, 7, 8, 16, len(RECORD) - HEADER.size])
def test_a_record_whose_end_is_not_there_is_refused(missing):
    assert frame_probe.read(RECORD[:-missing]) is None


@pytest.mark.parametrize(
    "length",
    [0, 8, HEADER.size - 8, GIVEN.length - 8, GIVEN.length + 8, U32_MAX, U32_MAX - 7, 2**31],
)
def test_a_length_that_cannot_be_is_refused(length):
    assert frame_probe.read(changed(length=length)) is None


@pytest.mark.parametrize("more", [1, 2, 4, 7])
def test_a_length_that_is_not_padded_is_refused_even_when_all_of_it_is_there(more):
    assert frame_probe.read(changed(length=GIVEN.length + more) + bytes(8)) is None


@pytest.mark.parametrize("field", ["targets_len", "subject_len", "tail_len"])
@pytest.mark.parametrize("excess", [SPARE + 1, SPARE + 8, "most"])
def test_parts_longer_than_the_whole_are_refused(field, excess):
    value = U32_MAX if excess == "most" else getattr(GIVEN, field) + excess
    assert frame_probe.read(changed(**{field: value})) is None


@pytest.mark.parametrize(
    "values",
    [
        {"targets_len": U32_MAX, "subject_len": U32_MAX, "tail_len": U32_MAX},
        # Sums that come to little when they are taken in 32 bits.
        {"targets_len": 2**31, "subject_len": 2**31},
        {"subject_len": 2**32 - 16, "targets_len": 16},
        {"tail_len": 2**32 - HEADER.size - 8, "targets_len": 0, "subject_len": 8},
    ],
)
def test_parts_whose_sum_overflows_are_refused(values):
    assert frame_probe.read(changed(**values)) is None


def test_parts_that_fill_the_record_to_its_last_byte_are_fine():
    message = frame_probe.read(changed(subject_len=GIVEN.subject_len + SPARE))
    assert message is not None
    assert len(message[3]) == GIVEN.subject_len + SPARE


@pytest.mark.parametrize(
    "values",
    [
        {"total_len": GIVEN.total_len + SLACK + 1},
        {"total_len": U32_MAX},
        {"reply_len": GIVEN.reply_len + SLACK + 1},
        {"reply_len": U32_MAX},
        {"reply_len": 2**32 - GIVEN.total_len, "total_len": GIVEN.total_len},
        {"reply_len": 2**31, "total_len": 2**31, "header_len": 0},
        {"tail_len": 2, "reply_len": 0, "total_len": 0, "header_len": 0},
        {"tail_len": 0, "reply_len": 0, "total_len": 0, "header_len": 0},
    ],
)
def test_a_reply_and_a_payload_that_do_not_fit_the_tail_are_refused(values):
    assert frame_probe.read(changed(**values)) is None


@pytest.mark.parametrize("header_len", [GIVEN.total_len + 1, U32_MAX])
def test_a_header_block_longer_than_the_message_is_refused(header_len):
    assert frame_probe.read(changed(header_len=header_len)) is None


def test_a_header_block_that_is_all_of_the_message_is_fine():
    assert frame_probe.read(changed(header_len=GIVEN.total_len)) is not None


def with_name_len(value, index=0):
    """The record with another length for one of its targets' names."""
    offsets = list(
        itertools.accumulate(
            (8 + frame_oracle.padded(len(name), 4) for _, name in NAMES), initial=0
        )
    )
    data = bytearray(RECORD)
    struct.pack_into("=I", data, HEADER.size + offsets[index] + 4, value)
    return bytes(data)


@pytest.mark.parametrize("value", [U32_MAX, U32_MAX - 3, U32_MAX - 11, 2**31, 1000])
@pytest.mark.parametrize("index", [0, 1, 2])
def test_a_target_whose_name_runs_over_the_targets_is_refused(value, index):
    record = with_name_len(value, index)
    assert frame_probe.read(record) is not None
    assert targets_of(record) == [*NAMES[:index], None]


def test_the_last_name_may_end_where_the_targets_end_and_not_a_byte_later():
    assert targets_of(with_name_len(4, 2)) == NAMES
    assert targets_of(with_name_len(5, 2)) == [*NAMES[:2], None]


@pytest.mark.parametrize("cut", range(1, 12))
def test_targets_that_end_inside_a_target_are_refused(cut):
    assert targets_of(changed(targets_len=GIVEN.targets_len - cut)) == [*NAMES[:2], None]


@pytest.mark.parametrize("offset", [-8, -7, -1, 0, 1, 8])
def test_there_is_no_target_at_the_end_of_the_targets(offset):
    assert frame_probe.read_target_at(RECORD, GIVEN.targets_len + offset) is None


def test_a_record_without_targets_has_no_first_one():
    record = frame_probe.write(b"a", tail_of(), (0, 0, 0))
    assert frame_probe.read_target_at(record, 0) is None


@settings(deadline=None, max_examples=300)
@given(
    st.sampled_from(["length", "subject_len", "tail_len", "reply_len", "header_len", "total_len"]),
    st.one_of(st.integers(0, 160), u32),
    st.integers(0, 24),
)
def test_reader_and_oracle_refuse_the_same_records(field, value, extra):
    data = bytearray(RECORD + bytes(extra))
    struct.pack_into("=I", data, offset_of(field), value)
    record = bytes(data)
    assume(record != RECORD)
    assert frame_probe.read(record) == frame_oracle.read(record)
