"""What one subscription has been sent and has not acknowledged: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef struct Entry:
    uint64_t sequence              # 0: the place is free
    int64_t expiry_ms              # when it is sent again
    uint32_t count                 # how often it has been sent again
    uint32_t before                # neighbours in the order of expiry
    uint32_t after

cdef class InFlight:
    cdef readonly uint32_t count
    cdef Entry* _entries           # places, the first one unused: 0 means none
    cdef uint32_t _places          # allocated
    cdef uint32_t _used            # ever given out
    cdef uint32_t _free            # a chain of places given back, by `after`
    cdef uint32_t _first           # expires first
    cdef uint32_t _last
    cdef uint32_t* _table          # sequence to place, open addressing
    cdef uint32_t _mask

    # Adds a sequence that is not there, or moves one that is.
    cdef int put(self, uint64_t sequence, int64_t expiry_ms, uint32_t count) except -1
    # Whether it was there.
    cdef bint remove(self, uint64_t sequence) noexcept
    # NULL when it is not there; good until the next change.
    cdef const Entry* get(self, uint64_t sequence) noexcept
    # The entry that expires first; NULL when there is none.
    cdef const Entry* first(self) noexcept

    cdef int _grow(self) except -1
    cdef void _link(self, uint32_t place) noexcept
    cdef void _unlink(self, uint32_t place) noexcept
    cdef uint32_t _cell_of(self, uint64_t sequence) noexcept
    cdef void _shrink(self) noexcept
