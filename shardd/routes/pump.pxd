"""One pass of the router: the C face."""

from shardd.outbound cimport OutboundSet
from shardd.poller cimport Poller
from shardd.router.bell cimport Bell
from shardd.router.doorbell cimport Doorbell
from shardd.router.mesh cimport Mesh
from shardd.routes.relay cimport Relay

cdef class Pump:
    cdef readonly Poller poller
    cdef readonly OutboundSet outbounds
    cdef Relay _relay
    cdef Mesh _mesh
    cdef Doorbell _doorbell
    cdef Bell _bell
    cdef object _on_room
    cdef bint _was_full

    cdef int _pass(self) except -1
    cdef int _finish(self) except -1
