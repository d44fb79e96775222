"""How a client comes in, lasts and ends: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.wire cimport Operation
from shardd.worker.reader cimport Reader

cdef class Life(Reader):
    # how it came in
    cdef readonly object door              # Door
    cdef str _nonce                        # what it may sign; "": nothing
    cdef bytes _certificate                # DER, once TLS has verified it
    cdef str _unix_user                    # whom its socket's uid stands for; "": nobody
    cdef object _checked_by                # the gate that a thread asks about it now
    cdef bint _is_anonymous_allowed        # it may act before CONNECT, as no_auth_user
    # who it is
    cdef readonly object admission         # Admission, None: nobody yet
    cdef bint is_connected                 # CONNECT was received
    cdef bint has_ponged                   # the first PONG after it was sent
    # what CONNECT asked for; the flags are what the hot path reads
    cdef bint verbose
    cdef bint pedantic
    cdef bint echo
    cdef bint no_responders
    # time, in milliseconds of the worker's clock
    cdef readonly uint64_t started_ms
    cdef readonly uint64_t active_ms       # the last message, SUB or PING of the client
    cdef uint64_t _ping_at_ms
    cdef uint64_t _asked_us                # when a round trip began, microseconds; 0: none is open
    cdef uint64_t _open_until_ms           # to shake hands, then to say who it is; 0: no limit
    cdef uint64_t _expires_ms              # when its credentials end; 0: never
    cdef readonly uint64_t rtt_us          # of the last round trip, at least 1; 0: unknown
    cdef uint32_t _pings_out
    cdef bint _has_pinged
    cdef bint _is_rtt_known

    cdef int _begin_tls(self, bytes info) except -1
    cdef int _greet(self) except -1
    cdef int _wait_for_connect(self) except -1
    cdef int connect(self, Operation* operation) except -1
    cdef int _let_in(self, object identity) except -1
    cdef int _take_options(self) except -1
    cdef int note_ping(self) except -1
    cdef int note_pong(self) except -1
    cdef int _note_answer(self) except -1
    cdef int _hang_up(self) except -1
    cdef int _set_deadline(self) except -1
    cdef int _on_open_deadline(self) except -1
    cdef int _on_ping_deadline(self, uint64_t now_ms) except -1
