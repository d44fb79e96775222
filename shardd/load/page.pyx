# cython: language_level=3str
"""The memory that the processes of one load share: how far each is, and whether to end.

The publishing process never gets further ahead of the subscribing one than its credit, so that no
server has a reason to drop a slow consumer; the parent reads the same counters for its progress
bar.
"""

cimport cython
from libc.stdint cimport uint64_t

from shardd.load.system cimport (
    __ATOMIC_ACQUIRE, __ATOMIC_RELEASE, __atomic_load_n, __atomic_store_n,
)

import mmap


@cython.final
cdef class Page:
    """Counters and flags, seen by every process that is forked after it was made."""

    def __cinit__(self):
        self._memory = mmap.mmap(-1, SLOTS * sizeof(uint64_t))
        self._view = self._memory
        self.slots = <uint64_t*>&self._view[0]

    # A flag is stored after what it announces and loaded before it is read, hence release and
    # acquire; counters need no more than to be whole.
    cdef uint64_t load(self, Slot slot) noexcept nogil:
        return __atomic_load_n(&self.slots[<int>slot], __ATOMIC_ACQUIRE)

    cdef void store(self, Slot slot, uint64_t value) noexcept nogil:
        __atomic_store_n(&self.slots[<int>slot], value, __ATOMIC_RELEASE)

    cdef int check(self) except -1:
        """Raise InterruptedError when the other side has failed."""
        if self.load(SLOT_ABORTED):
            raise InterruptedError("the other side failed")
        return 0

    @property
    def published(self):
        """Messages, or requests, that were sent."""
        return self.load(SLOT_PUBLISHED)

    @property
    def received(self):
        """Messages, or answers, that have arrived."""
        return self.load(SLOT_RECEIVED)

    def stop(self):
        """Have the load end as if its time were up."""
        self.store(SLOT_STOPPED, 1)

    def abort(self):
        """Tell the other side that this one failed."""
        self.store(SLOT_ABORTED, 1)

    def finish(self):
        """Say that nothing more is sent: what must arrive in all is known."""
        self.store(SLOT_FINISHED, 1)
