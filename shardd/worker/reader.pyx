# cython: language_level=3str
"""The bytes of one client: read, decoded if there is a layer, cut into operations; held back.

All connections of a worker read into one buffer. Operations are handled where they lie; what is
not whole yet is kept aside with its connection and put in front of the next read. Only an
operation larger than the buffer gets memory of its own and is read straight into it.

With a layer (TLS, WebSocket) the socket is read into the buffer's second half and the layer
decodes into the first. What it still holds is not seen by epoll, so reading goes on until it is
empty, or until the connection is held back; then `resume` goes on with it.
"""

from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from shardd import limits
from shardd.errors import CloseReason
from shardd.layer import LayerError

from shardd.wire cimport VERB_PUB, Operation, next_operation
from shardd.worker.rights cimport Rights
from shardd.worker.shared cimport Shared

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
    ssize_t recv(int fd, void* buffer, size_t length, int flags)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP

cdef enum:
    # What a client may hand in that has not published before, while the ring is full.
    READ_BYTES_FULL = 4096
    # More than this of one operation is not copied in front of each read of a slow sender again.
    KEPT_BYTES_MAX = 65536
    # The longest a producer is held back for the wishes of other workers together.
    STALL_MS_AHEAD_MAX = 500
    # Encoded bytes that one read takes.
    ENCODED_BYTES = 131_072

cdef size_t READ_BYTES = limits.READ_BYTES
cdef size_t READ_BYTES_MAX = limits.READ_BYTES_MAX
cdef size_t READ_BYTES_STALLED = limits.READ_BYTES_STALLED
cdef uint32_t STALL_MS_MAX = limits.STALL_MS_MAX
cdef uint64_t READ_MESSAGES_FEW = limits.READ_MESSAGES_FEW
cdef uint64_t READ_MESSAGES_MANY = limits.READ_MESSAGES_MANY


cdef class Reader(Rights):
    """The input of a client. `Connection` gives the operations their meaning.

    Args:
        shared: the worker's common parts.
        fd: the accepted socket, non-blocking; the connection closes it.
        client_id: unique on the host.
        ip, port: of the peer, for INFO and the log.
    """

    def __init__(self, Shared shared not None, int fd, uint64_t client_id, str ip, int port):
        Rights.__init__(self, shared, fd, client_id, ip, port)
        self.limits = shared.limits
        self._read_bytes = READ_BYTES
        self.read_bytes_max = READ_BYTES_MAX

    def __dealloc__(self):
        free(self._kept)

    # --- what the owner does -------------------------------------------------------------------

    cdef int publish(self, Operation* operation) except -1:
        """PUB and HPUB."""
        raise NotImplementedError

    cdef int handle(self, Operation* operation) except -1:
        """Every other verb; may close the connection, or make it wait."""
        raise NotImplementedError

    cdef int fail(self, int trouble) except -1:
        """The peer broke the protocol; closes."""
        raise NotImplementedError

    cdef int on_open(self) except -1:
        """The layer's handshake is done."""
        raise NotImplementedError

    cdef int on_first_bytes(self) except -1:
        """Something came before it was known what it would be; sets a layer if it is one."""
        raise NotImplementedError

    cdef int on_stranger(self, unsigned char first) except -1:
        """The first operation is no CONNECT; closes, or lets it in."""
        raise NotImplementedError

    cdef int charge(self, uint64_t messages, uint64_t bytes) except -1:
        """What one read published, for limits on rates."""
        raise NotImplementedError

    def close(self, reason: CloseReason, text: str | None = None, detail: str = "") -> None:
        """End the connection."""
        raise NotImplementedError

    # --- reading -------------------------------------------------------------------------------

    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLOUT:
            self.on_room()
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR) and self.fd >= 0:
            if self.is_paused and not events & (EPOLLHUP | EPOLLERR):
                return 0
            if self.is_waiting:
                self.close(CloseReason.CLIENT_CLOSED)
                return 0
            if self.shared.dispatcher.is_full and self.messages_in and not self.is_paused:
                # What it would publish could only wait in memory.
                self.shared.paused.append(self)
                self.pause()
                return 0
            self.read()

    cdef int read(self) except -1:
        """Take what the socket has, once."""
        if self.is_peeking:
            self.on_first_bytes()
            if self.is_closed:
                return 0
        if self.layer is None:
            return self._read_once()
        return self._read_encoded()

    cdef int _read_encoded(self) except -1:
        """The same through a layer."""
        cdef Shared shared = self.shared
        cdef unsigned char* room = shared.buffer + shared.buffer_bytes
        cdef bint was_open = self.layer.is_open
        cdef ssize_t got = recv(self.fd, room, ENCODED_BYTES, MSG_DONTWAIT)
        if got <= 0:
            if got == 0 and self.is_paused and self.layer.is_open:
                # What it had sent before it went still counts.
                self.is_paused = False
                self._read_layer()
                if self.is_closed:
                    return 0
            return self._lost(got)
        try:
            self.layer.receive(PyMemoryView_FromMemory(<char*>room, got, PyBUF_READ))
        except LayerError as error:
            self.close(error.reason, None, str(error))
            return 0
        if not was_open:
            # Its half of a handshake.
            self.outbounds.mark(self)
            if not self.layer.is_open:
                return 0
            self.on_open()
        return self._read_layer()

    cdef int _read_layer(self) except -1:
        """Handle all that the layer holds."""
        try:
            while not self.is_closed and not self.is_paused:
                if self._read_once() == 0:
                    break
        except LayerError as error:
            self.close(error.reason, None, str(error))
            return 0
        if self.is_closed:
            return 0
        if self.layer.is_ended and not self.is_paused:
            self.close(CloseReason.CLIENT_CLOSED)
            return 0
        # A pong, an alert, new keys: whatever the layer itself has to say.
        self.outbounds.mark(self)

    cdef int _read_once(self) except -1:
        """Read once, handle what is whole, keep the rest. 1 when there was something."""
        cdef Shared shared = self.shared
        cdef size_t kept = self._kept_len
        cdef uint64_t messages = self.messages_in
        cdef uint64_t bytes = self.bytes_in
        cdef size_t wanted = self._read_bytes
        cdef ssize_t got
        if kept > KEPT_BYTES_MAX or self._kept_needed > shared.buffer_bytes:
            return self._read_kept()
        if kept:
            memcpy(shared.buffer, self._kept, kept)
        if shared.dispatcher.is_full:
            # Its first read while the ring is full: what it publishes has to wait in memory.
            wanted = min(wanted, READ_BYTES_FULL)
        if self.layer is None:
            got = recv(self.fd, shared.buffer + kept, wanted, MSG_DONTWAIT)
            if got <= 0:
                return self._lost(got)
        else:
            got = self._fill(shared.buffer + kept, min(wanted, shared.buffer_bytes - kept))
            if got == 0:
                return 0
        if kept:
            self._kept_len = 0
            self._kept_needed = 0
        self._consume(shared.buffer, kept + <size_t>got)
        if shared.outbounds.has_loans:
            shared.outbounds.return_loans()
        if <size_t>got == self._read_bytes:
            self._adapt(self.messages_in - messages)
        self._after_read(self.messages_in - messages, self.bytes_in - bytes)
        return 1

    cdef ssize_t _fill(self, unsigned char* room, size_t wanted) except? -2:
        """Plaintext of the layer; 0: it has none. Raises LayerError."""
        return self.layer.read_into(PyMemoryView_FromMemory(<char*>room, wanted, PyBUF_WRITE))

    cdef void _adapt(self, uint64_t messages) noexcept:
        """After a read that was cut: longer ones while they are few messages, shorter ones when
        they are many, so that a turn takes about as long for every client."""
        if messages < READ_MESSAGES_FEW or self._read_bytes < READ_BYTES:
            self._read_bytes = min(self._read_bytes * 2, self.read_bytes_max)
        elif messages > READ_MESSAGES_MANY:
            self._read_bytes = min(max(self._read_bytes // 2, READ_BYTES), self.read_bytes_max)

    cdef int _read_kept(self) except -1:
        """Read straight into the memory of one large operation. 1 when there was something."""
        cdef size_t wanted = self._kept_needed
        cdef uint64_t messages = self.messages_in
        cdef uint64_t bytes = self.bytes_in
        cdef size_t left
        cdef unsigned char* whole
        cdef ssize_t got
        if wanted == 0:
            wanted = self._kept_len + self.shared.buffer_bytes
        if self._kept_capacity == self._kept_len:
            # Grow with what has come, not with what was announced.
            left = self._kept_len * 2
            self._room_to_keep(left if left < wanted else wanted)
        if self.layer is None:
            got = recv(self.fd, self._kept + self._kept_len,
                       self._kept_capacity - self._kept_len, MSG_DONTWAIT)
            if got <= 0:
                return self._lost(got)
        else:
            got = self._fill(self._kept + self._kept_len, self._kept_capacity - self._kept_len)
            if got == 0:
                return 0
        self._kept_len += <size_t>got
        if self._kept_len < self._kept_needed:
            return 1
        whole = self._kept
        left = self._kept_len
        self._kept = NULL
        self._kept_len = 0
        self._kept_capacity = 0
        self._kept_needed = 0
        try:
            self._consume(whole, left)
        finally:
            if self.shared.outbounds.has_loans:
                self.shared.outbounds.return_loans()
            free(whole)
        self._after_read(self.messages_in - messages, self.bytes_in - bytes)
        return 1

    cdef int read_on(self) except -1:
        """Go on after a wait: handle what was kept, then what the layer holds."""
        cdef unsigned char* whole = self._kept
        cdef size_t length = self._kept_len
        cdef uint64_t messages = self.messages_in
        cdef uint64_t bytes = self.bytes_in
        self.is_waiting = False
        if length:
            self._kept = NULL
            self._kept_len = 0
            self._kept_capacity = 0
            self._kept_needed = 0
            try:
                self._consume(whole, length)
            finally:
                if self.shared.outbounds.has_loans:
                    self.shared.outbounds.return_loans()
                free(whole)
            self._after_read(self.messages_in - messages, self.bytes_in - bytes)
        if not self.is_closed and not self.is_waiting and self._stalled_until_ms == 0 and (
            self not in self.shared.paused
        ):
            self.resume()

    cdef int _lost(self, ssize_t got) except -1:
        """The peer has nothing more to say, or is gone."""
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        self.close(CloseReason.CLIENT_CLOSED if got == 0 else CloseReason.READ_ERROR)

    cdef int _consume(self, const unsigned char* data, size_t length) except -1:
        """Handle every whole operation; keep what is left."""
        cdef Operation operation
        cdef size_t position = 0
        cdef ssize_t taken
        operation.needed = 0
        if self.needs_connect and length and data[0] != c'C' and data[0] != c'c':
            self.on_stranger(data[0])
            if self.is_closed:
                return 0
        while position < length:
            taken = next_operation(data + position, length - position, &self.limits, &operation)
            if taken <= 0:
                if taken < 0:
                    return self.fail(<int>taken)
                return self._keep(data + position, length - position, operation.needed)
            position += <size_t>taken
            if operation.verb == VERB_PUB:
                self.publish(&operation)
            else:
                self.handle(&operation)
                if self.is_closed:
                    return 0
                if self.is_waiting:
                    if position < length:
                        self._keep(data + position, length - position, 0)
                    return 0
        if self._kept != NULL:
            free(self._kept)
            self._kept = NULL
            self._kept_capacity = 0

    cdef int _keep(self, const unsigned char* data, size_t length, size_t needed) except -1:
        """Put aside what is not whole yet."""
        self._room_to_keep(length)
        memcpy(self._kept, data, length)
        self._kept_len = length
        self._kept_needed = needed

    cdef int _room_to_keep(self, size_t length) except -1:
        cdef unsigned char* grown
        if length <= self._kept_capacity:
            return 0
        grown = <unsigned char*>realloc(self._kept, length)
        if grown == NULL:
            raise MemoryError
        self._kept = grown
        self._kept_capacity = length

    # --- holding back --------------------------------------------------------------------------

    cdef int _after_read(self, uint64_t messages, uint64_t bytes) except -1:
        """A publisher that ran ahead of the ring, of its consumers or of its rate is not read for
        a while."""
        self.shared.sublist.release()
        if self.is_closed:
            return 0
        if self.is_charged and messages:
            self.charge(messages, bytes)
        if self.shared.dispatcher.is_full:
            if self.messages_in and not self.is_paused:
                self.shared.paused.append(self)
                self.pause()
        if self._stall_ms:
            self.stall(min(self._stall_ms, STALL_MS_MAX))
            self._stall_ms = 0

    cdef int pause(self) except -1:
        """Do not read until `resume`."""
        self.is_paused = True
        if self.poller is not None:
            self.poller.watch(self, self.watched & ~<uint32_t>EPOLLIN)

    cdef int resume(self) except -1:
        """Read again."""
        if self.is_waiting:
            return 0
        self.is_paused = False
        if self.poller is not None:
            self.poller.watch(self, self.watched | EPOLLIN)
        if self.layer is not None:
            # What it holds is not reported by the kernel.
            self.shared.soon(self.read_layer)

    def read_layer(self) -> None:
        """Handle what the layer held while the connection was not read."""
        if not self.is_closed and not self.is_paused and self.layer.is_open:
            self._read_layer()

    def stall(self, uint32_t milliseconds) -> None:
        """Hold a fast producer back for a moment: a consumer of its messages is far behind."""
        if self.is_closed:
            return
        self.shared.poller.read_clock()  # another worker's wish may come long after a pass
        self.shared.counters.stalled_clients += 1
        self.stalls += 1
        # Wishes add up, each is about other messages; many workers' wishes may be about the same.
        self.hold(min(
            max(self._stalled_until_ms, self.shared.poller.now_ms) + milliseconds,
            self.shared.poller.now_ms + STALL_MS_AHEAD_MAX))
        self._read_bytes = min(READ_BYTES_STALLED, self.read_bytes_max)

    def hold(self, uint64_t until_ms) -> None:
        """Do not read before this time of the worker's clock."""
        if self._stalled_until_ms == 0:
            self.shared.stalled.append(self)
        self._stalled_until_ms = max(self._stalled_until_ms, until_ms)
        self.pause()

    def is_stalled(self, uint64_t now_ms) -> bool:
        """Whether it is still held back; ends the stall when its time is over."""
        if self.is_closed or self._stalled_until_ms <= now_ms:
            self._stalled_until_ms = 0
            if not self.is_closed and self not in self.shared.paused:
                self.resume()
            return False
        return True

    def end_pause(self) -> None:
        """The ring has room again."""
        if not self.is_closed and self._stalled_until_ms == 0:
            self.resume()
