# cython: language_level=3str
"""Who takes what NATS hands to a streaming worker.

Publishes and acks are dealt with here, where they lie. Everything else is rare, becomes Python
objects, and is handed to the server. Subscriptions to NATS have fixed numbers; those from DYNAMIC
on are given to ack inboxes that have a subject of their own.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.string cimport memcmp

from shardd.streaming.bus cimport Outgoing
from shardd.streaming.pb cimport Ack, parse_ack, parse_pub_msg, partition_of_c
from shardd.streaming.subscription cimport Subscription

from shardd.errors import StoreError
from shardd.streaming import pb, pool
from shardd.streaming.subjects import PARTITIONS, is_channel
from shardd.streaming.texts import INVALID_PUBLISH

cdef enum Sid:
    SID_PUBLISH = 1
    SID_DISCOVER = 2
    SID_PINGS = 3
    SID_SUBSCRIBE = 4
    SID_UNSUBSCRIBE = 5
    SID_SUB_CLOSE = 6
    SID_CLOSE = 7
    SID_INQUIRY = 8
    SID_ADMIN = 9
    SID_POOL = 10
    SID_POOL_ALL = 11
    SID_POOL_PUBLISH = 12
    SID_FT = 13
    SID_POOL_FT = 14
    SID_ACKS = 16                  # and the part
    SID_ACKS_END = 32
    SID_DYNAMIC = 64

PUBLISH = SID_PUBLISH
DISCOVER = SID_DISCOVER
PINGS = SID_PINGS
SUBSCRIBE = SID_SUBSCRIBE
UNSUBSCRIBE = SID_UNSUBSCRIBE
SUB_CLOSE = SID_SUB_CLOSE
CLOSE = SID_CLOSE
INQUIRY = SID_INQUIRY
ADMIN = SID_ADMIN
POOL = SID_POOL
POOL_ALL = SID_POOL_ALL
POOL_PUBLISH = SID_POOL_PUBLISH
FT = SID_FT
POOL_FT = SID_POOL_FT
ACKS = SID_ACKS
DYNAMIC = SID_DYNAMIC

# Subjects in which the workers of a pool talk to each other.
cdef bytes RESERVED = pool.PREFIX

assert SID_ACKS + PARTITIONS <= SID_ACKS_END


@cython.final
cdef class StreamingReceiver(Receiver):
    """One for each streaming worker. `server` has `take(sid, subject, reply, header, payload)`,
    `channel_for(name)` and `pass_on(channel, reply, payload)`."""

    def __init__(self, Traffic traffic not None, parts, size_t prefix_len) -> None:
        self.traffic = traffic
        self.batch = Batch()
        self.channels = {}
        self.connections = {}
        self.clients = {}
        self.subscriptions = [{} for _ in range(PARTITIONS)]
        self.foreign = {}
        self._prefix_len = prefix_len
        for part in parts:
            self._parts |= 1 << part

    def set_prefix(self, size_t prefix_len) -> None:
        """How long the subject is that stands before the channel, its dot included."""
        self._prefix_len = prefix_len

    def forget(self) -> None:
        """A channel or a client has gone."""
        self._channel = None
        self._connection = None

    cdef int receive(self, uint64_t sid, const Incoming* message) except -1:
        cdef const unsigned char* at
        cdef const unsigned char* start
        cdef uint64_t number = 0
        cdef Incoming bare
        if (
            message.reply_len >= <size_t>PyBytes_GET_SIZE(RESERVED)
            and sid != SID_POOL_PUBLISH
            and memcmp(message.reply, PyBytes_AS_STRING(RESERVED), PyBytes_GET_SIZE(RESERVED)) == 0
        ):
            # A client wants its answer where only the workers of the pool are heard.
            bare = message[0]
            bare.reply_len = 0
            message = &bare
        if SID_ACKS <= sid < SID_ACKS_END:
            start = message.subject
            at = start + message.subject_len
            while at > start and at[-1] != b".":
                at -= 1
            while at < start + message.subject_len:
                if at[0] < b"0" or at[0] > b"9" or number > <uint64_t>1 << 56:
                    return 0
                number = number * 10 + (at[0] - <unsigned char>b"0")
                at += 1
            return self._ack((<dict>self.subscriptions[sid - SID_ACKS]).get(number), message)
        if sid == SID_PUBLISH:
            return self._publish(message, False)
        if sid == SID_POOL_PUBLISH:
            return self._publish(message, True)
        if sid >= SID_DYNAMIC:
            return self._ack(self.foreign.get(sid), message)
        return self._hand_over(sid, message)

    cdef int _hand_over(self, uint64_t sid, const Incoming* message) except -1:
        self.server.take(
            sid,
            PyBytes_FromStringAndSize(<const char*>message.subject, message.subject_len),
            PyBytes_FromStringAndSize(<const char*>message.reply, message.reply_len)
            if message.reply_len else b"",
            PyBytes_FromStringAndSize(<const char*>message.header, message.header_len)
            if message.header_len else b"",
            PyBytes_FromStringAndSize(<const char*>message.payload, message.payload_len)
            if message.payload_len else b"",
        )
        return 0

    # --- publishes -------------------------------------------------------------------------------

    cdef bint _is_known(self, const PubMsg* message) except -1:
        """Whether the publisher is a registered client: by its connection's id if it gives one,
        which then alone counts (sheet 4)."""
        cdef bytes key
        if message.connection_id.length == 0:
            key = PyBytes_FromStringAndSize(
                <const char*>message.client_id.data, message.client_id.length
            ) if message.client_id.length else b""
            return key in self.clients
        if (
            self._connection is not None
            and <size_t>PyBytes_GET_SIZE(self._connection) == message.connection_id.length
            and memcmp(
                PyBytes_AS_STRING(self._connection),
                message.connection_id.data,
                message.connection_id.length,
            ) == 0
        ):
            return True
        key = PyBytes_FromStringAndSize(
            <const char*>message.connection_id.data, message.connection_id.length
        )
        if key not in self.connections:
            return False
        self._connection = key
        return True

    cdef Channel _find(self, const Span* name):
        """The channel, if there is one."""
        cdef Channel channel = self._channel
        if (
            channel is None
            or <size_t>PyBytes_GET_SIZE(channel.name) != name.length
            or memcmp(PyBytes_AS_STRING(channel.name), name.data, name.length) != 0
        ):
            channel = self.channels.get(
                PyBytes_FromStringAndSize(<const char*>name.data, name.length)
            )
            if channel is not None:
                self._channel = channel
        return channel

    cdef int _publish(self, const Incoming* message, bint is_passed_on) except -1:
        cdef PubMsg request
        cdef Channel channel = None
        cdef bytes name
        cdef Span subject
        cdef Span reply
        cdef bint is_other
        subject.data = message.subject
        subject.length = 0
        if not is_passed_on and message.subject_len >= self._prefix_len:
            subject.data = message.subject + self._prefix_len
            subject.length = message.subject_len - self._prefix_len
            if self._parts != 0xffff and not (
                self._parts >> partition_of_c(subject.data, subject.length) & 1
            ):
                return 0
        self.traffic.in_messages += 1
        self.traffic.in_bytes += message.payload_len
        if parse_pub_msg(message.payload, message.payload_len, &request) < 0:
            # What was read of it until then is what the ack can name.
            request.guid.length = 0
            return self._refuse(message, &request.guid, INVALID_PUBLISH)
        if request.guid.length and request.channel.length:
            channel = self._find(&request.channel)
        if channel is None:
            name = b"" if request.channel.length == 0 else PyBytes_FromStringAndSize(
                <const char*>request.channel.data, request.channel.length
            )
            if request.guid.length == 0 or not is_channel(name):
                return self._refuse(message, &request.guid, INVALID_PUBLISH)
        if not self._is_known(&request):
            return self._refuse(message, &request.guid, INVALID_PUBLISH)
        if not is_passed_on:
            is_other = (
                subject.length != request.channel.length
                or memcmp(subject.data, request.channel.data, subject.length) != 0
            )
            if is_other and self.is_strict:
                return self._refuse(message, &request.guid, INVALID_PUBLISH)
            if channel is None and not (
                self._parts >> partition_of_c(request.channel.data, request.channel.length) & 1
            ):
                self.server.pass_on(
                    name,
                    PyBytes_FromStringAndSize(<const char*>message.reply, message.reply_len)
                    if message.reply_len else b"",
                    PyBytes_FromStringAndSize(<const char*>message.payload, message.payload_len),
                )
                return 0
        if channel is None:
            made = self.server.channel_for(name)
            if isinstance(made, str):
                return self._refuse(message, &request.guid, made)
            channel = made
        try:
            channel.log.put(
                self.traffic.now_ns,
                request.reply.data, request.reply.length,
                request.data.data, request.data.length,
            )
        except StoreError as error:
            return self._refuse(message, &request.guid, str(error))
        channel.active_ms = self.traffic.now_ms
        reply.data = message.reply
        reply.length = message.reply_len
        self.batch.note(channel, &reply, &request.guid)
        return 0

    cdef int _refuse(self, const Incoming* message, const Span* guid, str text) except -1:
        """A publisher is told at once why its message is not stored."""
        cdef Outgoing answer
        cdef bytes payload
        if message.reply_len == 0:
            return 0
        payload = pb.encode_pub_ack(
            PyBytes_FromStringAndSize(<const char*>guid.data, guid.length)
            if guid.length else b"",
            text.encode("utf-8", "replace"),
        )
        answer.subject = message.reply
        answer.subject_len = message.reply_len
        answer.reply = NULL
        answer.reply_len = 0
        answer.payload = <const unsigned char*>PyBytes_AS_STRING(payload)
        answer.payload_len = PyBytes_GET_SIZE(payload)
        answer.more = NULL
        answer.more_len = 0
        self.traffic.bus.publish(&answer)
        return 0

    # --- acks ------------------------------------------------------------------------------------

    cdef int _ack(self, object subscription, const Incoming* message) except -1:
        cdef Ack ack
        cdef Channel channel
        if subscription is None or parse_ack(message.payload, message.payload_len, &ack) < 0:
            return 0
        channel = <Channel>(<Subscription>subscription).channel
        if (
            ack.channel.length != <size_t>PyBytes_GET_SIZE(channel.name)
            or memcmp(ack.channel.data, PyBytes_AS_STRING(channel.name), ack.channel.length) != 0
        ):
            return 0
        return channel.ack(<Subscription>subscription, ack.sequence)
