# cython: language_level=3str
"""What waits for one commit: acks for publishers, and requests that changed something.

An ack is encoded when its message is appended and sent when it is stored; should the commit fail,
the error is sent behind the same bytes, as the second field of the PubAck. Acks leave in the order
in which their messages came.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy

from shardd.streaming.bus cimport Outgoing
from shardd.streaming.pb cimport field_size, write_field

cdef size_t BYTES_MIN = 4096


# One ack; reply and encoded PubAck follow, and bytes up to a multiple of 8.
cdef struct Record:
    void* channel                  # borrowed: `channels` keeps it; NULL: refused already
    uint32_t reply_len
    uint32_t ack_len


cdef inline size_t record_size(size_t reply_len, size_t ack_len) noexcept nogil:
    return (sizeof(Record) + reply_len + ack_len + 7) & ~<size_t>7


@cython.final
cdef class Batch:
    """One commit's worth."""

    def __cinit__(self) -> None:
        self.channels = []
        self.waiters = []

    def __dealloc__(self) -> None:
        free(self._data)

    cdef int note(self, Channel channel, const Span* reply, const Span* guid) except -1:
        """A message was appended to the channel; its publisher may have asked for an ack."""
        cdef size_t needed, size
        cdef unsigned char* data
        cdef Record* record
        if channel.batch is not self:
            channel.batch = self
            self.channels.append(channel)
        if reply.length == 0:
            return 0
        size = field_size(guid.length)
        needed = self._used + record_size(reply.length, size)
        if needed > self._size:
            needed = max(needed, self._size * 2, BYTES_MIN)
            data = <unsigned char*>realloc(self._data, needed)
            if data == NULL:
                raise MemoryError
            self._data = data
            self._size = needed
        record = <Record*>(self._data + self._used)
        record.channel = <void*>channel
        record.reply_len = <uint32_t>reply.length
        record.ack_len = <uint32_t>size
        data = <unsigned char*>record + sizeof(Record)
        memcpy(data, reply.data, reply.length)
        write_field(data + reply.length, 1, guid.data, guid.length)
        self._used += record_size(reply.length, size)
        self.count += 1
        return 0

    def answer(self, Bus bus not None, dict failed not None) -> None:
        """Every publisher is told; those of a channel among `failed` get its text."""
        self._answer(bus, failed, None)

    def refuse(self, Bus bus not None, Channel channel not None, str text not None) -> None:
        """The channel's messages have been taken back: their publishers are told at once."""
        self._answer(bus, {channel: text}, channel)

    def _answer(self, Bus bus, dict failed, Channel only) -> None:
        cdef Outgoing message
        cdef Record* record
        cdef size_t position = 0
        cdef bytes error = None
        message.reply = NULL
        message.reply_len = 0
        while position < self._used:
            record = <Record*>(self._data + position)
            position += record_size(record.reply_len, record.ack_len)
            if record.channel == NULL or (
                only is not None and record.channel != <void*>only
            ):
                continue
            message.subject = <unsigned char*>record + sizeof(Record)
            message.subject_len = record.reply_len
            message.payload = message.subject + record.reply_len
            message.payload_len = record.ack_len
            message.more = NULL
            message.more_len = 0
            if failed:
                text = failed.get(<object>record.channel)
                if text is not None:
                    error = error_field(text)
                    message.more = <const unsigned char*>PyBytes_AS_STRING(error)
                    message.more_len = PyBytes_GET_SIZE(error)
            bus.publish(&message)
            if only is not None:
                record.channel = NULL


cdef bytes error_field(str text):
    """The second field of a PubAck."""
    cdef bytes encoded = text.encode("utf-8", "replace")
    cdef size_t length = PyBytes_GET_SIZE(encoded)
    cdef bytes field = bytes(field_size(length))
    write_field(
        <unsigned char*>PyBytes_AS_STRING(field), 2,
        <const unsigned char*>PyBytes_AS_STRING(encoded), length,
    )
    return field


def append_to(
    Batch batch not None, Channel channel not None, bytes reply not None, bytes data not None
) -> int:
    """Appends a message that no client published; nobody is sent an ack. Returns its sequence."""
    cdef Span nobody
    cdef uint64_t sequence = channel.log.put(
        channel.traffic.now_ns,
        <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply),
        <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
    )
    nobody.data = NULL
    nobody.length = 0
    batch.note(channel, &nobody, &nobody)
    return sequence
