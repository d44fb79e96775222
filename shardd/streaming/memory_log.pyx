# cython: language_level=3str
"""A log in memory: a ring of pointers to encoded messages, found by sequence.

It keeps nothing over a restart. What is appended becomes visible with `commit`, as in every store,
so that whoever works with it cannot tell the difference.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdlib cimport calloc, free, malloc

from shardd.streaming.log cimport FOUND_MESSAGE, FOUND_NOTHING, Found, Stored
from shardd.streaming.pb cimport MsgProto, message_size, write_message

cdef size_t SIZE_MIN = 16


cdef class MemoryLog(ChannelLog):
    """One channel. `changed` is called with the log when its first message since the last commit is
    appended."""

    def __init__(self, bytes name not None, changed) -> None:
        self.name = name
        self._changed = changed
        self.first = 1

    def __dealloc__(self) -> None:
        cdef uint64_t sequence
        if self._ring != NULL:
            for sequence in range(self.first, self.appended + 1):
                free(self._ring[sequence & (self._size - 1)].bytes)
            free(self._ring)

    cdef int _grow(self) except -1:
        cdef size_t size = self._size * 2 if self._size else SIZE_MIN
        cdef Kept* ring = <Kept*>calloc(size, sizeof(Kept))
        cdef uint64_t sequence
        if ring == NULL:
            raise MemoryError
        for sequence in range(self.first, self.appended + 1):
            ring[sequence & (size - 1)] = self._ring[sequence & (self._size - 1)]
        free(self._ring)
        self._ring = ring
        self._size = size
        return 0

    cdef uint64_t append(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0:
        cdef MsgProto message
        cdef Kept* kept
        cdef unsigned char* encoded
        cdef size_t length
        if now_ns < self.last_timestamp_ns:
            now_ns = self.last_timestamp_ns
        message.sequence = self.appended + 1
        message.channel.data = <const unsigned char*>PyBytes_AS_STRING(self.name)
        message.channel.length = PyBytes_GET_SIZE(self.name)
        message.reply.data = reply
        message.reply.length = reply_len
        message.data.data = data
        message.data.length = data_len
        message.timestamp_ns = now_ns
        length = message_size(&message)
        if self.appended + 1 - self.first >= self._size:
            self._grow()
        encoded = <unsigned char*>malloc(length)
        if encoded == NULL:
            raise MemoryError
        write_message(encoded, &message)
        kept = &self._ring[message.sequence & (self._size - 1)]
        kept.timestamp_ns = now_ns
        kept.length = length
        kept.bytes = encoded
        self.appended = message.sequence
        self.last_timestamp_ns = now_ns
        if not self._is_changed:
            self._is_changed = True
            self._changed(self)
        return message.sequence

    cdef Found find(self, uint64_t sequence, Stored* stored) except *:
        cdef const Kept* kept
        if sequence < self.first:
            sequence = self.first
        if sequence > self.last:
            return FOUND_NOTHING
        kept = &self._ring[sequence & (self._size - 1)]
        stored.sequence = sequence
        stored.timestamp_ns = kept.timestamp_ns
        stored.bytes = kept.bytes
        stored.length = kept.length
        return FOUND_MESSAGE

    def sequence_at(self, timestamp_ns: int) -> int:
        cdef uint64_t low = self.first
        cdef uint64_t high = self.last + 1
        cdef uint64_t middle
        while low < high:
            middle = (low + high) // 2
            if self._ring[middle & (self._size - 1)].timestamp_ns < timestamp_ns:
                low = middle + 1
            else:
                high = middle
        return low

    cdef void _drop_first(self) noexcept:
        cdef Kept* kept = &self._ring[self.first & (self._size - 1)]
        self.bytes -= kept.length
        self.messages -= 1
        free(kept.bytes)
        kept.bytes = NULL
        self.first += 1

    def begin_commit(self) -> int:
        """What is appended from now on belongs to the next commit; returns the newest one that
        belongs to this."""
        self._is_changed = False
        return self.appended

    def end_commit(self, uint64_t sequence) -> None:
        """Everything up to a sequence becomes visible, and the limits hold again."""
        cdef uint64_t each
        for each in range(self.last + 1, sequence + 1):
            self.bytes += self._ring[each & (self._size - 1)].length
            self.messages += 1
        self.last = max(self.last, sequence)
        self._keep_limits()

    def rebind(self, changed) -> None:
        """Somebody else is to be told of the first message of each commit."""
        self._changed = changed
        self._is_changed = False

    def take_back(self) -> None:
        """The commit failed: everything that is not visible is gone."""
        cdef uint64_t sequence
        for sequence in range(self.last + 1, self.appended + 1):
            free(self._ring[sequence & (self._size - 1)].bytes)
        self.appended = self.last
        self._is_changed = False

    def _keep_limits(self) -> None:
        while self.messages > 1 and (
            (self._messages_max and self.messages > self._messages_max)
            or (self._bytes_max and self.bytes > self._bytes_max)
        ):
            self._drop_first()

    def set_limits(self, uint64_t messages, uint64_t bytes_, int64_t age_ns) -> None:
        self._messages_max = messages
        self._bytes_max = bytes_
        self._age_ns_max = age_ns
        self._keep_limits()

    def expire(self, int64_t now_ns) -> int:
        if self._age_ns_max == 0:
            return 0
        while self.messages and (
            self._ring[self.first & (self._size - 1)].timestamp_ns + self._age_ns_max <= now_ns
        ):
            self._drop_first()
        if self.messages == 0:
            return 0
        return self._ring[self.first & (self._size - 1)].timestamp_ns + self._age_ns_max

    def drop_before(self, uint64_t sequence) -> int:
        cdef uint64_t before = self.messages
        while self.messages and self.first < sequence:
            self._drop_first()
        return before - self.messages
