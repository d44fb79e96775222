"""One producer, many consumers, each message written once: the C face.

A `Ring` is one anonymous shared segment made before the fork: a header, one cursor line per
process, and a data area of a power of two bytes that is mapped twice in a row, so that no record
ever wraps. Positions are 64-bit counts of bytes that only grow; the index is the position masked.

The producer fills a batch (a batch header and records, both 8-byte aligned) beyond the published
position and publishes it whole with one release store, so a batch of a process that died is either
seen whole or not at all, and its successor goes on at the published position.

A consumer's cursor is written by the producer when it attaches the consumer, then by the consumer
alone. A producer counts only the consumers that it has attached itself. One that its predecessor
had attached, and that still lives, keeps its cursor.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.shm cimport Segment

cdef struct Batch:
    uint64_t position          # where its header stands
    uint64_t processes         # union of its records' destinations
    uint64_t interest_sequence # the producer's interest the consumer must have applied first
    uint32_t incarnation       # of the producer
    uint32_t length            # header included
    const unsigned char* records
    uint32_t records_len

@cython.final
cdef class Ring:
    cdef readonly size_t size          # bytes of the data area
    cdef readonly uint32_t slots       # processes it has cursors for
    cdef unsigned char* _header        # start of the mapping
    cdef unsigned char* _data          # first of the two views
    cdef size_t _mapped                # bytes mapped in all
    cdef Segment _header_segment
    cdef Segment _data_segment
    # Raises InternalError unless the shared header is this ring's.
    cpdef int check(self) except -1

@cython.final
cdef class Producer:
    cdef readonly Ring ring
    cdef readonly uint32_t incarnation
    cdef readonly uint64_t attached    # bit mask of consumers that bound the free space
    cdef readonly size_t record_max    # longest record that `claim` grants
    cdef uint64_t _published           # where the open batch starts
    cdef uint64_t _consumed            # lowest cursor, as of the last look
    cdef size_t _open                  # bytes of the open batch, its header included
    cdef uint64_t _processes           # destinations of the open batch
    # Opens a batch if none is open and returns room for a record of `length` bytes at an 8-byte
    # boundary, or NULL when the ring is full. A claim is final once the next one or `publish` is
    # called. `processes` is added to the batch's destinations.
    cdef unsigned char* claim(self, size_t length, uint64_t processes) noexcept nogil
    # Bytes in the open batch, 0 when there is none.
    cpdef size_t open_bytes(self) noexcept nogil
    # Publishes the open batch; returns its destinations, 0 when there was none.
    cpdef uint64_t publish(self, uint64_t interest_sequence) noexcept nogil
    # Asks consumers to ring when they have moved on. Returns True when room for `length` bytes
    # appeared meanwhile (then no ring will come, or one that can be ignored). The open batch
    # must have been published: what nobody can read, nobody frees.
    cpdef bint wait_for_room(self, size_t length) noexcept nogil
    # A consumer takes part from the published position on / no longer. `incarnation` is the
    # consumer's own: if the predecessor had attached the same one, it goes on at its cursor, which
    # it may be moving at this moment; 0 says that it is not. Whoever waits for room must look
    # again after `detach`: a dead consumer does not ring.
    cpdef int attach(self, uint32_t slot, uint32_t incarnation=*) except -1
    cpdef int detach(self, uint32_t slot) except -1
    # Lowest cursor of the attached consumers (the published position when there is none).
    cpdef uint64_t consumed(self) noexcept nogil
    cdef bint _has_room(self, size_t length) noexcept nogil

@cython.final
cdef class Consumer:
    cdef readonly Ring ring
    cdef readonly uint32_t slot
    cdef readonly uint32_t incarnation # of the producer it reads; 0: of any
    cdef readonly bint is_started
    cdef uint64_t _position            # read up to here
    cdef uint64_t _published           # the producer's position, as of the last look
    cdef uint64_t _released            # what the producer knows of `_position`
    # The next batch of this incarnation: False when there is none. InternalError when what
    # stands there is not a batch.
    cdef int peek(self, Batch* batch) except -1 nogil
    cdef int _has_batch(self) except -1 nogil
    cdef int _raise_corrupt(self, uint32_t length, uint64_t available) except -1 with gil
    # Steps over it, locally.
    cdef void advance(self, const Batch* batch) noexcept nogil
    # Publishes the local position; True when the producer asked to be rung.
    cpdef bint release(self) noexcept nogil
    # Starts reading where the producer attached this consumer, behind what predecessors of that
    # producer had published; True when the producer asked to be rung.
    cpdef int start(self) except -1
    # Whether anything is published beyond the local position.
    cpdef bint is_behind(self) noexcept nogil
    # The published position, and whether this one has not read up to a position yet.
    cdef uint64_t published(self) noexcept nogil
    cdef bint is_before(self, uint64_t position) noexcept nogil
