"""The sending half of a client, as it comes in: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.wire cimport Operation, WireLimits
from shardd.worker.rights cimport Rights

cdef class Reader(Rights):
    cdef WireLimits limits
    cdef bint is_paused                    # not read: the ring is full, or it is held back
    cdef bint is_peeking                   # its first byte tells whether it is TLS
    cdef bint is_greeted                   # INFO was sent
    cdef bint needs_connect                # nothing else is handled before CONNECT
    cdef bint is_waiting                   # nothing is handled until its credentials are checked
    # input that is not a whole operation yet
    cdef unsigned char* _kept
    cdef size_t _kept_len
    cdef size_t _kept_capacity
    cdef size_t _read_bytes                # the longest next read
    cdef size_t read_bytes_max             # the longest of all
    cdef size_t _kept_needed               # bytes that make the operation whole, 0: unknown
    # how it is held back
    cdef bint is_charged                   # its user or account has a limit on rates
    cdef uint64_t _stalled_until_ms
    cdef uint32_t _stall_ms                # gathered in this read
    cdef readonly uint32_t stalls          # times it was held back for slow consumers
    # counters
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t bytes_in

    # What the owner does with what came in.
    cdef int publish(self, Operation* operation) except -1
    cdef int handle(self, Operation* operation) except -1
    cdef int fail(self, int trouble) except -1
    cdef int on_open(self) except -1
    cdef int on_first_bytes(self) except -1
    cdef int on_stranger(self, unsigned char first) except -1
    cdef int charge(self, uint64_t messages, uint64_t bytes) except -1

    cdef int read(self) except -1
    cdef int read_on(self) except -1
    cdef int _read_encoded(self) except -1
    cdef int _read_layer(self) except -1
    cdef int _read_once(self) except -1
    cdef int _read_kept(self) except -1
    cdef ssize_t _fill(self, unsigned char* room, size_t wanted) except? -2
    cdef void _adapt(self, uint64_t messages) noexcept
    cdef int _lost(self, ssize_t got) except -1
    cdef int _consume(self, const unsigned char* data, size_t length) except -1
    cdef int _keep(self, const unsigned char* data, size_t length, size_t needed) except -1
    cdef int _room_to_keep(self, size_t length) except -1
    cdef int _after_read(self, uint64_t messages, uint64_t bytes) except -1
    cdef int pause(self) except -1
    cdef int resume(self) except -1
