"""One client: the C face."""

from shardd.wire cimport Operation
from shardd.worker.life cimport Life

cdef class Connection(Life):
    cdef bint _may_use_reserved(self, Operation* operation) except -1
    cdef int _subscribe(self, Operation* operation) except -1
    cdef int _unsubscribe(self, Operation* operation) except -1
    cdef int _ping(self) except -1
    cdef int _pong(self) except -1
