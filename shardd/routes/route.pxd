"""One connection to another server: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.poller cimport Poller
from shardd.routes.peer cimport Link
from shardd.routes.relay cimport Relay
from shardd.routes.wire cimport RouteLimits, RouteOperation

cdef class Route(Link):
    cdef readonly object owner             # who decides: `cluster.Cluster`
    cdef readonly uint64_t route_id
    cdef readonly str ip
    cdef readonly int port
    cdef readonly bint is_dialed           # this server opened it
    cdef readonly bint is_registered       # both ends know who they are
    cdef public object about               # what the owner keeps of it
    cdef Relay _relay
    cdef Poller _poller
    cdef RouteLimits _limits
    # input
    cdef unsigned char* _buffer
    cdef size_t _capacity
    cdef size_t _start                     # first byte not handled
    cdef size_t _end                       # first byte not filled
    cdef bint _is_paused
    # where a tail is built that cannot be relayed as it came
    cdef unsigned char* _scratch
    cdef size_t _scratch_bytes
    # the account of the last line
    cdef bytes _account
    cdef int64_t _account_number
    cdef readonly bint has_ponged          # since the owner's last `ping`

    cdef int _read(self) except -1
    cdef int _read_encoded(self) except -1
    cdef int _drain_layer(self) except -1
    cdef int _make_room(self) except -1
    cdef int _consume(self, bint is_last=*) except -1
    cdef int _handle(self, RouteOperation* operation) except -1
    cdef int _message(self, RouteOperation* operation) except -1
    cdef int _interest(self, RouteOperation* operation, bint is_wanted) except -1
    cdef int64_t _number_of(self, const RouteOperation* operation) except -2
    cdef int _lost(self, ssize_t got) except -1
