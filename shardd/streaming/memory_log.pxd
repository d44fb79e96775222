"""A log in memory: the C face."""

from libc.stdint cimport int64_t, uint64_t

from shardd.streaming.log cimport ChannelLog

cdef struct Kept:
    int64_t timestamp_ns
    size_t length
    unsigned char* bytes           # malloc'ed

cdef class MemoryLog(ChannelLog):
    cdef object _changed           # called when something waits for a commit
    cdef Kept* _ring               # by sequence, masked
    cdef size_t _size              # a power of two, or 0
    cdef uint64_t _messages_max
    cdef uint64_t _bytes_max
    cdef int64_t _age_ns_max
    cdef bint _is_changed

    cdef int _grow(self) except -1
    cdef void _drop_first(self) noexcept
