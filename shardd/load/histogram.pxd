"""How often each duration was seen: the C face."""

from libc.stdint cimport uint64_t

cdef enum:
    # Values below 256 have a bucket each; above, each doubling is cut into 128.
    EXACT_MAX = 256
    BUCKETS_PER_DOUBLING = 128
    BUCKETS = 7424              # enough for every 64-bit value

cdef class Histogram:
    cdef uint64_t* _counts
    cdef readonly uint64_t count
    cdef readonly uint64_t min      # of all values, exact; 0 when there is none
    cdef readonly uint64_t max
    cdef double _sum
    cdef double _sum_of_squares

    cdef inline void add(self, uint64_t value) noexcept nogil
