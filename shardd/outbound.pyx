# cython: language_level=3str
"""Bytes waiting for one peer: a queue of chunks, one write per pass, slow consumers found on entry.

Whoever has something to say appends; the first append of a pass puts the outbound on the flush
list of its process, and the pass ends with one write to each peer on that list. What the kernel
does not take stays queued and waits for EPOLLOUT.

Large messages are not copied: `lend` queues a reference to the bytes where they lie, in the read
buffer or in a ring. Before those bytes change, `return_loans` writes what the kernel takes and
copies the rest, so a loan never outlives the read that made it.

A connection with a layer (TLS, WebSocket) queues plaintext all the same; it is encoded a share at
a time when it is written.

The bound on the queue is nats-server's `max_pending` (sheet 5.3): more than that queued marks the
outbound as overflowing, and its owner closes it. Chunks come from a pool per process, last in
first out, so that the bytes of a busy worker stay in its cache and an idle peer holds none.
"""

from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memset

from cpython.buffer cimport PyBUF_READ
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from cpython.ref cimport Py_DECREF, Py_INCREF, Py_XDECREF, PyObject

from shardd import limits
from shardd.layer import LayerError

cdef extern from "sys/socket.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
    enum:
        MSG_NOSIGNAL
        MSG_DONTWAIT
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t send(int fd, const void* data, size_t length, int flags)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLOUT

cdef enum:
    VECTORS_MAX = 64               # chunks handed to the kernel in one write
    POOL_CHUNKS_MAX = 256          # kept for reuse; the rest goes back to the allocator
    # What a layer encodes before it is written: sixteen full records of TLS.
    ENCODED_BYTES = 262_144

cdef uint32_t CHUNK_BYTES = limits.CHUNK_BYTES
# A peer with this much queued is written to at once, in the middle of a pass: the reader starts
# earlier and the bytes are still in the cache.
cdef uint64_t EAGER_BYTES = limits.EAGER_FLUSH_BYTES
cdef uint64_t WRITE_GOAL_BYTES_MAX = 64 * 1024 * 1024


cdef class OutboundSet:
    """What the outputs of one process share. Touched by its event loop only."""

    def __cinit__(self, uint64_t write_deadline_ms):
        self.write_deadline_ms = write_deadline_ms
        self._free = NULL
        self._dirty = NULL
        self._borrowers = []

    def __dealloc__(self):
        cdef Chunk* chunk
        cdef size_t index
        while self._free != NULL:
            chunk = self._free
            self._free = chunk.next
            free(chunk)
        for index in range(self._dirty_count):
            Py_XDECREF(<PyObject*>self._dirty[index])
        free(self._dirty)
        free(self._share)

    cdef Chunk* take(self) except NULL:
        """An empty chunk, from the pool or from the allocator."""
        cdef Chunk* chunk = self._free
        if chunk != NULL:
            self._free = chunk.next
            self._free_count -= 1
        else:
            chunk = <Chunk*>malloc(sizeof(Chunk) + CHUNK_BYTES)
            if chunk == NULL:
                raise MemoryError
            chunk.capacity = CHUNK_BYTES
            chunk.bytes = chunk.data
            chunk.kind = CHUNK_POOLED
        chunk.next = NULL
        chunk.start = 0
        chunk.end = 0
        return chunk

    cdef void give(self, Chunk* chunk) noexcept:
        """Take a written chunk back."""
        if chunk.kind != CHUNK_POOLED or self._free_count >= POOL_CHUNKS_MAX:
            free(chunk)
            return
        chunk.next = self._free
        self._free = chunk
        self._free_count += 1

    cdef unsigned char* share(self) except NULL:
        """Where what a layer is to encode is put together; made when the first one needs it."""
        if self._share == NULL:
            self._share = <unsigned char*>malloc(ENCODED_BYTES)
            if self._share == NULL:
                raise MemoryError
        return self._share

    cdef int return_loans(self) except -1:
        """End every loan: the bytes that were lent are about to change."""
        cdef Outbound outbound
        self.has_loans = False
        for outbound in self._borrowers:
            outbound.is_borrowing = False
            outbound.repay()
        self._borrowers.clear()

    cdef int mark(self, Outbound outbound) except -1:
        """Put an outbound on the flush list of this pass."""
        cdef void** grown
        cdef size_t capacity
        if outbound.is_dirty:
            return 0
        if self._dirty_count == self._dirty_capacity:
            capacity = self._dirty_capacity * 2 if self._dirty_capacity else 64
            grown = <void**>realloc(self._dirty, capacity * sizeof(void*))
            if grown == NULL:
                raise MemoryError
            self._dirty = grown
            self._dirty_capacity = capacity
        Py_INCREF(outbound)
        self._dirty[self._dirty_count] = <void*>outbound
        self._dirty_count += 1
        outbound.is_dirty = True

    cdef int flush_dirty(self) except -1:
        """Write to every peer that got something since the last time, first come, first served."""
        cdef Outbound outbound
        cdef size_t index = 0
        while index < self._dirty_count:
            outbound = <Outbound>self._dirty[index]
            self._dirty[index] = NULL
            index += 1
            Py_DECREF(outbound)
            outbound.is_dirty = False
            outbound.settle()
        self._dirty_count = 0


cdef class Outbound(Source):
    """One peer's output queue on a plain socket. Owned by the connection that extends it."""

    def __cinit__(self):
        self._head = NULL
        self._tail = NULL
        self.pending_max = <uint64_t>-1

    def __dealloc__(self):
        cdef Chunk* chunk
        while self._head != NULL:
            chunk = self._head
            self._head = chunk.next
            free(chunk)

    cdef unsigned char* reserve(self, size_t length) except? NULL:
        """Room for `length` bytes in one piece, to be followed by `commit`; NULL when no chunk is
        that large (then `append` piece by piece)."""
        cdef Chunk* chunk = self._tail
        if chunk != NULL and chunk.capacity - chunk.end >= length:
            return <unsigned char*>chunk.bytes + chunk.end
        if length > CHUNK_BYTES:
            return NULL
        self._extend()
        return self._tail.data

    cdef int commit(self, size_t length) except -1:
        """Count `length` bytes just written at what `reserve` returned."""
        self._tail.end += <uint32_t>length
        return self._queued(length)

    cdef int append(self, const unsigned char* data, size_t length) except -1:
        """Queue bytes, in as many chunks as it takes."""
        cdef size_t left = length
        cdef size_t part
        cdef Chunk* chunk
        while left:
            chunk = self._tail
            if chunk == NULL or chunk.end == chunk.capacity:
                self._extend()
                chunk = self._tail
            part = chunk.capacity - chunk.end
            if part > left:
                part = left
            memcpy(<unsigned char*>chunk.bytes + chunk.end, data, part)
            chunk.end += <uint32_t>part
            data += part
            left -= part
        return self._queued(length)

    cdef int lend(
        self, const unsigned char* head, size_t head_len, const unsigned char* data, size_t length
    ) except -1:
        """Queue `head`, copied, and `data`, lent: it stays as it is until `return_loans`."""
        cdef Chunk* chunk = self._tail
        cdef Chunk* lent
        if chunk == NULL or chunk.capacity - chunk.end < head_len:
            chunk = <Chunk*>malloc(sizeof(Chunk) + head_len)
            if chunk == NULL:
                raise MemoryError
            chunk.kind = CHUNK_SMALL
            chunk.bytes = chunk.data
            chunk.start = 0
            chunk.end = 0
            chunk.capacity = <uint32_t>head_len
            self._add(chunk)
        memcpy(<unsigned char*>chunk.bytes + chunk.end, head, head_len)
        chunk.end += <uint32_t>head_len
        lent = <Chunk*>malloc(sizeof(Chunk))
        if lent == NULL:
            raise MemoryError
        lent.kind = CHUNK_LENT
        lent.bytes = data
        lent.start = 0
        lent.end = <uint32_t>length
        lent.capacity = <uint32_t>length
        self._add(lent)
        if not self.is_borrowing:
            self.is_borrowing = True
            self.outbounds.has_loans = True
            self.outbounds._borrowers.append(self)
        return self._queued(head_len + length)

    cdef int repay(self) except -1:
        """Write what the kernel takes of lent bytes, and copy the rest."""
        cdef Chunk* rest
        cdef Chunk* chunk
        if not self.is_blocked and self.fd >= 0:
            self.flush()
        rest = self._head
        self._head = NULL
        self._tail = NULL
        self.pending = 0 if self._encoded is None else (
            <uint64_t>PyBytes_GET_SIZE(self._encoded) - self._encoded_start)
        while rest != NULL:
            chunk = rest
            rest = chunk.next
            chunk.next = NULL
            if chunk.kind == CHUNK_LENT:
                self.append(chunk.bytes + chunk.start, chunk.end - chunk.start)
                self.outbounds.give(chunk)
            else:
                self._add(chunk)
                self._queued(chunk.end - chunk.start)

    cdef int _extend(self) except -1:
        return self._add(self.outbounds.take())

    cdef int _add(self, Chunk* chunk) except -1:
        chunk.next = NULL
        if self._tail == NULL:
            self._head = chunk
        else:
            self._tail.next = chunk
        self._tail = chunk

    cdef int _queued(self, size_t length) except -1:
        self.pending += length
        if not self.is_dirty:
            self.outbounds.mark(self)
        if self.pending >= EAGER_BYTES and not self.is_blocked:
            self.flush()
        if self.pending > self.pending_max:
            self.is_overflowing = True

    cdef Flushed flush(self) except *:
        """Write what the kernel takes now. The caller handles FLUSH_BROKEN and watches EPOLLOUT."""
        cdef iovec[VECTORS_MAX] vectors
        cdef msghdr message
        cdef Chunk* chunk
        cdef ssize_t sent
        cdef size_t count
        if self.is_broken or self.fd < 0:
            return FLUSH_BROKEN
        if self.layer is not None:
            return self._flush_encoded()
        while self._head != NULL:
            if self._head.next == NULL:
                chunk = self._head
                sent = send(self.fd, chunk.bytes + chunk.start, chunk.end - chunk.start,
                            MSG_NOSIGNAL | MSG_DONTWAIT)
            else:
                count = 0
                chunk = self._head
                while chunk != NULL and count < VECTORS_MAX:
                    vectors[count].iov_base = <void*>(chunk.bytes + chunk.start)
                    vectors[count].iov_len = chunk.end - chunk.start
                    count += 1
                    chunk = chunk.next
                memset(&message, 0, sizeof(msghdr))
                message.msg_iov = vectors
                message.msg_iovlen = count
                sent = sendmsg(self.fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    self._block()
                    return FLUSH_BLOCKED
                self.is_broken = True
                return FLUSH_BROKEN
            self._written(<size_t>sent)
        self.is_blocked = False
        return FLUSH_DONE

    cdef Flushed _flush_encoded(self) except *:
        """The same through a layer: encode a share, write it, encode the next one when the kernel
        has taken all of it. What is queued while the layer shakes hands waits."""
        cdef const unsigned char* data
        cdef ssize_t sent
        while True:
            if self._encoded is None and not self._encode():
                if self.is_broken:
                    return FLUSH_BROKEN
                self.is_blocked = False
                return FLUSH_DONE
            data = <const unsigned char*>PyBytes_AS_STRING(self._encoded) + self._encoded_start
            sent = send(self.fd, data, PyBytes_GET_SIZE(self._encoded) - self._encoded_start,
                        MSG_NOSIGNAL | MSG_DONTWAIT)
            if sent < 0:
                if errno == EINTR:
                    continue
                if errno == EAGAIN:
                    self._block()
                    return FLUSH_BLOCKED
                self.is_broken = True
                return FLUSH_BROKEN
            self._advance(<size_t>sent)
            self._encoded_start += <size_t>sent
            if self._encoded_start == <size_t>PyBytes_GET_SIZE(self._encoded):
                self._encoded = None

    cdef bint _encode(self) except -1:
        """Make the next bytes for the kernel out of the queue. False: there are none."""
        cdef size_t taken = 0
        try:
            if self.layer.is_open:
                taken = self._send_queue()
        except LayerError:
            self.is_broken = True
            return False
        self._drop(taken)
        self.pending -= taken
        return self._queue_encoded(self.layer.take())

    cdef size_t _send_queue(self) except? 0:
        """Hand the layer a share of what is queued, in one piece: every piece becomes records or
        frames of its own, and a head with few bytes would cost as much as what follows it. Returns
        how many bytes."""
        cdef Chunk* chunk = self._head
        cdef const unsigned char* whole
        cdef unsigned char* room
        cdef size_t taken = 0
        cdef size_t part
        if chunk == NULL:
            return 0
        if chunk.next == NULL:
            whole = chunk.bytes + chunk.start
            taken = min(<size_t>(chunk.end - chunk.start), <size_t>ENCODED_BYTES)
        else:
            room = self.outbounds.share()
            while chunk != NULL and taken < ENCODED_BYTES:
                part = min(<size_t>(chunk.end - chunk.start), ENCODED_BYTES - taken)
                memcpy(room + taken, chunk.bytes + chunk.start, part)
                taken += part
                chunk = chunk.next
            whole = room
        if taken:
            self.layer.send(PyMemoryView_FromMemory(<char*>whole, taken, PyBUF_READ))
        return taken

    cdef bint _queue_encoded(self, bytes encoded) except -1:
        """Bytes that go to the kernel as they are. False: there are none."""
        if not encoded:
            return False
        self._encoded = encoded
        self._encoded_start = 0
        self.pending += <uint64_t>PyBytes_GET_SIZE(encoded)
        return True

    cdef int attach(self, object layer, bytes before) except -1:
        """From here on everything goes through `layer`; `before` still goes as it is. Nothing else
        is queued."""
        self.layer = layer
        self._queue_encoded(before)
        self.outbounds.mark(self)

    cdef void _written(self, size_t length) noexcept:
        """The kernel has taken bytes from the front of the queue."""
        self._advance(length)
        self._drop(length)

    cdef void _advance(self, size_t length) noexcept:
        """Count bytes that the kernel has taken, and bring the write deadline on."""
        self.pending -= length
        if self.is_blocked:
            if length >= self._write_goal:
                self._write_goal = 0
                self.is_blocked = False       # the next refusal starts a new deadline
            else:
                self._write_goal -= length

    cdef void _drop(self, size_t length) noexcept:
        """Take bytes off the front of the queue."""
        cdef Chunk* chunk
        cdef size_t part
        while length or (self._head != NULL and self._head.start == self._head.end):
            chunk = self._head
            part = chunk.end - chunk.start
            if part > length:
                chunk.start += <uint32_t>length
                return
            length -= part
            self._head = chunk.next
            if self._head == NULL:
                self._tail = NULL
            self.outbounds.give(chunk)

    cdef void _block(self) noexcept:
        """The kernel refused: the deadline runs for what is queued now (sheet 5.3)."""
        if self.is_blocked:
            return
        self.is_blocked = True
        self._write_goal = min(self.pending, WRITE_GOAL_BYTES_MAX)
        if self.poller is not None:
            self.write_until_ms = self.poller.now_ms + self.outbounds.write_deadline_ms

    cdef int settle(self) except -1:
        """Flush, and act on how it went: watch for room, or tell the owner that it is over."""
        if self.fd < 0:
            return 0
        if self.is_overflowing:
            return self.on_overflow()
        if not self.is_blocked:
            self.flush()
        if self.is_broken:
            return self.on_broken()
        self._watch_room()

    cdef int on_room(self) except -1:
        """The kernel takes bytes again."""
        self.flush()
        if self.is_broken:
            return self.on_broken()
        self._watch_room()

    cdef int _watch_room(self) except -1:
        cdef bint is_watching = (self.watched & EPOLLOUT) != 0
        if self.poller is None or is_watching == self.is_blocked:
            return 0
        if self.is_blocked:
            self.poller.watch(self, self.watched | EPOLLOUT)
            self.on_blocked()
        else:
            self.poller.watch(self, self.watched & ~<uint32_t>EPOLLOUT)

    cdef int on_broken(self) except -1:
        """A write failed. Overridden by the owner, which closes."""
        raise NotImplementedError

    cdef int on_overflow(self) except -1:
        """More is queued than allowed. Overridden by the owner, which closes."""
        raise NotImplementedError

    cdef int on_blocked(self) except -1:
        """The write deadline runs from now on. Overridden by the owner."""
        raise NotImplementedError

    cdef int discard(self) except -1:
        """Forget everything queued."""
        cdef Chunk* chunk
        while self._head != NULL:
            chunk = self._head
            self._head = chunk.next
            self.outbounds.give(chunk)
        self._tail = NULL
        self._encoded = None
        self.pending = 0
