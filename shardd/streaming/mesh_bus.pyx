# cython: language_level=3str
"""A streaming worker's way to NATS inside a host: a client without a socket, and its passes.

It publishes and subscribes through the same dispatch as a client's connection does, in the account
whose clients the pool serves, and makes no Python object for a message: what a ring holds is handed
to the receiver where it lies. Between the workers of the pool messages travel the same way, in an
account that has a number but no name, so that no client can be in it and no route carries it.

A worker's own messages do not come back to it.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from cpython.time cimport monotonic
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcmp, memcpy, memset

from shardd import limits
from shardd.errors import InternalError

from shardd.router.dispatch cimport Dispatcher
from shardd.router.doorbell cimport Doorbell
from shardd.router.frame cimport Message, append_number, tail_room
from shardd.router.mesh cimport Mesh
from shardd.router.sublist cimport Subscription
from shardd.streaming.bus cimport Bus, Incoming, Outgoing

PRIVATE_ACCOUNT = limits.PRIVATE_ACCOUNT

cdef enum:
    # Passes before timers, control messages and commits that ended have their turn, and the same in
    # time: a commit that has ended is answered, and the next one begun, in the event loop.
    PASSES_MAX = 8
    RUN_MS_MAX = 5
    SCRATCH_BYTES = 65_536         # at first
    # A scratch buffer that grew for one large message is given back above this.
    SCRATCH_BYTES_MAX = 1_048_576

cdef uint32_t PRIVATE = limits.PRIVATE_ACCOUNT

cdef int _deliver(void* owner, Subscription* subscription, Message* message) except -1:
    return (<MeshBus>owner)._take(subscription, message)


cdef int _expire(void* owner, Subscription* subscription) except -1:
    raise InternalError("a subscription of the streaming pool has no maximum")


# Not cleared by the collector: `__dealloc__` needs the index.
@cython.final
@cython.no_gc_clear
cdef class MeshBus(Bus):
    """A member of the mesh. Touched by the event loop of its process only.

    `begin_pass` is called before messages are handed over, `end_pass` behind them and before what
    was published leaves; `on_room` when the ring has room again after `is_congested`. Each may be
    None.

    Args:
        dispatcher, mesh: of this process.
        doorbell: its own.
        account: the number of the account whose clients are served.
        private_prefix: subjects that begin with it are for the workers of the pool alone.
    """

    def __init__(
        self,
        Dispatcher dispatcher not None,
        Mesh mesh not None,
        Doorbell doorbell not None,
        uint32_t account,
        bytes private_prefix not None,
    ):
        self.dispatcher = dispatcher
        self.mesh = mesh
        self.account = account
        self._sublist = dispatcher.sublist
        self._doorbell = doorbell
        self._private = private_prefix
        self._sids = {}
        self._flushes = []
        self._subscriber.owner = <void*>self
        self._subscriber.deliver = _deliver
        self._subscriber.expire = _expire
        self._make_scratch(SCRATCH_BYTES)

    def __dealloc__(self):
        free(self._scratch)
        # The index must not point at what is gone.
        if self._sids is not None:
            for address in self._sids.values():
                self._sublist.remove(<Subscription*><size_t>address)

    # --- subscriptions -------------------------------------------------------------------------

    @property
    def subscriptions(self) -> int:
        """Subscriptions it holds."""
        return len(self._sids)

    def subscribe(self, sid: int, bytes subject not None) -> None:
        """`Bus.subscribe`."""
        cdef uint64_t number = sid
        cdef Subscription* subscription
        cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(subject)
        cdef size_t length = PyBytes_GET_SIZE(subject)
        if number in self._sids:
            raise InternalError(f"subscription {number} exists already")
        subscription = self._sublist.insert(
            self._account_of(data, length), data, length, NULL, 0,
            <const unsigned char*>&number, sizeof(number), &self._subscriber)
        self._sids[number] = <size_t>subscription

    def unsubscribe(self, sid: int) -> None:
        """`Bus.unsubscribe`. A number that is not in use is ignored."""
        address = self._sids.pop(sid, None)
        if address is not None:
            self._sublist.remove(<Subscription*><size_t>address)

    def flush(self, callback: object) -> None:
        """`Bus.flush`: as a PONG does, it waits until every process of the host has applied what
        is wanted here."""
        self._flushes.append((self.mesh.announce(), callback))
        # Nobody may be left to wait for, and nothing else may happen for a while.
        self._doorbell.ring_always()

    cdef uint32_t _account_of(self, const unsigned char* subject, size_t length) noexcept:
        cdef size_t prefix_len = PyBytes_GET_SIZE(self._private)
        if length > prefix_len and memcmp(
            subject, PyBytes_AS_STRING(self._private), prefix_len
        ) == 0:
            return PRIVATE
        return self.account

    # --- messages ------------------------------------------------------------------------------

    cdef int _take(self, Subscription* subscription, Message* message) except -1:
        """Hand one message to the receiver, where it lies."""
        cdef Incoming incoming
        cdef uint64_t sid
        cdef const unsigned char* body
        memcpy(&sid, subscription.sid, sizeof(sid))
        # Where the header block starts: it and the payload end two bytes before the tail does.
        body = message.tail + message.tail_len - 2 - message.total_len
        incoming.subject = message.subject
        incoming.subject_len = message.subject_len
        incoming.reply = message.tail + 1 if message.reply_len else NULL
        incoming.reply_len = message.reply_len
        incoming.header = body if message.header_len else NULL
        incoming.header_len = message.header_len
        incoming.payload = body + message.header_len
        incoming.payload_len = message.total_len - message.header_len
        self.messages_in += 1
        self.receiver.receive(sid, &incoming)
        return 1

    cdef int publish(self, const Outgoing* message) except -1:
        """`Bus.publish`."""
        cdef Message outgoing
        cdef unsigned char* at
        cdef size_t total = message.payload_len + message.more_len
        cdef int takers
        cdef size_t room = tail_room(message.reply_len, total)
        if room > self._scratch_bytes:
            self._make_scratch(room)
        at = self._scratch
        at[0] = 32
        at += 1
        if message.reply_len:
            memcpy(at, message.reply, message.reply_len)
            at[message.reply_len] = 32
            at += message.reply_len + 1
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
        memset(&outgoing, 0, sizeof(Message))
        outgoing.account = self._account_of(message.subject, message.subject_len)
        outgoing.subject = message.subject
        outgoing.subject_len = message.subject_len
        outgoing.tail = self._scratch
        outgoing.tail_len = at + 2 - self._scratch
        outgoing.reply_len = message.reply_len
        outgoing.total_len = total
        takers = self.dispatcher.publish(&outgoing, &self._subscriber, False)
        self.messages_out += 1
        self.is_congested = self.dispatcher.is_full
        return 1 if takers else 0

    cdef int _make_scratch(self, size_t length) except -1:
        """A scratch buffer of at least so many bytes; nothing of it is in use."""
        cdef unsigned char* made = <unsigned char*>malloc(length)
        if made == NULL:
            raise MemoryError
        free(self._scratch)
        self._scratch = made
        self._scratch_bytes = length

    # --- passes --------------------------------------------------------------------------------

    def run(self, uint64_t now_ms) -> None:
        """The doorbell rang: work until nothing is at hand, or until others must have a turn."""
        cdef int passes = 0
        cdef double until_s = monotonic() + RUN_MS_MAX / 1000.0
        self._doorbell.clear()
        self._doorbell.wake_up()
        self.mesh.now_ms = now_ms
        while passes < PASSES_MAX and (passes == 0 or monotonic() < until_s):
            passes += 1
            if self.begin_pass is not None:
                self.begin_pass()
            if self.mesh.drain() == 0:
                self._finish()
                self._doorbell.fall_asleep()
                if not self.mesh.has_work() and not self._has_answers():
                    return
                self._doorbell.wake_up()
            else:
                self._finish()
        self._doorbell.fall_asleep()
        if self.mesh.has_work() or self._has_answers():
            self._doorbell.ring_always()

    def finish(self, uint64_t now_ms) -> None:
        """End what a timer, a commit or a control message began: what is to go out, goes."""
        self.mesh.now_ms = now_ms
        self._finish()
        if self.mesh.has_work() or self._has_answers():
            self._doorbell.ring_always()

    cdef int _finish(self) except -1:
        if self._is_finishing:
            return 0
        self._is_finishing = True
        try:
            if self.dispatcher.is_full:
                self.dispatcher.drain_backlog()
            if self.is_congested and not self.dispatcher.is_full:
                self.is_congested = False
                if self.on_room is not None:
                    self.on_room()
            if self._flushes:
                self._call_flushes()
            if self.end_pass is not None:
                self.end_pass()
            self.dispatcher.commit()
            self._sublist.release()
            if self._scratch_bytes > SCRATCH_BYTES_MAX:
                self._make_scratch(SCRATCH_BYTES)
        finally:
            self._is_finishing = False

    cdef int _call_flushes(self) except -1:
        """Answer the flushes whose interest everybody has applied, in order."""
        while self._flushes and self.mesh.is_applied(self._flushes[0][0]):
            self._flushes.pop(0)[1]()

    cdef bint _has_answers(self) except -1:
        """Whether a flush may be answered: a peer that applied interest while this worker was
        awake did not ring."""
        return bool(self._flushes) and self.mesh.is_applied(self._flushes[0][0])

    def close(self) -> None:
        """End every subscription. Nothing is received any more."""
        for address in self._sids.values():
            self._sublist.remove(<Subscription*><size_t>address)
        self._sids.clear()
        self._flushes.clear()
