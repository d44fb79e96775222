# cython: language_level=3str
"""One producer, many consumers, each message written once.

What stands in a ring's shared memory, how a producer fills it and how consumers read it. What a
record means is not known here (`frame`), nor when anybody wakes up (`doorbell`).

The producer owns everything beyond the published position, each consumer everything from its own
cursor to the published position. Ownership changes hands by two kinds of store only:

- the producer's release store of the published position gives a whole batch to the consumers;
- a consumer's release store of its cursor gives the space behind it back to the producer.

The free space ends one ring's size after the lowest cursor of the attached consumers. The
producer keeps that lowest cursor locally and looks again only when the ring seems full, a
consumer keeps the published position locally and looks again only when it has read up to it, so
the two touch each other's cache lines once per ring or per batch and not once per record.

A producer that found the ring full publishes what it has, then sets the waiting flag and looks
once more (`wait_for_room`); a consumer stores its cursor, then looks at the flag (`release`).
With a full fence between the two steps of either, at least one sees the other: either the room is
found, or the consumer knows that it must ring. A consumer killed between taking the flag and
ringing is detached by the producer, which then looks again anyway.

Successors. A new producer goes on at the published position, which its predecessor had not moved
before a batch was whole. A consumer may still be reading what the dead one published, and moving
its cursor, when the new one attaches it; so its cursor stays as it is, and what is unread stays
unread. Such a consumer reads up to the first batch of the next incarnation; a second `Consumer`,
made for that incarnation, goes on from there. A new consumer process in an old slot is another
matter: its incarnation differs from the one attached before, and it starts where the producer is.

Positions are compared by difference only, so they may pass 2**64.
"""

from libc.string cimport memcpy, memset

from shardd.errors import BootError, InternalError
from shardd.limits import RING_RECORD_SHARE

cdef extern from "ring_atomic.h" nogil:
    uint64_t atomic_load_u64(const uint64_t* field)
    uint32_t atomic_load_u32(const uint32_t* field)
    void atomic_store_u64(uint64_t* field, uint64_t value)
    void atomic_store_u32(uint32_t* field, uint32_t value)
    uint32_t atomic_load_relaxed_u32(const uint32_t* field)
    void atomic_store_relaxed_u32(uint32_t* field, uint32_t value)
    uint32_t atomic_exchange_u32(uint32_t* field, uint32_t value)
    void atomic_fence()

cdef enum:
    LAYOUT_VERSION = 1
    LINE_BYTES = 64
    ALIGNMENT = 8
    SLOTS_MAX = 64             # bits of a process mask

cdef uint64_t MAGIC = 0x676E6972_64726873  # "shrdring", as little-endian bytes
# A batch's length must fit its 32-bit field, and a batch is never longer than the ring.
cdef size_t SIZE_MAX_BYTES = <size_t>1 << 31
cdef size_t RECORD_SHARE = RING_RECORD_SHARE

# What several processes write or poll stands on a cache line of its own.
cdef struct Header:
    # line 0: who made it, written before the fork; the producer writes its incarnation
    uint64_t magic
    uint32_t version
    uint32_t slots
    uint64_t size
    uint32_t incarnation
    uint32_t reserved0
    uint64_t reserved1[4]
    # line 1: written by the producer
    uint64_t published
    uint64_t reserved2[7]
    # line 2: set by the producer, taken by consumers
    uint32_t is_waiting
    uint32_t reserved3[15]

# One line per process, after the header; written by the consumer (see the top of this file).
cdef struct Cursor:
    uint64_t position
    uint32_t incarnation       # of the consumer that is attached, 0: none; by the producer
    uint32_t reserved0
    uint64_t reserved1[6]

# In front of the records of a batch.
cdef struct BatchHeader:
    uint32_t length            # of the whole batch, this header included
    uint32_t incarnation
    uint64_t processes
    uint64_t interest_sequence
    uint64_t position          # where it stands: what was overwritten does not pass for a batch

if (
    sizeof(Header) != 3 * LINE_BYTES
    or sizeof(Cursor) != LINE_BYTES
    or sizeof(BatchHeader) % ALIGNMENT
):
    raise InternalError("the layout of a ring is not what this build expects")


cdef inline Header* header_of(Ring ring) noexcept nogil:
    return <Header*>ring._header


cdef inline Cursor* cursor_of(Ring ring, uint32_t slot) noexcept nogil:
    """`slot` is below `ring.slots`: checked where it came in."""
    return <Cursor*>(ring._header + sizeof(Header)) + slot


cdef inline unsigned char* at(Ring ring, uint64_t position) noexcept nogil:
    """Up to a ring's size of bytes can be used from here on, thanks to the second view."""
    return ring._data + (position & (ring.size - 1))


cdef class Ring:
    """The shared memory of one producer. Made before the fork, inherited by all processes."""

    def __cinit__(self, size_bytes: int, slots: int) -> None:
        cdef Header* header
        if not 0 < size_bytes <= SIZE_MAX_BYTES or size_bytes & (size_bytes - 1):
            raise BootError(
                f"a ring of {size_bytes} bytes: the size must be a power of two"
                f" and at most {SIZE_MAX_BYTES}"
            )
        if not 1 <= slots <= SLOTS_MAX:
            raise BootError(f"a ring for {slots} processes: a host has between 1 and {SLOTS_MAX}")
        self.slots = slots
        self._header_segment = Segment(sizeof(Header) + self.slots * sizeof(Cursor))
        # Rounded up to a page, which is a power of two itself.
        self._data_segment = Segment(size_bytes, doubled=True)
        self.size = self._data_segment.size
        self._header = self._header_segment.address
        self._data = self._data_segment.address
        self._mapped = self._header_segment.size + 2 * self.size
        header = header_of(self)
        header.magic = MAGIC
        header.version = LAYOUT_VERSION
        header.slots = self.slots
        header.size = self.size

    cpdef int check(self) except -1:
        """Raises InternalError unless the shared header is this ring's."""
        cdef Header* header = header_of(self)
        if (
            header.magic != MAGIC
            or header.version != LAYOUT_VERSION
            or header.slots != self.slots
            or header.size != self.size
        ):
            raise InternalError("a ring has a damaged header or another layout")
        return 0

    @property
    def published(self) -> int:
        """Everything below this position is whole."""
        # Acquire, with the release in `Producer.publish`.
        return atomic_load_u64(&header_of(self).published)

    @property
    def incarnation(self) -> int:
        """The incarnation of the producer that took the ring last."""
        # Acquire, with the release in `Producer.__cinit__`.
        return atomic_load_u32(&header_of(self).incarnation)

    @property
    def is_waiting(self) -> bool:
        """Whether the producer has asked to be rung."""
        # Relaxed: a statistic; the protocol is in `wait_for_room` and `release`.
        return atomic_load_relaxed_u32(&header_of(self).is_waiting) != 0

    def cursor(self, uint32_t slot) -> int:
        """The position that this consumer has released."""
        if slot >= self.slots:
            raise IndexError(f"slot {slot} of {self.slots}")
        # Acquire, as in `Producer.consumed`.
        return atomic_load_u64(&cursor_of(self, slot).position)

    def poke(self, uint64_t position) -> None:
        """Moves an unused ring to a position, so that a test reaches a corner of the numbers."""
        cdef uint32_t slot
        if position % ALIGNMENT:
            raise ValueError(f"position {position} is not a multiple of {ALIGNMENT}")
        header_of(self).published = position
        for slot in range(self.slots):
            cursor_of(self, slot).position = position

    def poke_data(self, uint64_t position, data: bytes) -> None:
        """Overwrites the data area, so that a test sees damage found."""
        if <size_t>len(data) > self.size:
            raise ValueError(f"{len(data)} bytes do not fit the ring")
        memcpy(at(self, position), <const char*>data, len(data))

    def poke_header(self, *, magic: int = MAGIC, version: int = LAYOUT_VERSION) -> None:
        """Overwrites the header, so that a test sees damage found."""
        header_of(self).magic = magic
        header_of(self).version = version


cdef class Producer:
    """Writes into a ring. Owned by the one process that the ring belongs to."""

    def __cinit__(self, Ring ring not None, uint32_t incarnation) -> None:
        cdef Header* header
        ring.check()
        header = header_of(ring)
        self.ring = ring
        self.incarnation = incarnation
        self.record_max = ring.size // RECORD_SHARE
        # Acquire: the dead predecessor's store, made visible by its death and the fork at the
        # latest. Its open batch lies beyond and is overwritten.
        self._published = atomic_load_u64(&header.published)
        self._consumed = self._published
        if self._published % ALIGNMENT:
            raise InternalError(f"a ring is published up to {self._published}: not aligned")
        # Relaxed: at worst a consumer takes the predecessor's wish for ours and rings once more.
        atomic_store_relaxed_u32(&header.is_waiting, 0)
        # Release, with the acquire in `Ring.incarnation`.
        atomic_store_u32(&header.incarnation, incarnation)

    cdef unsigned char* claim(self, size_t length, uint64_t processes) noexcept nogil:
        cdef size_t start
        if length > self.record_max:
            return NULL
        if not self._has_room(length):
            # Only now a look at the consumers' cache lines.
            self._consumed = self.consumed()
            if not self._has_room(length):
                return NULL
        start = self._open if self._open else sizeof(BatchHeader)
        self._open = start + ((length + ALIGNMENT - 1) & ~<size_t>(ALIGNMENT - 1))
        self._processes |= processes
        return at(self.ring, self._published) + start

    cdef bint _has_room(self, size_t length) noexcept nogil:
        """Whether a record of `length` bytes, at most the ring's size, fits what is known free."""
        cdef size_t start = self._open if self._open else sizeof(BatchHeader)
        cdef size_t used = <size_t>(self._published - self._consumed) + start
        length = (length + ALIGNMENT - 1) & ~<size_t>(ALIGNMENT - 1)
        return used <= self.ring.size and length <= self.ring.size - used

    cpdef size_t open_bytes(self) noexcept nogil:
        """Bytes in the open batch, 0 when there is none."""
        return self._open

    cpdef uint64_t publish(self, uint64_t interest_sequence) noexcept nogil:
        """Publishes the open batch; returns its destinations, 0 when there was none."""
        cdef BatchHeader* header
        cdef uint64_t processes = self._processes
        if self._open == 0:
            return 0
        header = <BatchHeader*>at(self.ring, self._published)
        header.length = <uint32_t>self._open
        header.incarnation = self.incarnation
        header.processes = processes
        header.interest_sequence = interest_sequence
        header.position = self._published
        self._published += self._open
        self._open = 0
        self._processes = 0
        # Release: the batch is written before it can be seen. Partner: the acquire in
        # `Consumer.peek` and `Consumer.is_behind`.
        atomic_store_u64(&header_of(self.ring).published, self._published)
        return processes

    cpdef bint wait_for_room(self, size_t length) noexcept nogil:
        """Asks to be rung; True when room for `length` bytes appeared meanwhile."""
        cdef Header* header = header_of(self.ring)
        # More than this is never free at once, and would be waited for in vain.
        if length > self.ring.size - sizeof(BatchHeader):
            length = self.ring.size - sizeof(BatchHeader)
        # Relaxed, ordered by the fence: the flag is visible before the cursors are looked at.
        # Partner: the store of the cursor, fence and look at the flag in `Consumer.release`.
        atomic_store_relaxed_u32(&header.is_waiting, 1)
        atomic_fence()
        self._consumed = self.consumed()
        if not self._has_room(length):
            return False
        # Relaxed: a consumer that took the flag just before rings once too often.
        atomic_store_relaxed_u32(&header.is_waiting, 0)
        return True

    cpdef int attach(self, uint32_t slot, uint32_t incarnation=0) except -1:
        """A consumer takes part: from its cursor on if the predecessor had attached this very
        incarnation of it, else from the published position on."""
        cdef Cursor* cursor
        self.ring.check()
        if slot >= self.ring.slots:
            raise IndexError(f"slot {slot} of {self.ring.slots}")
        if self.attached >> slot & 1:
            raise InternalError(f"consumer {slot} is attached already")
        cursor = cursor_of(self.ring, slot)
        if incarnation == 0 or cursor.incarnation != incarnation:
            # Release, with the acquire in `Consumer.start`. Nobody else writes the cursor: the
            # process that did is dead, and this one has not started.
            atomic_store_u64(&cursor.position, self._published)
            # Release: a successor that sees the incarnation sees the cursor.
            atomic_store_u32(&cursor.incarnation, incarnation)
        self.attached |= <uint64_t>1 << slot
        # Its cursor may be lower than all the others.
        self._consumed = self.consumed()
        if self._published - self._consumed > self.ring.size:
            raise InternalError(f"the cursor of consumer {slot} is not in the ring")
        return 0

    cpdef int detach(self, uint32_t slot) except -1:
        """A consumer no longer bounds the free space, whatever its cursor says."""
        if slot >= self.ring.slots:
            raise IndexError(f"slot {slot} of {self.ring.slots}")
        # Release, as in `attach`: from now on its space is written again.
        atomic_store_u32(&cursor_of(self.ring, slot).incarnation, 0)
        self.attached &= ~(<uint64_t>1 << slot)
        return 0

    cpdef uint64_t consumed(self) noexcept nogil:
        """Lowest cursor of the attached consumers; the published position when there is none."""
        cdef uint64_t lag
        cdef uint64_t lag_max = 0
        cdef uint32_t slot
        for slot in range(self.ring.slots):
            if self.attached >> slot & 1:
                # Acquire: the consumer's reads are over before its space is written again.
                # Partner: the release in `Consumer.release`.
                lag = self._published - atomic_load_u64(&cursor_of(self.ring, slot).position)
                if lag > lag_max:
                    lag_max = lag
        return self._published - lag_max

    # --- doors for tests and cold callers -----------------------------------------------------

    @property
    def published(self) -> int:
        """Where the open batch starts, or the next one will."""
        return self._published

    def write(self, record: bytes, uint64_t processes) -> bool:
        """Claims room for one record, zero-padded to 8 bytes; False when it was not granted."""
        cdef size_t length = len(record)
        cdef size_t padded = (length + ALIGNMENT - 1) & ~<size_t>(ALIGNMENT - 1)
        cdef unsigned char* room = self.claim(length, processes)
        if room is NULL:
            return False
        memcpy(room, <const char*>record, length)
        memset(room + length, 0, padded - length)
        return True

    def publish_bytes(
        self, records: list[bytes], uint64_t processes, uint64_t interest_sequence = 0
    ) -> int:
        """Writes records as one batch, as many as there is room for; returns their count."""
        cdef Py_ssize_t count = 0
        for record in records:
            if not self.write(record, processes):
                break
            count += 1
        self.publish(interest_sequence)
        return count


cdef class Consumer:
    """Reads one incarnation of a ring's producer, from where that attached it.

    Args:
        ring: the producer's.
        slot: the reading process's own.
        incarnation: of the producer; 0 reads all.
    """

    def __cinit__(self, Ring ring not None, uint32_t slot, uint32_t incarnation = 0) -> None:
        ring.check()
        if slot >= ring.slots:
            raise IndexError(f"slot {slot} of {ring.slots}")
        self.ring = ring
        self.slot = slot
        self.incarnation = incarnation

    cpdef int start(self) except -1:
        """Starts reading where the producer attached this consumer, behind what predecessors of
        that producer had published; True when the producer asked to be rung."""
        cdef const BatchHeader* header
        cdef uint64_t position
        cdef uint64_t published
        self.ring.check()
        # Acquire both, with the releases in `Producer.attach` and `Producer.publish`.
        position = atomic_load_u64(&cursor_of(self.ring, self.slot).position)
        published = atomic_load_u64(&header_of(self.ring).published)
        if position % ALIGNMENT or published - position > self.ring.size:
            raise InternalError(
                f"consumer {self.slot} stands at {position} of {published} published bytes"
            )
        self._position = self._released = position
        self._published = published
        self.is_started = True
        while self.incarnation and self._has_batch():
            header = <const BatchHeader*>at(self.ring, self._position)
            if header.incarnation >= self.incarnation:
                break
            self._position += header.length
        return self.release()

    cdef int peek(self, Batch* batch) except -1 nogil:
        cdef const BatchHeader* header
        if not self._has_batch():
            return False
        header = <const BatchHeader*>at(self.ring, self._position)
        if self.incarnation and header.incarnation != self.incarnation:
            return False
        batch.position = self._position
        batch.processes = header.processes
        batch.interest_sequence = header.interest_sequence
        batch.incarnation = header.incarnation
        batch.length = header.length
        batch.records = <const unsigned char*>(header + 1)
        batch.records_len = header.length - <uint32_t>sizeof(BatchHeader)
        return True

    cdef int _has_batch(self) except -1 nogil:
        """Whether there is a batch at the local position; its header is checked."""
        cdef const BatchHeader* header
        cdef uint64_t available = self._published - self._position
        if available == 0:
            if not self.is_started:
                return False
            # Acquire: what is published is whole. Partner: the release in `Producer.publish`.
            self._published = atomic_load_u64(&header_of(self.ring).published)
            available = self._published - self._position
            if available == 0:
                return False
        header = <const BatchHeader*>at(self.ring, self._position)
        if (
            available > self.ring.size
            or header.length < sizeof(BatchHeader)
            or header.length % ALIGNMENT
            or header.length > available
            or header.position != self._position
        ):
            return self._raise_corrupt(header.length, available)
        return True

    cdef int _raise_corrupt(self, uint32_t length, uint64_t available) except -1 with gil:
        raise InternalError(
            f"no batch at {self._position}: length {length} of {available} published bytes"
        )

    cdef void advance(self, const Batch* batch) noexcept nogil:
        self._position += batch.length

    cpdef bint release(self) noexcept nogil:
        """Publishes the local position; True when the producer asked to be rung."""
        cdef Header* header
        if self._position == self._released:
            return False
        header = header_of(self.ring)
        self._released = self._position
        # Release: all reads are over before the space is free. Partner: the acquire in
        # `Producer.consumed`.
        atomic_store_u64(&cursor_of(self.ring, self.slot).position, self._position)
        # The fence, so that the cursor is visible before the flag is looked at. Partner: the
        # fence between flag and cursors in `Producer.wait_for_room`.
        atomic_fence()
        # Relaxed look first: the flag is rarely set, and an exchange would take its cache line
        # away from the others each time. Acquire and release in the exchange, so that of several
        # consumers exactly one rings.
        return (
            atomic_load_relaxed_u32(&header.is_waiting) != 0
            and atomic_exchange_u32(&header.is_waiting, 0) != 0
        )

    cpdef bint is_behind(self) noexcept nogil:
        """Whether anything is published beyond the local position."""
        # Acquire, as in `peek`. After `Doorbell.fall_asleep` the fence there orders this load.
        return (
            self.is_started
            and atomic_load_u64(&header_of(self.ring).published) != self._position
        )

    cdef uint64_t published(self) noexcept nogil:
        # Acquire, as in `peek`.
        return atomic_load_u64(&header_of(self.ring).published)

    cdef bint is_before(self, uint64_t position) noexcept nogil:
        return self.is_started and self._position < position

    # --- doors for tests and cold callers -----------------------------------------------------

    @property
    def position(self) -> int:
        """Read up to here, released or not."""
        return self._position

    def read_all(self) -> list[tuple[bytes, int, int, int]]:
        """Steps over all that is published; returns records, destinations, interest sequence and
        incarnation of each batch for this consumer. Releases nothing."""
        cdef Batch batch
        batches = []
        while self.peek(&batch):
            if batch.processes >> self.slot & 1:
                records = <bytes>(<const char*>batch.records)[:batch.records_len]
                batches.append(
                    (records, batch.processes, batch.interest_sequence, batch.incarnation)
                )
            self.advance(&batch)
        return batches
