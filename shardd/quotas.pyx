# cython: language_level=3str
"""What users and accounts use of the whole host: connections, subscriptions, publish rates.

A limit is the host's, whichever workers its connections are on, so what is used is counted in
memory that all processes share. Each user or account that has a limit gets an entry at its first
use, found by a hash of its name; entries are never taken back, so that a name keeps its count over
reloads. Counts have a column per process: what a process leaves behind when it dies can be cleared.

Rates are limited after the generic cell rate algorithm (ITU-T I.371): an entry remembers when
what was published so far will be paid for at the allowed rate. Whoever is ahead of that by more
than the burst waits, which holds back the publisher and loses no message.
"""

import hashlib

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd import limits
from shardd.errors import QuotaError

from shardd.shm cimport Segment

cdef extern from "router/ring_atomic.h" nogil:
    uint64_t atomic_load_u64(const uint64_t* field)
    uint32_t atomic_load_relaxed_u32(const uint32_t* field)
    void atomic_store_relaxed_u32(uint32_t* field, uint32_t value)
    int atomic_replace_u64(uint64_t* field, uint64_t expected, uint64_t value)
    void atomic_fence()

cdef enum:
    PROCESSES = 64

cdef uint64_t BURST_NS = <uint64_t>(limits.QUOTA_BURST_S * 1e9)
cdef uint64_t DEBT_NS_MAX = <uint64_t>(limits.QUOTA_DEBT_S_MAX * 1e9)
cdef double SECOND_NS = 1e9


cdef class Quotas:
    """The table of one host. Made by the supervisor before the first fork.

    Args:
        entries: users and accounts that it can hold.
    """

    def __init__(self, entries: int = limits.QUOTA_ENTRIES) -> None:
        if entries < 1:
            raise ValueError("a table holds something")
        self._count = entries
        # Pages that nobody touches take no memory. Keys stand apart, so that looking for one does
        # not touch what the entries count.
        self._segment = Segment(entries * (sizeof(uint64_t) + sizeof(Quota)))
        self._keys = <uint64_t*>self._segment.address
        self._quotas = <Quota*>(self._keys + self._count)

    def entry(self, bytes name not None) -> int:
        """The entry of a name, which is given one if it has none.

        Raises:
            QuotaError: the table is full.
        """
        cdef bytes digest = hashlib.blake2b(name, digest_size=8).digest()
        cdef uint64_t key = int.from_bytes(digest, "little") | 1
        cdef uint32_t first = <uint32_t>((key >> 1) % self._count)
        cdef uint32_t step
        cdef uint64_t* field
        for step in range(self._count):
            field = self._keys + (first + step) % self._count
            # Acquire and compare-and-swap: two processes that claim at once agree on who did.
            if atomic_load_u64(field) == 0:
                atomic_replace_u64(field, 0, key)
            if atomic_load_u64(field) == key:
                return (first + step) % self._count
        raise QuotaError("more users and accounts with limits than a host can count")

    cdef uint64_t used(self, uint32_t entry, Use use) noexcept nogil:
        cdef Quota* quota = &self._quotas[entry]
        cdef uint64_t total = 0
        cdef uint32_t process
        for process in range(PROCESSES):
            total += atomic_load_relaxed_u32(&quota.used[<int>use][process])
        return total

    cdef bint take(self, uint32_t entry, Use use, uint32_t process, int64_t limit) noexcept nogil:
        cdef uint32_t* own = &self._quotas[entry].used[<int>use][process]
        atomic_store_relaxed_u32(own, own[0] + 1)
        if limit < 0:
            return True
        # Of two processes that take the last one at once at least one sees the other's: the full
        # fence stands between the own count and the others' on both sides.
        atomic_fence()
        if self.used(entry, use) <= <uint64_t>limit:
            return True
        atomic_store_relaxed_u32(own, own[0] - 1)
        return False

    cdef void give(self, uint32_t entry, Use use, uint32_t process, uint32_t count) noexcept nogil:
        cdef uint32_t* own = &self._quotas[entry].used[<int>use][process]
        atomic_store_relaxed_u32(own, own[0] - count)

    cdef uint64_t charge(
        self, uint32_t entry, Rate rate, uint64_t amount, uint64_t per_second, uint64_t now_ns
    ) noexcept nogil:
        cdef uint64_t* field = &self._quotas[entry].due_ns[<int>rate]
        cdef uint64_t cost = <uint64_t>(<double>amount * SECOND_NS / <double>per_second)
        cdef uint64_t due
        cdef uint64_t paid
        while True:
            # Acquire, then compare-and-swap: nobody's charge is lost.
            due = atomic_load_u64(field)
            paid = (due if due > now_ns else now_ns) + cost
            # Reads are short where rates are limited; what came at once all the same is not held
            # against its user, or its account, for ever.
            if paid > now_ns + DEBT_NS_MAX:
                paid = now_ns + DEBT_NS_MAX
            if atomic_replace_u64(field, due, paid):
                break
        return paid - now_ns - BURST_NS if paid > now_ns + BURST_NS else 0

    def clear(self, uint32_t process) -> None:
        """Forget what a process used: it has died."""
        cdef uint32_t entry
        if process >= PROCESSES:
            raise ValueError("no such process")
        for entry in range(self._count):
            if atomic_load_u64(self._keys + entry):
                self._quotas[entry].used[<int>USE_CONNECTIONS][process] = 0

    # --- the same for Python -------------------------------------------------------------------

    def take_connection(self, uint32_t entry, uint32_t process, int64_t limit) -> bool:
        """Count one more connection, unless that many are there."""
        self._check(entry, process)
        return self.take(entry, USE_CONNECTIONS, process, limit)

    def give_connection(self, uint32_t entry, uint32_t process) -> None:
        """One connection has ended."""
        self._check(entry, process)
        self.give(entry, USE_CONNECTIONS, process, 1)

    def connections(self, uint32_t entry) -> int:
        """Connections on all processes."""
        self._check(entry, 0)
        return self.used(entry, USE_CONNECTIONS)

    def charge_messages(
        self, uint32_t entry, uint64_t amount, uint64_t per_second, uint64_t now_ns
    ) -> int:
        """Count messages; for how many nanoseconds their publisher has to wait."""
        self._check(entry, 0)
        if per_second == 0:
            raise ValueError("a rate is positive")
        return self.charge(entry, RATE_MESSAGES, amount, per_second, now_ns)

    def _check(self, uint32_t entry, uint32_t process) -> None:
        if entry >= self._count or process >= PROCESSES:
            raise ValueError("no such entry or process")
