"""The parser of what passes for every message, beside the one for everything else."""

import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardd.streaming import messages, pb
from shardd.streaming.subjects import PARTITIONS

octets = st.binary(max_size=300)
sequences = st.integers(0, 2**64 - 1)
times = st.integers(-(2**63), 2**63 - 1)


@given(st.tuples(octets, octets, octets, octets, octets, octets))
def test_a_pub_msg_is_read_as_it_was_written(fields: tuple[bytes, ...]) -> None:
    client_id, guid, subject, reply, data, conn_id = fields
    client_id = client_id.hex().encode()
    message = messages.PubMsg(client_id.decode(), guid, subject, reply, data, conn_id, b"hash")
    assert pb.decode_pub_msg(message.encode()) == (client_id, guid, subject, reply, data, conn_id)


@given(octets, sequences)
def test_an_ack_is_read_as_it_was_written(subject: bytes, sequence: int) -> None:
    assert pb.decode_ack(messages.Ack(subject, sequence).encode()) == (subject, sequence)


@given(sequences, octets, octets, octets, times, st.integers(1, 2**32 - 1))
def test_a_stored_message_is_what_every_library_reads(
    sequence: int, channel: bytes, reply: bytes, data: bytes, time: int, count: int
) -> None:
    encoded = pb.encode_message(sequence, channel, reply, data, time)
    message = messages.MsgProto(sequence, channel, reply, data, time)
    assert encoded == message.encode()
    assert pb.decode_message(encoded) == (sequence, channel, reply, data, time)
    again = messages.MsgProto.decode(encoded + pb.encode_redelivery(count))
    assert again == messages.MsgProto(sequence, channel, reply, data, time, True, count)


@given(octets, st.text(max_size=200))
def test_a_pub_ack(guid: bytes, error: str) -> None:
    encoded = pb.encode_pub_ack(guid, error.encode())
    assert messages.PubAck.decode(encoded) == messages.PubAck(guid, error)


@pytest.mark.parametrize(
    "data",
    [
        b"\x0a",  # no length
        b"\x0a\x05abc",  # too short
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01",  # a length of 2**64 - 1
        b"\x0a\xff\xff\xff\xff\xff\xff\xff\xff\x7f",
        b"\x00",  # field 0
        b"\x08\x01",  # a number where text belongs
        b"\x7c",  # a group's end without its beginning
        b"\x7b\x0a\x01",  # a group that is cut off
        b"\x7f",  # no such wire type
        b"\x79\x01",  # eight bytes that are not there
        b"\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01",  # a tag without an end
    ],
)
def test_what_is_no_message(data: bytes) -> None:
    with pytest.raises(ValueError, match="not a PubMsg"):
        pb.decode_pub_msg(data)
    with pytest.raises(ValueError):  # noqa: PT011 - each says it in its own words
        messages.PubMsg.decode(data)


def test_what_is_unknown_is_stepped_over() -> None:
    unknown = (
        b"\x78\x05"  # a number
        b"\x79" + b"x" * 8 + b"\x7d" + b"x" * 4 + b"\x7a\x02xx"
        b"\x7b\x7b\x78\x01\x7c\x7a\x01x\x7c"  # groups in groups
    )
    assert pb.decode_ack(unknown + b"\x10\x05" + unknown) == (b"", 5)
    assert pb.decode_pub_msg(unknown + b"\x12\x01g")[1] == b"g"


def test_the_last_of_a_repeated_field_counts() -> None:
    assert pb.decode_ack(b"\x10\x05\x10\x06\x0a\x01a\x0a\x01b") == (b"b", 6)


@given(st.binary(max_size=40))
def test_both_parsers_agree_on_anything(data: bytes) -> None:
    for hot, cold, name in (
        (pb.decode_pub_msg, messages.PubMsg, "client_id"),
        (pb.decode_ack, messages.Ack, ""),
        (pb.decode_message, messages.MsgProto, ""),
    ):
        try:
            found = hot(data)
        except ValueError:
            found = None
        try:
            message = cold.decode(data)
        except UnicodeDecodeError:
            continue  # text is checked only where it is kept
        except ValueError:
            message = None
        assert (found is None) == (message is None), (data, name)


@given(octets)
def test_the_part_of_a_channel(channel: bytes) -> None:
    assert pb.partition_of(channel) == zlib.crc32(channel) % PARTITIONS
