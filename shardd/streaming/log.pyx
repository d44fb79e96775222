# cython: language_level=3str
"""The log of one channel: what the streaming core asks of any store. Nothing here does anything.

A log holds encoded MsgProtos (sequence, subject, reply, data, timestamp, in the order of their
field numbers), so that a delivery is a copy of what is stored. Appending gives a message its
sequence and queues it; it becomes visible, and its publisher is answered, when the store has
committed. A failed commit takes every appended message of the channel back: their sequences are
given again.

Where a store is encrypted the log has a seal, and payloads pass through it in `put` and `get`: what
a store keeps, writes and reads is encrypted already, whatever it keeps it in.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE


cdef class ChannelLog:
    """One channel. Touched by the event loop only; a store's threads see what it hands them."""

    cdef uint64_t append(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0:
        """Queue one message for the next commit; returns its sequence. Its timestamp is `now_ns`,
        or the one before if the clock went back (sheet 2)."""
        raise NotImplementedError

    cdef Found find(self, uint64_t sequence, Stored* stored) except *:
        """The first committed message at or behind a sequence, as it is kept."""
        raise NotImplementedError

    cdef uint64_t put(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0:
        """Queue one message, its payload as it was published; otherwise as `append`."""
        cdef bytes sealed
        if self.seal is None or data_len == 0:
            return self.append(now_ns, reply, reply_len, data, data_len)
        sealed = self.seal.close(data, data_len)
        return self.append(
            now_ns, reply, reply_len,
            <const unsigned char*>PyBytes_AS_STRING(sealed), PyBytes_GET_SIZE(sealed),
        )

    def append_message(self, int64_t now_ns, bytes reply not None, bytes data not None) -> int:
        """Queue one message for the next commit; returns its sequence."""
        return self.put(
            now_ns,
            <const unsigned char*>PyBytes_AS_STRING(reply), PyBytes_GET_SIZE(reply),
            <const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data),
        )

    cdef Found get(self, uint64_t sequence, Stored* stored) except *:
        """The first committed message at or behind a sequence that can be delivered, its payload
        as it was published."""
        cdef Found found = self.find(sequence, stored)
        if self.seal is not None:
            while found == FOUND_MESSAGE and not self.seal.open(
                stored.sequence, &stored.bytes, &stored.length
            ):
                found = self.find(stored.sequence + 1, stored)
        return found

    def sequence_at(self, timestamp_ns: int) -> int:
        """The first committed message that is not older; `last + 1` when there is none."""
        raise NotImplementedError

    def set_limits(self, messages: int, bytes_: int, age_ns: int) -> None:
        """How much is kept; 0: no limit. The newest message is always kept (sheet 11)."""
        raise NotImplementedError

    def expire(self, now_ns: int) -> int:
        """Drop what is older than the limit; returns when to ask again (unix ns), 0: not needed
        before the next append."""
        raise NotImplementedError

    def drop_before(self, sequence: int) -> int:
        """Drop every committed message before a sequence, whatever the limits say; returns how many
        there were. `last + 1` empties the log, which goes on counting. Lasts from the next commit
        on."""
        raise NotImplementedError
