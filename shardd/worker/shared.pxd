"""What all connections of one worker share: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.outbound cimport OutboundSet
from shardd.poller cimport Poller
from shardd.quotas cimport Quotas
from shardd.router.dispatch cimport Dispatcher
from shardd.router.mesh cimport Mesh
from shardd.router.sublist cimport Sublist
from shardd.router.table cimport HashKey
from shardd.slots cimport Slot, Slots
from shardd.timers cimport Deadlines
from shardd.wire cimport WireLimits

cdef class Shared:
    # the worker's parts
    cdef readonly Poller poller
    cdef readonly OutboundSet outbounds
    cdef readonly Dispatcher dispatcher
    cdef readonly Sublist sublist
    cdef readonly Mesh mesh
    cdef readonly Deadlines deadlines
    cdef readonly Slots slots
    cdef Slot* counters                    # the own slot
    cdef uint64_t[4] _shown                # of the dispatcher's counters, in the own slot
    # input: one buffer for all connections, for the longest read and as much again for a tail
    cdef unsigned char* buffer
    cdef size_t buffer_bytes
    # where tails are rebuilt that cannot be relayed as they came
    cdef unsigned char* scratch
    cdef size_t scratch_bytes
    cdef unsigned char* plain_scratch      # the same, for subscribers without headers
    cdef size_t plain_scratch_bytes
    cdef list _nested                      # the same for messages inside of others, by depth
    cdef unsigned char* head_scratch       # where the head of a large delivery is built
    cdef size_t head_scratch_bytes
    cdef HashKey sid_key
    # what the configuration says
    cdef WireLimits limits                 # before CONNECT asks for headers
    cdef uint64_t pending_max
    cdef uint64_t stall_at                 # pending bytes of a consumer that hold producers back
    cdef int64_t subscriptions_max         # negative: no limit
    cdef uint64_t subscription_tokens_max  # 0: no limit
    cdef int64_t connections_max
    cdef uint64_t ping_interval_ms
    cdef uint64_t first_ping_ms
    cdef uint32_t pings_out_max
    cdef bint drops_instead_of_stalling
    cdef bint has_headers
    cdef bint is_tracing
    cdef bint is_balancing
    # who may come in
    cdef readonly object gate              # worker.gate.Gate
    cdef readonly Quotas quotas
    cdef public object observer            # worker.observer.Observer
    cdef readonly bytes guarded_prefix     # of subjects whose payload says what else is needed
    cdef readonly object guard             # then (subject, payload) to a subject, or None
    cdef object _loop                      # the worker's face to its event loop
    cdef readonly object random            # random.Random, for the jitter of first pings
    # connections, by client id, and those that wait for something
    cdef readonly dict connections
    cdef readonly list deferred            # answers wait until peers have applied interest
    cdef readonly list paused              # reading waits for room in the ring
    cdef readonly list stalled             # reading waits for slow consumers

    cdef unsigned char* scratch_for(self, size_t length) except NULL
    cdef unsigned char* plain_scratch_for(self, size_t length) except NULL
    cdef unsigned char* head_for(self, size_t length) except NULL
    cdef uint64_t host_connections(self) noexcept
