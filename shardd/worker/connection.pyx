# cython: language_level=3str
"""One client: its bytes in, the operations they make, and its deliveries out.

Reading. All connections of a worker read into one buffer. Operations are handled where they lie;
what is not whole yet is kept aside with its connection and put in front of the next read. Only
an operation larger than the buffer gets memory of its own and is read straight into it.

Closing happens at once and only between operations, never while a match is in use: a delivery can
mark a connection as overflowing or broken, and the flush at the end of the pass closes it.
"""

import logging

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from posix.unistd cimport close

from shardd import errors, limits
from shardd.errors import CloseReason, ProtocolError
from shardd.log import TRACE
from shardd.worker import session

from shardd.router.frame cimport (
    MESSAGE_HAS_HEADER,
    MESSAGE_IS_LENT,
    Message,
    tail_room,
    write_tail,
)
from shardd.router.subject cimport (
    SUBJECT_INVALID,
    SUBJECT_LITERAL,
    count_tokens,
    subject_kind,
)
from shardd.router.sublist cimport Subscription
from shardd.wire cimport (
    CONTROL_LINE_TOO_LONG,
    HEADERS_NOT_ALLOWED,
    PAYLOAD_TOO_LARGE,
    UNKNOWN_OPERATION,
    VERB_CONNECT,
    VERB_ERR,
    VERB_INFO,
    VERB_PING,
    VERB_PONG,
    VERB_PUB,
    VERB_SUB,
    VERB_UNSUB,
    Operation,
    next_operation,
)
from shardd.worker.receiver cimport Receiver
from shardd.worker.shared cimport Shared

cdef extern from "sys/socket.h" nogil:
    enum:
        MSG_DONTWAIT
        SHUT_WR
    ssize_t recv(int fd, void* buffer, size_t length, int flags)
    int shutdown(int fd, int how)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN
        EPOLLOUT
        EPOLLERR
        EPOLLHUP

cdef enum:
    # A peer that keeps sending while it is closed is read this often, so that what it was told
    # last arrives before the reset.
    LAST_READS_MAX = 16
    RTT_AGE_MS_MAX = 3_600_000
    # What a client may hand in that has not published before, while the ring is full.
    READ_BYTES_FULL = 4096
    # More than this of one operation is not copied in front of each read of a slow sender again.
    KEPT_BYTES_MAX = 65536
    # The longest a producer is held back for the wishes of other workers together.
    STALL_MS_AHEAD_MAX = 500

cdef size_t READ_BYTES = limits.READ_BYTES
cdef size_t READ_BYTES_MAX = limits.READ_BYTES_MAX
cdef size_t READ_BYTES_STALLED = limits.READ_BYTES_STALLED
cdef uint32_t STALL_MS_MAX = limits.STALL_MS_MAX
cdef uint64_t READ_MESSAGES_FEW = limits.READ_MESSAGES_FEW
cdef uint64_t READ_MESSAGES_MANY = limits.READ_MESSAGES_MANY

log = logging.getLogger("shardd.worker")


@cython.final
cdef class Connection(Receiver):
    """A client on a plain socket. Owned by one worker, touched by its event loop only.

    Args:
        shared: the worker's common parts.
        fd: the accepted socket, non-blocking; the connection closes it.
        client_id: unique on the host.
        ip, port: of the peer, for INFO and the log.
    """

    def __init__(self, Shared shared not None, int fd, uint64_t client_id, str ip, int port):
        Receiver.__init__(self, shared, fd, client_id, ip, port)
        self.verbose = True
        self.pedantic = True
        self.echo = True
        self.limits = shared.limits
        self._read_bytes = READ_BYTES
        self.started_ms = shared.poller.now_ms
        self.active_ms = self.started_ms
        self._ping_at_ms = self.started_ms + shared.ping_interval_ms

    def __dealloc__(self):
        free(self._kept)

    def open(self) -> None:
        """Say INFO and start to listen."""
        cdef bytes info = self.shared.info.first(self.client_id, self.ip)
        self.shared.poller.add(self, EPOLLIN)
        self.shared.deadlines.add(self, self._ping_at_ms)
        self.shared.connections[self.client_id] = self
        self.append(<const unsigned char*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info))
        self.settle()
        log.debug("%s - Client connection created", self)

    # --- in ------------------------------------------------------------------------------------

    cdef int on_events(self, uint32_t events) except -1:
        if events & EPOLLOUT:
            self.on_room()
        if events & (EPOLLIN | EPOLLHUP | EPOLLERR) and self.fd >= 0:
            if self.is_paused and not events & (EPOLLHUP | EPOLLERR):
                return 0
            if self.shared.dispatcher.is_full and self.messages_in and not self.is_paused:
                # What it would publish could only wait in memory.
                self.shared.paused.append(self)
                self.pause()
                return 0
            self.read()

    cdef int read(self) except -1:
        """Read once, handle what is whole, keep the rest."""
        cdef Shared shared = self.shared
        cdef size_t kept = self._kept_len
        cdef uint64_t messages = self.messages_in
        cdef size_t wanted = self._read_bytes
        cdef ssize_t got
        if kept > KEPT_BYTES_MAX or self._kept_needed > shared.buffer_bytes:
            return self._read_kept()
        if kept:
            memcpy(shared.buffer, self._kept, kept)
        if shared.dispatcher.is_full:
            # Its first read while the ring is full: what it publishes has to wait in memory.
            wanted = min(wanted, READ_BYTES_FULL)
        got = recv(self.fd, shared.buffer + kept, wanted, MSG_DONTWAIT)
        if got <= 0:
            return self._lost(got)
        if kept:
            self._kept_len = 0
            self._kept_needed = 0
        self._consume(shared.buffer, kept + <size_t>got)
        if shared.outbounds.has_loans:
            shared.outbounds.return_loans()
        if <size_t>got == self._read_bytes:
            self._adapt(self.messages_in - messages)
        return self._after_read()

    cdef void _adapt(self, uint64_t messages) noexcept:
        """After a read that was cut: longer ones while they are few messages, shorter ones when
        they are many, so that a turn takes about as long for every client."""
        if messages < READ_MESSAGES_FEW or self._read_bytes < READ_BYTES:
            self._read_bytes = min(self._read_bytes * 2, READ_BYTES_MAX)
        elif messages > READ_MESSAGES_MANY:
            self._read_bytes = max(self._read_bytes // 2, READ_BYTES)

    cdef int _read_kept(self) except -1:
        """Read straight into the memory of one large operation."""
        cdef size_t wanted = self._kept_needed
        cdef size_t left
        cdef unsigned char* whole
        cdef ssize_t got
        if wanted == 0:
            wanted = self._kept_len + self.shared.buffer_bytes
        if self._kept_capacity == self._kept_len:
            # Grow with what has come, not with what was announced.
            left = self._kept_len * 2
            self._room_to_keep(left if left < wanted else wanted)
        got = recv(self.fd, self._kept + self._kept_len, self._kept_capacity - self._kept_len,
                   MSG_DONTWAIT)
        if got <= 0:
            return self._lost(got)
        self._kept_len += <size_t>got
        if self._kept_len < self._kept_needed:
            return 0
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
        return self._after_read()

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
        while position < length:
            taken = next_operation(data + position, length - position, &self.limits, &operation)
            if taken <= 0:
                if taken < 0:
                    return self._fail(<int>taken)
                return self._keep(data + position, length - position, operation.needed)
            position += <size_t>taken
            if operation.verb == VERB_PUB:
                self._publish(&operation)
            else:
                self._handle(&operation)
                if self.is_closed:
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

    cdef int _after_read(self) except -1:
        """A publisher that ran ahead of the ring or of its consumers is not read for a while."""
        self.shared.sublist.release()
        if self.is_closed:
            return 0
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
        self.is_paused = False
        if self.poller is not None:
            self.poller.watch(self, self.watched | EPOLLIN)

    def stall(self, uint32_t milliseconds) -> None:
        """Hold a fast producer back for a moment: a consumer of its messages is far behind."""
        if self.is_closed:
            return
        self.shared.poller.read_clock()  # another worker's wish may come long after a pass
        self.shared.counters.stalled_clients += 1
        if self._stalled_until_ms == 0:
            self.shared.stalled.append(self)
        # Wishes add up, each is about other messages; many workers' wishes may be about the same.
        self._stalled_until_ms = min(
            max(self._stalled_until_ms, self.shared.poller.now_ms) + milliseconds,
            self.shared.poller.now_ms + STALL_MS_AHEAD_MAX)
        self._read_bytes = READ_BYTES_STALLED
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

    cdef int _handle(self, Operation* operation) except -1:
        """Every verb but PUB."""
        if operation.verb == VERB_PING:
            return self._ping()
        if operation.verb == VERB_PONG:
            return self._pong()
        if operation.verb == VERB_SUB:
            return self._subscribe(operation)
        if operation.verb == VERB_UNSUB:
            return self._unsubscribe(operation)
        if operation.verb == VERB_CONNECT:
            return self._connect(operation)
        if operation.verb == VERB_INFO:
            if not session.is_info(operation.args[:operation.args_len]):
                self.close(CloseReason.PROTOCOL_VIOLATION, detail="INFO is not a JSON object")
            return 0
        if operation.verb == VERB_ERR:
            log.error("%s - Client error %s", self,
                      session.quote(operation.args[:operation.args_len]))
            self.close(CloseReason.CLIENT_CLOSED)
        return 0

    cdef int _fail(self, int trouble) except -1:
        """The peer broke the protocol (sheet 1.4, 3.1)."""
        if trouble == UNKNOWN_OPERATION:
            self.close(CloseReason.PARSE_ERROR, errors.ERR_UNKNOWN_OPERATION)
        elif trouble == CONTROL_LINE_TOO_LONG:
            self.close(CloseReason.MAXIMUM_CONTROL_LINE_EXCEEDED, errors.ERR_MAX_CONTROL_LINE)
        elif trouble == PAYLOAD_TOO_LARGE:
            self.close(CloseReason.MAXIMUM_PAYLOAD_EXCEEDED, errors.ERR_MAX_PAYLOAD)
        elif trouble == HEADERS_NOT_ALLOWED:
            self.close(CloseReason.MESSAGE_HEADER_VIOLATION)
        else:
            self.close(CloseReason.PROTOCOL_VIOLATION)

    # --- verbs ---------------------------------------------------------------------------------

    cdef int _publish(self, Operation* operation) except -1:
        """PUB and HPUB."""
        cdef Message message
        cdef Shared shared = self.shared
        cdef unsigned char* room
        cdef int takers
        self.messages_in += 1
        self.bytes_in += operation.total_len
        shared.counters.messages_in += 1
        shared.counters.bytes_in += operation.total_len
        self.active_ms = shared.poller.now_ms
        if shared.is_tracing:
            self.trace_in("HPUB" if operation.has_header else "PUB",
                          operation.subject[:operation.payload - operation.subject - 2])
            self.trace_payload("<<-", operation.payload[:operation.total_len])
        if self.pedantic or operation.subject[0] == c'_' or operation.subject[0] == c'$' or (
            operation.reply_len and (operation.reply[0] == c'_' or operation.reply[0] == c'$')
        ):
            if not self._may_publish(operation):
                return 0
        message.account = self.account
        message.flags = MESSAGE_HAS_HEADER if operation.has_header else 0
        message.publisher = self.client_id
        message.subject = operation.subject
        message.subject_len = operation.subject_len
        message.reply_len = operation.reply_len
        message.header_len = operation.header_len
        message.total_len = operation.total_len
        message.plain_tail = NULL
        message.plain_tail_len = 0
        if operation.is_canonical and not (operation.has_header and operation.header_len == 0):
            message.tail = operation.tail
            message.tail_len = operation.tail_len
            message.flags |= MESSAGE_IS_LENT
        else:
            room = shared.scratch_for(tail_room(operation.reply_len, operation.total_len))
            if operation.header_len == 0:
                message.flags = 0
            message.tail = room
            message.tail_len = write_tail(
                room, operation.reply, operation.reply_len, message.flags != 0,
                operation.header_len, operation.payload, operation.total_len)
        takers = shared.dispatcher.publish(&message, &self._subscriber, self.echo)
        if shared.dispatcher.stall_ms:
            self._stall_ms += shared.dispatcher.stall_ms
            shared.dispatcher.stall_ms = 0
        if takers == 0 and self.no_responders and operation.reply_len:
            self.answer_no_responders(&message)
        if self.verbose:
            self.ok()

    cdef bint _may_publish(self, Operation* operation) except -1:
        """Check what is rarely wrong: reserved names, and, if pedantic, the subject."""
        cdef bytes subject = operation.subject[:operation.subject_len]
        cdef bytes reply = operation.reply[:operation.reply_len] if operation.reply_len else b""
        text = session.publish_refusal(subject, reply)
        if text is not None:
            self.refuse(text)
            return False
        if self.pedantic and subject_kind(
            operation.subject, operation.subject_len
        ) != SUBJECT_LITERAL:
            self.refuse(errors.ERR_INVALID_PUBLISH_SUBJECT)
        return True

    cdef int _subscribe(self, Operation* operation) except -1:
        """SUB: check what may be refused."""
        cdef Shared shared = self.shared
        self.active_ms = shared.poller.now_ms
        if shared.is_tracing:
            queue = operation.queue[:operation.queue_len] if operation.queue_len else b""
            self.trace_in("SUB", operation.subject[:operation.subject_len], queue,
                          operation.sid[:operation.sid_len])
        if shared.subscriptions_max and self._sids.count >= shared.subscriptions_max:
            return self.refuse(errors.ERR_MAX_SUBSCRIPTIONS)
        if subject_kind(operation.subject, operation.subject_len) == SUBJECT_INVALID:
            return self.refuse(errors.ERR_INVALID_SUBJECT)
        if operation.queue_len == 5 and operation.queue[0] == c'_':
            text = session.subscribe_refusal(operation.subject[:operation.subject_len],
                                             operation.queue[:operation.queue_len])
            if text is not None:
                return self.refuse(text)
        if shared.subscription_tokens_max and count_tokens(
            operation.subject, operation.subject_len
        ) > shared.subscription_tokens_max:
            return self.refuse(session.tokens_refusal(operation.subject[:operation.subject_len]))
        self.subscribe(operation)
        if self.verbose:
            self.say_after_interest(b"+OK\r\n", 5)

    cdef int _unsubscribe(self, Operation* operation) except -1:
        """UNSUB: now, or after so many deliveries since the SUB (sheet 4.5)."""
        cdef Subscription* subscription
        if self.shared.is_tracing:
            self.trace_in("UNSUB", operation.sid[:operation.sid_len],
                          b"%d" % operation.max_deliveries if operation.max_deliveries else b"")
        self.active_ms = self.shared.poller.now_ms
        subscription = self.find(operation.sid, operation.sid_len)
        if subscription != NULL:
            if operation.max_deliveries > <int64_t>subscription.delivered:
                subscription.max_deliveries = <uint64_t>operation.max_deliveries
            else:
                self.remove(subscription)
        if self.verbose:
            self.ok()

    cdef int _ping(self) except -1:
        """PING: PONG once the interest is known everywhere, then the second INFO (sheet 2.1)."""
        cdef bytes info
        self.active_ms = self.shared.poller.now_ms
        if self.shared.is_tracing:
            log.log(TRACE, "%s - <<- [PING]", self)
        self.say_after_interest(b"PONG\r\n", 6)
        if self.is_connected and not self.has_ponged:
            self.has_ponged = True
            if self.options.protocol >= 1:
                info = self.shared.info.connect_info(self.client_id, self.ip)
                self.say(<const unsigned char*>PyBytes_AS_STRING(info), PyBytes_GET_SIZE(info))

    cdef int _pong(self) except -1:
        """PONG: the peer lives."""
        if self.shared.is_tracing:
            log.log(TRACE, "%s - <<- [PONG]", self)
        self._pings_out = 0
        if self._ping_sent_ms:
            self.rtt_ms = self.shared.poller.now_ms - self._ping_sent_ms
            self._is_rtt_known = True

    cdef int _connect(self, Operation* operation) except -1:
        """CONNECT, the first one or another one (sheet 2.2, 2.3)."""
        cdef Shared shared = self.shared
        if shared.is_tracing:
            self.trace_in("CONNECT", session.redacted(operation.args[:operation.args_len]))
        try:
            options = session.connect(
                operation.args[:operation.args_len], self.options, shared.has_headers)
        except ProtocolError as error:
            self.close(error.reason, error.text, str(error))
            return 0
        self.options = options
        self.verbose = options.verbose
        self.pedantic = options.pedantic
        self.echo = options.echo
        self.headers = options.headers and shared.has_headers
        self.limits.headers = self.headers
        self.no_responders = options.no_responders and self.headers
        if self.is_connected:
            self.remove_all()
        else:
            self.is_connected = True
            self.rtt_ms = shared.poller.now_ms - self.started_ms
            self._ping_at_ms = shared.poller.now_ms + <uint64_t>(
                shared.first_ping_ms * (1.0 + 0.2 * shared.random.random()))
            self._set_deadline()
        if self.verbose:
            self.ok()

    # --- time ----------------------------------------------------------------------------------

    cdef int _set_deadline(self) except -1:
        cdef uint64_t deadline = self._ping_at_ms
        if self.is_blocked and self.write_until_ms < deadline:
            deadline = self.write_until_ms
        self.shared.deadlines.move(self, deadline)

    cdef int on_blocked(self) except -1:
        self._set_deadline()

    cdef int on_deadline(self, uint64_t now_ms) except -1:
        if self.is_blocked and now_ms >= self.write_until_ms:
            self.shared.counters.slow_consumers += 1
            log.info("%s - Slow Consumer Detected: WriteDeadline of %gs exceeded with %d bytes",
                     self, self.outbounds.write_deadline_ms / 1000, self.pending)
            self.close(CloseReason.SLOW_CONSUMER_WRITE_DEADLINE)
            return 0
        if now_ms >= self._ping_at_ms:
            self._ping_at_ms = now_ms + self.shared.ping_interval_ms
            if self._is_ping_due(now_ms):
                if self._pings_out + 1 > self.shared.pings_out_max:
                    self.shared.counters.stale_connections += 1
                    self.close(CloseReason.STALE_CONNECTION, errors.ERR_STALE_CONNECTION)
                    return 0
                self._pings_out += 1
                self._ping_sent_ms = now_ms
                self._has_pinged = True
                if self.shared.is_tracing:
                    log.log(TRACE, "%s - ->> [PING]", self)
                self.append(b"PING\r\n", 6)
        self._set_deadline()

    def _is_ping_due(self, uint64_t now_ms) -> bool:
        """A ping is left out when the client was heard of, but for the first one (sheet 5.1)."""
        if not self._has_pinged:
            return True
        if now_ms - self.active_ms >= self.shared.ping_interval_ms:
            return True
        return not self._is_rtt_known and now_ms - self.started_ms > RTT_AGE_MS_MAX

    # --- the end -------------------------------------------------------------------------------

    cdef int on_broken(self) except -1:
        self.close(CloseReason.WRITE_ERROR)

    cdef int on_overflow(self) except -1:
        self.shared.counters.slow_consumers += 1
        log.info("%s - Slow Consumer Detected: MaxPending of %d Exceeded", self, self.pending_max)
        self.close(CloseReason.SLOW_CONSUMER_PENDING_BYTES)

    def close(self, reason: CloseReason, text: str | None = None, detail: str = "") -> None:
        """End the connection: the last word if there is one, then everything it had."""
        cdef bytes line
        cdef int reads = 0
        if self.is_closed:
            return
        self.is_closed = True
        self.shared.poller.remove(self)
        self.shared.deadlines.remove(self)
        self.remove_all()
        if self._deferred is not None and text is not None:
            # Its interest has ended with it: what waited promises nothing any more.
            for _, waiting in self._deferred:
                self.append(<const unsigned char*>PyByteArray_AS_STRING(waiting), len(waiting))
        self._deferred = None
        if text is not None:
            line = b"-ERR '%b'\r\n" % (text.encode("utf-8", "surrogateescape"),)
            self.append(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        if not self.is_overflowing and not self.is_blocked:
            self.flush()
        if self.shared.outbounds.has_loans:
            # What others were lent may lie where the last reads go.
            self.shared.outbounds.return_loans()
        shutdown(self.fd, SHUT_WR)
        # Unread input would turn the end into a reset, and a reset can overtake the last word.
        while reads < LAST_READS_MAX and recv(
            self.fd, self.shared.buffer + self.shared.buffer_bytes, self.shared.buffer_bytes,
            MSG_DONTWAIT,
        ) > 0:
            reads += 1
        close(self.fd)
        self.fd = -1
        self.discard()
        self.shared.connections.pop(self.client_id, None)
        self.shared.counters.connections -= 1
        if text is not None or detail:
            log.error("%s - %s", self, text or detail)
        log.debug("%s - Client connection closed: %s", self, reason.text)
