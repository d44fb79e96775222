"""What a NATS server says to a client, one operation at a time: the C face.

As `shardd.wire`: no state, the caller owns the bytes and keeps the unread tail.
"""

from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Incoming

cdef enum ServerVerb:
    SERVER_NONE = 0
    SERVER_MSG = 1                 # MSG and HMSG
    SERVER_INFO = 2
    SERVER_PING = 3
    SERVER_PONG = 4
    SERVER_OK = 5
    SERVER_ERR = 6

cdef struct ServerOperation:
    ServerVerb verb
    uint64_t sid                   # MSG
    Incoming message               # MSG, borrowed
    const unsigned char* args      # INFO, -ERR: the argument part, blanks trimmed
    size_t args_len

cdef enum:
    SERVER_INCOMPLETE = 0
    SERVER_NONSENSE = -1           # no NATS server says this

cdef ssize_t next_server_operation(
    const unsigned char* buffer, size_t length, ServerOperation* operation
) noexcept nogil
