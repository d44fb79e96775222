"""A connection to any NATS server, as a bus: the C face."""

cimport cython
from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Bus, Outgoing

@cython.final
cdef class TcpLink:
    cdef TcpBus _bus
    cdef public object transport           # None before it is open and after it is closed
    cdef public object on_info             # called with each INFO's text
    cdef public object on_pong             # called with the first PONG; then None
    cdef public object on_error            # called with each -ERR's text
    cdef public object on_lost             # called once, with the reason or None
    cdef unsigned char* _buffer
    cdef size_t _capacity
    cdef size_t _start                     # what is not handled yet
    cdef size_t _end

    cdef int _make_room(self) except -1
    cdef int _consume(self) except -1

@cython.final
cdef class TcpBus(Bus):
    cdef TcpLink _link                     # None while there is no connection
    cdef dict _subjects                    # what is subscribed to, by number
    cdef object _flushes                   # callbacks, in the order of the PINGs that ask for them
    cdef unsigned char* _out               # what is to be written at the end of the pass
    cdef size_t _out_len
    cdef size_t _out_capacity
    cdef uint64_t _payload_max
    cdef public object begin_pass
    cdef public object end_pass
    cdef public object on_room
    cdef bint _is_finishing
    cdef readonly uint64_t pings_out       # asked and not answered
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t messages_out
    cdef readonly uint64_t dropped         # published while there was no connection
    cdef readonly uint64_t too_large       # of them: more than the server lets through

    cdef unsigned char* _reserve(self, size_t length) except NULL
    cdef int _say(self, bytes text) except -1
    cdef int _flush_out(self) except -1
    cdef int _on_pong(self) except -1
