"""What the logs of one file store have in memory: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.segment cimport Segment


# Appended messages on their way to the disk, and for a while after.
@cython.final
cdef class Batch:
    cdef unsigned char* bytes
    cdef size_t used
    cdef size_t capacity
    cdef uint32_t* offsets         # of the records, from the batch's beginning
    cdef size_t count
    cdef size_t offsets_capacity
    cdef uint64_t first            # sequence of the first message
    cdef int64_t first_ns
    cdef int64_t last_ns
    cdef uint32_t base             # where in the segment it begins
    cdef Segment segment
    cdef Segment full              # that this new segment follows
    cdef unsigned char* reserve(self, size_t length) except NULL


# A piece of a segment, read ahead. Never changed: a log that wants another piece makes another.
@cython.final
cdef class Window:
    cdef unsigned char* bytes
    cdef size_t length
    cdef uint32_t offset
    cdef Segment segment
    cdef int fill(self, Segment segment, uint32_t offset, size_t length) except -1
    cdef const unsigned char* record(
        self, uint64_t sequence, uint32_t offset, size_t length, bint crc
    ) except NULL


# What the logs of one store share. Touched by the event loop only.
@cython.final
cdef class LogHome:
    cdef readonly bint sync
    cdef readonly bint crc
    cdef readonly uint64_t segment_bytes
    cdef readonly uint64_t segment_messages
    cdef readonly int64_t segment_age_ns
    cdef readonly size_t descriptors_max
    cdef readonly list dirty       # logs that have something to write
    cdef readonly set warm         # logs that hold something which can be let go
    cdef readonly dict open        # segments with a descriptor, the longest open first
    cdef readonly list dropped     # paths of segments that are to be removed
    cdef readonly list purged      # logs whose `first` is to be remembered
    cdef list _spare
    cdef list _retired
    cdef object _on_warm
    cdef object _on_retired
    cdef Batch batch(self)
    cdef int give_back(self, Batch batch) except -1
    cdef int retire(self, object held) except -1
    cdef int opened(self, Segment segment) except -1
    cdef int warmed(self, object log) except -1
