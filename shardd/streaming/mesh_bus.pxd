"""A streaming worker's way to NATS inside a host: the C face."""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.doorbell cimport Doorbell
from shardd.router.frame cimport Message
from shardd.router.mesh cimport Mesh
from shardd.router.sublist cimport Sublist, Subscriber, Subscription
from shardd.streaming.bus cimport Bus, Outgoing

@cython.final
cdef class MeshBus(Bus):
    cdef readonly Dispatcher dispatcher
    cdef readonly Mesh mesh
    cdef readonly uint32_t account
    cdef Sublist _sublist
    cdef Doorbell _doorbell
    cdef Subscriber _subscriber
    cdef dict _sids                        # the address of each Subscription, by number
    cdef list _flushes                     # (interest sequence, callback)
    # Where the tail of a message is built.
    cdef unsigned char* _scratch
    cdef size_t _scratch_bytes
    cdef bytes _private                    # subjects that begin so are for the pool alone
    # What is called around a pass, and when there is room again.
    cdef public object begin_pass
    cdef public object end_pass
    cdef public object on_room
    cdef bint _is_finishing
    # Counters.
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t messages_out

    cdef int _take(self, Subscription* subscription, Message* message) except -1
    cdef int _make_scratch(self, size_t length) except -1
    cdef uint32_t _account_of(self, const unsigned char* subject, size_t length) noexcept
    cdef int _finish(self) except -1
    cdef int _call_flushes(self) except -1
    cdef bint _has_answers(self) except -1
