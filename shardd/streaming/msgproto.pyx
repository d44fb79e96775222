# cython: language_level=3str
"""The encoded MsgProto (sheet 2): what logs hold and subscribers get, written and read in place.

Fields 1 to 5 (sequence, subject, reply, data, timestamp) in this order, those that are empty left
out, as proto3 has it. What a redelivery adds is not stored and is not written here.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    # Number and wire type of a field: 0 is a varint, 2 a length and so many bytes.
    SEQUENCE = 1 << 3
    SUBJECT = 2 << 3 | 2
    REPLY = 3 << 3 | 2
    DATA = 4 << 3 | 2
    TIMESTAMP = 5 << 3


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    cdef size_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline unsigned char* write_varint(unsigned char* at, uint64_t value) noexcept nogil:
    while value >= 0x80:
        at[0] = <unsigned char>(value | 0x80)
        at += 1
        value >>= 7
    at[0] = <unsigned char>value
    return at + 1


cdef inline size_t bytes_size(size_t length) noexcept nogil:
    return 1 + varint_size(length) + length if length else 0


cdef inline unsigned char* write_bytes(
    unsigned char* at, unsigned char key, const unsigned char* bytes, size_t length
) noexcept nogil:
    if not length:
        return at
    at[0] = key
    at = write_varint(at + 1, length)
    memcpy(at, bytes, length)
    return at + length


cdef size_t message_size(const MsgProto* message) noexcept nogil:
    """How many bytes `write_message` will write."""
    cdef size_t size = bytes_size(message.subject_len) + bytes_size(message.reply_len)
    size += bytes_size(message.data_len)
    if message.sequence:
        size += 1 + varint_size(message.sequence)
    if message.timestamp_ns:
        size += 1 + varint_size(<uint64_t>message.timestamp_ns)
    return size


cdef unsigned char* write_message(unsigned char* at, const MsgProto* message) noexcept nogil:
    """Writes, and returns where the message ends."""
    if message.sequence:
        at[0] = SEQUENCE
        at = write_varint(at + 1, message.sequence)
    at = write_bytes(at, SUBJECT, message.subject, message.subject_len)
    at = write_bytes(at, REPLY, message.reply, message.reply_len)
    at = write_bytes(at, DATA, message.data, message.data_len)
    if message.timestamp_ns:
        at[0] = TIMESTAMP
        at = write_varint(at + 1, <uint64_t>message.timestamp_ns)
    return at


cdef const unsigned char* read_varint(
    const unsigned char* at, const unsigned char* end, uint64_t* value
) noexcept nogil:
    """Where it ends, or NULL: cut off, or longer than ten bytes."""
    cdef uint64_t result = 0
    cdef int shift = 0
    while at < end and shift < 70:
        result |= <uint64_t>(at[0] & 0x7F) << shift if shift < 64 else 0
        at += 1
        if not at[-1] & 0x80:
            value[0] = result
            return at
        shift += 7
    return NULL


cdef bint read_message(const unsigned char* at, size_t length, MsgProto* message) noexcept nogil:
    """Reads, and returns whether these bytes are one message. Fields not known are passed over."""
    cdef const unsigned char* end = at + length
    cdef uint64_t key, value
    memset(message, 0, sizeof(MsgProto))
    while at < end:
        at = read_varint(at, end, &key)
        if at == NULL or key >> 3 == 0:
            return False
        if key & 7 == 0 or key & 7 == 2:
            at = read_varint(at, end, &value)
            if at == NULL:
                return False
        elif key & 7 == 1:
            value = 8
        elif key & 7 == 5:
            value = 4
        else:
            return False
        if key == SEQUENCE:
            message.sequence = value
        elif key == TIMESTAMP:
            message.timestamp_ns = <int64_t>value
        if key & 7 == 0:
            continue
        if value > <size_t>(end - at):
            return False
        if key == SUBJECT:
            message.subject, message.subject_len = at, value
        elif key == REPLY:
            message.reply, message.reply_len = at, value
        elif key == DATA:
            message.data, message.data_len = at, value
        at += value
    return True


def encode(
    uint64_t sequence,
    bytes subject not None,
    bytes reply not None,
    bytes data not None,
    int64_t timestamp_ns,
) -> bytes:
    """The message as it is stored and delivered."""
    cdef MsgProto message
    message.sequence = sequence
    message.subject, message.subject_len = <const unsigned char*>subject, len(subject)
    message.reply, message.reply_len = <const unsigned char*>reply, len(reply)
    message.data, message.data_len = <const unsigned char*>data, len(data)
    message.timestamp_ns = timestamp_ns
    cdef bytearray room = bytearray(message_size(&message))
    write_message(<unsigned char*><char*>room, &message)
    return bytes(room)


def decode(bytes encoded not None) -> tuple[int, bytes, bytes, bytes, int]:
    """Sequence, subject, reply, data and timestamp (unix ns). ValueError: not a message."""
    cdef MsgProto message
    if not read_message(<const unsigned char*>encoded, len(encoded), &message):
        raise ValueError("not a MsgProto")
    return (
        message.sequence,
        message.subject[:message.subject_len] if message.subject_len else b"",
        message.reply[:message.reply_len] if message.reply_len else b"",
        message.data[:message.data_len] if message.data_len else b"",
        message.timestamp_ns,
    )
