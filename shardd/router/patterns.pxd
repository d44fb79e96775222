"""The patterns and queue groups of an index, one level below `Sublist`: the C face.

Functions that take a hash want the pattern's (`interest_hash`), which every caller has at hand.
"""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.subject cimport SubjectKind
from shardd.router.sublist cimport Announcement, Group, Index, Interest, Subscription

cdef uint64_t interest_hash(const Index* index, const Interest* interest) noexcept nogil
cdef Interest* find_interest(
    const Index* index, uint32_t account, const unsigned char* subject, size_t length,
    uint64_t hash,
) noexcept nogil
# The pattern, made if it is new; NULL without memory. Nobody wants a new one yet: the caller sees
# to it, or calls `drop_if_idle`.
cdef Interest* obtain_interest(
    Index* index, uint32_t account, const unsigned char* subject, size_t length,
    SubjectKind kind, uint64_t hash,
) noexcept nogil
# Likewise a queue group on a pattern.
cdef Group* obtain_group(
    Index* index, Interest* interest, const unsigned char* name, size_t length
) noexcept nogil
# Takes out a pattern, or a group, that nobody wants any more and of which no other process knows.
cdef void drop_if_idle(Index* index, Interest* interest, uint64_t hash) noexcept nogil
cdef void drop_group_if_idle(Index* index, Group* group) noexcept nogil
cdef void drop_key_if_idle(Index* index, Announcement* announcement) noexcept nogil
# Cached results that this pattern could concern are no longer valid.
cdef void invalidate(Index* index, const Interest* interest, uint64_t hash) noexcept nogil

# Hangs a subscription on its pattern, or on its group there / takes it off. Queues the change.
cdef void link(
    Index* index, Subscription* subscription, Interest* interest, Group* group
) noexcept nogil
cdef void unlink(Index* index, Subscription* subscription) noexcept nogil

# What the other processes should be told of a key.
cdef uint32_t local_count(const Announcement* announcement) noexcept nogil
# Notes that they were told, and takes the key from the queue of changes. There is room for one more
# in `announced`.
cdef void mark_announced(Index* index, Announcement* announcement) noexcept nogil

# Absolute interest of another process; the group's -1 is want of memory.
cdef void set_remote_plain(
    Index* index, Interest* interest, uint32_t process, bint is_wanted, uint64_t hash
) noexcept nogil
cdef int set_remote_group(
    Index* index, Interest* interest, const unsigned char* name, size_t length,
    uint32_t process, uint32_t count, uint64_t hash,
) noexcept nogil
cdef void drop_process(Index* index, uint32_t process) noexcept nogil

# Frees what left the index / everything.
cdef void free_retired(Index* index) noexcept nogil
cdef void free_index(Index* index) noexcept nogil
