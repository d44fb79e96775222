"""The members of one queue group and how far they are together: the C face."""

from libc.stdint cimport uint64_t

from shardd.streaming.subscription cimport Subscription

cdef class QueueGroup:
    cdef readonly str name         # `durable:queue` for a durable one
    cdef readonly bint is_durable
    cdef readonly list members     # the first one is the next in turn
    cdef public Subscription remains           # of the last member, while there is none
    cdef public uint64_t last_sent

    # Who gets the next message; None when there is no member to be sent anything.
    cdef Subscription pick(self)
    cdef uint64_t in_flight(self) except? -1
    # Clears a sequence with whoever has it; whether anybody had.
    cdef bint ack(self, uint64_t sequence) except -1
