"""The log of one channel, whatever keeps it: the C face."""

from libc.stdint cimport int64_t, uint64_t

from shardd.streaming.seal cimport Seal

# One stored message. Borrowed: good until control returns to the event loop.
cdef struct Stored:
    uint64_t sequence
    int64_t timestamp_ns           # unix time
    const unsigned char* bytes     # the encoded MsgProto, as it is delivered
    size_t length

cdef enum Found:
    FOUND_NOTHING = 0              # no committed message at or behind that sequence
    FOUND_MESSAGE = 1
    FOUND_LATER = 2                # it is being fetched: the log's `on_loaded` is called

cdef class ChannelLog:
    cdef readonly bytes name       # the channel
    cdef readonly uint64_t first   # of the oldest message kept; last + 1: none
    cdef readonly uint64_t last    # of the newest committed one: what subscribers may see
    cdef readonly uint64_t appended        # of the newest one appended
    cdef readonly int64_t last_timestamp_ns
    cdef readonly uint64_t messages        # kept and committed
    cdef readonly uint64_t bytes           # their encoded MsgProtos together
    cdef public object on_loaded           # called without arguments, or None
    cdef public Seal seal                  # encrypts what is kept, or None

    cdef uint64_t append(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0
    cdef Found find(self, uint64_t sequence, Stored* stored) except *

    # What everybody but a store calls: the two above, with payloads as they were published.
    cdef uint64_t put(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0
    cdef Found get(self, uint64_t sequence, Stored* stored) except *
