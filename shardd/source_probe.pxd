"""A door to the C face of deadlines and of the epoll set, for tests."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.poller cimport Source

cdef class Probe(Source):
    cdef object _on_events
    cdef object _on_deadline
