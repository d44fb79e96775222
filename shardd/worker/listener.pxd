"""The listening sockets of one worker: the C face."""

from libc.stdint cimport uint64_t

from shardd.poller cimport Source
from shardd.worker.shared cimport Shared

cdef class Inlet(Source):
    cdef Entrance entrance

cdef class Listener(Source):
    cdef Entrance entrance
    cdef object _socket
    cdef int _door                         # its number
    cdef double _backoff_s

    cdef int _accept(self) except -1
    cdef int _back_off(self, int error) except -1

cdef class Entrance:
    cdef Shared shared
    cdef object _later
    cdef uint64_t _worker_count
    cdef Inlet _inlet
    cdef list _listeners
    cdef list _doors                       # Door, by number
    cdef list _outlets                     # descriptors, one per worker; empty: keep everything

    cdef int take(self, int fd, int door) except -1
    cdef int admit(self, int fd, int door) except -1
    cdef int _choose_worker(self) noexcept
