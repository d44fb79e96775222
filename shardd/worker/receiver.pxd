"""The receiving half of a client: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.outbound cimport Outbound
from shardd.router.frame cimport Message
from shardd.router.permissions cimport Permissions, ReplyGrants
from shardd.router.spaces cimport Space
from shardd.router.sublist cimport Subscriber, Subscription
from shardd.router.table cimport Table
from shardd.wire cimport Operation
from shardd.worker.shared cimport Shared

cdef class Receiver(Outbound):
    cdef Shared shared
    # who
    cdef readonly uint64_t client_id
    cdef readonly uint32_t account
    cdef readonly str ip
    cdef str _shown_ip                     # what a proxy says of where it is; for the log alone
    cdef readonly int port
    cdef readonly object options           # ConnectOptions
    cdef bint headers                      # it reads HMSG
    cdef bint is_closed
    # subscriptions, by sid
    cdef Table _sids
    cdef Subscriber _subscriber
    # what its user may have
    cdef Permissions permissions           # None: nothing is restricted
    cdef ReplyGrants grants                # what it may answer; None: `allow_responses` is off
    cdef bint is_filtered                  # some deliveries are denied
    cdef bint is_guarded                   # deliveries are looked at: filtered, or to be answered
    # its account beyond plain subjects
    cdef Space space                       # None: no mappings, no imports
    cdef dict _shadows                     # what its subscriptions import; None: nothing
    # answers that wait until peers have applied this client's interest: (sequence, bytes)
    cdef list _deferred
    cdef uint64_t _interest_sequence       # 0: nothing to wait for
    # counters
    cdef readonly uint64_t messages_out
    cdef readonly uint64_t bytes_out

    cdef Subscription* find(self, const unsigned char* sid, size_t length) noexcept
    cdef int subscribe(self, const Operation* operation) except -1
    cdef int remove(self, Subscription* subscription) except -1
    cdef int remove_all(self) except -1
    cdef int limit(self, Subscription* subscription, uint64_t max_deliveries) except -1
    cdef int _import(self, Subscription* subscription) except -1
    cdef int import_again(self) except -1
    cdef bint _may_take(self, const Subscription* subscription, Message* message) except -1
    cdef int take(self, Subscription* subscription, Message* message) except -1
    cdef size_t _write_head(
        self, unsigned char* start, const Subscription* subscription, const Message* message,
        bint has_header,
    ) noexcept
    cdef int _take_lent(
        self, Subscription* subscription, Message* message, bint has_header
    ) except -1
    cdef int _take_in_parts(
        self, Subscription* subscription, Message* message,
        const unsigned char* tail, size_t tail_len, bint has_header,
    ) except -1
    cdef int _strip(self, Message* message) except -1
    cdef int _trace_delivery(
        self, const Subscription* subscription, const Message* message,
        const unsigned char* tail, size_t tail_len, bint has_header,
    ) except -1
    cdef int answer_no_responders(self, Message* message) except -1
    cdef int say(self, const unsigned char* text, size_t length) except -1
    cdef int say_after_interest(self, const unsigned char* text, size_t length) except -1
    cdef int ok(self) except -1
    cdef int _defer(self, uint64_t sequence, const unsigned char* text, size_t length) except -1
    cdef bint release_deferred(self) except -1
