"""Patterns and queue groups of an index: found, made, announced, dropped when nobody is left.

The order inside a change is always the same: hang or take off, invalidate, drop what is idle.
"""

from libc.stdint cimport UINT32_MAX, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from shardd.router.match_cache cimport cache_drop, cache_empty, cache_free, cache_touch
from shardd.router.policies cimport Share, may_be_sticky, policies_free
from shardd.router.subject cimport SUBJECT_WILDCARD, SubjectKind
from shardd.router.table cimport (
    hash_bytes,
    same_bytes,
    table_find,
    table_free,
    table_insert,
    table_next,
    table_remove,
)
from shardd.router.trie cimport (
    Vector,
    trie_free,
    trie_insert,
    trie_remove,
    vector_free,
    vector_trim,
)

# What an interest is looked up by.
cdef struct InterestKey:
    const unsigned char* subject
    size_t length
    uint32_t account

# What a queue group is looked up by.
cdef struct GroupKey:
    Interest* interest
    const unsigned char* name
    size_t length


# --- lookup ---------------------------------------------------------------------------------------

cdef bint is_same_interest(const void* item, const void* key) noexcept nogil:
    cdef const Interest* interest = <const Interest*>item
    cdef const InterestKey* wanted = <const InterestKey*>key
    return (
        interest.announcement.length == wanted.length
        and interest.account == wanted.account
        and same_bytes(subject_bytes(interest), wanted.subject, wanted.length)
    )


cdef bint is_same_group(const void* item, const void* key) noexcept nogil:
    cdef const Group* group = <const Group*>item
    cdef const GroupKey* wanted = <const GroupKey*>key
    return (
        group.interest == wanted.interest
        and group.announcement.length == wanted.length
        and same_bytes(name_bytes(group), wanted.name, wanted.length)
    )


cdef uint64_t interest_hash(const Index* index, const Interest* interest) noexcept nogil:
    return hash_bytes(
        &index.key, interest.account, subject_bytes(interest), interest.announcement.length
    )


cdef inline uint64_t group_hash(
    const Index* index, const Interest* interest, const unsigned char* name, size_t length
) noexcept nogil:
    return hash_bytes(&index.key, <uint64_t>interest, name, length)


cdef Interest* find_interest(
    const Index* index, uint32_t account, const unsigned char* subject, size_t length,
    uint64_t hash,
) noexcept nogil:
    cdef InterestKey key
    key.subject = subject
    key.length = length
    key.account = account
    return <Interest*>table_find(&index.interests, hash, is_same_interest, &key)


cdef Group* find_group(
    const Index* index, Interest* interest, const unsigned char* name, size_t length
) noexcept nogil:
    cdef GroupKey key
    key.interest = interest
    key.name = name
    key.length = length
    return <Group*>table_find(
        &index.groups, group_hash(index, interest, name, length), is_same_group, &key
    )


# --- what was announced ---------------------------------------------------------------------------

cdef uint32_t own_count(const Index* index, const Announcement* announcement) noexcept nogil:
    cdef const Group* group
    cdef uint64_t members
    cdef uint32_t at
    if announcement.kind != ANNOUNCES_GROUP:
        if index.is_relay:
            return (<const Interest*>announcement).processes != 0
        return (<const Interest*>announcement).plain != NULL
    group = <const Group*>announcement
    if not index.is_relay:
        return group.local_count
    members = 0
    for at in range(group.remote_count):
        members += group.remotes[at].weight
    return <uint32_t>min(members, <uint64_t>UINT32_MAX)


cdef void count_changed(Index* index, Announcement* announcement) noexcept nogil:
    """Queues the key if the others must hear of it, takes it from the queue if not any more."""
    cdef Announcement* head = &index.changes
    if own_count(index, announcement) == announcement.announced and (
        announcement.announced == 0 or not announcement.is_renewed
    ):
        if announcement.next != NULL:
            announcement.previous.next = announcement.next
            announcement.next.previous = announcement.previous
            announcement.next = NULL
    elif announcement.next == NULL:
        announcement.next = head
        announcement.previous = head.previous
        head.previous.next = announcement
        head.previous = announcement


cdef inline void members_changed(Index* index, Group* group) noexcept nogil:
    if group.is_sticky and index.tells_shares:
        group.announcement.is_renewed = True
    count_changed(index, &group.announcement)


cdef void mark_announced(Index* index, Announcement* announcement) noexcept nogil:
    cdef Vector* announced = &index.announced
    cdef Announcement* last
    cdef uint32_t count = own_count(index, announcement)
    if announcement.announced == 0 and count > 0:
        announcement.index = <uint32_t>announced.count
        announced.items[announced.count] = announcement
        announced.count += 1
    elif announcement.announced > 0 and count == 0:
        announced.count -= 1
        last = <Announcement*>announced.items[announced.count]
        last.index = announcement.index
        announced.items[last.index] = last
        vector_trim(announced)
    announcement.announced = count
    announcement.is_renewed = False
    count_changed(index, announcement)


cdef void policies_changed(Index* index) noexcept nogil:
    cdef size_t at = 0
    cdef Group* group = <Group*>table_next(&index.groups, &at)
    while group != NULL:
        group.is_sticky = may_be_sticky(
            &index.policies, group.interest.account, name_bytes(group), group.announcement.length)
        members_changed(index, group)
        group = <Group*>table_next(&index.groups, &at)
    cache_empty(&index.cache)


# --- making and dropping --------------------------------------------------------------------------

cdef void clear_announcement(
    Announcement* announcement, uint32_t kind, size_t length
) noexcept nogil:
    announcement.next = NULL
    announcement.previous = NULL
    announcement.announced = 0
    announcement.index = 0
    announcement.kind = <uint16_t>kind
    announcement.is_renewed = False
    announcement.length = <uint32_t>length


cdef Interest* obtain_interest(
    Index* index, uint32_t account, const unsigned char* subject, size_t length,
    SubjectKind kind, uint64_t hash,
) noexcept nogil:
    cdef bint is_wildcard = kind == SUBJECT_WILDCARD
    cdef Interest* interest = find_interest(index, account, subject, length, hash)
    if interest != NULL:
        return interest
    interest = <Interest*>malloc(sizeof(Interest) + length)
    if interest == NULL:
        return NULL
    clear_announcement(
        &interest.announcement,
        ANNOUNCES_WILDCARD if is_wildcard else ANNOUNCES_LITERAL,
        length,
    )
    interest.plain = NULL
    interest.groups = NULL
    interest.processes = 0
    interest.account = account
    interest.plain_count = 0
    memcpy(<void*>subject_bytes(interest), subject, length)
    if table_insert(&index.interests, hash, interest) < 0:
        free(interest)
        return NULL
    if is_wildcard and trie_insert(&index.trie, account, subject, length, interest) < 0:
        table_remove(&index.interests, hash, interest)
        free(interest)
        return NULL
    return interest


cdef Group* obtain_group(
    Index* index, Interest* interest, const unsigned char* name, size_t length
) noexcept nogil:
    cdef Group* group = find_group(index, interest, name, length)
    if group != NULL:
        return group
    group = <Group*>malloc(sizeof(Group) + length)
    if group == NULL:
        return NULL
    clear_announcement(&group.announcement, ANNOUNCES_GROUP, length)
    group.interest = interest
    group.members = NULL
    group.remotes = NULL
    group.local_count = 0
    group.remote_count = 0
    group.process_turn = 0
    group.member_turn = 0
    group.is_sticky = may_be_sticky(&index.policies, interest.account, name, length)
    memcpy(<void*>name_bytes(group), name, length)
    if table_insert(&index.groups, group_hash(index, interest, name, length), group) < 0:
        free(group)
        return NULL
    group.previous = NULL
    group.next = interest.groups
    if interest.groups != NULL:
        interest.groups.previous = group
    interest.groups = group
    return group


cdef inline void retire(Index* index, Announcement* announcement) noexcept nogil:
    announcement.next = index.retired
    index.retired = announcement


cdef bint is_idle(const Interest* interest) noexcept nogil:
    return (
        interest.plain == NULL
        and interest.groups == NULL
        and interest.processes == 0
        and interest.announcement.announced == 0
    )


cdef void drop_if_idle(Index* index, Interest* interest, uint64_t hash) noexcept nogil:
    if not is_idle(interest):
        return
    table_remove(&index.interests, hash, interest)
    if interest.announcement.kind == ANNOUNCES_WILDCARD:
        trie_remove(
            &index.trie, interest.account, subject_bytes(interest),
            interest.announcement.length,
        )
    retire(index, &interest.announcement)


cdef void drop_group_if_idle(Index* index, Group* group) noexcept nogil:
    cdef Interest* interest = group.interest
    if group.members != NULL or group.remote_count > 0 or group.announcement.announced > 0:
        return
    if group.previous != NULL:
        group.previous.next = group.next
    else:
        interest.groups = group.next
    if group.next != NULL:
        group.next.previous = group.previous
    table_remove(
        &index.groups,
        group_hash(index, interest, name_bytes(group), group.announcement.length),
        group,
    )
    retire(index, &group.announcement)


cdef void invalidate(Index* index, const Interest* interest, uint64_t hash) noexcept nogil:
    if interest.announcement.kind == ANNOUNCES_WILDCARD:
        cache_touch(
            &index.cache, interest.account, subject_bytes(interest),
            interest.announcement.length,
        )
    else:
        cache_drop(
            &index.cache, hash, interest.account, subject_bytes(interest),
            interest.announcement.length,
        )


cdef bint withdraw_weight(Group* group, uint32_t process) noexcept nogil:
    """Another process has no members any more; whether that is news."""
    cdef uint32_t at
    for at in range(group.remote_count):
        if group.remotes[at].process != process:
            continue
        free(group.remotes[at].shares)
        group.remote_count -= 1
        group.remotes[at] = group.remotes[group.remote_count]
        if group.remote_count == 0:
            free(group.remotes)
            group.remotes = NULL
        return True
    return False


cdef int set_weight(
    Group* group, uint32_t process, uint32_t weight, Share* shares, uint32_t share_count
) noexcept nogil:
    """How many members another process has: 1 when that is news, -1 without memory."""
    cdef RemoteMembers* remotes
    cdef RemoteMembers* remote
    cdef uint32_t at
    if weight == 0:
        free(shares)
        return withdraw_weight(group, process)
    for at in range(group.remote_count):
        remote = &group.remotes[at]
        if remote.process == process:
            if remote.weight == weight and share_count == 0 and remote.share_count == 0:
                return 0
            free(remote.shares)
            remote.weight = weight
            remote.shares = shares
            remote.share_count = share_count
            return 1
    remotes = <RemoteMembers*>realloc(
        group.remotes, (group.remote_count + 1) * sizeof(RemoteMembers)
    )
    if remotes == NULL:
        free(shares)
        return -1
    remotes[group.remote_count].process = process
    remotes[group.remote_count].weight = weight
    remotes[group.remote_count].shares = shares
    remotes[group.remote_count].share_count = share_count
    group.remotes = remotes
    group.remote_count += 1
    return 1


cdef void free_subscriptions(Subscription* first) noexcept nogil:
    cdef Subscription* following
    while first != NULL:
        following = first.next
        free(first)
        first = following


cdef void free_interest(Interest* interest) noexcept nogil:
    """With all that hangs on it."""
    cdef Group* group = interest.groups
    cdef Group* following
    cdef uint32_t at
    free_subscriptions(interest.plain)
    while group != NULL:
        following = group.next
        free_subscriptions(group.members)
        for at in range(group.remote_count):
            free(group.remotes[at].shares)
        free(group.remotes)
        free(group)
        group = following
    free(interest)


# --- subscriptions and remote interest ------------------------------------------------------------

cdef void link(
    Index* index, Subscription* subscription, Interest* interest, Group* group
) noexcept nogil:
    cdef Subscription** first = &interest.plain if group == NULL else &group.members
    subscription.interest = interest
    subscription.group = group
    subscription.previous = NULL
    subscription.next = first[0]
    if first[0] != NULL:
        first[0].previous = subscription
    first[0] = subscription
    if group == NULL:
        interest.plain_count += 1
        count_changed(index, &interest.announcement)
    else:
        group.local_count += 1
        members_changed(index, group)


cdef void unlink(Index* index, Subscription* subscription) noexcept nogil:
    cdef Interest* interest = subscription.interest
    cdef Group* group = subscription.group
    cdef Subscription** first = &interest.plain if group == NULL else &group.members
    if subscription.previous != NULL:
        subscription.previous.next = subscription.next
    else:
        first[0] = subscription.next
    if subscription.next != NULL:
        subscription.next.previous = subscription.previous
    if group == NULL:
        interest.plain_count -= 1
        count_changed(index, &interest.announcement)
    else:
        group.local_count -= 1
        members_changed(index, group)


cdef void drop_key_if_idle(Index* index, Announcement* announcement) noexcept nogil:
    """A key was withdrawn from the others; perhaps that is all that kept it."""
    cdef Interest* interest = <Interest*>announcement
    if announcement.kind == ANNOUNCES_GROUP:
        interest = (<Group*>announcement).interest
        drop_group_if_idle(index, <Group*>announcement)
    drop_if_idle(index, interest, interest_hash(index, interest))


cdef int set_remote_plain(
    Index* index, Interest* interest, uint32_t process, bint is_wanted, uint64_t hash
) noexcept nogil:
    cdef uint64_t bit = <uint64_t>1 << process
    cdef uint64_t processes = interest.processes & ~bit
    if is_wanted:
        processes |= bit
    if processes == interest.processes:
        return 0
    interest.processes = processes
    invalidate(index, interest, hash)
    if index.is_relay:
        count_changed(index, &interest.announcement)
    return 1 if is_wanted else -1


cdef void weight_changed(Index* index, Group* group, uint64_t hash) noexcept nogil:
    """Other processes have more or fewer members; `hash` is the pattern's."""
    invalidate(index, group.interest, hash)
    if index.is_relay:
        members_changed(index, group)


cdef int set_remote_group(
    Index* index, Interest* interest, const unsigned char* name, size_t length,
    uint32_t process, uint32_t count, Share* shares, uint32_t share_count, uint64_t hash,
) noexcept nogil:
    cdef Group* group
    cdef int news
    cdef int change
    if count > 0:
        group = obtain_group(index, interest, name, length)
        if group == NULL:
            free(shares)
            return WITHOUT_MEMORY
    else:
        group = find_group(index, interest, name, length)
        if group == NULL:
            free(shares)
            return 0
    change = -<int>group.remote_count
    news = set_weight(group, process, count, shares, share_count)
    change += <int>group.remote_count
    if news > 0:
        weight_changed(index, group, hash)
    drop_group_if_idle(index, group)
    return change if news >= 0 else WITHOUT_MEMORY


cdef uint32_t remote_count(const Announcement* announcement, uint32_t process) noexcept nogil:
    cdef const Group* group = <const Group*>announcement
    cdef uint32_t at
    if announcement.kind != ANNOUNCES_GROUP:
        return <uint32_t>((<const Interest*>announcement).processes >> process & 1)
    for at in range(group.remote_count):
        if group.remotes[at].process == process:
            return group.remotes[at].weight
    return 0


cdef void forget_process(Index* index, Interest* interest, uint32_t process) noexcept nogil:
    """Takes a process out of one pattern and its groups, not the pattern out of the index."""
    cdef Group* group = interest.groups
    cdef Group* following
    cdef uint64_t hash = interest_hash(index, interest)
    set_remote_plain(index, interest, process, False, hash)
    while group != NULL:
        following = group.next
        if withdraw_weight(group, process):
            weight_changed(index, group, hash)
            drop_group_if_idle(index, group)
        group = following


cdef void drop_process(Index* index, uint32_t process) noexcept nogil:
    cdef size_t at = 0
    cdef Announcement* idle = NULL
    cdef Announcement* following
    cdef Interest* interest = <Interest*>table_next(&index.interests, &at)
    while interest != NULL:
        forget_process(index, interest, process)
        # The table is being read, so what is idle now is chained, and dropped afterwards. An idle
        # key is not queued: its link is free.
        if is_idle(interest):
            interest.announcement.next = idle
            idle = &interest.announcement
        interest = <Interest*>table_next(&index.interests, &at)
    while idle != NULL:
        following = idle.next
        interest = <Interest*>idle
        drop_if_idle(index, interest, interest_hash(index, interest))
        idle = following


cdef void free_retired(Index* index) noexcept nogil:
    cdef Announcement* announcement
    free_subscriptions(index.removed)
    index.removed = NULL
    while index.retired != NULL:
        announcement = index.retired
        index.retired = announcement.next
        free(announcement)


cdef void free_index(Index* index) noexcept nogil:
    cdef size_t at = 0
    cdef Interest* interest = <Interest*>table_next(&index.interests, &at)
    while interest != NULL:
        free_interest(interest)
        interest = <Interest*>table_next(&index.interests, &at)
    free_retired(index)
    table_free(&index.interests)
    table_free(&index.groups)
    trie_free(&index.trie)
    cache_free(&index.cache)
    policies_free(&index.policies)
    vector_free(&index.announced)
    vector_free(&index.found)
    vector_free(&index.found_groups)
