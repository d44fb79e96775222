# cython: language_level=3str
"""A bus that shows a server only its own list of channels (streaming sheet 15).

Where several servers share a cluster id, each with its own channels, this stands between a bus and
a server. It subscribes to publishes on the configured channels only, and drops requests about
others: their server answers. Since each server hears of a new client by itself, a publish or a
subscribe may come before this one knows the client: it is held, with what the same client sends
behind it, until the client is registered or a second has passed. Who was waited for in vain is
remembered, so that the wait is not repeated.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint64_t

from shardd.streaming.bus cimport Bus, Incoming, Outgoing, Receiver
from shardd.streaming.pb cimport PubMsg, parse_pub_msg

from shardd.streaming import receiver as sids
from shardd.streaming.messages import SubscriptionRequest, UnsubscribeRequest

WAIT_S = 1.0
STRANGERS_MAX = 4096

cdef uint64_t PUBLISH = sids.PUBLISH
cdef uint64_t SUBSCRIBE = sids.SUBSCRIBE
cdef uint64_t UNSUBSCRIBE = sids.UNSUBSCRIBE
cdef uint64_t SUB_CLOSE = sids.SUB_CLOSE
# Numbers of the subscriptions to entries, far above those that a server gives.
cdef uint64_t FIRST_ENTRY = <uint64_t>1 << 62
# What the servers that share channels say to each other.
QUESTIONS = 1 << 61
ANSWERS = QUESTIONS + 1
cdef uint64_t FIRST_CONTROL = QUESTIONS


cdef inline bytes _copied(const unsigned char* start, size_t length):
    return PyBytes_FromStringAndSize(<const char*>start, length) if length else b""


def covers(pattern: object, tokens: object) -> bool:
    """Whether the pattern matches the channel, or all that the other pattern matches."""
    for place, sign in enumerate(pattern):
        if sign == ">":
            return place < len(tokens)
        if place >= len(tokens) or tokens[place] == ">":
            return False
        if sign != "*" and sign != tokens[place]:
            return False
    return len(pattern) == len(tokens)


@cython.final
cdef class PartitionReceiver(Receiver):
    """Takes what the inner bus hands over."""

    cdef int receive(self, uint64_t sid, const Incoming* message) except -1:
        return self._bus._receive(sid, message)


@cython.final
cdef class PartitionBus(Bus):
    """Touched by one event loop only. `wake` is called when a pass is needed, though nothing came.

    Args:
        inner: the bus itself, with the hooks `begin_pass`, `end_pass` and `on_room`.
        entries: the channels and patterns of this server.
        later: `later(seconds, callback)` of the event loop.
    """

    def __init__(self, Bus inner not None, entries: object, object later):
        self.inner = inner
        self._entries = tuple(entry.encode() for entry in entries)
        self._patterns = tuple(tuple(entry.split(".")) for entry in entries)
        self._later = later
        self._clients = {}
        self._connections = {}
        self._held = {}
        self._strangers = {}
        self._own = PartitionReceiver()
        self._own._bus = self
        inner.receiver = self._own
        hooks = <object>inner
        hooks.begin_pass = self._on_begin
        hooks.end_pass = self._on_end
        hooks.on_room = self._on_room

    def know(self, dict clients not None, dict connections not None) -> None:
        """Where it stands who is registered: by client id, and by connection id."""
        self._clients = clients
        self._connections = connections

    @property
    def held(self) -> int:
        """Messages that wait for their sender to be registered."""
        return sum(len(messages) for messages in self._held.values())

    # --- passes --------------------------------------------------------------------------------

    def _on_begin(self):
        self.is_congested = self.inner.is_congested
        if self.begin_pass is not None:
            self.begin_pass()

    def _on_end(self):
        for key in list(self._held):
            if self._is_known(key) or key in self._strangers:
                self._release(key)
        if self.end_pass is not None:
            self.end_pass()
        self.is_congested = self.inner.is_congested

    def _on_room(self):
        self.is_congested = self.inner.is_congested
        if self.on_room is not None:
            self.on_room()

    # --- the bus -------------------------------------------------------------------------------

    def subscribe(self, sid: int, bytes subject not None) -> None:
        """`Bus.subscribe`; all channels become those of the list."""
        if <uint64_t>sid != PUBLISH:
            self.inner.subscribe(sid, subject)
            return
        for number, entry in enumerate(self._entries):
            self.inner.subscribe(FIRST_ENTRY + <uint64_t>number, subject[:-1] + entry)

    def unsubscribe(self, sid: int) -> None:
        """`Bus.unsubscribe`."""
        if <uint64_t>sid != PUBLISH:
            self.inner.unsubscribe(sid)
            return
        for number in range(len(self._entries)):
            self.inner.unsubscribe(FIRST_ENTRY + <uint64_t>number)

    def flush(self, callback: object) -> None:
        """`Bus.flush`."""
        self.inner.flush(callback)

    cdef int publish(self, const Outgoing* message) except -1:
        cdef int is_sent = self.inner.publish(message)
        self.is_congested = self.inner.is_congested
        return is_sent

    # --- messages ------------------------------------------------------------------------------

    cdef int _receive(self, uint64_t sid, const Incoming* message) except -1:
        if sid >= FIRST_ENTRY:
            return self._publish(message)
        if sid >= FIRST_CONTROL:
            self.on_control(
                sid,
                _copied(message.payload, message.payload_len),
                _copied(message.reply, message.reply_len),
            )
            return 0
        if sid == SUBSCRIBE or sid == UNSUBSCRIBE or sid == SUB_CLOSE:
            return self._request(sid, message)
        return self.receiver.receive(sid, message)

    cdef int _publish(self, const Incoming* message) except -1:
        cdef PubMsg request
        if parse_pub_msg(message.payload, message.payload_len, &request) < 0:
            return self.receiver.receive(PUBLISH, message)
        if request.connection_id.length:
            key = (True, _copied(request.connection_id.data, request.connection_id.length))
        else:
            key = (False, _copied(request.client_id.data, request.client_id.length))
        return self._pass(key, PUBLISH, message)

    cdef int _request(self, uint64_t sid, const Incoming* message) except -1:
        """A request about a channel; what cannot be read is refused by every server."""
        cdef bytes payload = _copied(message.payload, message.payload_len)
        kind = SubscriptionRequest if sid == SUBSCRIBE else UnsubscribeRequest
        try:
            request = kind.decode(payload)
        except ValueError:
            return self.receiver.receive(sid, message)
        tokens = request.subject.decode("utf-8", "surrogateescape").split(".")
        for pattern in self._patterns:
            if covers(pattern, tokens):
                return self._pass((False, request.client_id.encode()), sid, message)
        return 0

    cdef int _pass(self, object key, uint64_t sid, const Incoming* message) except -1:
        """Hand it on, or hold it until its sender is known."""
        if key not in self._held:
            if self._is_known(key) or key in self._strangers:
                return self.receiver.receive(sid, message)
            self._held[key] = []
            self._later(WAIT_S, lambda: self._give_up(key))
        self._held[key].append((
            sid,
            _copied(message.subject, message.subject_len),
            _copied(message.reply, message.reply_len),
            _copied(message.header, message.header_len),
            _copied(message.payload, message.payload_len),
        ))

    cdef bint _is_known(self, object key) except -1:
        if key[0]:
            return key[1] in self._connections
        return key[1] in self._clients

    def _give_up(self, key):
        """It was not registered in time: in the next pass the server refuses what was held."""
        if key not in self._held or self._is_known(key):
            return
        if len(self._strangers) >= STRANGERS_MAX:
            del self._strangers[next(iter(self._strangers))]
        self._strangers[key] = None
        if self.wake is not None:
            self.wake()

    cdef int _release(self, object key) except -1:
        """Hand on what was held, in order."""
        cdef Incoming incoming
        cdef bytes subject, reply, header, payload
        for sid, subject, reply, header, payload in self._held.pop(key):
            incoming.subject = <const unsigned char*>PyBytes_AS_STRING(subject)
            incoming.subject_len = PyBytes_GET_SIZE(subject)
            incoming.reply = <const unsigned char*>PyBytes_AS_STRING(reply) if reply else NULL
            incoming.reply_len = PyBytes_GET_SIZE(reply)
            incoming.header = <const unsigned char*>PyBytes_AS_STRING(header) if header else NULL
            incoming.header_len = PyBytes_GET_SIZE(header)
            incoming.payload = <const unsigned char*>PyBytes_AS_STRING(payload)
            incoming.payload_len = PyBytes_GET_SIZE(payload)
            self.receiver.receive(<uint64_t>sid, &incoming)
