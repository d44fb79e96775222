# cython: language_level=3str
"""A bus that goes nowhere, for tests and the micro-benchmark.

It records what the server publishes and subscribes to, and hands it what a test makes up, byte for
byte as a real bus would. The loops at the end do in C what a benchmark wants to time.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memset

from shardd.streaming.bus cimport Incoming, Outgoing, Receiver
from shardd.streaming.log cimport ChannelLog, FOUND_LATER, FOUND_MESSAGE, Found, Stored
from shardd.streaming.memory_log cimport MemoryLog


cdef Incoming incoming_of(bytes subject, bytes reply, bytes header, bytes payload) noexcept:
    cdef Incoming message
    memset(&message, 0, sizeof(message))
    message.subject = <const unsigned char*>PyBytes_AS_STRING(subject)
    message.subject_len = PyBytes_GET_SIZE(subject)
    if reply:
        message.reply = <const unsigned char*>PyBytes_AS_STRING(reply)
        message.reply_len = PyBytes_GET_SIZE(reply)
    if header:
        message.header = <const unsigned char*>PyBytes_AS_STRING(header)
        message.header_len = PyBytes_GET_SIZE(header)
    message.payload = <const unsigned char*>PyBytes_AS_STRING(payload)
    message.payload_len = PyBytes_GET_SIZE(payload)
    return message


@cython.final
cdef class ProbeBus(Bus):
    """Records."""

    def __init__(self) -> None:
        self.sent = []
        self.subscribed = {}
        self.flushes = []

    cdef int publish(self, const Outgoing* message) except -1:
        self.count += 1
        if self.congested_after:
            self.congested_after -= 1
            if self.congested_after == 0:
                self.is_congested = True
        if self.is_counting:
            return 1
        subject = message.subject[:message.subject_len]
        self.sent.append((
            subject,
            message.reply[:message.reply_len] if message.reply_len else b"",
            (message.payload[:message.payload_len] if message.payload_len else b"")
            + (message.more[:message.more_len] if message.more_len else b""),
        ))
        return 1 if self.is_heard is None else bool(self.is_heard(subject))

    def subscribe(self, sid: int, bytes subject not None) -> None:
        """Under a number that is free."""
        assert sid not in self.subscribed, sid
        self.subscribed[sid] = subject

    def unsubscribe(self, sid: int) -> None:
        """A number that is taken."""
        del self.subscribed[sid]

    def flush(self, callback: object) -> None:
        """Waits for `flush_now`."""
        self.flushes.append(callback)

    def flush_now(self) -> None:
        """Everything is visible."""
        callbacks, self.flushes = self.flushes, []
        for callback in callbacks:
            callback()

    def make_room(self) -> None:
        """No longer congested."""
        self.is_congested = False

    def hand(
        self,
        int sid,
        bytes subject not None,
        bytes payload not None,
        bytes reply=b"",
        bytes header=b"",
    ) -> None:
        """One message for the receiver."""
        cdef Incoming message = incoming_of(subject, reply, header, payload)
        self.receiver.receive(sid, &message)

    def hand_many(
        self,
        int sid,
        bytes subject not None,
        bytes payload not None,
        bytes reply not None,
        int times,
    ) -> None:
        """The same message so many times."""
        cdef Incoming message = incoming_of(subject, reply, b"", payload)
        cdef Receiver receiver = self.receiver
        for _ in range(times):
            receiver.receive(sid, &message)

    def hand_each(self, int sid, bytes subject not None, list payloads not None) -> None:
        """These payloads, one after the other."""
        cdef Incoming message
        cdef Receiver receiver = self.receiver
        cdef bytes payload
        for payload in payloads:
            message = incoming_of(subject, b"", b"", payload)
            receiver.receive(sid, &message)


@cython.final
cdef class SlowLog(MemoryLog):
    """A log that has to fetch what is beyond `loaded`, as a file's lazily mapped segments."""

    cdef Found find(self, uint64_t sequence, Stored* stored) except *:
        if max(sequence, self.first) > self.loaded and sequence <= self.last:
            self.asked += 1
            return FOUND_LATER
        return MemoryLog.find(self, sequence, stored)

    def load(self, uint64_t sequence) -> None:
        """Fetched up to there."""
        self.loaded = sequence
        self.on_loaded()


def found_in(ChannelLog log not None, sequence: int) -> tuple[int, int, bytes] | None:
    """What `ChannelLog.get` finds: sequence, timestamp and encoded message."""
    cdef Stored stored
    if log.get(sequence, &stored) != FOUND_MESSAGE:
        return None
    return stored.sequence, stored.timestamp_ns, stored.bytes[:stored.length]


def append_in(ChannelLog log not None, now_ns: int, bytes reply not None, bytes data not None):
    """`ChannelLog.put`."""
    return log.put(
        now_ns,
        <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply),
        <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
    )
