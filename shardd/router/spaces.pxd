"""Accounts as the router sees them: the C face."""

cimport cython
from libc.stdint cimport uint32_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.sublist cimport Subscriber

@cython.final
cdef class Space:
    cdef Dispatcher dispatcher
    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1

@cython.final
cdef class Spaces:
    cdef Dispatcher dispatcher
    cdef dict _spaces
