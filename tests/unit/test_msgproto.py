"""The encoded MsgProto against a few lines of Python, and what is not one; CRC-32C likewise."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shardd.streaming.checksum import crc32c, crc32c_by_table
from shardd.streaming.msgproto import decode, encode


def varint(value: int) -> bytes:
    """Seven bits a byte, the lowest first."""
    value &= (1 << 64) - 1
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes(out + bytes([value]))


def oracle(sequence: int, subject: bytes, reply: bytes, data: bytes, timestamp_ns: int) -> bytes:
    """The same message, written the slow way."""
    out = b"\x08" + varint(sequence) if sequence else b""
    for key, field in ((0x12, subject), (0x1A, reply), (0x22, data)):
        out += bytes([key]) + varint(len(field)) + field if field else b""
    return out + (b"\x28" + varint(timestamp_ns) if timestamp_ns else b"")


messages = st.tuples(
    st.integers(0, 2**64 - 1),
    st.binary(max_size=300),
    st.binary(max_size=20),
    st.binary(max_size=300),
    st.integers(-(2**63), 2**63 - 1),
)


@given(messages)
def test_a_message_is_written_as_protobuf_has_it_and_read_again(message):
    encoded = encode(*message)
    assert encoded == oracle(*message)
    assert decode(encoded) == message


@given(messages, st.data())
def test_a_message_that_is_cut_inside_a_field_is_refused(message, data):
    encoded = encode(*message) + b"\x22\x05"
    with pytest.raises(ValueError, match="not a MsgProto"):
        decode(encoded + b"1234"[: data.draw(st.integers(0, 4))])


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(noise):
    try:
        decode(noise)
    except ValueError:
        return


def test_fields_that_are_not_known_are_passed_over():
    noise = b"\x30\x01\x38\x02\x5d1234\x5112345678\x62\x03abc"
    assert decode(noise + encode(7, b"c", b"", b"x", 9)) == (7, b"c", b"", b"x", 9)


def crc_oracle(data: bytes, crc: int = 0) -> int:
    """Bit by bit, as RFC 3720 defines it."""
    crc ^= 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ 0x82F63B78 * (crc & 1)
    return crc ^ 0xFFFFFFFF


@given(st.binary(max_size=200), st.binary(max_size=40))
def test_the_checksum_is_the_same_by_instruction_by_table_and_by_definition(first, second):
    whole = crc_oracle(first + second)
    assert crc32c(first + second) == crc32c_by_table(first + second) == whole
    assert crc32c(second, crc32c(first)) == whole
    assert crc32c_by_table(second, crc32c_by_table(first)) == whole


def test_the_checksum_of_the_standard_examples():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA
