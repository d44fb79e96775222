# cython: language_level=3str
"""What one client gets: its subscriptions, the messages delivered to them, and answers.

`take` is what the dispatcher calls for a subscription: verb, subject and sid, then the publisher's
own bytes from the reply or the size to the end, in one copy.

Answers wait in order. A PONG, and the +OK of a SUB, may go only when every process of the host has
applied the interest that was new before it (rule 1); answers after one that waits queue up behind
it. Messages do not wait.
"""

import logging

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy, memset

from shardd import limits
from shardd.log import TRACE
from shardd.worker import session
from shardd.worker.info import DEFAULT_OPTIONS

from shardd.outbound cimport Outbound
from shardd.router.frame cimport (
    MESSAGE_HAS_HEADER,
    MESSAGE_IS_LENT,
    Message,
    tail_room,
    write_tail,
)
from shardd.router.spaces cimport Shadow
from shardd.router.sublist cimport Subscription
from shardd.router.table cimport (
    Table,
    hash_bytes,
    same_bytes,
    table_find,
    table_free,
    table_insert,
    table_next,
    table_remove,
)
from shardd.wire cimport Operation
from shardd.worker.shared cimport Shared

cdef enum:
    # Verb, blanks and sizes of a delivery, beside subject, sid and tail.
    HEAD_ROOM = 16
    # A longer delivery is copied in parts, so that it wastes no chunk's rest.
    WHOLE_BYTES_MAX = 32768
    # From here on a reference is cheaper than a copy.
    LENT_BYTES_MIN = 6144

# What a subscriber that is behind costs its publisher (sheet 5.3).
cdef uint32_t STALL_MS = limits.STALL_MS
cdef uint32_t STALL_OVER_LIMIT_MS = limits.STALL_OVER_LIMIT_MS

log = logging.getLogger("shardd.worker")


cdef struct SidKey:
    const unsigned char* sid
    size_t length


cdef bint _has_sid(const void* item, const void* key) noexcept nogil:
    cdef const Subscription* subscription = <const Subscription*>item
    cdef const SidKey* wanted = <const SidKey*>key
    return subscription.sid_len == wanted.length and same_bytes(
        subscription.sid, wanted.sid, wanted.length)


cdef int _deliver(void* owner, Subscription* subscription, Message* message) except -1:
    return (<Receiver>owner).take(subscription, message)


cdef int _expire(void* owner, Subscription* subscription) except -1:
    return (<Receiver>owner).remove(subscription)


cdef class Receiver(Outbound):
    """The receiving half of a client on a plain socket. `Connection` is the other half.

    Args:
        shared: the worker's common parts.
        fd: the accepted socket, non-blocking.
        client_id: unique on the host.
        ip, port: of the peer, for INFO and the log.
    """

    def __init__(self, Shared shared not None, int fd, uint64_t client_id, str ip, int port):
        self.shared = shared
        self.outbounds = shared.outbounds
        self.fd = fd
        self.client_id = client_id
        self.ip = ip
        self.port = port
        self.options = DEFAULT_OPTIONS
        self.pending_max = shared.pending_max
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver
        self._subscriber.expire = _expire

    def __str__(self) -> str:
        """How the log names a client, as nats-server does (sheet 13.6)."""
        ip = self._shown_ip or self.ip
        at = f"[{ip}]" if ":" in ip else ip
        text = f"{at}:{self.port} - cid:{self.client_id}"
        options = self.options
        if options.lang or options.version or options.name:
            text += f' - "v{options.version}:{options.lang}:{options.name}"'
        return text

    @property
    def subscriptions(self) -> int:
        """Subscriptions it holds."""
        return self._sids.count

    # --- subscriptions -------------------------------------------------------------------------

    cdef Subscription* find(self, const unsigned char* sid, size_t length) noexcept:
        cdef SidKey key
        key.sid = sid
        key.length = length
        return <Subscription*>table_find(
            &self._sids, hash_bytes(&self.shared.sid_key, 0, sid, length), _has_sid, &key)

    cdef int subscribe(self, const Operation* operation) except -1:
        """Add the subscription of a SUB that has been checked. A sid in use keeps its first one
        (sheet 4.3)."""
        cdef Shared shared = self.shared
        cdef Subscription* subscription
        if self.find(operation.sid, operation.sid_len) != NULL:
            return 0
        subscription = shared.sublist.insert(
            self.account, operation.subject, operation.subject_len, operation.queue,
            operation.queue_len, operation.sid, operation.sid_len, &self._subscriber)
        subscription.sid_hash = hash_bytes(&shared.sid_key, 0, operation.sid, operation.sid_len)
        if table_insert(&self._sids, subscription.sid_hash, subscription) < 0:
            shared.sublist.remove(subscription)
            raise MemoryError
        shared.counters.subscriptions += 1
        if self.space is not None and self.space.streams:
            self._import(subscription)
        self._interest_sequence = (
            shared.mesh.sequence + (1 if shared.sublist.has_changes() else 0))

    cdef int remove(self, Subscription* subscription) except -1:
        """End one subscription; its sid is free again."""
        cdef Shadow shadow
        if self._shadows is not None:
            for shadow in self._shadows.pop(<size_t>subscription, ()):
                shadow.end()
        table_remove(&self._sids, subscription.sid_hash, subscription)
        self.shared.sublist.remove(subscription)
        self.shared.counters.subscriptions -= 1

    cdef int remove_all(self) except -1:
        """End every subscription."""
        cdef size_t index = 0
        cdef Subscription* subscription
        cdef Shadow shadow
        if self._shadows is not None:
            for shadows in self._shadows.values():
                for shadow in shadows:
                    shadow.end()
            self._shadows = None
        while True:
            subscription = <Subscription*>table_next(&self._sids, &index)
            if subscription == NULL:
                break
            self.shared.sublist.remove(subscription)
        self.shared.counters.subscriptions -= self._sids.count
        table_free(&self._sids)
        memset(&self._sids, 0, sizeof(Table))

    cdef int limit(self, Subscription* subscription, uint64_t max_deliveries) except -1:
        """End a subscription, and what it imports, after so many deliveries."""
        subscription.max_deliveries = max_deliveries

    cdef int _import(self, Subscription* subscription) except -1:
        """Subscribe to what the account imports of this subscription's subject."""
        cdef size_t length
        cdef size_t queue_len
        cdef const unsigned char* subject = self.shared.sublist.subject_of(subscription, &length)
        cdef const unsigned char* queue = self.shared.sublist.queue_of(subscription, &queue_len)
        cdef list shadows = self.space.shadow(
            subscription, subject[:length], queue[:queue_len] if queue != NULL else None)
        if shadows is not None:
            if self._shadows is None:
                self._shadows = {}
            self._shadows[<size_t>subscription] = shadows

    cdef int import_again(self) except -1:
        """A reload has changed what the account imports."""
        cdef size_t index = 0
        cdef Subscription* subscription
        cdef Shadow shadow
        if self._shadows is not None:
            for shadows in self._shadows.values():
                for shadow in shadows:
                    shadow.end()
            self._shadows = None
        if self.space is None or not self.space.streams:
            return 0
        while True:
            subscription = <Subscription*>table_next(&self._sids, &index)
            if subscription == NULL:
                return 0
            self._import(subscription)

    # --- out -----------------------------------------------------------------------------------

    cdef int take(self, Subscription* subscription, Message* message) except -1:
        """Queue one delivery. 0 when this client cannot take it.

        The line is built from the right: the tail is the publisher's own bytes.
        """
        cdef const unsigned char* tail = message.tail
        cdef size_t tail_len = message.tail_len
        cdef bint has_header = (message.flags & MESSAGE_HAS_HEADER) != 0
        cdef unsigned char* at
        cdef unsigned char* start
        cdef size_t length
        if self.is_closed or self.is_overflowing or self.is_broken:
            return 0
        if self.is_guarded and not self._may_take(subscription, message):
            return 0
        if self.pending > self.shared.stall_at:
            if self.shared.drops_instead_of_stalling:
                return 0
            self.shared.dispatcher.stall_ms += (
                STALL_OVER_LIMIT_MS if self.pending > self.pending_max else STALL_MS)
        if has_header and not self.headers:
            has_header = False
            if message.plain_tail == NULL:
                self._strip(message)
            tail = message.plain_tail
            tail_len = message.plain_tail_len
        if self.shared.is_tracing:
            self._trace_delivery(subscription, message, tail, tail_len, has_header)
        self.messages_out += 1
        self.shared.counters.messages_out += 1
        length = message.subject_len + subscription.sid_len + tail_len + HEAD_ROOM
        if tail_len >= LENT_BYTES_MIN and message.flags & MESSAGE_IS_LENT and (
            tail == message.tail and not self.is_blocked
        ):
            return self._take_lent(subscription, message, has_header)
        if length > WHOLE_BYTES_MAX:
            return self._take_in_parts(subscription, message, tail, tail_len, has_header)
        start = self.reserve(length)
        at = start + self._write_head(start, subscription, message, has_header)
        memcpy(at, tail, tail_len)
        at += tail_len
        length = message.total_len if has_header or tail == message.tail else (
            message.total_len - message.header_len)
        self.bytes_out += length
        self.shared.counters.bytes_out += length
        self.commit(<size_t>(at - start))
        return 1

    cdef bint _may_take(self, const Subscription* subscription, Message* message) except -1:
        """Whether the user may read this message; a request with a reply may be answered then."""
        cdef const unsigned char* queue
        cdef size_t queue_len
        if self.is_filtered:
            queue = self.shared.sublist.queue_of(subscription, &queue_len)
            if not self.permissions.may_receive(
                message.subject, message.subject_len, queue, queue_len
            ):
                return False
        if self.grants is not None and message.reply_len:
            self.grants.grant(message.tail + 1, message.reply_len, self.shared.poller.now_ms)
        return True

    cdef size_t _write_head(
        self, unsigned char* start, const Subscription* subscription, const Message* message,
        bint has_header,
    ) noexcept:
        """Verb, subject and sid of a delivery; returns how long they are."""
        cdef unsigned char* at = start
        if has_header:
            memcpy(at, b"HMSG ", 5)
            at += 5
        else:
            memcpy(at, b"MSG ", 4)
            at += 4
        memcpy(at, message.subject, message.subject_len)
        at += message.subject_len
        at[0] = c' '
        memcpy(at + 1, subscription.sid, subscription.sid_len)
        return <size_t>(at - start) + 1 + subscription.sid_len

    cdef int _take_lent(
        self, Subscription* subscription, Message* message, bint has_header
    ) except -1:
        """The same for a large message: its tail is not copied, but lent."""
        cdef unsigned char* head = self.shared.head_for(
            message.subject_len + subscription.sid_len + HEAD_ROOM)
        cdef size_t length = self._write_head(head, subscription, message, has_header)
        self.lend(head, length, message.tail, message.tail_len)
        self.bytes_out += message.total_len
        self.shared.counters.bytes_out += message.total_len
        return 1

    cdef int _take_in_parts(
        self, Subscription* subscription, Message* message,
        const unsigned char* tail, size_t tail_len, bint has_header,
    ) except -1:
        """The same for a message that would waste the rest of a chunk."""
        cdef size_t length
        cdef unsigned char* head = self.shared.head_for(
            message.subject_len + subscription.sid_len + HEAD_ROOM)
        self.append(head, self._write_head(head, subscription, message, has_header))
        self.append(tail, tail_len)
        length = message.total_len if has_header or tail == message.tail else (
            message.total_len - message.header_len)
        self.bytes_out += length
        self.shared.counters.bytes_out += length
        return 1

    cdef int _strip(self, Message* message) except -1:
        """Build the tail for subscribers without headers; it serves every one of this message."""
        cdef size_t payload_len = message.total_len - message.header_len
        cdef unsigned char* room = self.shared.plain_scratch_for(
            tail_room(message.reply_len, payload_len))
        message.plain_tail_len = write_tail(
            room, message.tail + 1, message.reply_len, False, 0,
            message.tail + message.tail_len - 2 - payload_len, payload_len)
        message.plain_tail = room

    cdef int answer_no_responders(self, Message* message) except -1:
        """503, if this very client listens on the reply (sheet 4.6)."""
        cdef Subscription* subscription = NULL
        cdef bytes line
        if not self.shared.dispatcher.has_subscriber(
            self.account, message.tail + 1, message.reply_len, &self._subscriber, &subscription
        ):
            return 0
        body = b"NATS/1.0 503\r\nNats-Subject: %b\r\n\r\n" % (
            message.subject[:message.subject_len],)
        line = b"HMSG %b %b %d %d\r\n%b\r\n" % (
            message.tail[1:1 + message.reply_len], subscription.sid[:subscription.sid_len],
            len(body), len(body), body)
        self.append(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))

    cdef int say(self, const unsigned char* text, size_t length) except -1:
        """An answer, behind those that wait."""
        if self._deferred is None:
            return self.append(text, length)
        return self._defer(0, text, length)

    cdef int say_after_interest(self, const unsigned char* text, size_t length) except -1:
        """An answer that promises that this client's subscriptions are known to the host."""
        if self.shared.is_tracing:
            log.log(TRACE, "%s - ->> [%s]", self, text[:length - 2].decode("ascii"))
        if self._interest_sequence == 0:
            return self.say(text, length)
        if self._deferred is None and self.shared.mesh.is_applied(self._interest_sequence):
            self._interest_sequence = 0
            return self.append(text, length)
        return self._defer(self._interest_sequence, text, length)

    cdef int _defer(self, uint64_t sequence, const unsigned char* text, size_t length) except -1:
        """Queue an answer behind those that wait. All that waits for the same is one entry, so
        there are as many as announcements are under way, whatever the client sends."""
        if self._deferred is None:
            self._deferred = []
            self.shared.deferred.append(self)
        if self._deferred and sequence <= <uint64_t>self._deferred[-1][0]:
            (<bytearray>self._deferred[-1][1]).extend(text[:length])
        else:
            self._deferred.append((sequence, bytearray(text[:length])))
        if <uint64_t>len(self._deferred[-1][1]) > self.pending_max:
            self.is_overflowing = True
            self.outbounds.mark(self)

    cdef bint release_deferred(self) except -1:
        """Say what may be said by now. True when nothing waits any more."""
        cdef bytearray text
        cdef uint64_t sequence
        if self.is_closed:
            return True
        while self._deferred:
            sequence, text = self._deferred[0]
            # All changes have been announced by now; one that was taken back needed no number.
            if not self.shared.mesh.is_applied(min(sequence, self.shared.mesh.sequence)):
                return False
            self._deferred.pop(0)
            if sequence >= self._interest_sequence:
                self._interest_sequence = 0
            self.append(<const unsigned char*>PyByteArray_AS_STRING(text), len(text))
        self._deferred = None
        return True

    cdef int ok(self) except -1:
        if self.shared.is_tracing:
            log.log(TRACE, "%s - ->> [OK]", self)
        return self.say(b"+OK\r\n", 5)

    def refuse(self, text: str) -> int:
        """Answer with an error that does not close."""
        cdef bytes line = b"-ERR '%b'\r\n" % (text.encode("utf-8", "surrogateescape"),)
        log.debug("%s - %s", self, text)
        self.say(<const unsigned char*>PyBytes_AS_STRING(line), PyBytes_GET_SIZE(line))
        return 0

    def trace_in(self, verb: str, *arguments: bytes) -> None:
        """Log an operation of the client as it came."""
        text = session.quote(b" ".join(arguments).rstrip())[1:-1].replace('\\"', '"')
        log.log(TRACE, "%s - <<- [%s %s]", self, verb, text)

    def trace_payload(self, arrow: str, payload: bytes) -> None:
        """Log a message's bytes."""
        log.log(TRACE, "%s - %s MSG_PAYLOAD: [%s]", self, arrow, session.quote(payload))

    cdef int _trace_delivery(
        self, const Subscription* subscription, const Message* message,
        const unsigned char* tail, size_t tail_len, bint has_header,
    ) except -1:
        """Log a delivery as the client reads it."""
        line, _, payload = tail[:tail_len - 2].partition(b"\r\n")
        log.log(TRACE, "%s - ->> [%s %s %s%s]", self, "HMSG" if has_header else "MSG",
                session.quote(message.subject[:message.subject_len])[1:-1],
                session.quote(subscription.sid[:subscription.sid_len])[1:-1],
                session.quote(line)[1:-1])
        self.trace_payload("->>", payload)
