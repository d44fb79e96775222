# cython: language_level=3str
"""One connection to another server: its bytes, its lines, its end.

A route decides nothing. What comes before both ends know each other (INFO, CONNECT), and what is
no message and no interest afterwards, goes to the owner; messages and interest go to the relay.
There are few routes, so each has a read buffer of its own, and reads as much as it has room for.
"""

import logging
import os

cimport cython
from cpython.buffer cimport PyBUF_READ, PyBUF_WRITE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.memoryview cimport PyMemoryView_FromMemory
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memmove, memset

from shardd import errors, limits
from shardd.errors import CloseReason
from shardd.layer import LayerError

from shardd.outbound cimport OutboundSet
from shardd.poller cimport Poller
from shardd.router.frame cimport MESSAGE_HAS_HEADER, Message, tail_room, write_tail
from shardd.routes.peer cimport Link
from shardd.routes.relay cimport Relay
from shardd.routes.wire cimport (
    ROUTE_CONNECT,
    ROUTE_ERR,
    ROUTE_INFO,
    ROUTE_INTEREST,
    ROUTE_LINE_TOO_LONG,
    ROUTE_MESSAGE,
    ROUTE_NO_INTEREST,
    ROUTE_PAYLOAD_TOO_LARGE,
    ROUTE_PING,
    ROUTE_PONG,
    ROUTE_UNKNOWN_OPERATION,
    RouteOperation,
    next_route_operation,
)

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
    BUFFER_BYTES = 262_144
    # A buffer that grew for one large message is given back above this.
    BUFFER_BYTES_MAX = 4_194_304
    # Before both ends know each other, a peer may not send more than this.
    GREETING_BYTES_MAX = 65_536
    # Encoded bytes that one read takes.
    ENCODED_BYTES = 131_072

log = logging.getLogger("shardd.routes")


@cython.final
cdef class Route(Link):
    """A connection to another server. Touched by the router's event loop only.

    Args:
        owner: has `on_info(route, text)`, `on_connect(route, text)`, `on_open(route)`,
            `on_error(route, text)` and `on_closed(route, reason, detail)`.
        relay, poller, outbounds: of the router.
        fd: the socket, non-blocking; the route closes it.
        route_id: unique in this process.
        ip, port: of the peer, for the log.
        is_dialed: whether this server opened the connection.
        pending_max: bytes that may wait to be written.
    """

    def __init__(
        self,
        object owner,
        Relay relay not None,
        Poller poller not None,
        OutboundSet outbounds not None,
        int fd,
        uint64_t route_id,
        str ip,
        int port,
        bint is_dialed,
        uint64_t pending_max,
    ):
        self.owner = owner
        self._relay = relay
        self._poller = poller
        self.outbounds = outbounds
        self.fd = fd
        self.route_id = route_id
        self.ip = ip
        self.port = port
        self.is_dialed = is_dialed
        self.pending_max = pending_max
        self.names_accounts = True
        self.has_ponged = True
        self._limits.control_line_max = limits.ROUTE_CONTROL_LINE_BYTES_MAX
        self._limits.payload_max = limits.ROUTE_PAYLOAD_BYTES_MAX
        self._limits.has_account = True
        self._account_number = -1
        self._capacity = BUFFER_BYTES
        self._buffer = <unsigned char*>malloc(self._capacity)
        if self._buffer == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self._buffer)
        free(self._scratch)

    def __str__(self) -> str:
        """How the log names a route, as nats-server does."""
        at = f"[{self.ip}]" if ":" in self.ip else self.ip
        return f"{at}:{self.port} - rid:{self.route_id}"

    def start(self) -> None:
        """Read from now on."""
        self._poller.add(self, EPOLLIN)

    def start_layer(self, layer: object) -> None:
        """Speak through TLS from the first byte on."""
        self.attach(layer, b"")

    def register(self, uint32_t peer, account: bytes | None = None) -> None:
        """Both ends know each other: messages and interest flow. `account`: only its."""
        self.peer = peer
        self.is_registered = True
        if account is not None:
            self.names_accounts = False
            self._limits.has_account = False
            self._account = account
            self._account_number = self._relay._accounts.get(account, -1)

    def say(self, bytes text not None) -> None:
        """Queue bytes."""
        if not self.is_closed:
            self.append(<const unsigned char*>PyBytes_AS_STRING(text), PyBytes_GET_SIZE(text))

    def ping(self) -> None:
        """Ask whether the peer lives."""
        self.has_ponged = False
        self.say(b"PING\r\n")

    @property
    def pending_bytes(self) -> int:
        """Bytes that wait to be written."""
        return self.pending

    @property
    def is_encrypted(self) -> bool:
        """Whether it goes through TLS."""
        return self.layer is not None

    def close(self, reason: CloseReason, text: str | None = None, detail: str = "") -> None:
        """End the connection: the last word if there is one, then the socket."""
        if self.is_closed:
            return
        if self._is_paused:
            self._is_paused = False
            self._consume(True)
            if self.is_closed:
                return
        self.is_closed = True
        self._poller.remove(self)
        if text is not None:
            line = b"-ERR '%b'\r\n" % (text.encode("utf-8", "surrogateescape"),)
            self.append(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        if not self.is_overflowing and not self.is_blocked:
            self.flush()
            if self.layer is not None and not self.is_blocked and not self.is_broken:
                self.layer.close()
                self.flush()
        self.outbounds.return_loans()
        self.discard()
        os.close(self.fd)
        self.fd = -1
        self.owner.on_closed(self, reason, detail or text or reason.text)

    # --- reading -------------------------------------------------------------------------------

    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLOUT:
            self.on_room()
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR) and self.fd >= 0:
            if self._is_paused and not events & (EPOLLHUP | EPOLLERR):
                return 0
            if self.layer is None:
                self._read()
            else:
                self._read_encoded()

    cdef int _read(self) except -1:
        cdef ssize_t got
        self._make_room()
        got = recv(self.fd, self._buffer + self._end, self._capacity - self._end, MSG_DONTWAIT)
        if got <= 0:
            return self._lost(got)
        self._end += <size_t>got
        self._consume()

    cdef int _read_encoded(self) except -1:
        """The same through TLS."""
        cdef unsigned char[ENCODED_BYTES] room
        cdef bint was_open = self.layer.is_open
        cdef ssize_t got = recv(self.fd, room, ENCODED_BYTES, MSG_DONTWAIT)
        if got <= 0:
            return self._lost(got)
        try:
            self.layer.receive(PyMemoryView_FromMemory(<char*>room, got, PyBUF_READ))
            self.outbounds.mark(self)
            if not self.layer.is_open:
                return 0
            if not was_open:
                self.owner.on_open(self)
            self._drain_layer()
        except LayerError as error:
            self.close(error.reason, None, str(error))

    cdef int _drain_layer(self) except -1:
        """Handle what TLS has decoded. Raises LayerError."""
        cdef ssize_t got
        while not self.is_closed and not self._is_paused:
            self._make_room()
            got = self.layer.read_into(PyMemoryView_FromMemory(
                <char*>self._buffer + self._end, self._capacity - self._end, PyBUF_WRITE))
            if got == 0:
                break
            self._end += <size_t>got
            self._consume()
        if not self.is_closed and not self._is_paused and self.layer.is_ended:
            self.close(CloseReason.CLIENT_CLOSED)

    cdef int _make_room(self) except -1:
        """Room behind what is not handled yet: at least half of the buffer."""
        cdef size_t kept = self._end - self._start
        cdef size_t capacity = self._capacity
        cdef unsigned char* grown
        if self._start:
            memmove(self._buffer, self._buffer + self._start, kept)
            self._start = 0
            self._end = kept
        # With what has come, not with what was announced.
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

    cdef int _consume(self, bint is_last=False) except -1:
        """Handle every whole operation, up to one that finds the ring full: what is behind it stays
        here, where it costs nothing, until there is room. `is_last`: all of them, there will be
        no later."""
        cdef RouteOperation operation
        cdef ssize_t taken
        memset(&operation, 0, sizeof(RouteOperation))
        while self._start < self._end and not self.is_closed:
            if self._relay.is_full and not is_last:
                break
            taken = next_route_operation(
                self._buffer + self._start, self._end - self._start, &self._limits, &operation)
            if taken == 0:
                if not self.is_registered and self._end - self._start > GREETING_BYTES_MAX:
                    self.close(CloseReason.MAXIMUM_CONTROL_LINE_EXCEEDED)
                return 0
            if taken < 0:
                return self._fail(<int>taken)
            self._start += <size_t>taken
            self._handle(&operation)
        self._relay.sublist.release()
        self._relay.offered.release()
        if self._relay.is_full and not self.is_closed and not is_last:
            self.owner.on_full(self)

    def _fail(self, int trouble):
        """The peer broke the protocol."""
        if trouble == ROUTE_UNKNOWN_OPERATION:
            if self.is_registered or self.is_dialed:
                self.close(CloseReason.PARSE_ERROR, errors.ERR_UNKNOWN_OPERATION)
            else:
                self.close(
                    CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION)
        elif trouble == ROUTE_LINE_TOO_LONG:
            self.close(CloseReason.MAXIMUM_CONTROL_LINE_EXCEEDED, errors.ERR_MAX_CONTROL_LINE)
        elif trouble == ROUTE_PAYLOAD_TOO_LARGE:
            self.close(CloseReason.MAXIMUM_PAYLOAD_EXCEEDED, errors.ERR_MAX_PAYLOAD)
        else:
            self.close(CloseReason.PROTOCOL_VIOLATION)
        return 0

    cdef int _handle(self, RouteOperation* operation) except -1:
        if operation.verb == ROUTE_MESSAGE:
            if self.is_registered:
                return self._message(operation)
            self.owner.on_stranger(self)
        elif operation.verb == ROUTE_INTEREST or operation.verb == ROUTE_NO_INTEREST:
            if self.is_registered:
                return self._interest(operation, operation.verb == ROUTE_INTEREST)
            self.owner.on_stranger(self)
        elif operation.verb == ROUTE_INFO:
            self.owner.on_info(self, <bytes>operation.args[:operation.args_len])
        elif operation.verb == ROUTE_CONNECT:
            self.owner.on_connect(self, <bytes>operation.args[:operation.args_len])
        elif operation.verb == ROUTE_PING:
            self._relay.answer_when_applied(self)
        elif operation.verb == ROUTE_PONG:
            self.has_ponged = True
            self.owner.on_pong(self)
        elif operation.verb == ROUTE_ERR:
            self.owner.on_error(
                self, (<bytes>operation.args[:operation.args_len]).decode("utf-8", "replace"))
        elif not self.is_registered:
            self.owner.on_stranger(self)

    cdef int64_t _number_of(self, const RouteOperation* operation) except -2:
        """The number of the line's account, -1 while there is no such account here."""
        if operation.account == NULL:
            if self._account_number < 0:
                self._account_number = self._relay._accounts.get(self._account, -1)
            return self._account_number
        if self._account_number < 0 or self._account is None or (
            <size_t>PyBytes_GET_SIZE(self._account) != operation.account_len
            or memcmp(PyBytes_AS_STRING(self._account), operation.account, operation.account_len)
        ):
            self._account = operation.account[:operation.account_len]
            self._account_number = self._relay._accounts.get(self._account, -1)
        return self._account_number

    cdef int _message(self, RouteOperation* operation) except -1:
        """RMSG and HMSG."""
        cdef Message message
        cdef size_t room
        cdef int64_t account = self._number_of(operation)
        self.messages_in += 1
        self.bytes_in += operation.total_len
        if account < 0:
            return 0
        memset(&message, 0, sizeof(Message))
        message.account = <uint32_t>account
        message.flags = MESSAGE_HAS_HEADER if operation.has_header else 0
        message.subject = operation.subject
        message.subject_len = operation.subject_len
        message.reply_len = operation.reply_len
        message.header_len = operation.header_len
        message.total_len = operation.total_len
        if operation.is_canonical:
            message.tail = operation.tail
            message.tail_len = operation.tail_len
        else:
            room = tail_room(operation.reply_len, operation.total_len)
            if room > self._scratch_bytes:
                free(self._scratch)
                self._scratch_bytes = 0
                self._scratch = <unsigned char*>malloc(room)
                if self._scratch == NULL:
                    raise MemoryError
                self._scratch_bytes = room
            message.tail = self._scratch
            message.tail_len = write_tail(
                self._scratch, operation.reply, operation.reply_len, operation.has_header,
                operation.header_len, operation.payload, operation.total_len)
        self._relay.publish_routed(
            self.peer, &message, operation.queues, operation.queues_len)

    cdef int _interest(self, RouteOperation* operation, bint is_wanted) except -1:
        """RS+ and RS-."""
        cdef bytes queue = None
        cdef int64_t change
        self.interest_lines += 1
        self._number_of(operation)
        if operation.queue != NULL:
            queue = operation.queue[:operation.queue_len]
        change = self._relay.want(
            self.peer, self._account, <bytes>operation.subject[:operation.subject_len],
            queue, operation.weight if is_wanted else 0)
        self.subscriptions += <uint64_t>change

    cdef int _lost(self, ssize_t got) except -1:
        """The peer has nothing more to say, or is gone."""
        if got < 0 and (errno == EAGAIN or errno == EINTR):
            return 0
        self.close(CloseReason.CLIENT_CLOSED if got == 0 else CloseReason.READ_ERROR)

    # --- holding back --------------------------------------------------------------------------

    def pause(self) -> None:
        """Do not read until `resume`: the ring is full."""
        if not self.is_closed and not self._is_paused:
            self._is_paused = True
            self._poller.watch(self, self.watched & ~<uint32_t>EPOLLIN)

    def resume(self) -> None:
        """Read again."""
        if self.is_closed or not self._is_paused:
            return
        self._is_paused = False
        self._poller.watch(self, self.watched | EPOLLIN)
        self._consume()
        if self.layer is not None and not self._is_paused and not self.is_closed:
            try:
                self._drain_layer()
            except LayerError as error:
                self.close(error.reason, None, str(error))

    # --- what the output tells -----------------------------------------------------------------

    cdef int on_broken(self) except -1:
        self.close(CloseReason.WRITE_ERROR)

    cdef int on_overflow(self) except -1:
        log.info("%s - Slow Consumer Detected: MaxPending of %d Exceeded", self, self.pending_max)
        self.close(CloseReason.SLOW_CONSUMER_PENDING_BYTES)

    cdef int on_blocked(self) except -1:
        """The owner looks at the write deadline on every tick."""

    def check_write_deadline(self, uint64_t now_ms) -> None:
        """Close the route when its peer has not taken a byte in time."""
        if self.is_blocked and now_ms >= self.write_until_ms and not self.is_closed:
            log.info("%s - Slow Consumer Detected: WriteDeadline of %gs exceeded with %d bytes",
                     self, self.outbounds.write_deadline_ms / 1000, self.pending)
            self.close(CloseReason.SLOW_CONSUMER_WRITE_DEADLINE)
