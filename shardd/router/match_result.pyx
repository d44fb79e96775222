"""One result from several patterns: plain subscriptions side by side, queue groups merged by name.

A result is one piece of memory: subscriptions, groups, members, remote weights, and copies of the
group names, so that it can be read even when the groups themselves have gone.
"""

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport qsort
from libc.string cimport memcmp, memcpy

from shardd.router.patterns cimport (
    MASK_BITS,
    Group,
    Index,
    Interest,
    RemoteWeight,
    Subscription,
    name_bytes,
)
from shardd.router.policies cimport POLICY_STICKY, Share, policy_find
from shardd.router.shares cimport count_shares, merge_shares, write_shares
from shardd.router.table cimport same_bytes
from shardd.router.trie cimport Vector, vector_push


cdef int compare_names(const void* a, const void* b) noexcept nogil:
    cdef const Group* first = (<const Group**>a)[0]
    cdef const Group* second = (<const Group**>b)[0]
    if first.announcement.length != second.announcement.length:
        return -1 if first.announcement.length < second.announcement.length else 1
    return memcmp(name_bytes(first), name_bytes(second), first.announcement.length)


cdef inline bint is_same_name(const Group* a, const Group* b) noexcept nogil:
    return a.announcement.length == b.announcement.length and same_bytes(
        name_bytes(a), name_bytes(b), a.announcement.length
    )


cdef int plan_match(const Vector* found, Vector* groups, MatchPlan* plan) noexcept nogil:
    cdef size_t at, owners = 0
    cdef Interest* interest
    cdef Group* group
    groups.count = 0
    plan.processes = 0
    plan.plain = plan.names = plan.name_bytes = plan.members = plan.remotes = plan.shares = 0
    for at in range(found.count):
        interest = <Interest*>found.items[at]
        plan.processes |= interest.processes
        plan.plain += interest.plain_count
        owners += interest.groups != NULL
        group = interest.groups
        while group != NULL:
            # A group may be left only because its end was not announced yet.
            if group.local_count > 0 or group.remote_count > 0:
                if vector_push(groups, group) < 0:
                    return -1
                plan.members += group.local_count
                plan.remotes += group.remote_count
                if group.is_sticky:
                    plan.shares += count_shares(group)
            group = group.next
    # Names are unique within one pattern.
    if owners > 1 and groups.count > 1:
        qsort(groups.items, groups.count, sizeof(void*), compare_names)
    for at in range(groups.count):
        group = <Group*>groups.items[at]
        if at == 0 or not is_same_name(group, <Group*>groups.items[at - 1]):
            plan.names += 1
            plan.name_bytes += group.announcement.length
    return 0 if plan.plain <= UINT32_MAX and plan.members <= UINT32_MAX else -1


cdef size_t plan_bytes(const MatchPlan* plan) noexcept nogil:
    return (
        (plan.plain + plan.members) * sizeof(Subscription*)
        + plan.names * sizeof(MatchGroup)
        + plan.remotes * sizeof(RemoteWeight)
        + plan.shares * sizeof(Share)
        + plan.name_bytes
    )


cdef size_t fill_group(
    const Vector* groups, size_t at, MatchGroup* result, Subscription** members,
    RemoteWeight* remotes,
) noexcept nogil:
    """Merges the groups of one name, the first of which stands at `at`; returns how many."""
    cdef uint64_t weights[MASK_BITS]
    cdef uint32_t process, i
    cdef size_t merged = 0
    cdef const Group* first = <const Group*>groups.items[at]
    cdef const Group* group
    cdef Subscription* member
    result.local_count = 0
    result.remote_count = 0
    result.members = members
    result.remotes = remotes
    for process in range(<uint32_t>MASK_BITS):
        weights[process] = 0
    while at + merged < groups.count:
        group = <const Group*>groups.items[at + merged]
        if merged > 0 and not is_same_name(group, first):
            break
        member = group.members
        while member != NULL:
            members[result.local_count] = member
            result.local_count += 1
            member = member.next
        for i in range(group.remote_count):
            weights[group.remotes[i].process] += group.remotes[i].weight
        merged += 1
    result.weight = result.local_count
    for process in range(<uint32_t>MASK_BITS):
        if weights[process] > 0:
            weights[process] = min(weights[process], <uint64_t>UINT32_MAX)
            remotes[result.remote_count].process = process
            remotes[result.remote_count].weight = <uint32_t>weights[process]
            result.remote_count += 1
            result.weight += weights[process]
    return merged


cdef size_t fill_shares(
    const Index* index, size_t at, size_t merged, MatchGroup* result, Share* shares
) noexcept nogil:
    """The candidates of the merged groups from `at` on, if they are sticky; returns how many."""
    cdef const Group* group
    cdef size_t i
    result.shares = shares
    result.share_count = 0
    if index.policies.items[result.policy - 1].kind == POLICY_STICKY:
        for i in range(merged):
            group = <const Group*>index.found_groups.items[at + i]
            result.share_count += write_shares(index, group, shares + result.share_count)
        if merged > 1:
            result.share_count = merge_shares(shares, result.share_count)
    return result.share_count


cdef void fill_match(
    const Index* index, const MatchPlan* plan, uint32_t account, const unsigned char* subject,
    size_t length, Match* result, void* room,
) noexcept nogil:
    """Lays out a result: subscriptions, groups, members, weights, candidates, names."""
    cdef const Vector* found = &index.found
    cdef const Vector* groups = &index.found_groups
    cdef Subscription** plain = <Subscription**>room
    cdef MatchGroup* group = <MatchGroup*>(plain + plan.plain)
    cdef Subscription** members = <Subscription**>(group + plan.names)
    cdef RemoteWeight* remotes = <RemoteWeight*>(members + plan.members)
    cdef Share* shares = <Share*>(remotes + plan.remotes)
    cdef unsigned char* names = <unsigned char*>(shares + plan.shares)
    cdef Group* first
    cdef Subscription* subscription
    cdef size_t at, merged
    result.processes = plan.processes
    result.plain = plain
    result.plain_count = <uint32_t>plan.plain
    result.groups = group
    result.group_count = <uint32_t>plan.names
    for at in range(found.count):
        subscription = (<Interest*>found.items[at]).plain
        while subscription != NULL:
            plain[0] = subscription
            plain += 1
            subscription = subscription.next
    at = 0
    while at < groups.count:
        first = <Group*>groups.items[at]
        merged = fill_group(groups, at, group, members, remotes)
        memcpy(names, name_bytes(first), first.announcement.length)
        group.name = names
        group.name_len = first.announcement.length
        group.policy = policy_find(
            &index.policies, account, subject, length, names, group.name_len)
        group.source = first
        if group.policy:
            shares += fill_shares(index, at, merged, group, shares)
        at += merged
        names += group.name_len
        members += group.local_count
        remotes += group.remote_count
        group += 1
