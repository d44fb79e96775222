"""What a client's user may do: the C face."""

from libc.stdint cimport int64_t

from shardd.wire cimport Operation
from shardd.worker.receiver cimport Receiver

cdef class Rights(Receiver):
    cdef int64_t subscriptions_max         # of this connection; negative: no limit

    cdef int set_rules(self, object permissions) except -1
    cdef bint is_allowed(self, Operation* operation) except -1
    cdef bint _may_by_content(self, Operation* operation) except -1
    cdef bint _refuse_publish(self, bytes subject) except -1
    cdef bint may_subscribe(self, Operation* operation) except -1
    cdef int withdraw_refused(self) except -1
