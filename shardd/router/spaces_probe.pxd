"""A door to the C face of accounts, for tests: the C face."""

from libc.stdint cimport uint32_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.spaces cimport Spaces
from shardd.router.sublist cimport Sublist, Subscriber, Subscription

cdef class SpaceProbe:
    cdef Spaces _spaces
    cdef Dispatcher _dispatcher
    cdef Sublist _sublist                  # held: the collector may clear the dispatcher
    cdef uint32_t _account
    cdef Subscriber _subscriber
    cdef dict _sids                        # sid to the address of its subscription
    cdef dict _shadows                     # that address to what it imports
    cdef readonly list got

    cdef int _take(self, Subscription* subscription, Message* message) except -1
    cdef int _remove(self, Subscription* subscription) except -1
