"""What a streaming worker needs of NATS, and what NATS hands to it: the C face."""

from libc.stdint cimport uint64_t

# One message from NATS. Every pointer is borrowed and dies with the call that hands it over.
cdef struct Incoming:
    const unsigned char* subject
    size_t subject_len
    const unsigned char* reply         # NULL when there is none
    size_t reply_len
    const unsigned char* header        # the whole header block; NULL when there is none
    size_t header_len
    const unsigned char* payload       # without the header block
    size_t payload_len

# One message to NATS. The payload may come in two pieces, so that a stored message leaves with
# something behind it and is not copied for that.
cdef struct Outgoing:
    const unsigned char* subject
    size_t subject_len
    const unsigned char* reply         # NULL when there is none
    size_t reply_len
    const unsigned char* payload
    size_t payload_len
    const unsigned char* more          # NULL when there is no second piece
    size_t more_len

cdef class Receiver:
    cdef int receive(self, uint64_t sid, const Incoming* message) except -1

cdef class Bus:
    cdef public Receiver receiver
    # More is queued than NATS takes at the moment: hold deliveries back until `on_room`. Nothing
    # is refused meanwhile: what must leave (acks, replies) may.
    cdef readonly bint is_congested
    cdef int publish(self, const Outgoing* message) except -1
