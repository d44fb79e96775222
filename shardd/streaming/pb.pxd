"""The protobuf messages that pass for every published and every delivered message: the C face."""

from libc.stdint cimport int64_t, uint64_t, uint32_t

# Bytes that belong to someone else. `data` may be anything when `length` is 0.
cdef struct Span:
    const unsigned char* data
    size_t length

cdef struct PubMsg:
    Span client_id
    Span guid
    Span channel
    Span reply
    Span data
    Span connection_id

cdef struct Ack:
    Span channel
    uint64_t sequence

cdef struct MsgProto:
    uint64_t sequence
    Span channel
    Span reply
    Span data
    int64_t timestamp_ns

# 0, or -1 for bytes that are no such message. What is parsed borrows from the input.
cdef int parse_pub_msg(const unsigned char* data, size_t length, PubMsg* message) noexcept nogil
cdef int parse_ack(const unsigned char* data, size_t length, Ack* ack) noexcept nogil
cdef int parse_message(const unsigned char* data, size_t length, MsgProto* message) noexcept nogil

# A stored message: how long it becomes, and writing it, which returns the end. `out` has room for
# as many bytes as `message_size` said.
cdef size_t message_size(const MsgProto* message) noexcept nogil
cdef unsigned char* write_message(unsigned char* out, const MsgProto* message) noexcept nogil

# A field of bytes or text, as a PubAck has two; an empty one is left out.
cdef size_t field_size(size_t length) noexcept nogil
cdef unsigned char* write_field(
    unsigned char* out, unsigned char number, const unsigned char* data, size_t length
) noexcept nogil

# What a redelivery has behind the stored message: redelivered = true, and how often.
cdef enum:
    REDELIVERY_BYTES_MAX = 8
cdef size_t write_redelivery(unsigned char* out, uint32_t count) noexcept nogil

# The part of a store that a channel belongs to: `subjects.partition_of` without objects.
cdef unsigned int partition_of_c(const unsigned char* channel, size_t length) noexcept nogil
