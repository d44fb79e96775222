"""A client without a socket: the C face."""

from libc.stdint cimport uint32_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.sublist cimport Sublist, Subscriber, Subscription

cdef class LocalClient:
    cdef readonly Dispatcher dispatcher
    cdef readonly bint is_closed
    cdef Sublist _sublist
    cdef object _callback
    cdef Subscriber _subscriber
    cdef dict _sids                        # the address of each Subscription, by sid
    cdef bint _is_publishing
    cdef object _own                       # deliveries that wait until the own publish is over

    cdef int _publish(self, Message* message, bint echo) except -1
    cdef int _take(self, Subscription* subscription, Message* message) except -1
    cdef int _remove(self, Subscription* subscription) except -1
    cdef Subscription* _find(self, bytes sid) except? NULL
