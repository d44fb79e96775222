"""Bytes waiting for one peer, and the write that empties them: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.poller cimport Source

# Where the bytes of a chunk are, and where it goes when they have been written.
cdef enum ChunkKind:
    CHUNK_POOLED = 0               # its own, of the pool's size
    CHUNK_SMALL = 1                # its own, a few: the head of a message that is lent
    CHUNK_LENT = 2                 # somebody else's, until the loans of this read are returned

# Part of one peer's output.
cdef struct Chunk:
    Chunk* next
    const unsigned char* bytes
    ChunkKind kind
    uint32_t start                 # first byte not yet written
    uint32_t end                   # first byte not yet filled
    uint32_t capacity
    unsigned char[1] data

# What a flush came to.
cdef enum Flushed:
    FLUSH_DONE = 0                 # nothing is left
    FLUSH_BLOCKED = 1              # the kernel's buffer is full: the rest waits for EPOLLOUT
    FLUSH_BROKEN = 2               # the peer is gone

cdef class Outbound(Source):
    # The queue: filled at the tail, written from the head.
    cdef Chunk* _head
    cdef Chunk* _tail
    cdef uint64_t pending          # bytes queued
    # Back-pressure: what the owner is held to, in bytes.
    cdef uint64_t pending_max
    cdef bint is_overflowing       # more than `pending_max` was queued: a slow consumer
    # State of the write.
    cdef bint is_dirty             # stands in the flush list of this pass
    cdef bint is_blocked           # waits for EPOLLOUT
    cdef bint is_broken            # a write failed
    cdef bint is_borrowing         # stands in the list of borrowers
    cdef uint64_t write_until_ms   # when blocked: the write deadline
    cdef uint64_t _write_goal      # when blocked: bytes to be written before the deadline moves
    cdef OutboundSet outbounds
    # What encodes the output (`layer.Layer`), None: nothing; and what it made that is not written.
    cdef readonly object layer
    cdef bytes _encoded
    cdef size_t _encoded_start

    cdef int attach(self, object layer, bytes before) except -1
    cdef Flushed _flush_encoded(self) except *
    cdef bint _encode(self) except -1
    cdef size_t _send_queue(self) except? 0
    cdef bint _queue_encoded(self, bytes encoded) except -1
    cdef void _advance(self, size_t length) noexcept
    cdef void _drop(self, size_t length) noexcept
    cdef unsigned char* reserve(self, size_t length) except? NULL
    cdef int commit(self, size_t length) except -1
    cdef int append(self, const unsigned char* data, size_t length) except -1
    cdef int lend(
        self, const unsigned char* head, size_t head_len, const unsigned char* data, size_t length
    ) except -1
    cdef int repay(self) except -1
    cdef int _add(self, Chunk* chunk) except -1
    cdef Flushed flush(self) except *
    cdef int settle(self) except -1
    cdef int on_room(self) except -1
    cdef int _watch_room(self) except -1
    cdef int on_broken(self) except -1
    cdef int on_overflow(self) except -1
    cdef int on_blocked(self) except -1
    cdef int discard(self) except -1
    cdef int _extend(self) except -1
    cdef int _queued(self, size_t length) except -1
    cdef void _written(self, size_t length) noexcept
    cdef void _block(self) noexcept

# The outputs of one process: its chunk pool and the list of those to flush in this pass.
cdef class OutboundSet:
    cdef Chunk* _free
    cdef uint32_t _free_count
    cdef void** _dirty
    cdef size_t _dirty_count
    cdef size_t _dirty_capacity
    cdef unsigned char* _share     # NULL until a layer needs it
    cdef readonly uint64_t write_deadline_ms
    cdef list _borrowers           # outputs that hold lent bytes
    cdef bint has_loans

    cdef unsigned char* share(self) except NULL
    cdef int return_loans(self) except -1
    cdef Chunk* take(self) except NULL
    cdef void give(self, Chunk* chunk) noexcept
    cdef int mark(self, Outbound outbound) except -1
    cdef int flush_dirty(self) except -1
