"""Subscriptions, patterns and queue groups of one index, below `Sublist`: the structs, the C face.

A pattern stays while it has local subscriptions, groups, other processes' interest, or an
announcement that was not withdrawn. What leaves the index is chained and freed by `free_retired`.
Functions that take a hash want the pattern's (`interest_hash`), which every caller has at hand.
"""

from libc.stdint cimport uint16_t, uint32_t, uint64_t

from shardd.router.frame cimport Message
from shardd.router.match_cache cimport MatchCache
from shardd.router.policies cimport PolicyTable, Share
from shardd.router.subject cimport SubjectKind
from shardd.router.table cimport HashKey, Table
from shardd.router.trie cimport Trie, Vector

cdef enum:
    MASK_BITS = 64            # other processes that a mask can name

# Who receives. Embedded by value in whatever owns subscriptions (a connection, an embedded
# client); `deliver` returns 1 when it took the message, 0 when it cannot take it, -1 on error.
ctypedef int (*deliver_function)(
    void* owner, Subscription* subscription, Message* message
) except -1

# Called after the delivery that reached `max_deliveries`: the owner removes the subscription.
ctypedef int (*expire_function)(void* owner, Subscription* subscription) except -1

cdef struct Subscriber:
    void* owner
    deliver_function deliver
    expire_function expire

cdef struct Interest
cdef struct Group

cdef struct Subscription:
    Subscriber* subscriber
    Interest* interest
    Group* group              # NULL: a plain subscription
    Subscription* next        # siblings on the same pattern and group
    Subscription* previous
    uint64_t delivered        # deliveries since SUB
    uint64_t max_deliveries   # 0: no limit
    uint64_t sid_hash
    uint32_t sid_len
    uint32_t serial           # no other live one of this process has it
    unsigned char is_removed  # taken out of the index, not yet freed
    unsigned char sid[1]      # sid_len bytes, allocated with the struct

# Interest of another process in a queue group.
cdef struct RemoteWeight:
    uint32_t process          # slot number
    uint32_t weight           # members there

# The same with who they are, where that process has told it.
cdef struct RemoteMembers:
    uint32_t process
    uint32_t weight
    Share* shares             # share_count of them
    uint32_t share_count

# What this process tells the others about one key: a pattern, or a queue group on a pattern. It
# stands in a queue of changes while its count and what was announced differ.
cdef struct Announcement:
    Announcement* next        # in the queue of changes; NULL: not queued
    Announcement* previous
    uint32_t announced        # the count last told; plain: 0 or 1
    uint32_t index            # in the array of announced keys, while `announced` is not 0
    uint16_t kind             # AnnouncementKind
    uint16_t is_renewed       # members have changed that are told one by one, if not their number
    uint32_t length           # of the subject or the queue name

cdef enum AnnouncementKind:
    ANNOUNCES_LITERAL = 0     # an Interest, its pattern without a wildcard
    ANNOUNCES_WILDCARD = 1    # an Interest
    ANNOUNCES_GROUP = 2       # a Group

# One pattern of one account: its local subscriptions, queue groups, and other processes' interest.
# The pattern's bytes stand right behind the struct.
cdef struct Interest:
    Announcement announcement # first, so that one pointer serves for both
    Subscription* plain       # local ones
    Group* groups
    uint64_t processes        # others with plain interest
    uint32_t account
    uint32_t plain_count

# The members of one queue group on one pattern. The name's bytes stand right behind the struct.
cdef struct Group:
    Announcement announcement
    Interest* interest
    Group* next               # siblings on the same pattern
    Group* previous
    Subscription* members     # local ones
    RemoteMembers* remotes    # one per process with members
    uint32_t local_count
    uint32_t remote_count
    # For the choice by policy.
    uint32_t process_turn     # round robin: messages that went to one of the processes in turn,
    uint32_t member_turn      # and to one of the local members
    bint is_sticky            # some rule says so for some subject: who its members are matters

# What an index consists of.
cdef struct Index:
    HashKey key
    Table interests           # all patterns, by account and bytes
    Table groups              # all queue groups, by interest and name
    Trie trie                 # the wildcard patterns
    MatchCache cache
    bint is_relay             # what is announced is what others want, not the local subscriptions
    PolicyTable policies
    bint tells_shares         # the others are told who the members of sticky groups are
    uint32_t process          # this one's number
    uint64_t[MASK_BITS] identities  # of processes, as candidates of a sticky group; 0: by number
    Announcement changes      # head of the circular queue of changes
    Vector announced          # every Announcement that was told and not withdrawn
    Vector found              # scratch of `match`: interests, then their groups
    Vector found_groups
    Subscription* removed     # waiting for `release`, chained by `next`
    Announcement* retired     # interests and groups, likewise

cdef inline const unsigned char* subject_bytes(const Interest* interest) noexcept nogil:
    return <const unsigned char*>(interest + 1)

cdef inline const unsigned char* name_bytes(const Group* group) noexcept nogil:
    return <const unsigned char*>(group + 1)

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

# The rules have changed.
cdef void policies_changed(Index* index) noexcept nogil

# What the others should be told of a key.
cdef uint32_t own_count(const Index* index, const Announcement* announcement) noexcept nogil
# Notes that they were told, and takes the key from the queue of changes. There is room for one more
# in `announced`.
cdef void mark_announced(Index* index, Announcement* announcement) noexcept nogil

cdef enum:
    WITHOUT_MEMORY = -2

# Absolute interest of another process: 1 when it wants a key that it did not want before, -1 when
# it no longer wants it, else 0; or WITHOUT_MEMORY. `shares`, allocated, are taken over.
cdef int set_remote_plain(
    Index* index, Interest* interest, uint32_t process, bint is_wanted, uint64_t hash
) noexcept nogil
cdef int set_remote_group(
    Index* index, Interest* interest, const unsigned char* name, size_t length,
    uint32_t process, uint32_t count, Share* shares, uint32_t share_count, uint64_t hash,
) noexcept nogil
cdef void drop_process(Index* index, uint32_t process) noexcept nogil
# What another process wants of a key: its members of a group, 0 or 1 for a pattern.
cdef uint32_t remote_count(const Announcement* announcement, uint32_t process) noexcept nogil

# Frees what left the index / everything.
cdef void free_retired(Index* index) noexcept nogil
cdef void free_index(Index* index) noexcept nogil
