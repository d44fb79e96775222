"""The encoded MsgProto, written and read in place: the C face."""

from libc.stdint cimport int64_t, uint64_t

# One message. Pointers are borrowed.
cdef struct MsgProto:
    uint64_t sequence
    const unsigned char* subject
    size_t subject_len
    const unsigned char* reply
    size_t reply_len
    const unsigned char* data
    size_t data_len
    int64_t timestamp_ns           # unix time

# How many bytes `write_message` will write.
cdef size_t message_size(const MsgProto* message) noexcept nogil
# Writes, and returns where the message ends.
cdef unsigned char* write_message(unsigned char* at, const MsgProto* message) noexcept nogil
# Reads, and returns whether these bytes are one message. Fields not known are passed over.
cdef bint read_message(const unsigned char* at, size_t length, MsgProto* message) noexcept nogil
