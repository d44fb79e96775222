# cython: language_level=3str
"""One deadline for each of very many items, found by reading one dense array of times.

A tick reads eight bytes an item: 65,536 connections are half a megabyte, read in some tens of
microseconds, with no timer object, no heap and no allocation for any of them. The resolution is
the tick of whoever calls `sweep`.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free, realloc

cdef size_t NOT_TIMED = <size_t>-1


cdef class Timed:
    """What can have a deadline. `Deadlines` borrows it: remove it before it goes."""

    def __cinit__(self):
        self._place = NOT_TIMED

    cdef int on_deadline(self, uint64_t now_ms) except -1:
        """The deadline has passed; sets a new one or removes itself."""
        raise NotImplementedError


cdef class Deadlines:
    """The deadlines of one process, in milliseconds of a monotonic clock."""

    def __dealloc__(self):
        free(self._times)
        free(self._items)

    def __len__(self) -> int:
        return self._count

    cdef int add(self, Timed item, uint64_t time_ms) except -1:
        """Begin to time an item."""
        cdef size_t capacity
        cdef uint64_t* times
        cdef void** items
        if self._count == self._capacity:
            capacity = self._capacity * 2 if self._capacity else 64
            times = <uint64_t*>realloc(self._times, capacity * sizeof(uint64_t))
            if times == NULL:
                raise MemoryError
            self._times = times
            items = <void**>realloc(self._items, capacity * sizeof(void*))
            if items == NULL:
                raise MemoryError
            self._items = items
            self._capacity = capacity
        self._times[self._count] = time_ms
        self._items[self._count] = <void*>item
        item._place = self._count
        self._count += 1

    cdef int move(self, Timed item, uint64_t time_ms) except -1:
        """Give a timed item another deadline."""
        if item._place != NOT_TIMED:
            self._times[item._place] = time_ms

    cdef int remove(self, Timed item) except -1:
        """Time an item no longer. The last one takes its place."""
        cdef size_t place = item._place
        if place == NOT_TIMED:
            return 0
        item._place = NOT_TIMED
        self._count -= 1
        if place != self._count:
            self._times[place] = self._times[self._count]
            self._items[place] = self._items[self._count]
            (<Timed>self._items[place])._place = place

    def sweep(self, uint64_t now_ms) -> int:
        """Call every item whose deadline has passed; returns how many there were."""
        cdef list due = []
        cdef Timed item
        cdef size_t place
        for place in range(self._count):
            if self._times[place] <= now_ms:
                due.append(<Timed>self._items[place])
        for item in due:
            # One that an earlier item removed, or gave more time, is due no longer.
            if item._place != NOT_TIMED and self._times[item._place] <= now_ms:
                item.on_deadline(now_ms)
        return len(due)
