"""Who the members of a sticky group are: as candidates for a message, and as the others are told.

A process tells its members one by one, unless they are too many; then it is one candidate with the
weight of all of them, and chooses among them itself. What stands for other hosts does the same with
hosts: one by one, each with its members' number as its weight.
"""

from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport qsort

from shardd.limits import STICKY_MEMBERS_MAX

from shardd.router.patterns cimport Group, Index, RemoteMembers, Subscription
from shardd.router.policies cimport Share, member_id, process_id

cdef uint32_t TOLD_MAX = STICKY_MEMBERS_MAX


cdef inline uint64_t identity(const Index* index, uint32_t process) noexcept nogil:
    return index.identities[process] if index.identities[process] else process_id(process)


cdef size_t count_shares(const Group* group) noexcept nogil:
    cdef size_t count = group.local_count
    cdef uint32_t at
    for at in range(group.remote_count):
        count += max(group.remotes[at].share_count, <uint32_t>1)
    return count


cdef size_t write_shares(const Index* index, const Group* group, Share* room) noexcept nogil:
    """Each process's members one by one, or the process, where it has not told them, as one."""
    cdef const RemoteMembers* remote
    cdef size_t count = 0
    cdef uint32_t at, i
    if group.local_count > TOLD_MAX:
        room[0].id = identity(index, index.process)
        room[0].weight = group.local_count
        room[0].process = index.process
        count = 1
    else:
        count = write_members(index, group, room)
    for at in range(group.remote_count):
        remote = &group.remotes[at]
        for i in range(remote.share_count):
            room[count] = remote.shares[i]
            count += 1
        if remote.share_count == 0:
            room[count].id = identity(index, remote.process)
            room[count].weight = remote.weight
            room[count].process = remote.process
            count += 1
    return count


cdef size_t write_members(const Index* index, const Group* group, Share* room) noexcept nogil:
    cdef const Subscription* member = group.members
    cdef size_t count = 0
    while member != NULL:
        room[count].id = member_id(index.process, member.serial)
        room[count].weight = 1
        room[count].process = index.process
        count += 1
        member = member.next
    return count


cdef int compare_shares(const void* a, const void* b) noexcept nogil:
    cdef const Share* first = <const Share*>a
    cdef const Share* second = <const Share*>b
    if first.id != second.id:
        return -1 if first.id < second.id else 1
    return <int>(first.process > second.process) - <int>(first.process < second.process)


cdef size_t merge_shares(Share* shares, size_t count) noexcept nogil:
    cdef size_t at, kept = 0
    cdef uint64_t weight
    qsort(shares, count, sizeof(Share), compare_shares)
    for at in range(1, count):
        if compare_shares(&shares[kept], &shares[at]) == 0:
            weight = <uint64_t>shares[kept].weight + shares[at].weight
            shares[kept].weight = <uint32_t>min(weight, <uint64_t>UINT32_MAX)
        else:
            kept += 1
            shares[kept] = shares[at]
    return kept + 1 if count else 0


cdef size_t count_told(const Index* index, const Group* group) noexcept nogil:
    if not index.tells_shares or not group.is_sticky:
        return 0
    if index.is_relay:
        return group.remote_count
    return 0 if group.local_count > TOLD_MAX else group.local_count


cdef size_t write_told(const Index* index, const Group* group, Share* room) noexcept nogil:
    """A process tells of its members; one that relays, of those that it speaks for."""
    cdef uint32_t at
    if not index.is_relay:
        return write_members(index, group, room)
    for at in range(group.remote_count):
        room[at].id = identity(index, group.remotes[at].process)
        room[at].weight = group.remotes[at].weight
        room[at].process = group.remotes[at].process
    return group.remote_count
