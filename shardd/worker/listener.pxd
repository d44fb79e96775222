"""The listening socket of one worker: the C face."""

from libc.stdint cimport uint64_t

from shardd.poller cimport Source
from shardd.worker.shared cimport Shared

cdef class Listener(Source):
    cdef Shared shared
    cdef object _socket
    cdef object _later
    cdef uint64_t _worker_count
    cdef double _backoff_s

    cdef int _accept(self) except -1
    cdef int _back_off(self, int error) except -1
