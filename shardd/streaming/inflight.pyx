# cython: language_level=3str
"""What one subscription has been sent and has not acknowledged.

A hash table finds a sequence, a list through the same entries keeps them in the order in which they
expire, ties by sequence. New messages expire last, so that adding one is a step at the list's end;
an ack is a look-up. An empty one owns no memory.
"""

cimport cython
from libc.stdlib cimport calloc, free, realloc

cdef uint32_t PLACES_MIN = 8


@cython.final
cdef class InFlight:
    """The messages in flight of one subscription. Sequences are never 0."""

    def __dealloc__(self) -> None:
        free(self._entries)
        free(self._table)

    cdef uint32_t _cell_of(self, uint64_t sequence) noexcept:
        """The cell that has the sequence, or the free one where it would stand."""
        cdef uint32_t cell = <uint32_t>((sequence * <uint64_t>0x9e3779b97f4a7c15) >> 32)
        cell &= self._mask
        while self._table[cell] and self._entries[self._table[cell]].sequence != sequence:
            cell = (cell + 1) & self._mask
        return cell

    cdef const Entry* get(self, uint64_t sequence) noexcept:
        cdef uint32_t place
        if self.count == 0:
            return NULL
        place = self._table[self._cell_of(sequence)]
        return &self._entries[place] if place else NULL

    cdef const Entry* first(self) noexcept:
        return &self._entries[self._first] if self._first else NULL

    cdef int _grow(self) except -1:
        """Doubles the places; the table has twice as many cells as there are places."""
        cdef uint32_t places = self._places * 2 if self._places else PLACES_MIN
        cdef Entry* entries
        cdef uint32_t* table
        cdef uint32_t place
        if places > <uint32_t>0x40000000:
            raise MemoryError
        entries = <Entry*>realloc(self._entries, places * sizeof(Entry))
        if entries == NULL:
            raise MemoryError
        self._entries = entries
        table = <uint32_t*>calloc(places * 2, sizeof(uint32_t))
        if table == NULL:
            raise MemoryError
        free(self._table)
        self._table = table
        self._mask = places * 2 - 1
        if self._places == 0:
            self._used = 1
        self._places = places
        place = self._first
        while place:
            table[self._cell_of(entries[place].sequence)] = place
            place = entries[place].after
        return 0

    cdef void _link(self, uint32_t place) noexcept:
        """Puts an entry where its expiry belongs, looking from the end."""
        cdef Entry* entry = &self._entries[place]
        cdef uint32_t before = self._last
        cdef const Entry* other
        while before:
            other = &self._entries[before]
            if other.expiry_ms < entry.expiry_ms or (
                other.expiry_ms == entry.expiry_ms and other.sequence < entry.sequence
            ):
                break
            before = other.before
        entry.before = before
        if before:
            entry.after = self._entries[before].after
            self._entries[before].after = place
        else:
            entry.after = self._first
            self._first = place
        if entry.after:
            self._entries[entry.after].before = place
        else:
            self._last = place

    cdef void _unlink(self, uint32_t place) noexcept:
        cdef Entry* entry = &self._entries[place]
        if entry.before:
            self._entries[entry.before].after = entry.after
        else:
            self._first = entry.after
        if entry.after:
            self._entries[entry.after].before = entry.before
        else:
            self._last = entry.before

    cdef int put(self, uint64_t sequence, int64_t expiry_ms, uint32_t count) except -1:
        cdef uint32_t place, cell
        if self.count:
            place = self._table[self._cell_of(sequence)]
            if place:
                self._unlink(place)
                self._entries[place].expiry_ms = expiry_ms
                self._entries[place].count = count
                self._link(place)
                return 0
        if self._free == 0 and (self._places == 0 or self._used == self._places):
            self._grow()
        if self._free:
            place = self._free
            self._free = self._entries[place].after
        else:
            place = self._used
            self._used += 1
        cell = self._cell_of(sequence)
        self._table[cell] = place
        self._entries[place].sequence = sequence
        self._entries[place].expiry_ms = expiry_ms
        self._entries[place].count = count
        self._link(place)
        self.count += 1
        return 0

    cdef bint remove(self, uint64_t sequence) noexcept:
        cdef uint32_t cell, place, hole, home
        if self.count == 0:
            return False
        hole = self._cell_of(sequence)
        place = self._table[hole]
        if place == 0:
            return False
        self._unlink(place)
        # A cell behind the hole moves into it unless that were before its home.
        cell = hole
        while True:
            cell = (cell + 1) & self._mask
            if self._table[cell] == 0:
                break
            home = <uint32_t>(
                (self._entries[self._table[cell]].sequence * <uint64_t>0x9e3779b97f4a7c15) >> 32
            ) & self._mask
            if ((cell - home) & self._mask) >= ((cell - hole) & self._mask):
                self._table[hole] = self._table[cell]
                hole = cell
        self._table[hole] = 0
        self._entries[place].sequence = 0
        self._entries[place].after = self._free
        self._free = place
        self.count -= 1
        if self.count == 0 and self._places > PLACES_MIN:
            self._shrink()
        return True

    cdef void _shrink(self) noexcept:
        """Gives everything back once nothing is in flight, unless it is little."""
        if self._places > 1024:
            free(self._entries)
            free(self._table)
            self._entries = NULL
            self._table = NULL
            self._places = self._used = self._mask = 0
        else:
            self._used = 1
        self._free = 0

    def sequences(self) -> tuple[int, ...]:
        """All of them, rising."""
        cdef uint32_t place = self._first
        cdef list found = []
        while place:
            found.append(self._entries[place].sequence)
            place = self._entries[place].after
        found.sort()
        return tuple(found)

    def entries(self) -> list[tuple[int, int, int]]:
        """Sequence, expiry and count of all, in the order of expiry."""
        cdef uint32_t place = self._first
        cdef list found = []
        while place:
            found.append((
                self._entries[place].sequence,
                self._entries[place].expiry_ms,
                self._entries[place].count,
            ))
            place = self._entries[place].after
        return found

    def add(self, uint64_t sequence, int64_t expiry_ms, uint32_t count=0) -> None:
        """Adds a sequence, or moves one that is there."""
        if sequence == 0:
            raise ValueError("sequences begin with 1")
        self.put(sequence, expiry_ms, count)

    def discard(self, uint64_t sequence) -> bool:
        """Removes a sequence; whether it was there."""
        return self.remove(sequence)

    def find(self, uint64_t sequence) -> tuple[int, int] | None:
        """Expiry and count of a sequence."""
        cdef const Entry* entry = self.get(sequence)
        return None if entry == NULL else (entry.expiry_ms, entry.count)

    def expire_all(self, int64_t now_ms) -> None:
        """Everything is due now: what a resumed durable subscription is sent first."""
        cdef list found = sorted(self.entries())
        for sequence, _, _ in found:
            self.remove(sequence)
        for sequence, _, count in found:
            self.put(sequence, now_ms, count)
