"""A bus that goes nowhere, for tests and the micro-benchmark: the C face."""

from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Bus
from shardd.streaming.memory_log cimport MemoryLog

cdef class ProbeBus(Bus):
    cdef readonly list sent        # (subject, reply, payload)
    cdef readonly dict subscribed  # sid to subject
    cdef public object is_heard    # tells of a subject whether anybody gets it; None: always
    cdef public object flushes     # callbacks that wait for `flush_now`
    cdef public bint is_counting   # keeps nothing of what is sent, only counts
    cdef readonly uint64_t count
    cdef public uint64_t congested_after       # messages until it is congested; 0: never

cdef class SlowLog(MemoryLog):
    cdef public uint64_t loaded    # messages beyond it must be fetched first
    cdef readonly uint64_t asked   # how often one was not there
