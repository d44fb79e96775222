"""One deadline for each of very many items: the C face."""

from libc.stdint cimport uint64_t

cdef class Timed:
    cdef size_t _place             # in the arrays of its `Deadlines`; NOT_TIMED when in none

    cdef int on_deadline(self, uint64_t now_ms) except -1

cdef class Deadlines:
    cdef uint64_t* _times
    cdef void** _items
    cdef size_t _count
    cdef size_t _capacity

    cdef int add(self, Timed item, uint64_t time_ms) except -1
    cdef int move(self, Timed item, uint64_t time_ms) except -1
    cdef int remove(self, Timed item) except -1
