"""The listening socket of one worker: the C face."""

from libc.stdint cimport uint64_t

from shardd.poller cimport Source
from shardd.worker.shared cimport Shared

cdef class Inlet(Source):
    cdef Listener listener

cdef class Listener(Source):
    cdef Shared shared
    cdef object _socket
    cdef object _later
    cdef uint64_t _worker_count
    cdef double _backoff_s

    cdef Inlet _inlet
    cdef list _outlets                     # descriptors, one per worker; empty: keep everything

    cdef int admit(self, int fd) except -1
    cdef int _choose_worker(self) noexcept
    cdef int _accept(self) except -1
    cdef int _back_off(self, int error) except -1
