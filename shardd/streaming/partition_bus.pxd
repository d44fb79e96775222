"""A bus that shows a server only its own list of channels: the C face."""

cimport cython
from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Bus, Incoming, Outgoing, Receiver

@cython.final
cdef class PartitionReceiver(Receiver):
    cdef PartitionBus _bus

@cython.final
cdef class PartitionBus(Bus):
    cdef readonly Bus inner
    cdef PartitionReceiver _own            # what the inner bus hands messages to
    cdef tuple _patterns                   # the entries, as tokens
    cdef tuple _entries                    # and as bytes
    cdef object _later
    cdef dict _clients                     # who is registered: by client id, by connection id
    cdef dict _connections
    cdef dict _held                        # messages of clients that are not, by who sent them
    cdef dict _strangers                   # who was waited for in vain
    cdef public object begin_pass
    cdef public object end_pass
    cdef public object on_room
    cdef public object wake
    cdef public object on_control          # gets sid, payload and reply of QUESTIONS and ANSWERS

    cdef int _receive(self, uint64_t sid, const Incoming* message) except -1
    cdef int _publish(self, const Incoming* message) except -1
    cdef int _request(self, uint64_t sid, const Incoming* message) except -1
    cdef int _pass(self, object key, uint64_t sid, const Incoming* message) except -1
    cdef bint _is_known(self, object key) except -1
    cdef int _release(self, object key) except -1
