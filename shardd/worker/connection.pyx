# cython: language_level=3str
"""One client: what its operations do.

The bytes are the `Reader`'s, deliveries and answers the `Receiver`'s, coming and going is `Life`.
"""

import logging

cimport cython
from cpython.time cimport monotonic
from libc.stdint cimport int64_t, uint64_t

from shardd import errors
from shardd.errors import CloseReason
from shardd.log import TRACE
from shardd.worker import session

from shardd.quotas cimport RATE_BYTES, RATE_MESSAGES, Quotas
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
from shardd.router.table cimport table_next
from shardd.wire cimport (
    CONTROL_LINE_TOO_LONG,
    PAYLOAD_TOO_LARGE,
    UNKNOWN_OPERATION,
    VERB_CONNECT,
    VERB_ERR,
    VERB_INFO,
    VERB_PING,
    VERB_PONG,
    VERB_SUB,
    VERB_UNSUB,
    Operation,
)
from shardd.worker.life cimport Life
from shardd.worker.shared cimport Shared

log = logging.getLogger("shardd.worker")


@cython.final
cdef class Connection(Life):
    """A client. Owned by one worker, touched by its event loop only."""

    cdef int handle(self, Operation* operation) except -1:
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
            return self.connect(operation)
        if operation.verb == VERB_INFO:
            if not session.is_info(operation.args[:operation.args_len]):
                self.close(CloseReason.PROTOCOL_VIOLATION, detail="INFO is not a JSON object")
            return 0
        if operation.verb == VERB_ERR:
            log.error("%s - Client error %s", self,
                      session.quote(operation.args[:operation.args_len]))
            self.close(CloseReason.PARSE_ERROR)
        return 0

    cdef int fail(self, int trouble) except -1:
        """The peer broke the protocol (sheet 1.4, 3.1)."""
        if trouble == UNKNOWN_OPERATION:
            self.close(CloseReason.PROTOCOL_VIOLATION, errors.ERR_UNKNOWN_OPERATION)
        elif trouble == CONTROL_LINE_TOO_LONG:
            self.close(CloseReason.MAXIMUM_CONTROL_LINE_EXCEEDED, errors.ERR_MAX_CONTROL_LINE)
        elif trouble == PAYLOAD_TOO_LARGE:
            self.close(CloseReason.MAXIMUM_PAYLOAD_EXCEEDED, errors.ERR_MAX_PAYLOAD)
        else:
            self.close(CloseReason.PROTOCOL_VIOLATION)

    # --- verbs ---------------------------------------------------------------------------------

    cdef int publish(self, Operation* operation) except -1:
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
        if self.pedantic and subject_kind(
            operation.subject, operation.subject_len
        ) != SUBJECT_LITERAL:
            self.refuse(errors.ERR_INVALID_PUBLISH_SUBJECT)
        if self.permissions is not None and not self.is_allowed(operation):
            return 0
        if operation.subject[0] == c'_' or operation.subject[0] == c'$' or (
            operation.reply_len and (operation.reply[0] == c'_' or operation.reply[0] == c'$')
        ):
            if not self._may_use_reserved(operation):
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
        if self.space is None:
            takers = shared.dispatcher.publish(&message, &self._subscriber, self.echo)
        else:
            takers = self.space.publish(&message, &self._subscriber, self.echo)
        if shared.dispatcher.stall_ms:
            self._stall_ms += shared.dispatcher.stall_ms
            shared.dispatcher.stall_ms = 0
        if takers == 0 and self.no_responders and operation.reply_len:
            self.answer_no_responders(&message)
        if self.verbose:
            self.ok()

    cdef bint _may_use_reserved(self, Operation* operation) except -1:
        """Whether a subject or reply that begins like a reserved one may be used."""
        cdef bytes subject = operation.subject[:operation.subject_len]
        cdef bytes reply = operation.reply[:operation.reply_len] if operation.reply_len else b""
        if reply and subject == session.USER_INFO:
            self.shared.observer.tell_user(self, reply)
            if self.verbose:
                self.ok()
            return False
        text = session.publish_refusal(subject, reply)
        if text is not None:
            self.refuse(text)
            return False
        return True

    cdef int _subscribe(self, Operation* operation) except -1:
        """SUB: check what may be refused."""
        cdef Shared shared = self.shared
        self.active_ms = shared.poller.now_ms
        if shared.is_tracing:
            queue = operation.queue[:operation.queue_len] if operation.queue_len else b""
            self.trace_in("SUB", operation.subject[:operation.subject_len], queue,
                          operation.sid[:operation.sid_len])
        # In this order: a client hears of what it may not before what cannot be.
        if self.permissions is not None and not self.may_subscribe(operation):
            return 0
        if operation.queue_len == 5 and operation.queue[0] == c'_':
            text = session.subscribe_refusal(operation.subject[:operation.subject_len],
                                             operation.queue[:operation.queue_len])
            if text is not None:
                return self.refuse(text)
        if shared.subscription_tokens_max and count_tokens(
            operation.subject, operation.subject_len
        ) > shared.subscription_tokens_max:
            return self.refuse(session.tokens_refusal(operation.subject[:operation.subject_len]))
        if self.subscriptions_max >= 0 and <int64_t>self._sids.count >= self.subscriptions_max:
            return self.refuse(errors.ERR_MAX_SUBSCRIPTIONS)
        if subject_kind(operation.subject, operation.subject_len) == SUBJECT_INVALID:
            return self.refuse(errors.ERR_INVALID_SUBJECT)
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
                self.limit(subscription, <uint64_t>operation.max_deliveries)
            else:
                self.remove(subscription)
        if self.verbose:
            self.ok()

    cdef int _ping(self) except -1:
        """PING: PONG behind all that was published before it, on whatever worker, and once the
        interest is known everywhere."""
        self.active_ms = self.shared.poller.now_ms
        if self.shared.is_tracing:
            log.log(TRACE, "%s - <<- [PING]", self)
        self.shared.mesh.catch_up()
        if self.is_closed:
            return 0
        self.say_after_interest(b"PONG\r\n", 6)
        self.note_ping()

    cdef int _pong(self) except -1:
        if self.shared.is_tracing:
            log.log(TRACE, "%s - <<- [PONG]", self)
        self.note_pong()

    cdef int charge(self, uint64_t messages, uint64_t bytes) except -1:
        """Count what one read published, and hold the publisher back if that was ahead of its
        rate: nothing is lost, it only cannot send faster."""
        cdef Quotas quotas = self.shared.quotas
        cdef uint64_t now_ns = <uint64_t>(monotonic() * 1e9)
        cdef uint64_t wait_ns = 0
        for each in self.admission.charges:
            if each.messages_per_s:
                wait_ns = max(wait_ns, quotas.charge(
                    each.entry, RATE_MESSAGES, messages, each.messages_per_s, now_ns))
            if each.bytes_per_s:
                wait_ns = max(wait_ns, quotas.charge(
                    each.entry, RATE_BYTES, bytes, each.bytes_per_s, now_ns))
        if wait_ns:
            self.hold(self.shared.poller.now_ms + wait_ns // 1_000_000 + 1)

    # --- what it says of itself ----------------------------------------------------------------

    def row(self, int64_t wall_ns) -> dict[str, object]:
        """This client as monitoring has it (sheet 12.2), see `reports.connz.Row`.

        Args:
            wall_ns: nanoseconds since 1970 at the beginning of the worker's clock.
        """
        cdef object options = self.options
        row = {
            "cid": self.client_id,
            "kind": "Client",
            "type": "websocket" if self.door.websocket is not None else "nats",
            "ip": self._shown_ip or self.ip,
            "port": self.port,
            "start_ns": wall_ns + <int64_t>self.started_ms * 1_000_000,
            "last_ns": wall_ns + <int64_t>self.active_ms * 1_000_000,
            "rtt_ns": self.rtt_us * 1000,
            "pending_bytes": self.pending,
            "in_msgs": self.messages_in,
            "out_msgs": self.messages_out,
            "in_bytes": self.bytes_in,
            "out_bytes": self.bytes_out,
            "subscriptions": self._sids.count,
        }
        if self.stalls:
            row["stalls"] = self.stalls
        names = (("name", options.name), ("lang", options.lang), ("version", options.version))
        row |= {name: value for name, value in names if value}
        if self.admission is not None:
            identity = self.admission.identity
            if identity.user:
                row["authorized_user"] = identity.user
            row["account"] = row["name_tag"] = identity.account
        elif options.user:
            row["authorized_user"] = options.user
        if self.layer is not None:
            row |= self.layer.facts()
        return row

    def subscription_rows(self) -> list[dict[str, object]]:
        """What it subscribes to, as monitoring has it (sheet 12.3); without the account."""
        cdef size_t index = 0
        cdef size_t length
        cdef const unsigned char* text
        cdef Subscription* subscription
        rows = []
        while True:
            subscription = <Subscription*>table_next(&self._sids, &index)
            if subscription == NULL:
                return rows
            text = self.shared.sublist.subject_of(subscription, &length)
            row = {"subject": text[:length].decode("utf-8", "replace")}
            text = self.shared.sublist.queue_of(subscription, &length)
            if text != NULL:
                row["qgroup"] = text[:length].decode("utf-8", "replace")
            row["sid"] = subscription.sid[:subscription.sid_len].decode("utf-8", "replace")
            row["msgs"] = subscription.delivered
            if subscription.max_deliveries:
                row["max"] = subscription.max_deliveries
            row["cid"] = self.client_id
            rows.append(row)
