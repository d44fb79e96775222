# cython: language_level=3str
"""A door to the C face of accounts, for tests: a client of one account, without a socket.

It does with its account's space what a connection does, and keeps what it gets.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memset

from shardd.router.frame cimport MESSAGE_HAS_HEADER, Message, tail_room, write_tail
from shardd.router.spaces cimport Shadow, Space, Spaces
from shardd.router.sublist cimport Subscription

# sid, subject, reply, header block, payload
Delivery = tuple[bytes, bytes, bytes, bytes, bytes]


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


cdef int _deliver(void* owner, Subscription* subscription, Message* message) except -1:
    return (<SpaceProbe>owner)._take(subscription, message)


cdef int _expire(void* owner, Subscription* subscription) except -1:
    return (<SpaceProbe>owner)._remove(subscription)


@cython.final
@cython.no_gc_clear
cdef class SpaceProbe:
    """One client. Lives no longer than its `Spaces`; ends with `close`."""

    def __init__(self, Spaces spaces not None, uint32_t account) -> None:
        self._spaces = spaces
        self._dispatcher = spaces.dispatcher
        self._sublist = spaces.dispatcher.sublist
        self._account = account
        self._sids = {}
        self._shadows = {}
        self.got = []
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver
        self._subscriber.expire = _expire

    def __dealloc__(self) -> None:
        # A test that failed has closed nothing; the index must not point at what is gone.
        if self._sids is not None:
            for address in self._sids.values():
                self._sublist.remove(<Subscription*><size_t>address)

    def subscribe(self, bytes sid not None, bytes subject not None, bytes queue=None) -> None:
        """SUB, with all that is imported for it."""
        cdef Space space = self._spaces.space(self._account)
        cdef Subscription* subscription = self._sublist.insert(
            self._account, data(subject), PyBytes_GET_SIZE(subject),
            data(queue) if queue is not None else NULL,
            PyBytes_GET_SIZE(queue) if queue is not None else 0,
            data(sid), PyBytes_GET_SIZE(sid), &self._subscriber)
        self._sids[sid] = <size_t>subscription
        if space is not None and space.streams:
            self._shadows[<size_t>subscription] = space.shadow(subscription, subject, queue) or []

    def unsubscribe(self, bytes sid not None, uint64_t max_deliveries=0) -> None:
        """UNSUB of a sid in use, now or after so many deliveries."""
        cdef Subscription* subscription = <Subscription*><size_t>self._sids[sid]
        if max_deliveries > subscription.delivered:
            subscription.max_deliveries = max_deliveries
        else:
            self._remove(subscription)

    @property
    def sids(self) -> set[bytes]:
        """Those in use."""
        return set(self._sids)

    def publish(
        self, bytes subject not None, bytes payload not None, bytes reply not None=b"",
        bytes header not None=b"", bint echo=True,
    ) -> int:
        """PUB or HPUB; how many took it."""
        cdef Message message
        cdef Space space = self._spaces.space(self._account)
        cdef bytes body = header + payload
        cdef bytes tail = PyBytes_FromStringAndSize(
            NULL, tail_room(PyBytes_GET_SIZE(reply), PyBytes_GET_SIZE(body)))
        cdef int takers
        memset(&message, 0, sizeof(Message))
        message.account = self._account
        message.flags = MESSAGE_HAS_HEADER if header else 0
        message.publisher = 1
        message.subject = data(subject)
        message.subject_len = PyBytes_GET_SIZE(subject)
        message.reply_len = PyBytes_GET_SIZE(reply)
        message.header_len = PyBytes_GET_SIZE(header)
        message.total_len = PyBytes_GET_SIZE(body)
        message.tail = data(tail)
        message.tail_len = write_tail(
            <unsigned char*>PyBytes_AS_STRING(tail), data(reply), message.reply_len,
            bool(header), message.header_len, data(body), message.total_len)
        if space is None:
            takers = self._dispatcher.publish(&message, &self._subscriber, echo)
        else:
            takers = space.publish(&message, &self._subscriber, echo)
        self._sublist.release()
        return takers

    def close(self) -> None:
        """End every subscription."""
        for address in list(self._sids.values()):
            self._remove(<Subscription*><size_t>address)
        self._sublist.release()

    cdef int _remove(self, Subscription* subscription) except -1:
        cdef Shadow shadow
        for shadow in self._shadows.pop(<size_t>subscription, ()):
            shadow.end()
        del self._sids[<bytes>subscription.sid[:subscription.sid_len]]
        self._sublist.remove(subscription)

    cdef int _take(self, Subscription* subscription, Message* message) except -1:
        cdef const unsigned char* body = message.tail + message.tail_len - 2 - message.total_len
        cdef size_t header_len = message.header_len if message.flags & MESSAGE_HAS_HEADER else 0
        self.got.append((
            <bytes>subscription.sid[:subscription.sid_len],
            <bytes>message.subject[:message.subject_len],
            <bytes>message.tail[1:1 + message.reply_len] if message.reply_len else b"",
            <bytes>body[:header_len],
            <bytes>body[header_len:message.total_len],
        ))
        return 1
