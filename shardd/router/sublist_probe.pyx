"""A door to the C face of the index, for tests and the micro-benchmark.

Subscriptions are known by a handle, a small integer that is also their sid. Nothing is delivered.
The `_many` methods do in one C loop what a benchmark wants to time.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t

from shardd.router.trie cimport vector_free, vector_push

from collections.abc import Callable, Sequence

# (plain handles, processes, {queue name: (member handles, {process: weight}, total weight)})
MatchData = tuple[list[int], int, dict[bytes, tuple[list[int], dict[int, int], int]]]


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


cdef bytes owned(const unsigned char* source, size_t length):
    return source[:length]


cdef int handle_of(const Subscription* subscription) except -1:
    return int(owned(subscription.sid, subscription.sid_len))


@cython.final
cdef class Probe:
    """Inserts into, removes from and matches on one index."""

    def __cinit__(self, Sublist index not None) -> None:
        self.index = index

    def __dealloc__(self) -> None:
        vector_free(&self._subscriptions)

    cdef Subscription* _at(self, size_t handle) except NULL:
        if handle >= self._subscriptions.count or self._subscriptions.items[handle] == NULL:
            raise KeyError(handle)
        return <Subscription*>self._subscriptions.items[handle]

    def insert(self, uint32_t account, bytes subject not None, bytes queue=None) -> int:
        """Subscribes; returns the handle."""
        cdef size_t handle = self._subscriptions.count
        cdef bytes sid = b"%d" % handle
        cdef const unsigned char* name = NULL
        cdef size_t name_len = 0
        cdef Subscription* subscription
        if queue is not None:
            name = data(queue)
            name_len = PyBytes_GET_SIZE(queue)
        subscription = self.index.insert(
            account, data(subject), PyBytes_GET_SIZE(subject), name, name_len,
            data(sid), PyBytes_GET_SIZE(sid), &self._subscriber,
        )
        if vector_push(&self._subscriptions, subscription) < 0:
            self.index.remove(subscription)
            raise MemoryError
        return handle

    def remove(self, size_t handle) -> None:
        """Unsubscribes; the struct lives until `release`."""
        self.index.remove(self._at(handle))
        self._subscriptions.items[handle] = NULL

    def remove_twice(self, size_t handle) -> bool:
        """Unsubscribes and does so again; whether the struct said that it was removed."""
        cdef Subscription* subscription = self._at(handle)
        self.remove(handle)
        self.index.remove(subscription)
        return subscription.is_removed

    def release(self) -> None:
        """Between two messages."""
        self.index.release()

    def pattern(self, size_t handle) -> tuple[int, bytes, bytes | None]:
        """Account, subject and queue of a subscription."""
        cdef const Subscription* subscription = self._at(handle)
        return self._pattern(<size_t>subscription)

    def _pattern(self, size_t address) -> tuple[int, bytes, bytes | None]:
        cdef const Subscription* subscription = <const Subscription*>address
        cdef size_t subject_len, queue_len
        cdef const unsigned char* subject = self.index.subject_of(subscription, &subject_len)
        cdef const unsigned char* queue = self.index.queue_of(subscription, &queue_len)
        return (
            self.index.account_of(subscription),
            owned(subject, subject_len),
            None if queue == NULL else owned(queue, queue_len),
        )

    def pattern_after_removal(self, size_t handle) -> tuple[int, bytes, bytes | None]:
        """Unsubscribes, then reads what it was subscribed to."""
        cdef const Subscription* subscription = self._at(handle)
        self.remove(handle)
        return self._pattern(<size_t>subscription)

    cdef tuple _plain_data(self, const Match* match):
        cdef uint32_t i, j
        cdef dict groups = {}
        plain = sorted([handle_of(match.plain[i]) for i in range(match.plain_count)])
        for i in range(match.group_count):
            group = &match.groups[i]
            name = owned(group.name, group.name_len)
            assert name not in groups, "a queue name comes once in a match"
            groups[name] = (
                sorted([handle_of(group.members[j]) for j in range(group.local_count)]),
                {group.remotes[j].process: group.remotes[j].weight
                 for j in range(group.remote_count)},
                group.weight,
            )
        return plain, match.processes, groups

    def match(self, uint32_t account, bytes subject not None) -> MatchData:
        """Who gets a message."""
        return self._plain_data(
            self.index.match(account, data(subject), PyBytes_GET_SIZE(subject))
        )

    def match_in_use(
        self, uint32_t account, bytes subject not None, meanwhile: Callable[[], object]
    ) -> MatchData:
        """Matches, lets something happen, and reads the result only then."""
        cdef const Match* match = self.index.match(
            account, data(subject), PyBytes_GET_SIZE(subject)
        )
        meanwhile()
        return self._plain_data(match)

    def insert_many(self, uint32_t account, list subjects not None, bytes sid not None) -> None:
        """Plain subscriptions with consecutive handles, all with one sid."""
        cdef bytes subject
        for subject in subjects:
            if vector_push(&self._subscriptions, self.index.insert(
                account, data(subject), PyBytes_GET_SIZE(subject), NULL, 0,
                data(sid), PyBytes_GET_SIZE(sid), &self._subscriber,
            )) < 0:
                raise MemoryError

    def remove_many(self, handles: Sequence[int]) -> None:
        """Each followed by `release`, as between messages."""
        cdef size_t handle
        for handle in handles:
            self.index.remove(self._at(handle))
            self._subscriptions.items[handle] = NULL
            self.index.release()

    def match_many(self, uint32_t account, list subjects not None, size_t rounds) -> int:
        """Matches each subject so often, one after the other; how many plain ones were found."""
        cdef size_t found = 0
        cdef bytes subject
        cdef size_t _
        for _ in range(rounds):
            for subject in subjects:
                found += self.index.match(
                    account, data(subject), PyBytes_GET_SIZE(subject)
                ).plain_count
                self.index.release()
        return found
