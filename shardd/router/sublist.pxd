"""The C face of the subject index: who wants a subject, on this process and on the others.

Subscriptions, interest and match results are C structs owned by their `Sublist`; nothing here is a
Python object but the index itself. Accounts are small integers; 0 is the global account.
"""

cimport cython
from libc.stdint cimport uint32_t, uint64_t

from shardd.router.frame cimport Message
from shardd.router.match_cache cimport MatchCache
from shardd.router.table cimport HashKey, Table
from shardd.router.trie cimport Trie, Vector

# Who receives. Embedded by value in whatever owns subscriptions (a connection, an embedded
# client); `deliver` returns 1 when it took the message, 0 when it cannot take it, -1 on error.
ctypedef int (*deliver_function)(void* owner, Subscription* subscription, Message* message) except -1

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
    bint is_removed           # taken out of the index, not yet freed
    unsigned char sid[1]      # sid_len bytes, allocated with the struct

# Interest of another process in a queue group.
cdef struct RemoteWeight:
    uint32_t process          # slot number
    uint32_t weight           # members there

# What this process tells the others about one key: a pattern, or a queue group on a pattern. It
# stands in a queue of changes while its count and what was announced differ.
cdef struct Announcement:
    Announcement* next        # in the queue of changes; NULL: not queued
    Announcement* previous
    uint32_t announced        # the count last told; plain: 0 or 1
    uint32_t index            # in the array of announced keys, while `announced` is not 0
    uint32_t kind             # AnnouncementKind
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
    RemoteWeight* remotes     # one per process with members
    uint32_t local_count
    uint32_t remote_count

# One queue group over all patterns that match a subject.
cdef struct MatchGroup:
    const unsigned char* name
    uint32_t name_len
    uint32_t local_count
    Subscription** members    # local_count of them
    uint32_t remote_count
    RemoteWeight* remotes     # one per process, weights summed over patterns
    uint64_t weight           # local_count + remote weights

# Who gets one literal subject. The memory stays until `release`; a subscription that was removed
# since says so. What it says is current until the next change.
cdef struct Match:
    uint64_t processes        # bit mask of other processes with plain interest
    uint32_t plain_count
    uint32_t group_count
    Subscription** plain
    MatchGroup* groups

# What an index consists of.
cdef struct Index:
    HashKey key
    Table interests           # all patterns, by account and bytes
    Table groups              # all queue groups, by interest and name
    Trie trie                 # the wildcard patterns
    MatchCache cache
    Announcement changes      # head of the circular queue of changes
    Vector announced          # every Announcement that was told and not withdrawn
    Vector found              # scratch of `match`: interests, then their groups
    Vector found_groups
    Subscription* removed     # waiting for `release`, chained by `next`
    Announcement* retired     # interests and groups, likewise

cdef enum:
    MASK_BITS = 64            # other processes that a Match can name

cdef inline const unsigned char* subject_bytes(const Interest* interest) noexcept nogil:
    return <const unsigned char*>(interest + 1)

cdef inline const unsigned char* name_bytes(const Group* group) noexcept nogil:
    return <const unsigned char*>(group + 1)

@cython.final
cdef class Sublist:
    cdef Index _index
    cdef readonly uint64_t subscriptions
    cdef readonly uint64_t inserts
    cdef readonly uint64_t removes

    # Adds a local subscription. The caller has checked the subject. NULL without memory.
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
    # Whether `take_changes` would return anything.
    cpdef bint has_changes(self) noexcept
