# cython: language_level=3str
"""What the logs of one file store have in memory: batches, windows, and what they share.

A batch holds messages that have been appended, as they will stand in the file; when it has been
written it stays for a while as the newest part of its log. A window is a piece of a file, read
ahead. The home of the logs knows which of them has something to write, and which holds something
that can be let go.
"""

import os
import resource

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc

from shardd.errors import DamageError, StoreError

from shardd.streaming.records cimport is_record, looks_like_record, read_exactly
from shardd.streaming.segment cimport SEGMENT_BYTES_MAX, Segment

cdef enum:
    BATCH_BYTES = 65_536           # room of a fresh batch
    BATCH_KEPT_BYTES = 16 << 20    # a larger one is not used again
    BATCHES_SPARE = 4
    DESCRIPTORS = 1024             # unless the process may have fewer

cdef int64_t SECOND_NS = 1_000_000_000


@cython.final
cdef class Batch:
    """Appended messages on their way to the disk, and for a while after."""

    def __dealloc__(self) -> None:
        free(self.bytes)
        free(self.offsets)

    cdef unsigned char* reserve(self, size_t length) except NULL:
        """Room for one more record, noted as the next one."""
        cdef size_t capacity
        cdef unsigned char* room
        cdef uint32_t* offsets
        if self.used + length > self.capacity:
            capacity = max(self.capacity * 2, self.used + length, <size_t>BATCH_BYTES)
            room = <unsigned char*>realloc(self.bytes, capacity)
            if room == NULL:
                raise MemoryError
            self.bytes, self.capacity = room, capacity
        if self.count == self.offsets_capacity:
            capacity = max(self.offsets_capacity * 2, <size_t>256)
            offsets = <uint32_t*>realloc(self.offsets, capacity * sizeof(uint32_t))
            if offsets == NULL:
                raise MemoryError
            self.offsets, self.offsets_capacity = offsets, capacity
        self.offsets[self.count] = <uint32_t>self.used
        self.count += 1
        self.used += length
        return self.bytes + (self.used - length)


@cython.final
cdef class Window:
    """A piece of a segment, read ahead."""

    def __dealloc__(self) -> None:
        free(self.bytes)

    cdef int fill(self, Segment segment, uint32_t offset, size_t length) except -1:
        """Read a piece of an open segment; once."""
        cdef int error = 0
        self.bytes = <unsigned char*>malloc(length)
        if self.bytes == NULL:
            raise MemoryError
        if not read_exactly(segment.fd, self.bytes, length, offset, &error):
            reason = os.strerror(error).lower() if error else "it ends too early"
            raise StoreError(f"{segment.path}: cannot be read at byte {offset}: {reason}")
        self.segment, self.offset, self.length = segment, offset, length
        return 0

    cdef const unsigned char* record(
        self, uint64_t sequence, uint32_t offset, size_t length, bint crc
    ) except NULL:
        """One record that it holds, by its offset in the file."""
        cdef const unsigned char* at = self.bytes + (offset - self.offset)
        if is_record(at, length, sequence) if crc else looks_like_record(at, length, sequence):
            return at
        raise DamageError(
            f"{self.segment.path}: damaged at byte {offset}: message {sequence} of the channel"
            " is lost and passed over; `shardd stream verify` says what else is"
        )


@cython.final
cdef class LogHome:
    """What the logs of one store share."""

    def __init__(self, options: object, on_warm: object, on_retired: object) -> None:
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        limit = min(DESCRIPTORS, soft // 2) if soft > 0 else DESCRIPTORS
        self.descriptors_max = max(options.descriptors_max or limit, 8)
        self.sync = options.sync
        self.crc = options.crc
        self.segment_bytes = min(max(options.segment_bytes, 1), SEGMENT_BYTES_MAX // 2)
        self.segment_messages = max(options.segment_messages, 0)
        self.segment_age_ns = max(int(options.segment_age_s * SECOND_NS), 0)
        self.dirty, self.warm, self.open = [], set(), {}
        self.dropped, self.purged = [], []
        self._spare, self._retired = [], []
        self._on_warm, self._on_retired = on_warm, on_retired

    def take_dirty(self) -> list:
        """The logs that have something to write; they are not listed any more."""
        dirty, self.dirty = self.dirty, []
        return dirty

    def take_dropped(self) -> list:
        """The paths of segments to be removed; they are not listed any more."""
        dropped, self.dropped = self.dropped, []
        return dropped

    def take_purged(self) -> list:
        """The logs whose `first` is to be remembered; they are not listed any more."""
        purged, self.purged = self.purged, []
        return purged

    cdef Batch batch(self):
        return self._spare.pop() if self._spare else Batch.__new__(Batch)

    cdef int give_back(self, Batch batch) except -1:
        if batch is None:
            return 0
        batch.segment = batch.full = None
        batch.used = batch.count = 0
        if len(self._spare) < BATCHES_SPARE and batch.capacity <= BATCH_KEPT_BYTES:
            self._spare.append(batch)
        return 0

    cdef int retire(self, object held) except -1:
        """Somebody may still look into this window or batch, until control has returned to the
        event loop."""
        if held is not None:
            if not self._retired:
                self._on_retired()
            self._retired.append(held)
        return 0

    def release_retired(self) -> None:
        """Free what was read ahead and nobody can be looking at any more."""
        self._retired.clear()

    cdef int opened(self, Segment segment) except -1:
        """It has a descriptor now; another one may have to go for that."""
        cdef Segment other
        self.open[segment] = None
        if len(self.open) > self.descriptors_max:
            for other in self.open:
                if not other.busy and other is not segment:
                    other.close()
                    del self.open[other]
                    break
        return 0

    cdef int warmed(self, object log) except -1:
        if log not in self.warm:
            if not self.warm:
                self._on_warm()
            self.warm.add(log)
        return 0

    def sweep(self) -> bool:
        """Let go of what has not been used since the last sweep; whether anything is left."""
        for log in [log for log in self.warm if not log.cool()]:
            self.warm.discard(log)
        for segment in [segment for segment in self.open if segment.fd < 0]:
            del self.open[segment]
        if not self.warm:
            self._spare.clear()
        return bool(self.warm)
