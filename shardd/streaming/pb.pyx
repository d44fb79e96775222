# cython: language_level=3str
"""The protobuf messages that pass for every published and every delivered message.

PubMsg and Ack are parsed where they lie; a MsgProto is written once, when it is stored, and is
delivered as it is. Everything else of the protocol is rare and lives in `messages`.

What counts as well-formed is what the original server's generated code takes: unknown fields are
skipped, groups included; the last of a repeated field counts; text need not be UTF-8. No length is
believed before it was held against the bytes that are there.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stddef cimport size_t
from libc.string cimport memcpy

from shardd.streaming.subjects import PARTITIONS

cdef unsigned int PARTS = PARTITIONS

# Wire types of protobuf.
cdef enum:
    VARINT = 0
    FIXED64 = 1
    BYTES = 2
    GROUP_START = 3
    GROUP_END = 4
    FIXED32 = 5


cdef struct Cursor:
    const unsigned char* at
    const unsigned char* end


cdef inline int read_varint(Cursor* cursor, uint64_t* value) noexcept nogil:
    cdef uint64_t result = 0
    cdef unsigned int shift = 0
    cdef unsigned char byte
    while cursor.at < cursor.end:
        byte = cursor.at[0]
        cursor.at += 1
        result |= <uint64_t>(byte & 0x7f) << shift
        if byte < 0x80:
            value[0] = result
            return 0
        shift += 7
        if shift >= 64:
            return -1
    return -1


cdef inline int read_span(Cursor* cursor, Span* span) noexcept nogil:
    cdef uint64_t length
    if read_varint(cursor, &length) < 0 or length > <uint64_t>(cursor.end - cursor.at):
        return -1
    span.data = cursor.at
    span.length = <size_t>length
    cursor.at += length
    return 0


cdef inline int read_tag(Cursor* cursor, uint32_t* number, unsigned int* kind) noexcept nogil:
    cdef uint64_t tag
    if read_varint(cursor, &tag) < 0:
        return -1
    number[0] = <uint32_t>(tag >> 3)
    kind[0] = <unsigned int>(tag & 7)
    return -1 if number[0] == 0 or number[0] > 0x7fffffff else 0


cdef int skip(Cursor* cursor, unsigned int kind) noexcept nogil:
    """Steps over the value of one field; of a whole group when it begins one."""
    cdef uint64_t number
    cdef size_t depth = 0
    cdef Span span
    while True:
        if kind == VARINT:
            if read_varint(cursor, &number) < 0:
                return -1
        elif kind == FIXED64 or kind == FIXED32:
            number = 8 if kind == FIXED64 else 4
            if number > <uint64_t>(cursor.end - cursor.at):
                return -1
            cursor.at += number
        elif kind == BYTES:
            if read_span(cursor, &span) < 0:
                return -1
        elif kind == GROUP_START:
            depth += 1
        elif kind == GROUP_END:
            if depth == 0:
                return -1
            depth -= 1
        else:
            return -1
        if depth == 0:
            return 0
        if read_varint(cursor, &number) < 0:
            return -1
        kind = <unsigned int>(number & 7)


cdef int parse_pub_msg(const unsigned char* data, size_t length, PubMsg* message) noexcept nogil:
    cdef Cursor cursor
    cdef uint32_t number
    cdef unsigned int kind
    cdef Span* field
    cdef Span checksum
    cursor.at = data
    cursor.end = data + length
    message.client_id.length = message.guid.length = message.channel.length = 0
    message.reply.length = message.data.length = message.connection_id.length = 0
    while cursor.at < cursor.end:
        if read_tag(&cursor, &number, &kind) < 0:
            return -1
        if number == 1:
            field = &message.client_id
        elif number == 2:
            field = &message.guid
        elif number == 3:
            field = &message.channel
        elif number == 4:
            field = &message.reply
        elif number == 5:
            field = &message.data
        elif number == 6:
            field = &message.connection_id
        elif number == 10:
            field = &checksum
        else:
            if skip(&cursor, kind) < 0:
                return -1
            continue
        if kind != BYTES or read_span(&cursor, field) < 0:
            return -1
    return 0


cdef int parse_ack(const unsigned char* data, size_t length, Ack* ack) noexcept nogil:
    cdef Cursor cursor
    cdef uint32_t number
    cdef unsigned int kind
    cursor.at = data
    cursor.end = data + length
    ack.channel.length = 0
    ack.sequence = 0
    while cursor.at < cursor.end:
        if read_tag(&cursor, &number, &kind) < 0:
            return -1
        if number == 1:
            if kind != BYTES or read_span(&cursor, &ack.channel) < 0:
                return -1
        elif number == 2:
            if kind != VARINT or read_varint(&cursor, &ack.sequence) < 0:
                return -1
        elif skip(&cursor, kind) < 0:
            return -1
    return 0


cdef int parse_message(const unsigned char* data, size_t length, MsgProto* message) noexcept nogil:
    cdef Cursor cursor
    cdef uint32_t number
    cdef unsigned int kind
    cdef uint64_t value
    cursor.at = data
    cursor.end = data + length
    message.sequence = 0
    message.timestamp_ns = 0
    message.channel.length = message.reply.length = message.data.length = 0
    while cursor.at < cursor.end:
        if read_tag(&cursor, &number, &kind) < 0:
            return -1
        if number == 1 or number == 5 or number == 6 or number == 7 or number == 10:
            if kind != VARINT or read_varint(&cursor, &value) < 0:
                return -1
            if number == 1:
                message.sequence = value
            elif number == 5:
                message.timestamp_ns = <int64_t>value
        elif number == 2:
            if kind != BYTES or read_span(&cursor, &message.channel) < 0:
                return -1
        elif number == 3:
            if kind != BYTES or read_span(&cursor, &message.reply) < 0:
                return -1
        elif number == 4:
            if kind != BYTES or read_span(&cursor, &message.data) < 0:
                return -1
        elif skip(&cursor, kind) < 0:
            return -1
    return 0


# --- writing -------------------------------------------------------------------------------------


cdef inline size_t varint_size(uint64_t value) noexcept nogil:
    cdef size_t size = 1
    while value >= 0x80:
        value >>= 7
        size += 1
    return size


cdef inline unsigned char* write_varint(unsigned char* out, uint64_t value) noexcept nogil:
    while value >= 0x80:
        out[0] = <unsigned char>(value & 0x7f | 0x80)
        out += 1
        value >>= 7
    out[0] = <unsigned char>value
    return out + 1


cdef inline unsigned char* write_number(
    unsigned char* out, unsigned char number, uint64_t value
) noexcept nogil:
    """A varint field; 0 is left out."""
    if value == 0:
        return out
    out[0] = number << 3
    return write_varint(out + 1, value)


cdef size_t field_size(size_t length) noexcept nogil:
    return 1 + varint_size(length) + length if length else 0


cdef unsigned char* write_field(
    unsigned char* out, unsigned char number, const unsigned char* data, size_t length
) noexcept nogil:
    if length == 0:
        return out
    out[0] = number << 3 | BYTES
    out = write_varint(out + 1, length)
    memcpy(out, data, length)
    return out + length


cdef inline size_t number_size(uint64_t value) noexcept nogil:
    return 1 + varint_size(value) if value else 0


cdef size_t message_size(const MsgProto* message) noexcept nogil:
    return (
        number_size(message.sequence)
        + field_size(message.channel.length)
        + field_size(message.reply.length)
        + field_size(message.data.length)
        + number_size(<uint64_t>message.timestamp_ns)
    )


cdef unsigned char* write_message(unsigned char* out, const MsgProto* message) noexcept nogil:
    out = write_number(out, 1, message.sequence)
    out = write_field(out, 2, message.channel.data, message.channel.length)
    out = write_field(out, 3, message.reply.data, message.reply.length)
    out = write_field(out, 4, message.data.data, message.data.length)
    return write_number(out, 5, <uint64_t>message.timestamp_ns)


cdef size_t write_redelivery(unsigned char* out, uint32_t count) noexcept nogil:
    return write_number(write_number(out, 6, 1), 7, count) - out


# --- the part of a channel -----------------------------------------------------------------------

cdef uint32_t[256] crc_table


cdef void fill_crc_table() noexcept nogil:
    cdef uint32_t value
    cdef unsigned int byte
    for byte in range(256):
        value = byte
        for _ in range(8):
            value = value >> 1 ^ (<uint32_t>0xedb88320 if value & 1 else <uint32_t>0)
        crc_table[byte] = value


fill_crc_table()


cdef unsigned int partition_of_c(const unsigned char* channel, size_t length) noexcept nogil:
    cdef uint32_t crc = 0xffffffff
    cdef size_t position
    for position in range(length):
        crc = crc >> 8 ^ crc_table[(crc ^ channel[position]) & 0xff]
    return (crc ^ <uint32_t>0xffffffff) % PARTS


# --- the Python face -----------------------------------------------------------------------------


cdef inline bytes owned(const Span* span):
    return PyBytes_FromStringAndSize(<const char*>span.data, span.length) if span.length else b""


cdef inline Span span_of(bytes data) noexcept:
    cdef Span span
    span.data = <const unsigned char*>PyBytes_AS_STRING(data)
    span.length = PyBytes_GET_SIZE(data)
    return span


def decode_pub_msg(bytes data not None) -> tuple[bytes, bytes, bytes, bytes, bytes, bytes]:
    """Client id, guid, channel, reply, data and connection id.

    Raises:
        ValueError: the bytes are no PubMsg.
    """
    cdef PubMsg message
    cdef Span source = span_of(data)
    if parse_pub_msg(source.data, source.length, &message) < 0:
        raise ValueError("not a PubMsg")
    return (
        owned(&message.client_id), owned(&message.guid), owned(&message.channel),
        owned(&message.reply), owned(&message.data), owned(&message.connection_id),
    )


def decode_ack(bytes data not None) -> tuple[bytes, int]:
    """Channel and sequence.

    Raises:
        ValueError: the bytes are no Ack.
    """
    cdef Ack ack
    cdef Span source = span_of(data)
    if parse_ack(source.data, source.length, &ack) < 0:
        raise ValueError("not an Ack")
    return owned(&ack.channel), ack.sequence


def decode_message(bytes data not None) -> tuple[int, bytes, bytes, bytes, int]:
    """Sequence, channel, reply, data and timestamp in nanoseconds.

    Raises:
        ValueError: the bytes are no MsgProto.
    """
    cdef MsgProto message
    cdef Span source = span_of(data)
    if parse_message(source.data, source.length, &message) < 0:
        raise ValueError("not a MsgProto")
    return (
        message.sequence, owned(&message.channel), owned(&message.reply),
        owned(&message.data), message.timestamp_ns,
    )


def encode_message(
    uint64_t sequence,
    bytes channel not None,
    bytes reply not None,
    bytes data not None,
    int64_t timestamp_ns,
) -> bytes:
    """A MsgProto as stores keep it."""
    cdef MsgProto message
    cdef bytes encoded
    cdef unsigned char* out
    message.sequence = sequence
    message.channel = span_of(channel)
    message.reply = span_of(reply)
    message.data = span_of(data)
    message.timestamp_ns = timestamp_ns
    encoded = PyBytes_FromStringAndSize(NULL, message_size(&message))
    out = <unsigned char*>PyBytes_AS_STRING(encoded)
    assert write_message(out, &message) == out + PyBytes_GET_SIZE(encoded)
    return encoded


def encode_pub_ack(bytes guid not None, bytes error=b"") -> bytes:
    """A PubAck; an empty error: it is stored."""
    cdef bytes encoded = PyBytes_FromStringAndSize(
        NULL, field_size(PyBytes_GET_SIZE(guid)) + field_size(PyBytes_GET_SIZE(error))
    )
    cdef unsigned char* out = <unsigned char*>PyBytes_AS_STRING(encoded)
    cdef Span source = span_of(guid)
    out = write_field(out, 1, source.data, source.length)
    source = span_of(error)
    write_field(out, 2, source.data, source.length)
    return encoded


def encode_redelivery(uint32_t count) -> bytes:
    """What stands behind a message that is delivered again."""
    cdef unsigned char[REDELIVERY_BYTES_MAX] out
    cdef size_t length = write_redelivery(out, count)
    return out[:length]


def partition_of(bytes channel not None) -> int:
    """The same as `subjects.partition_of`."""
    cdef Span source = span_of(channel)
    return partition_of_c(source.data, source.length)
