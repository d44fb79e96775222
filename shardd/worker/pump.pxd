"""One pass of a worker: the C face."""

from libc.stdint cimport uint64_t

from shardd.router.bell cimport Bell
from shardd.router.doorbell cimport Doorbell
from shardd.worker.shared cimport Shared

cdef class Pump:
    cdef readonly Shared shared
    cdef Doorbell _doorbell
    cdef Bell _bell
    cdef object _stall_timer
    cdef object _later

    cdef bint _has_answers(self) except -1
    cdef int _pass(self) except -1
    cdef int _finish(self) except -1
    cdef int _end_stalls(self) except -1
