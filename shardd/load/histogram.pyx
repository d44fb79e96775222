# cython: language_level=3str
"""How often each duration was seen, in buckets that are 0.8 percent of their value wide.

So a run of any length keeps its percentiles in 58 kB. Count, minimum, maximum, mean and standard
deviation are those of the values themselves.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.math cimport sqrt
from libc.stdint cimport uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

import math


cdef inline size_t bucket_of(uint64_t value) noexcept nogil:
    """The bucket of a value: itself when it is small, else its doubling and its next seven bits."""
    cdef int shift = 0
    if value < EXACT_MAX:
        return <size_t>value
    while (value >> shift) >= EXACT_MAX:
        shift += 1
    return (
        EXACT_MAX + <size_t>(shift - 1) * BUCKETS_PER_DOUBLING
        + <size_t>(value >> shift) - BUCKETS_PER_DOUBLING
    )


cdef inline uint64_t highest_of(size_t bucket) noexcept nogil:
    """The highest value of a bucket."""
    cdef size_t shift, top
    if bucket < EXACT_MAX:
        return bucket
    shift = (bucket - EXACT_MAX) // BUCKETS_PER_DOUBLING + 1
    top = (bucket - EXACT_MAX) % BUCKETS_PER_DOUBLING + BUCKETS_PER_DOUBLING + 1
    # The topmost bucket ends at 2**64, which wraps to zero.
    return (<uint64_t>top << shift) - 1


@cython.final
cdef class Histogram:
    """Durations by how often they were seen. One process adds; pickling carries it to another."""

    def __cinit__(self):
        self._counts = <uint64_t*>calloc(BUCKETS, sizeof(uint64_t))
        if self._counts == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._counts)

    cdef inline void add(self, uint64_t value) noexcept nogil:
        self._counts[bucket_of(value)] += 1
        if self.count == 0 or value < self.min:
            self.min = value
        if value > self.max:
            self.max = value
        self.count += 1
        self._sum += <double>value
        self._sum_of_squares += <double>value * <double>value

    def record(self, uint64_t value):
        """Add one value."""
        self.add(value)

    @property
    def mean(self):
        """The average; 0 when there is no value."""
        return self._sum / self.count if self.count else 0.0

    @property
    def stddev(self):
        """The standard deviation; 0 when there is no value."""
        if self.count == 0:
            return 0.0
        mean = self._sum / self.count
        variance = self._sum_of_squares / self.count - mean * mean
        return sqrt(variance) if variance > 0 else 0.0

    def percentile(self, double share):
        """The value that `share` of all values do not exceed; 0 when there is none."""
        cdef uint64_t rank = max(1, math.ceil(share * self.count - 1e-9))
        cdef uint64_t seen = 0
        cdef size_t bucket
        if self.count == 0:
            return 0
        for bucket in range(BUCKETS):
            seen += self._counts[bucket]
            if seen >= rank:
                return max(self.min, min(self.max, highest_of(bucket)))
        return self.max

    def __reduce__(self):
        cdef bytes counts = PyBytes_FromStringAndSize(
            <const char*>self._counts, BUCKETS * sizeof(uint64_t))
        exact = (self.count, self.min, self.max, self._sum, self._sum_of_squares)
        return _restore, (counts, exact)


def _restore(bytes counts, tuple exact):
    """The other end of pickling."""
    cdef Histogram found = Histogram()
    if PyBytes_GET_SIZE(counts) != BUCKETS * <Py_ssize_t>sizeof(uint64_t):
        raise ValueError("not a histogram")
    memcpy(found._counts, PyBytes_AS_STRING(counts), BUCKETS * sizeof(uint64_t))
    found.count, found.min, found.max, found._sum, found._sum_of_squares = exact
    return found
