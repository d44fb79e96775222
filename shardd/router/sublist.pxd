"""The C face of the subject index: who wants a subject, on this process and on the others.

Subscriptions, interest and match results are C structs owned by their `Sublist`; nothing here is a
Python object but the index itself. Accounts are small integers; 0 is the global account. The
structs stand in `patterns.pxd` and `match_result.pxd`; users of the index take them from here.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.router.match_result cimport Match, MatchGroup
from shardd.router.policies cimport Policy
from shardd.router.patterns cimport (
    Group,
    Index,
    Interest,
    RemoteWeight,
    Subscriber,
    Subscription,
    deliver_function,
    expire_function,
)

@cython.final
cdef class Sublist:
    cdef Index _index
    cdef list _rules                       # as set; None: never
    cdef readonly uint64_t subscriptions
    cdef readonly uint64_t inserts
    cdef readonly uint64_t removes

    # Adds a local subscription. ValueError for an invalid subject, MemoryError without memory; then
    # nothing has changed.
    cdef Subscription* insert(
        self, uint32_t account,
        const unsigned char* subject, size_t subject_len,
        const unsigned char* queue, size_t queue_len,       # queue NULL: plain
        const unsigned char* sid, size_t sid_len,
        Subscriber* subscriber,
    ) except NULL
    # Takes it out of the index; the struct lives until `release`.
    cdef int remove(self, Subscription* subscription) except -1
    # Frees what was removed, retired or not cached. Called between messages, never while a Match is
    # in use; until then a Match, and the pattern of a removed subscription, can be read. Who
    # matches and never calls it leaks.
    cdef int release(self) except -1
    # Who gets this literal subject. Never NULL; raises MemoryError. A subject with an empty token
    # reaches nobody; `*` and `>` in it are ordinary.
    cdef const Match* match(
        self, uint32_t account, const unsigned char* subject, size_t subject_len
    ) except NULL
    # Pattern and queue of a subscription, borrowed.
    cdef const unsigned char* subject_of(self, const Subscription* s, size_t* length) noexcept
    cdef const unsigned char* queue_of(self, const Subscription* s, size_t* length) noexcept
    cdef uint32_t account_of(self, const Subscription* s) noexcept
    # The rule that a group of a match follows, which has one.
    cdef const Policy* policy_of(self, const MatchGroup* group) noexcept
    # Whether `take_changes` would return anything.
    cpdef bint has_changes(self) noexcept
