"""One subscription, or what is left of a durable one whose owner is away: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.inflight cimport InFlight
from shardd.streaming.log cimport Stored
from shardd.streaming.traffic cimport Traffic

cdef class Subscription:
    cdef readonly Traffic traffic
    # what was asked for
    cdef readonly uint64_t id
    cdef readonly str client_id
    cdef readonly bytes inbox
    cdef readonly bytes ack_inbox
    cdef readonly uint32_t max_in_flight
    cdef readonly int64_t ack_wait_ms
    cdef readonly str durable_name
    cdef readonly str queue_group
    cdef readonly bint is_durable
    cdef readonly bytes owner      # the heartbeat inbox of its owner's connection
    # where it belongs
    cdef public object channel
    cdef public object group       # None for a plain one
    cdef public bint is_offline
    cdef public bint is_started    # its owner has been told of it
    cdef public bint is_failing    # its owner does not answer heartbeats
    # how far it is
    cdef public uint64_t last_sent
    cdef readonly InFlight in_flight
    # what is still to do
    cdef public bint is_moved      # among `traffic.moved`
    cdef public bint is_armed      # has a timer, or is among `traffic.armed`
    cdef public bint is_due        # redeliveries could not all be made
    cdef public int64_t timer_ms   # when its timer goes off; 0: it has none

    cdef int send(self, const Stored* stored, uint32_t count) except -1
    cdef int deliver(self, const Stored* stored) except -1
    cdef int note_moved(self) except -1
    cdef int note_armed(self) except -1
