"""Who takes what NATS hands to a streaming worker: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.streaming.commit_batch cimport Batch
from shardd.streaming.bus cimport Incoming, Receiver
from shardd.streaming.channel cimport Channel
from shardd.streaming.pb cimport PubMsg, Span
from shardd.streaming.traffic cimport Traffic

cdef class StreamingReceiver(Receiver):
    cdef readonly Traffic traffic
    cdef public Batch batch        # the open one
    cdef public object server      # handed what is rare
    cdef readonly dict channels    # name to Channel
    cdef readonly dict connections # connection id to client
    cdef readonly dict clients     # client id, as bytes, to client
    cdef readonly list subscriptions           # per part: id to Subscription
    cdef readonly dict foreign     # sid of an ack inbox of its own, to Subscription
    cdef public bint is_strict     # a channel must be its NATS subject
    cdef size_t _prefix_len        # of what stands before the channel in a NATS subject
    cdef uint32_t _parts           # one bit for each part that is this worker's
    cdef Channel _channel          # of the last publish
    cdef bytes _connection         # of the last publish; always registered, or None

    cdef int _publish(self, const Incoming* message, bint is_passed_on) except -1
    cdef int _ack(self, object subscription, const Incoming* message) except -1
    cdef bint _is_known(self, const PubMsg* message) except -1
    cdef Channel _find(self, const Span* name)
    cdef int _refuse(self, const Incoming* message, const Span* guid, str text) except -1
    cdef int _hand_over(self, uint64_t sid, const Incoming* message) except -1
