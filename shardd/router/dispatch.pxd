"""One message to everybody who wants it: the C face."""

cimport cython
from libc.stdint cimport uint8_t, uint32_t, uint64_t

from shardd.router.frame cimport Message, Origin, Target
from shardd.router.ring cimport Producer
from shardd.router.sublist cimport MatchGroup, Sublist, Subscriber, Subscription

cdef enum:
    # A message for a queue group follows its members over at most this many processes; beyond it
    # members come and go faster than messages travel, and the message is dropped (at most once).
    HOPS_MAX = 8

cdef class Dispatcher:
    cdef readonly Sublist sublist
    # Whose changes this process announces: `sublist`, but in a router.
    cdef readonly Sublist offered
    cdef readonly Producer producer
    cdef readonly uint32_t index           # this process's slot
    # Processes that lead to other hosts: nothing that came from one goes to one (sheet 10.6).
    cdef readonly uint64_t routers
    # The mesh's part, called between records and before a batch leaves.
    cdef object _mesh
    cdef uint64_t _random
    # For the choice by policy: where turns begin, and what this host is known by.
    cdef uint32_t _first_turn
    cdef uint64_t _identity
    # Queue groups chosen to be served elsewhere, for the message at hand.
    cdef Target* _targets
    cdef size_t _target_count
    cdef size_t _target_capacity
    # Where the record at hand came from first: goes with it if it is handed on.
    cdef Origin origin
    # Subscriptions that reached their maximum with the message at hand.
    cdef Subscription** _expired
    cdef size_t _expired_count
    cdef size_t _expired_capacity
    # Records that found the ring full, oldest first, and what they hold back.
    cdef object _backlog
    cdef readonly bint is_full
    # Messages too large for the ring that are on their way: where each ends, how long it is.
    cdef object _oversize
    cdef uint64_t _oversize_bytes
    cdef uint64_t _oversize_number
    # How long the publisher of the message at hand shall be held back: its consumers are behind.
    cdef uint32_t stall_ms
    # How many deliveries deep the message at hand was published.
    cdef uint32_t nesting
    # Counters.
    cdef readonly uint64_t ring_stalls
    cdef readonly uint64_t ring_bytes
    cdef readonly uint64_t oversize_messages
    cdef readonly uint64_t handed_on

    cdef int publish(self, Message* message, Subscriber* publisher, bint echo) except -1
    cdef int receive(
        self, const unsigned char* record, size_t length, uint32_t flags
    ) except -1
    cdef int commit(self) except -1
    cdef int drain_backlog(self) except -1
    cdef bint has_subscriber(
        self, uint32_t account, const unsigned char* subject, size_t length,
        Subscriber* subscriber, Subscription** found,
    ) except -1

    @cython.final
    cdef int _deliver(self, Subscription* subscription, Message* message) except -1

    @cython.final
    cdef int _deliver_in_group(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo, uint64_t first
    ) except -1

    @cython.final
    cdef int _choose(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1
    cdef int _choose_by_policy(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1
    cdef int _deliver_by_policy(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo
    ) except -1
    cdef int _deliver_sticky(
        self, MatchGroup* group, Message* message, Subscriber* publisher, bint echo, uint64_t key
    ) except -1
    cdef int _draw(
        self, Sublist sublist, const MatchGroup* group, const Message* message, uint64_t skipped
    ) except -2
    cdef uint64_t _weight(self, const MatchGroup* group, uint64_t skipped) noexcept
    cdef int _rendezvous(self, const MatchGroup* group, uint64_t key, uint64_t skipped) noexcept
    cdef int _hand_over(
        self, const MatchGroup* group, const Message* message, bint is_routed
    ) except -1
    cdef int _add_target(
        self, uint32_t process, const unsigned char* name, uint32_t name_len
    ) except -1
    cdef int _receive_target(
        self, const Target* target, Message* message, uint32_t hops
    ) except -1
    cdef int _forward(
        self, const Message* message, uint64_t processes, uint32_t hops, size_t first
    ) except -1
    cdef int _forward_slowly(
        self, const Message* message, uint64_t processes, uint32_t hops, size_t first, size_t length
    ) except -1
    cdef bint _enter_ring(self, bytes record, uint64_t processes) except -1
    cdef bint _enter_oversize(self, bytes record, uint64_t processes) except -1

    @cython.final
    cdef int _expire(self) except -1
    cdef uint64_t _next_random(self) noexcept nogil
    cdef bint _wait_for_room(self, size_t length) except -1
