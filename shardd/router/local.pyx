# cython: language_level=3str
"""A client without a socket: publishes and subscribes inside a process of the mesh.

It goes through the same dispatch as a connection, so what holds for one holds for the other. The
callback may publish, subscribe, unsubscribe and close. It is called while a message is being
routed, but for the client's own messages: those come back when their routing is over, so that
what the callback publishes does not overtake them. An exception of the callback is seen by whoever
published or received the message, which then has not reached everybody.

Nothing leaves for other processes before `Dispatcher.finish`, which the owner calls at the end of a
pass, as a worker's pump does.
"""

from collections import deque

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from shardd.errors import InternalError

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport MESSAGE_HAS_HEADER, Message, tail_room, write_tail
from shardd.router.subject cimport SUBJECT_LITERAL, subject_kind
from shardd.router.sublist cimport Match, Subscription

cdef enum:
    # A record's length is a 32-bit number; this leaves room for all that is not payload.
    MESSAGE_BYTES_MAX = 1 << 30


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


cdef int _deliver(void* owner, Subscription* subscription, Message* message) except -1:
    return (<LocalClient>owner)._take(subscription, message)


cdef int _expire(void* owner, Subscription* subscription) except -1:
    return (<LocalClient>owner)._remove(subscription)


# Not cleared by the collector: `__dealloc__` needs the index.
@cython.final
@cython.no_gc_clear
cdef class LocalClient:
    """One client inside a process. Touched by the event loop of its dispatcher only.

    Args:
        dispatcher: of this process.
        callback: gets sid, subject, reply, header block and payload of each message, all bytes;
            reply and header are empty when there is none.
    """

    def __init__(self, Dispatcher dispatcher not None, object callback):
        self.dispatcher = dispatcher
        self._sublist = dispatcher.sublist
        self._callback = callback
        self._sids = {}
        self._own = deque()
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver
        self._subscriber.expire = _expire

    def __dealloc__(self):
        # The index must not point at what is gone.
        if self._sids is not None:
            for address in self._sids.values():
                self._sublist.remove(<Subscription*><size_t>address)

    @property
    def subscriptions(self) -> int:
        """Subscriptions it holds."""
        return len(self._sids)

    def subscribe(
        self, bytes subject not None, bytes queue, bytes sid not None, uint32_t account=0
    ) -> bool:
        """Subscribe, as a member of `queue` if that is given. A sid in use keeps its first
        subscription: then False.

        Raises:
            ValueError: the subject is not valid.
        """
        cdef Subscription* subscription
        cdef const unsigned char* name = NULL
        self._check_open()
        if sid in self._sids:
            return False
        if queue is not None:
            name = data(queue)
        subscription = self._sublist.insert(
            account, data(subject), PyBytes_GET_SIZE(subject),
            name, 0 if queue is None else PyBytes_GET_SIZE(queue),
            data(sid), PyBytes_GET_SIZE(sid), &self._subscriber)
        self._sids[sid] = <size_t>subscription
        return True

    def unsubscribe(self, bytes sid not None, uint64_t max_deliveries=0) -> None:
        """End a subscription, now or after so many deliveries since it began. An unknown sid is
        ignored: its subscription may just have reached its maximum."""
        cdef Subscription* subscription = self._find(sid)
        if subscription == NULL:
            return
        if max_deliveries > subscription.delivered:
            subscription.max_deliveries = max_deliveries
            return
        self._remove(subscription)
        if self._own:
            self._own = deque(arguments for arguments in self._own if arguments[0] != sid)

    def publish(
        self,
        bytes subject not None,
        bytes payload not None,
        bytes reply not None = b"",
        bytes header not None = b"",
        bint echo=True,
        uint32_t account=0,
    ) -> int:
        """Publish one message; `header` is a whole header block, its empty line included.

        Returns:
            How many took it; all other processes together count as one.

        Raises:
            ValueError: subject or reply cannot be published to, or the message is too large.
        """
        cdef Message message
        cdef bytes body = header + payload if header else payload
        cdef bytes tail
        self._check_open()
        _check_literal(subject)
        if reply:
            _check_literal(reply)
        if PyBytes_GET_SIZE(body) + PyBytes_GET_SIZE(reply) > MESSAGE_BYTES_MAX:
            raise ValueError(f"a message of {len(body)} bytes is too large")
        memset(&message, 0, sizeof(Message))
        message.account = account
        message.flags = MESSAGE_HAS_HEADER if header else 0
        message.subject = data(subject)
        message.subject_len = PyBytes_GET_SIZE(subject)
        message.reply_len = PyBytes_GET_SIZE(reply)
        message.header_len = PyBytes_GET_SIZE(header)
        message.total_len = PyBytes_GET_SIZE(body)
        tail = PyBytes_FromStringAndSize(NULL, tail_room(message.reply_len, message.total_len))
        message.tail = data(tail)
        message.tail_len = write_tail(
            <unsigned char*>PyBytes_AS_STRING(tail), data(reply), message.reply_len,
            bool(header), message.header_len, data(body), message.total_len)
        return self._publish(&message, echo)

    def is_wanted(self, bytes subject not None, uint32_t account=0) -> bool:
        """Whether anybody, here or elsewhere, would get what is published there."""
        cdef const Match* match = self._sublist.match(
            account, data(subject), PyBytes_GET_SIZE(subject))
        return match.plain_count > 0 or match.group_count > 0 or match.processes != 0

    def close(self) -> None:
        """End every subscription. Nothing is delivered any more."""
        self.is_closed = True
        self._remove_all()
        self._own.clear()

    # -------------------------------------------------------------------------------------------

    def _check_open(self):
        if self.is_closed:
            raise InternalError("the client is closed")

    def _remove_all(self):
        for address in self._sids.values():
            self._sublist.remove(<Subscription*><size_t>address)
        self._sids.clear()

    cdef int _publish(self, Message* message, bint echo) except -1:
        cdef int takers
        if self._is_publishing:
            return self.dispatcher.publish(message, &self._subscriber, echo)
        self._is_publishing = True
        try:
            takers = self.dispatcher.publish(message, &self._subscriber, echo)
            while self._own:
                self._callback(*self._own.popleft())
        finally:
            self._is_publishing = False
            self._own.clear()
        return takers

    cdef Subscription* _find(self, bytes sid) except? NULL:
        address = self._sids.get(sid)
        return NULL if address is None else <Subscription*><size_t>address

    cdef int _remove(self, Subscription* subscription) except -1:
        """End one subscription; its sid is free again."""
        del self._sids[<bytes>subscription.sid[:subscription.sid_len]]
        self._sublist.remove(subscription)

    cdef int _take(self, Subscription* subscription, Message* message) except -1:
        """Hand one message to the callback, now or after the own publish at hand."""
        # Where the header block starts: it and the payload end two bytes before the tail does.
        cdef const unsigned char* body = message.tail + message.tail_len - 2 - message.total_len
        cdef bytes reply = b""
        cdef bytes header = b""
        if message.reply_len:
            reply = message.tail[1:1 + message.reply_len]
        if message.header_len:
            header = body[:message.header_len]
        arguments = (
            <bytes>subscription.sid[:subscription.sid_len],
            <bytes>message.subject[:message.subject_len],
            reply,
            header,
            <bytes>body[message.header_len:message.total_len],
        )
        if self._is_publishing:
            self._own.append(arguments)
        else:
            self._callback(*arguments)
        return 1


cdef int _check_literal(bytes subject) except -1:
    if subject_kind(data(subject), PyBytes_GET_SIZE(subject)) != SUBJECT_LITERAL:
        raise ValueError(f"{subject!r} is not a subject that can be published to")
