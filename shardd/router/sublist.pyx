"""The subject index: local subscriptions, queue groups, and the other processes' interest.

All patterns stand in one hash table by account and bytes; those with a wildcard also in a trie.
Matching a literal is one lookup in the table and one walk of the trie, and the result goes into a
bounded cache, which makes the common case one lookup there. A change touches the pattern's own
entry and invalidates what it could concern, in constant time.

Structs that leave the index are chained and freed by `release`, so that whoever is delivering may
remove subscriptions, publish and match while a result is in use.

The mesh reads the changes of local interest here (`take_changes`, `snapshot`) and writes the
interest of other processes (`set_remote`). Counts are absolute: saying one twice does no harm.
"""

import dataclasses
from collections.abc import Iterable

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport UINT32_MAX, uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from shardd.router.match_cache cimport (
    WAYS,
    Entry,
    MatchCache,
    cache_configure,
    cache_find,
    cache_insert,
    cache_release,
    cache_stamp,
)
from shardd.router.match_result cimport MatchPlan, fill_match, plan_bytes, plan_match
from shardd.router.patterns cimport (
    ANNOUNCES_GROUP,
    ANNOUNCES_LITERAL,
    MASK_BITS,
    WITHOUT_MEMORY,
    Announcement,
    drop_group_if_idle,
    drop_if_idle,
    drop_key_if_idle,
    drop_process,
    find_interest,
    free_index,
    free_retired,
    interest_hash,
    invalidate,
    link,
    mark_announced,
    name_bytes,
    obtain_group,
    obtain_interest,
    own_count,
    policies_changed,
    remote_count,
    set_remote_group,
    set_remote_plain,
    subject_bytes,
    unlink,
)
from shardd.router.policies cimport Policy, Share, policies_set
from shardd.router.shares cimport count_told, write_told
from shardd.router.subject cimport SUBJECT_INVALID, SubjectKind, is_reachable, subject_kind
from shardd.router.table cimport hash_bytes, hash_key
from shardd.router.trie cimport (
    Vector,
    trie_collect,
    trie_nodes,
    vector_push,
    vector_reserve,
    vector_trim,
)

from shardd.limits import MATCH_CACHE_BYTES_MAX, MATCH_CACHE_ENTRIES, PROCESSES_MAX

cdef extern from *:
    int __builtin_popcountll(unsigned long long word) nogil

assert PROCESSES_MAX <= MASK_BITS


@dataclasses.dataclass(frozen=True)
class SublistStatistics:
    """What the index holds and what it did, for monitoring."""

    subscriptions: int
    interests: int
    groups: int
    trie_nodes: int
    cache_entries: int
    cache_bytes: int
    cache_hits: int
    cache_misses: int
    inserts: int
    removes: int


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


cdef list told_shares(const Index* index, const Group* group):
    """Who the members of a group are, as identities and weights in turn; empty: untold."""
    cdef size_t count = count_told(index, group)
    cdef size_t at
    cdef Share* shares
    cdef list told = []
    if count == 0:
        return told
    shares = <Share*>malloc(count * sizeof(Share))
    if shares == NULL:
        raise MemoryError
    count = write_told(index, group, shares)
    for at in range(count):
        told.append(shares[at].id)
        told.append(shares[at].weight)
    free(shares)
    return told


cdef tuple told_tuple(const Index* index, const Announcement* announcement, uint32_t count):
    """The same with who the members are, if the others are told."""
    cdef list shares
    if announcement.kind == ANNOUNCES_GROUP and count > 0:
        shares = told_shares(index, <const Group*>announcement)
        if shares:
            return (*announcement_tuple(announcement, count), shares)
    return announcement_tuple(announcement, count)


cdef Share* new_shares(uint32_t process, list told) except NULL:
    """What another process has told, as it is kept."""
    cdef Py_ssize_t count = len(told) // 2
    cdef Py_ssize_t at
    cdef Share* shares = <Share*>malloc(max(count, 1) * sizeof(Share))
    if shares == NULL:
        raise MemoryError
    for at in range(count):
        shares[at].id = told[2 * at]
        shares[at].weight = max(<uint32_t>told[2 * at + 1], <uint32_t>1)
        shares[at].process = process
    return shares


cdef tuple announcement_tuple(const Announcement* announcement, uint32_t count):
    """(account, subject, queue or None, count)"""
    cdef const Group* group = NULL
    cdef const Interest* interest = <const Interest*>announcement
    if announcement.kind == ANNOUNCES_GROUP:
        group = <const Group*>announcement
        interest = group.interest
    return (
        interest.account,
        PyBytes_FromStringAndSize(
            <const char*>subject_bytes(interest), interest.announcement.length
        ),
        None if group == NULL else PyBytes_FromStringAndSize(
            <const char*>name_bytes(group), announcement.length
        ),
        count,
    )


# --- matching -------------------------------------------------------------------------------------

cdef int collect(
    Index* index, uint32_t account, const unsigned char* subject, size_t length, uint64_t hash
) except -1:
    """Finds the patterns that match; a subject with an empty token reaches nobody."""
    cdef Interest* interest
    index.found.count = 0
    if not is_reachable(subject, length):
        return 0
    interest = find_interest(index, account, subject, length, hash)
    if interest != NULL and interest.announcement.kind == ANNOUNCES_LITERAL:
        if vector_push(&index.found, interest) < 0:
            raise MemoryError
    if trie_collect(&index.trie, account, subject, length, &index.found) < 0:
        raise MemoryError
    return 0


cdef const Match* build_match(
    Index* index, uint32_t account, const unsigned char* subject, size_t length, uint64_t hash
) except NULL:
    """Searches the index and hands the result to the cache, which keeps or retires it."""
    cdef MatchPlan plan
    cdef Entry* entry
    cdef unsigned char* place
    cdef size_t subject_room = (length + 7) & ~<size_t>7
    cdef size_t size
    if length > UINT32_MAX:
        raise ValueError("the subject is too long")
    collect(index, account, subject, length, hash)
    if plan_match(&index.found, &index.found_groups, &plan) < 0:
        raise MemoryError
    size = sizeof(Entry) + sizeof(Match) + subject_room + plan_bytes(&plan)
    entry = <Entry*>malloc(size)
    if entry == NULL:
        raise MemoryError
    place = <unsigned char*>(entry + 1) + sizeof(Match)
    memcpy(place, subject, length)
    entry.subject = place
    entry.subject_len = <uint32_t>length
    entry.account = account
    entry.size = size
    cache_stamp(&index.cache, entry)
    fill_match(
        index, &plan, account, subject, length, <Match*>(entry + 1), place + subject_room
    )
    cache_insert(&index.cache, hash, entry)
    vector_trim(&index.found)
    vector_trim(&index.found_groups)
    return <const Match*>(entry + 1)


# --- the index ------------------------------------------------------------------------------------

@cython.final
cdef class Sublist:
    """The subject index of one process, used by its one thread.

    A relay has no subscriptions of its own: its changes are those of the union of what others
    want, so that it can be told on (the router, between the host's processes and other hosts).
    """

    def __cinit__(
        self,
        *,
        uint64_t seed=0,
        size_t cache_entries=MATCH_CACHE_ENTRIES,
        size_t cache_bytes_max=MATCH_CACHE_BYTES_MAX,
        bint is_relay=False,
    ) -> None:
        # All other fields are zero, and zeroed tables, vectors and tries are empty ones.
        cdef Index* index = &self._index
        index.key = hash_key(seed)
        index.trie.key = index.key
        index.changes.next = index.changes.previous = &index.changes
        index.is_relay = is_relay
        cache_configure(&index.cache, index.key, cache_entries, cache_bytes_max)

    def __dealloc__(self) -> None:
        free_index(&self._index)

    cdef Subscription* insert(
        self, uint32_t account,
        const unsigned char* subject, size_t subject_len,
        const unsigned char* queue, size_t queue_len,
        const unsigned char* sid, size_t sid_len,
        Subscriber* subscriber,
    ) except NULL:
        cdef SubjectKind kind = subject_kind(subject, subject_len)
        cdef Subscription* subscription
        cdef Interest* interest
        cdef Group* group = NULL
        cdef uint64_t hash
        if kind == SUBJECT_INVALID:
            raise ValueError("not a valid subject")
        if subject_len > UINT32_MAX or queue_len > UINT32_MAX or sid_len > UINT32_MAX:
            raise ValueError("a subject, a queue name or a sid is too long")
        subscription = <Subscription*>malloc(sizeof(Subscription) + sid_len)
        if subscription == NULL:
            raise MemoryError
        hash = hash_bytes(&self._index.key, account, subject, subject_len)
        interest = obtain_interest(&self._index, account, subject, subject_len, kind, hash)
        if interest != NULL and queue != NULL:
            group = obtain_group(&self._index, interest, queue, queue_len)
        if interest == NULL or (queue != NULL and group == NULL):
            free(subscription)
            if interest != NULL:
                drop_if_idle(&self._index, interest, hash)
            raise MemoryError
        subscription.subscriber = subscriber
        subscription.delivered = 0
        subscription.max_deliveries = 0
        subscription.sid_hash = 0
        subscription.sid_len = <uint32_t>sid_len
        subscription.serial = <uint32_t>self.inserts
        subscription.is_removed = False
        memcpy(subscription.sid, sid, sid_len)
        link(&self._index, subscription, interest, group)
        invalidate(&self._index, interest, hash)
        self.subscriptions += 1
        self.inserts += 1
        return subscription

    cdef int remove(self, Subscription* subscription) except -1:
        cdef Index* index = &self._index
        cdef Interest* interest = subscription.interest
        cdef Group* group = subscription.group
        cdef uint64_t hash
        if subscription.is_removed:
            return 0
        hash = interest_hash(index, interest)
        unlink(index, subscription)
        invalidate(index, interest, hash)
        if group != NULL:
            drop_group_if_idle(index, group)
        drop_if_idle(index, interest, hash)
        subscription.is_removed = True
        subscription.next = index.removed
        index.removed = subscription
        self.subscriptions -= 1
        self.removes += 1

    cdef int release(self) except -1:
        if self._index.removed != NULL or self._index.retired != NULL:
            free_retired(&self._index)
        if self._index.cache.retired != NULL:
            cache_release(&self._index.cache)

    cdef const Match* match(
        self, uint32_t account, const unsigned char* subject, size_t subject_len
    ) except NULL:
        cdef Index* index = &self._index
        cdef uint64_t hash = hash_bytes(&index.key, account, subject, subject_len)
        cdef Entry* entry = cache_find(&index.cache, hash, account, subject, subject_len)
        if entry != NULL:
            return <const Match*>(entry + 1)
        return build_match(index, account, subject, subject_len, hash)

    cdef const unsigned char* subject_of(self, const Subscription* s, size_t* length) noexcept:
        length[0] = s.interest.announcement.length
        return subject_bytes(s.interest)

    cdef const unsigned char* queue_of(self, const Subscription* s, size_t* length) noexcept:
        if s.group == NULL:
            length[0] = 0
            return NULL
        length[0] = s.group.announcement.length
        return name_bytes(s.group)

    cdef uint32_t account_of(self, const Subscription* s) noexcept:
        return s.interest.account

    cdef const Policy* policy_of(self, const MatchGroup* group) noexcept:
        return &self._index.policies.items[group.policy - 1]

    def set_policies(self, list rules not None, uint32_t process, bint tells_shares) -> None:
        """How members of queue groups are chosen from now on, as `policies.rules_of` says it.

        Args:
            process: this one's number.
            tells_shares: with the announcements of a sticky group goes who its members are.
        """
        cdef Index* index = &self._index
        if rules == self._rules or (not rules and self._rules is None):
            return
        self._rules = None
        index.process = process
        index.tells_shares = tells_shares
        try:
            policies_set(&index.policies, rules)
            self._rules = rules
        finally:
            # Also without memory for them: what is cached names rules that are gone.
            policies_changed(index)

    def identify(self, uint32_t process, uint64_t identity) -> None:
        """What another process is known by as a candidate of a sticky group. It wants nothing
        yet."""
        self._index.identities[process] = identity

    cpdef bint has_changes(self) noexcept:
        """Whether `take_changes` would return anything."""
        return self._index.changes.next != &self._index.changes

    def take_changes(self) -> list[tuple[int, bytes, bytes | None, int]]:
        """Keys whose own count is not the announced one, with the count; now announced. A fifth
        part says who the members of a sticky group are; it is for `set_remote`."""
        cdef Index* index = &self._index
        cdef list changes = []
        cdef Announcement* announcement
        cdef uint32_t count
        cdef tuple change
        while self.has_changes():
            announcement = index.changes.next
            count = own_count(index, announcement)
            change = told_tuple(index, announcement, count)
            # Making a tuple may collect garbage, and a finalizer may unsubscribe.
            if announcement != index.changes.next or count != own_count(index, announcement):
                continue
            if vector_reserve(&index.announced, index.announced.count + 1) < 0:
                raise MemoryError
            changes.append(change)
            mark_announced(index, announcement)
            drop_key_if_idle(index, announcement)
        return changes

    def snapshot(
        self, Py_ssize_t position, Py_ssize_t limit
    ) -> tuple[list[tuple[int, bytes, bytes | None, int]], int]:
        """A part of what was announced: from position 0 on, until the next position is -1.

        The array of announced keys is read from its end to its start, and a key taken out is
        replaced by the last one. So a key that stays all the while can only move towards what is
        still to come, and is never missed; it may come twice.
        """
        cdef const Vector* announced = &self._index.announced
        cdef Announcement* announcement
        cdef list entries = []
        cdef size_t left = announced.count
        if position < 0 or limit < 1:
            raise ValueError("a position is not negative and a limit is positive")
        if position > 0:
            left = min(left, <size_t>position)
        while left > 0 and len(entries) < limit:
            left -= 1
            announcement = <Announcement*>announced.items[left]
            entries.append(told_tuple(&self._index, announcement, announcement.announced))
            # Making the tuple may have collected garbage, and a finalizer changed the array.
            left = min(left, announced.count)
        return entries, left if left else -1

    def snapshot_of(
        self, uint32_t process, Py_ssize_t position, Py_ssize_t limit
    ) -> tuple[list[tuple[int, bytes, bytes | None, int]], int]:
        """The same of what one other process wants, in an index that relays. A part comes of
        `limit` keys, whoever wants them."""
        cdef const Vector* announced = &self._index.announced
        cdef Announcement* announcement
        cdef list entries = []
        cdef size_t left = announced.count
        cdef uint32_t count
        if position < 0 or limit < 1 or process >= PROCESSES_MAX:
            raise ValueError("no such position, limit or process")
        if position > 0:
            left = min(left, <size_t>position)
        while left > 0 and limit > 0:
            limit -= 1
            left -= 1
            announcement = <Announcement*>announced.items[left]
            count = remote_count(announcement, process)
            if count:
                entries.append(announcement_tuple(announcement, count))
                left = min(left, announced.count)
        return entries, left if left else -1

    def set_remote(
        self,
        uint32_t process,
        uint32_t account,
        bytes subject not None,
        bytes queue,
        uint32_t count,
        list shares=None,
    ) -> int:
        """What another process wants: its members of a queue group, or 0 or more plain ones.
        `shares` are the members of a sticky group, as it has told them.

        Counts are absolute, 0 withdraws. An invalid pattern matches nothing and is not kept.
        Returns by how much the number of keys that this process wants has changed: 1, 0 or -1.
        """
        cdef Index* index = &self._index
        cdef size_t length = PyBytes_GET_SIZE(subject)
        cdef SubjectKind kind = subject_kind(data(subject), length)
        cdef Interest* interest
        cdef uint64_t hash
        cdef Share* members = NULL
        cdef int change
        if process >= PROCESSES_MAX:
            raise ValueError("no such process")
        if kind == SUBJECT_INVALID:
            return 0
        if length > UINT32_MAX or (queue is not None and PyBytes_GET_SIZE(queue) > UINT32_MAX):
            raise ValueError("a subject or a queue name is too long")
        hash = hash_bytes(&index.key, account, data(subject), length)
        if count > 0:
            interest = obtain_interest(index, account, data(subject), length, kind, hash)
            if interest == NULL:
                raise MemoryError
        else:
            interest = find_interest(index, account, data(subject), length, hash)
            if interest == NULL:
                return 0
        if queue is None:
            change = set_remote_plain(index, interest, process, count > 0, hash)
        else:
            if shares:
                members = new_shares(process, shares)
            change = set_remote_group(
                index, interest, data(queue), PyBytes_GET_SIZE(queue), process, count,
                members, <uint32_t>(len(shares) // 2) if shares else 0, hash
            )
        drop_if_idle(index, interest, hash)
        if change == WITHOUT_MEMORY:
            raise MemoryError
        return change

    def set_remote_many(
        self, uint32_t process, entries: Iterable[tuple[int, bytes, bytes | None, int]]
    ) -> None:
        """Several of them, in order."""
        for entry in entries:
            if len(entry) == 4:
                account, subject, queue, count = entry
                self.set_remote(process, account, subject, queue, count)
            else:
                account, subject, queue, count, shares = entry
                self.set_remote(process, account, subject, queue, count, list(shares))

    def drop_process(self, uint32_t process) -> None:
        """Forgets all interest of another process."""
        if process >= PROCESSES_MAX:
            raise ValueError("no such process")
        drop_process(&self._index, process)

    def statistics(self) -> SublistStatistics:
        """What the index holds now, and what it has done."""
        return SublistStatistics(
            subscriptions=self.subscriptions,
            interests=self._index.interests.count,
            groups=self._index.groups.count,
            trie_nodes=trie_nodes(&self._index.trie),
            cache_entries=self._index.cache.entries,
            cache_bytes=self._index.cache.bytes,
            cache_hits=self._index.cache.hits,
            cache_misses=self._index.cache.misses,
            inserts=self.inserts,
            removes=self.removes,
        )

    def fanout(self) -> tuple[int, int]:
        """How many get a message by the cached results: the most, and the sum over all of them.

        A queue group counts as one, and so does another process. Walks the cache, whose size is
        bounded: for whoever asks, not for every message.
        """
        cdef const MatchCache* cache = &self._index.cache
        cdef const Match* found
        cdef size_t cell
        cdef uint64_t count, most = 0, total = 0
        if cache.cells != NULL:
            for cell in range((cache.set_mask + 1) * <size_t>WAYS):
                if cache.cells[cell].entry != NULL:
                    found = <const Match*>(cache.cells[cell].entry + 1)
                    count = found.plain_count + found.group_count
                    count += __builtin_popcountll(found.processes)
                    total += count
                    most = max(most, count)
        return most, total
