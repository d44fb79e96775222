"""The C face of the page that all processes of a host share: one slot per process.

A slot is written by its own process, except `state` and `incarnation`, which the supervisor
also writes when it forks and reaps. Fields that are written often stand on their own cache lines.
"""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.shm cimport Segment

cdef enum State:
    STATE_EMPTY = 0      # no process
    STATE_BOOTING = 1    # forked
    STATE_JOINED = 2     # its control socket is bound: peers may connect
    STATE_READY = 3      # it knows every peer's interest and accepts clients
    STATE_STOPPING = 4

cdef struct Slot:
    # line 0: life
    uint32_t state
    uint32_t incarnation       # grows with every fork into this slot
    int64_t pid
    uint64_t heartbeat         # grows with every tick
    uint64_t announced         # last interest sequence announced, over all incarnations
    uint64_t next_client       # connections this slot has numbered, over all incarnations
    uint64_t incoming          # connections on their way from other workers, over all incarnations
    uint64_t reserved0[2]
    # line 1: the doorbell's flag, written by consumer and producers
    uint32_t is_asleep         # 0, or the number of the sleep (see router.doorbell)
    uint32_t sleeps            # numbers given so far, written by the owner only
    uint32_t reserved2[14]
    # lines 2-4: counters, written by the owner only (relaxed)
    uint64_t connections
    uint64_t connections_total
    uint64_t subscriptions
    uint64_t messages_in
    uint64_t bytes_in
    uint64_t messages_out
    uint64_t bytes_out
    uint64_t slow_consumers
    uint64_t stale_connections
    uint64_t stalled_clients
    uint64_t ring_stalls       # times the ring was full
    uint64_t ring_bytes        # published into the ring
    uint64_t oversize_messages
    uint64_t redirected        # queue-group messages handed on
    uint64_t loop_late_us      # by which ticks came too late, summed
    uint64_t reserved3[9]
    # lines 5-12: how much of each peer's interest this process has applied
    uint64_t applied[64]

cdef struct HostPage:
    uint64_t magic
    uint32_t version
    uint32_t slots
    uint64_t epoch             # grows when any slot's state or incarnation changes
    uint64_t reserved[5]

@cython.final
cdef class Slots:
    cdef readonly uint32_t count
    cdef HostPage* page
    cdef Segment _segment
    # NULL when there is no such slot.
    cdef Slot* slot(self, uint32_t index) noexcept nogil
    cdef Slot* _checked(self, uint32_t index) except NULL
    cdef int _forget_living(self, Slot* slot) except -1
    # Counts a connection on its way to this slot's process, or its arrival.
    cdef void add_incoming(self, uint32_t index, int64_t count) noexcept nogil
    # Bit mask of the slots whose process is ready.
    cpdef uint64_t ready(self) noexcept nogil
    # Bit mask of the ready slots, but `index`, that have not yet applied its interest up to
    # `sequence`.
    cpdef uint64_t lagging(self, uint32_t index, uint64_t sequence) noexcept nogil
