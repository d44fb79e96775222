"""The C face of request/reply: what a connection keeps, and the round trips measured."""

from libc.stdint cimport uint64_t

cdef enum CallerBound:
    REQUEST_BYTES_MAX = 4096    # held of one connection: twice the longest frame

# One connection of request/reply; at most one request is under way.
cdef struct Caller:
    int fd
    const unsigned char* frame  # what it sends
    size_t frame_len
    size_t held                 # bytes in `buffer`
    uint64_t sent_ns
    uint64_t answers
    bint is_done
    unsigned char buffer[4096]

# The round trips, in the order they ended.
cdef struct Samples:
    uint64_t* values
    size_t count
    size_t room
