"""One client: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.frame cimport Message
from shardd.wire cimport Operation, WireLimits
from shardd.worker.receiver cimport Receiver

cdef class Connection(Receiver):
    # what CONNECT asked for; the flags are what the hot path reads
    cdef WireLimits limits
    cdef bint verbose
    cdef bint pedantic
    cdef bint echo
    cdef bint no_responders
    cdef bint is_connected                 # CONNECT was received
    cdef bint has_ponged                   # the first PONG after it was sent
    cdef bint is_paused                    # not read: the ring is full, or it is held back
    # input that is not a whole operation yet
    cdef unsigned char* _kept
    cdef size_t _kept_len
    cdef size_t _kept_capacity
    cdef size_t _read_bytes                # the longest next read
    cdef size_t _kept_needed               # bytes that make the operation whole, 0: unknown
    # time, in milliseconds of the worker's clock
    cdef readonly uint64_t started_ms
    cdef readonly uint64_t active_ms       # the last message, SUB or PING of the client
    cdef uint64_t _ping_at_ms
    cdef uint64_t _ping_sent_ms
    cdef readonly uint64_t rtt_ms
    cdef uint32_t _pings_out
    cdef bint _has_pinged
    cdef bint _is_rtt_known
    cdef uint64_t _stalled_until_ms
    cdef uint32_t _stall_ms                # gathered in this read
    # counters
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t bytes_in

    cdef int read(self) except -1
    cdef int _read_kept(self) except -1
    cdef void _adapt(self, uint64_t messages) noexcept
    cdef int _lost(self, ssize_t got) except -1
    cdef int _consume(self, const unsigned char* data, size_t length) except -1
    cdef int _keep(self, const unsigned char* data, size_t length, size_t needed) except -1
    cdef int _room_to_keep(self, size_t length) except -1
    cdef int _after_read(self) except -1
    cdef int _handle(self, Operation* operation) except -1
    cdef int _publish(self, Operation* operation) except -1
    cdef bint _may_publish(self, Operation* operation) except -1
    cdef int _subscribe(self, Operation* operation) except -1
    cdef int _unsubscribe(self, Operation* operation) except -1
    cdef int _ping(self) except -1
    cdef int _pong(self) except -1
    cdef int _connect(self, Operation* operation) except -1
    cdef int _fail(self, int trouble) except -1
    cdef int pause(self) except -1
    cdef int resume(self) except -1
    cdef int _set_deadline(self) except -1
