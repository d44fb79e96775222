"""What waits for one commit: the C face."""

from shardd.streaming.bus cimport Bus
from shardd.streaming.channel cimport Channel
from shardd.streaming.pb cimport Span

cdef class Batch:
    cdef readonly list channels    # those with a message in this batch
    cdef readonly list waiters     # called with the reason why rows were not written, or ""
    cdef readonly size_t count     # acks
    cdef unsigned char* _data
    cdef size_t _used
    cdef size_t _size

    cdef int note(self, Channel channel, const Span* reply, const Span* guid) except -1
