"""A door to the C face of an output queue, for tests."""

from shardd.outbound cimport Outbound

cdef class Probe(Outbound):
    cdef readonly int blocked_count        # calls of each of the owner's methods
    cdef readonly int broken_count
    cdef readonly int overflow_count
