# cython: language_level=3str
"""A connection to any NATS server, as a bus.

`TcpLink` is one connection: an asyncio protocol with a buffer of its own, which hands messages to
the receiver where they lie. `TcpBus` outlives its connections: it knows what is subscribed to and
says so on every new link. It keeps nothing for later: what is published without a connection is
dropped and reported as such. Dialling and the handshake are `dialer`'s.
"""

from collections import deque

cimport cython
from cpython.buffer cimport PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.stdint cimport uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove

from shardd.errors import InternalError

from shardd.router.frame cimport append_number
from shardd.router.subject cimport SUBJECT_INVALID, subject_kind
from shardd.streaming.bus cimport Bus, Outgoing
from shardd.streaming.client_wire cimport (
    SERVER_ERR,
    SERVER_INFO,
    SERVER_MSG,
    SERVER_PING,
    SERVER_PONG,
    ServerOperation,
    next_server_operation,
)

cdef enum:
    BUFFER_BYTES = 262_144
    # Buffers that grew for large messages are given back above this.
    BUFFER_BYTES_MAX = 4_194_304
    # So much output is handed to the transport in the middle of a pass.
    EAGER_FLUSH_BYTES = 262_144
    # A server that does not take our output: beyond this, deliveries wait.
    CONGESTED_BYTES = 2_097_152
    CLEAR_BYTES = 524_288


@cython.final
cdef class TcpLink:
    """One connection to a NATS server. Made by the dialer, touched by the event loop only."""

    def __init__(self, TcpBus bus not None):
        self._bus = bus
        self._capacity = BUFFER_BYTES
        self._buffer = <unsigned char*>malloc(self._capacity)
        if self._buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._buffer)

    def connection_made(self, transport: object) -> None:
        """The transport is there; bytes are read from now on."""
        self.transport = transport
        transport.set_write_buffer_limits(CONGESTED_BYTES, CLEAR_BYTES)

    def connection_lost(self, error: Exception | None) -> None:
        """The connection has ended, with an error or without."""
        self.transport = None
        self._bus.detach(self)
        if self.on_lost is not None:
            self.on_lost(error)

    def eof_received(self) -> bool:
        """The server says no more: close."""
        return False

    def get_buffer(self, sizehint: int) -> memoryview:
        """Where the next bytes are to be put."""
        self._make_room()
        return PyMemoryView_FromMemory(
            <char*>self._buffer + self._end, self._capacity - self._end, PyBUF_WRITE)

    def buffer_updated(self, size_t count) -> None:
        """So many bytes have come: handle them, and end the pass."""
        self._end += count
        if self._bus.begin_pass is not None:
            self._bus.begin_pass()
        self._consume()
        self._bus.finish()

    def pause_writing(self) -> None:
        """The server does not take our output."""
        if self._bus._link is self:
            self._bus.is_congested = True

    def resume_writing(self) -> None:
        """It does again."""
        if self._bus._link is self and self._bus.is_congested:
            self._bus.is_congested = False
            if self._bus.on_room is not None:
                self._bus.on_room()
            self._bus.finish()

    cdef int _make_room(self) except -1:
        """Room behind what is not handled yet: at least half of the buffer."""
        cdef size_t kept = self._end - self._start
        cdef size_t capacity = self._capacity
        cdef unsigned char* grown
        if self._start:
            memmove(self._buffer, self._buffer + self._start, kept)
            self._start = 0
            self._end = kept
        while kept > capacity // 2:
            capacity *= 2
        if kept <= BUFFER_BYTES // 2 and capacity > BUFFER_BYTES_MAX:
            capacity = BUFFER_BYTES
        if capacity != self._capacity:
            grown = <unsigned char*>realloc(self._buffer, capacity)
            if grown == NULL:
                raise MemoryError
            self._buffer = grown
            self._capacity = capacity

    cdef int _consume(self) except -1:
        """Handle every whole operation."""
        cdef ServerOperation operation
        cdef TcpBus bus = self._bus
        cdef ssize_t taken
        while self._start < self._end and self.transport is not None:
            taken = next_server_operation(
                self._buffer + self._start, self._end - self._start, &operation)
            if taken == 0:
                return 0
            if taken < 0:
                if self.on_error is not None:
                    self.on_error("this is no NATS server")
                self.transport.abort()
                self._start = self._end
                return 0
            self._start += <size_t>taken
            if operation.verb == SERVER_MSG:
                if operation.sid in bus._subjects:
                    bus.messages_in += 1
                    bus.receiver.receive(operation.sid, &operation.message)
            elif operation.verb == SERVER_PING:
                self.transport.write(b"PONG\r\n")
            elif operation.verb == SERVER_PONG:
                if bus._link is self:
                    bus._on_pong()
                elif self.on_pong is not None:
                    self.on_pong()
            elif operation.verb == SERVER_INFO:
                if self.on_info is not None:
                    self.on_info(<bytes>operation.args[:operation.args_len])
            elif operation.verb == SERVER_ERR and self.on_error is not None:
                self.on_error((<bytes>operation.args[:operation.args_len])
                              .decode("utf-8", "replace").strip("'"))


@cython.final
cdef class TcpBus(Bus):
    """A bus over one connection at a time. Touched by the event loop only.

    `begin_pass` is called before messages are handed over, `end_pass` behind them and before what
    was published is written; `on_room` when the server takes our output again after
    `is_congested`. Each may be None.
    """

    def __init__(self):
        self._subjects = {}
        self._flushes = deque()
        self._out_capacity = EAGER_FLUSH_BYTES
        self._out = <unsigned char*>malloc(self._out_capacity)
        if self._out == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._out)

    @property
    def is_connected(self) -> bool:
        """Whether there is a connection now."""
        return self._link is not None

    # --- connections ---------------------------------------------------------------------------

    def attach(self, TcpLink link not None, uint64_t payload_max) -> None:
        """Go on by this connection, whose handshake is over: subscribe to everything again, and
        ask again for the flushes that are not answered."""
        self._link = link
        self._payload_max = payload_max
        self._out_len = 0
        self.is_congested = False
        for sid, subject in self._subjects.items():
            self._say(b"SUB %b %d\r\n" % (subject, sid))
        self.pings_out = len(self._flushes)
        self._say(b"PING\r\n" * len(self._flushes))
        if self.on_room is not None:
            self.on_room()
        self.finish()

    def detach(self, TcpLink link not None) -> None:
        """This connection is gone."""
        if self._link is link:
            self._link = None
            self._out_len = 0
            self.is_congested = False
            self.pings_out = 0

    def ping(self) -> None:
        """Ask whether the server lives; the answer takes one off `pings_out`."""
        if self._link is not None:
            self._flushes.append(None)
            self.pings_out += 1
            self._say(b"PING\r\n")
            self._flush_out()

    cdef int _on_pong(self) except -1:
        if self.pings_out:
            self.pings_out -= 1
        if self._flushes:
            callback = self._flushes.popleft()
            if callback is not None:
                callback()

    # --- the bus -------------------------------------------------------------------------------

    def subscribe(self, sid: int, bytes subject not None) -> None:
        """`Bus.subscribe`."""
        cdef uint64_t number = sid
        if number in self._subjects:
            raise InternalError(f"subscription {number} exists already")
        if subject_kind(
            <const unsigned char*>PyBytes_AS_STRING(subject), PyBytes_GET_SIZE(subject)
        ) == SUBJECT_INVALID:
            raise ValueError(f"{subject!r} is not a subject")
        self._subjects[number] = subject
        self._say(b"SUB %b %d\r\n" % (subject, number))

    def unsubscribe(self, sid: int) -> None:
        """`Bus.unsubscribe`. A number that is not in use is ignored."""
        if self._subjects.pop(sid, None) is not None:
            self._say(b"UNSUB %d\r\n" % (sid,))

    def flush(self, callback: object) -> None:
        """`Bus.flush`: calls back with the PONG that follows; without a connection, with the next
        one's."""
        self._flushes.append(callback)
        if self._link is not None:
            self.pings_out += 1
            self._say(b"PING\r\n")

    cdef int publish(self, const Outgoing* message) except -1:
        """`Bus.publish`. A message that is larger than the server lets through is dropped: it
        would cost the connection."""
        cdef size_t total = message.payload_len + message.more_len
        cdef unsigned char* at
        cdef unsigned char* start
        if self._link is None:
            self.dropped += 1
            return 0
        if total > self._payload_max:
            self.too_large += 1
            return 0
        start = at = self._reserve(message.subject_len + message.reply_len + total + 48)
        memcpy(at, b"PUB ", 4)
        at += 4
        memcpy(at, message.subject, message.subject_len)
        at += message.subject_len
        at[0] = 32
        at += 1
        if message.reply_len:
            memcpy(at, message.reply, message.reply_len)
            at += message.reply_len
            at[0] = 32
            at += 1
        at += append_number(at, total)
        at[0] = 13
        at[1] = 10
        at += 2
        memcpy(at, message.payload, message.payload_len)
        at += message.payload_len
        if message.more_len:
            memcpy(at, message.more, message.more_len)
            at += message.more_len
        at[0] = 13
        at[1] = 10
        self._out_len += at + 2 - start
        self.messages_out += 1
        if self._out_len >= EAGER_FLUSH_BYTES:
            self._flush_out()
        return 1

    # --- output --------------------------------------------------------------------------------

    cdef unsigned char* _reserve(self, size_t length) except NULL:
        """Room for so many bytes behind what waits."""
        cdef size_t capacity = self._out_capacity
        cdef unsigned char* grown
        while capacity - self._out_len < length:
            capacity *= 2
        if capacity != self._out_capacity:
            grown = <unsigned char*>realloc(self._out, capacity)
            if grown == NULL:
                raise MemoryError
            self._out = grown
            self._out_capacity = capacity
        return self._out + self._out_len

    cdef int _say(self, bytes text) except -1:
        if self._link is not None:
            memcpy(self._reserve(PyBytes_GET_SIZE(text)), PyBytes_AS_STRING(text),
                   PyBytes_GET_SIZE(text))
            self._out_len += PyBytes_GET_SIZE(text)

    cdef int _flush_out(self) except -1:
        cdef bytes data
        cdef unsigned char* smaller
        if self._out_len == 0:
            return 0
        data = PyBytes_FromStringAndSize(<const char*>self._out, self._out_len)
        self._out_len = 0
        if self._out_capacity > BUFFER_BYTES_MAX:
            smaller = <unsigned char*>realloc(self._out, EAGER_FLUSH_BYTES)
            if smaller != NULL:
                self._out = smaller
                self._out_capacity = EAGER_FLUSH_BYTES
        if self._link is not None and self._link.transport is not None:
            self._link.transport.write(data)

    def finish(self) -> None:
        """End a pass: what is to go out, goes."""
        if self._is_finishing:
            return
        self._is_finishing = True
        try:
            if self.end_pass is not None:
                self.end_pass()
            self._flush_out()
        finally:
            self._is_finishing = False

    def close(self) -> None:
        """Write what waits, and close the connection."""
        link = self._link
        if link is not None:
            self._flush_out()
            self._link = None
            if link.transport is not None:
                link.transport.close()
