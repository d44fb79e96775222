# cython: language_level=3str
"""The log of one channel in segment files: appending, committing, finding, and what is kept.

What is appended goes into a batch. A commit takes the batch away, a thread writes it behind the
segment's last record and has it on disk, and then it is the tail: what subscribers read next is
still in memory. Whoever is further behind reads the file, a window at a time. A log that is idle
holds no descriptor, no tail and no window, and of full segments not even the offsets.

A batch knows its place in the file before it is written, because batches of one log are written
one after the other. When one fails, those behind it fail too, and the file is cut to where it was.

Keeping to the limits costs nothing per message: `first` moves on, and a segment goes, as a whole,
when it is behind it.
"""

import logging
import os

cimport cython
from libc.errno cimport EFBIG
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.errors import DamageError, StoreError

from shardd.streaming.batch cimport Batch, LogHome, Window
from shardd.streaming.log cimport FOUND_MESSAGE, FOUND_NOTHING, ChannelLog, Found, Stored
from shardd.streaming.msgproto cimport MsgProto, message_size, write_message
from shardd.streaming.records cimport RECORD_BYTES, Record
from shardd.streaming.segment cimport SEGMENT_BYTES_MAX, Segment, segment_of
from shardd.streaming.write_job cimport WriteJob

from shardd.streaming.write_job import reason_of

cdef enum:
    WINDOW_BYTES = 262_144         # for who reads on
    WINDOW_SMALL_BYTES = 16_384    # for who looks at single messages
    # Segments of a channel with small limits are not smaller than this: files cost, too.
    SEGMENT_BYTES_MIN = 1 << 20
    SEGMENT_MESSAGES_MIN = 4096

cdef int64_t SECOND_NS = 1_000_000_000

logger = logging.getLogger("shardd.streaming.file_store")


@cython.final
cdef class FileLog(ChannelLog):
    """One channel. Touched by the event loop only."""

    def __init__(self, LogHome home not None, bytes name not None, str directory not None):
        self.name = name
        self.directory = directory
        self.first = 1
        self._home = home
        self._segments = []
        self._damaged = set()
        self._segment_bytes = home.segment_bytes
        self._segment_messages = home.segment_messages
        self._segment_age_ns = home.segment_age_ns

    # --- coming into being ----------------------------------------------------------------------

    def recover(self, segments: object) -> None:
        """Take the segments that were found, the oldest first, at least one."""
        cdef Segment segment
        self._segments = list(segments)
        self._has_directory = True
        for segment in self._segments:
            self.bytes += segment.payload_bytes
            if segment.fd >= 0:
                self._home.opened(segment)
                self._home.warmed(self)
        segment = self._segments[0]
        self.first = segment.first
        self._head_bytes = segment.payload_bytes
        segment = self._segments[-1]
        self.last = self.appended = segment.first + segment.count - 1
        self.messages = self.last + 1 - self.first
        self.last_timestamp_ns = self._committed_ns = segment.last_ns

    def keep_from(self, uint64_t first, uint64_t last, uint64_t bytes_) -> None:
        """Forget messages again that were dropped before the log was closed, though their segment
        is still there: as it was when it was closed."""
        cdef uint64_t gone
        cdef Segment segment = self._segments[0]
        first = min(first, self.last + 1)
        if first <= self.first:
            return
        if last == self.last and first <= segment.first + segment.count and (
            bytes_ <= self.bytes and self.bytes - bytes_ <= self._head_bytes
        ):
            gone = self.bytes - bytes_
            self.first, self.bytes = first, bytes_
            self._head_bytes -= gone
            self.messages = self.last + 1 - first
        else:
            self._drop_to(first)

    def has_dropped(self) -> bool:
        """Whether segments hold messages that are not kept any more."""
        return bool(self._segments) and self.first > (<Segment>self._segments[0]).first

    def create(self) -> None:
        """Have the next commit make the directory and an empty segment, if there is none."""
        if self._open is None and self._writing is None and not self._segments:
            if not self.is_deleted:
                self._open = self._begin_batch(0)

    @property
    def is_made(self) -> bool:
        """Whether it has a segment on disk."""
        return bool(self._segments)

    def begin_at(self, uint64_t sequence) -> None:
        """Of an empty log: the sequence of the first message."""
        if self._segments or self._writing is not None or self.appended >= self.first:
            raise ValueError("the log is not empty")
        if sequence < 1:
            raise ValueError("sequences begin at 1")
        self.first = sequence
        self.last = self.appended = sequence - 1
        self._open = None
        self._open = self._begin_batch(0)

    # --- appending ------------------------------------------------------------------------------

    cdef uint64_t append(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0:
        """Queue one message for the next commit; returns its sequence."""
        cdef Batch batch = self._open
        cdef MsgProto message
        cdef Record* record
        cdef unsigned char* at
        cdef size_t length
        if now_ns < self.last_timestamp_ns:
            now_ns = self.last_timestamp_ns
        if batch is None:
            if self.is_deleted:
                raise StoreError("stan: channel is being deleted")
            batch = self._open = self._begin_batch(now_ns)
        message.sequence = self.appended + 1
        message.subject, message.subject_len = <const unsigned char*>self.name, len(self.name)
        message.reply, message.reply_len = reply, reply_len
        message.data, message.data_len = data, data_len
        message.timestamp_ns = now_ns
        length = message_size(&message)
        if <uint64_t>batch.base + batch.used + RECORD_BYTES + length > SEGMENT_BYTES_MAX:
            raise StoreError(reason_of(OSError(EFBIG, "")))
        at = batch.reserve(RECORD_BYTES + length)
        record = <Record*>at
        record.length = <uint32_t>length
        record.sequence = message.sequence
        record.timestamp_ns = now_ns
        record.durable = batch.base if self._home.sync else batch.segment.durable
        write_message(at + RECORD_BYTES, &message)
        if batch.count == 1:
            batch.first_ns = now_ns
        batch.last_ns = now_ns
        self.appended = message.sequence
        self.last_timestamp_ns = now_ns
        return message.sequence

    cdef Batch _begin_batch(self, int64_t now_ns):
        """A batch that follows all that is appended, in the same segment if that has room."""
        cdef Batch batch = self._home.batch()
        cdef Segment segment = None
        cdef uint64_t count = 0
        cdef uint64_t end = 0
        if self._writing is not None:
            segment = self._writing.segment
            count = segment.count + self._writing.count
            end = <uint64_t>self._writing.base + self._writing.used
        elif self._segments:
            segment = self._segments[-1]
            count, end = segment.count, segment.end
        batch.first = self.appended + 1
        if segment is None or (self._is_emptied and count) or (
            self._is_full(segment, count, end, now_ns)
        ):
            self._is_emptied = False
            path = f"{self.directory}/{batch.first:020d}.log"
            batch.full = segment
            batch.segment = Segment(path, self.name, batch.first, self.last_timestamp_ns)
            batch.base = batch.segment.start
        else:
            batch.segment = segment
            batch.base = <uint32_t>end
        self._home.dirty.append(self)
        return batch

    cdef bint _is_full(self, Segment segment, uint64_t count, uint64_t end, int64_t now_ns):
        return count != 0 and (
            end >= self._segment_bytes
            or (self._segment_messages != 0 and count >= self._segment_messages)
            or (
                self._segment_age_ns != 0
                and segment.count != 0
                and now_ns - segment.first_ns >= self._segment_age_ns
            )
        )

    # --- committing -----------------------------------------------------------------------------

    def start_write(self, bint is_kept_open) -> WriteJob:
        """Begin to commit what is appended; None when there is nothing."""
        cdef WriteJob job
        cdef Batch batch = self._open
        if batch is None or self.is_deleted:
            return None
        self._open, self._writing = None, batch
        job = WriteJob.__new__(WriteJob)
        job.log = self
        job.error = OSError("it was not tried")
        job._batch = batch
        job._fd = batch.segment.fd
        job._is_owner = False
        job._sync = self._home.sync
        job._has_directory = self._has_directory
        batch.segment.busy = True
        job._is_kept_open = is_kept_open
        if batch.full is not None:
            batch.full.busy = True
        return job

    def end_write(self, WriteJob job not None) -> None:
        """The job has run."""
        cdef Batch batch = self._writing
        cdef Segment segment = batch.segment
        self._writing = None
        segment.busy = False
        if batch.full is not None:
            batch.full.busy = False
        if job._is_owner:
            if job.error is None and segment.fd < 0 and not self.is_deleted:
                segment.fd = job._fd
                self._home.opened(segment)
            else:
                os.close(job._fd)
        if self.is_deleted:
            segment.close()
            self.delete()
            return
        if job.error is not None:
            self._fall_back(batch)
            return
        self._has_directory = True
        if segment.is_new:
            self._segments.append(segment)
            if len(self._segments) == 1:
                self._head_bytes = 0
            elif self.first == segment.first and self.messages == 0:
                # All that the others hold has expired.
                while len(self._segments) > 1:
                    self._drop_segment()
        segment.extend(
            batch.offsets, batch.count, batch.base,
            <uint32_t>(batch.base + batch.used), batch.first_ns, batch.last_ns)
        segment.was_written(segment.end if job._sync else segment.durable)
        segment.is_used = True
        self._note_committed(batch)
        self._home.warmed(self)
        self._trim()

    cdef object _note_committed(self, Batch batch):
        cdef uint64_t length = batch.used - batch.count * RECORD_BYTES
        self.bytes += length
        if len(self._segments) == 1:
            self._head_bytes += length
        self.last += batch.count
        self.messages = self.last + 1 - self.first
        if batch.count == 0:
            self._home.give_back(batch)
            return
        self._committed_ns = batch.last_ns
        # Nobody looks at the old one: a commit ends in a call from the event loop.
        self._home.give_back(self._tail)
        self._tail = batch
        self._is_tail_used = True

    cdef object _fall_back(self, Batch batch):
        """Nothing that was appended since the last commit is there."""
        batch.segment.close()
        self._home.open.pop(batch.segment, None)
        if batch.full is not None and self.messages == 0:
            self._is_emptied = True
        self._home.give_back(batch)
        if self._open is not None:
            self._home.give_back(self._open)
            self._open = None
            if self in self._home.dirty:
                self._home.dirty.remove(self)
        self.appended = self.last
        self.last_timestamp_ns = self._committed_ns

    def unsynced(self) -> list:
        """The segments that are not on disk as a whole."""
        cdef Segment segment
        return [segment for segment in self._segments if segment.durable < segment.end]

    # --- finding --------------------------------------------------------------------------------

    cdef Found find(self, uint64_t sequence, Stored* stored) except *:
        """The first committed message at or behind a sequence that is as it was written."""
        cdef Batch tail = self._tail
        cdef const Record* record
        if sequence < self.first:
            sequence = self.first
        if sequence > self.last:
            return FOUND_NOTHING
        if tail is not None and sequence >= tail.first:
            self._is_tail_used = True
            record = <const Record*>(tail.bytes + tail.offsets[sequence - tail.first])
        else:
            record = self._find_in_file(&sequence)
            if record == NULL:
                return FOUND_NOTHING
        stored.sequence = sequence
        stored.timestamp_ns = record.timestamp_ns
        stored.length = record.length
        stored.bytes = <const unsigned char*>record + RECORD_BYTES
        return FOUND_MESSAGE

    cdef const Record* _find_in_file(self, uint64_t* sequence) except? NULL:
        """The record of a sequence, or of the next one that is not damaged."""
        cdef Segment segment
        cdef size_t index
        cdef uint32_t offset
        while sequence[0] <= self.last:
            segment = self._segment_of(sequence[0])
            try:
                if segment.offsets == NULL:
                    segment.load_offsets()
                    self._home.warmed(self)
                segment.is_used = True
                index = sequence[0] - segment.first
                offset = segment.offsets[index]
                return <const Record*>self._read(
                    segment, index, offset, segment.end_of(index) - offset)
            except DamageError as damage:
                self._report(segment, damage)
                # Without offsets nothing of the segment can be found.
                sequence[0] = sequence[0] + 1 if segment.offsets != NULL else (
                    segment.first + segment.count)
        return NULL

    cdef object _report(self, Segment segment, object damage):
        """Messages that were acknowledged cannot be delivered: said once for each segment."""
        if segment.path not in self._damaged:
            self._damaged.add(segment.path)
            logger.error("%s", damage)

    cdef Segment _segment_of(self, uint64_t sequence):
        """The segment that has it: it is known to be there."""
        cdef Segment segment = self._hint
        if segment is None or not segment.first <= sequence < segment.first + segment.count:
            self._hint = segment = segment_of(self._segments, sequence)
        return segment

    cdef const unsigned char* _read(
        self, Segment segment, size_t index, uint32_t offset, size_t length
    ) except NULL:
        """One record of the file, as it was written."""
        cdef Window window = self._window
        cdef size_t wanted
        self._is_window_used = True
        if window is None or window.segment is not segment or offset < window.offset or (
            offset + length > window.offset + window.length
        ):
            is_sequential = window is not None and (
                window.segment is not segment
                or window.offset <= offset <= window.offset + window.length
            )
            wanted = WINDOW_BYTES if is_sequential or index == 0 else WINDOW_SMALL_BYTES
            wanted = min(max(wanted, length), <size_t>(segment.end - offset))
            if segment.fd < 0:
                segment.open_to_read()
                self._home.opened(segment)
            self._home.warmed(self)
            self._home.retire(window)
            self._window = None
            window = Window.__new__(Window)
            window.fill(segment, offset, wanted)
            self._window = window
        return window.record(segment.first + index, offset, length, self._home.crc)

    def sequence_at(self, int64_t timestamp_ns) -> int:
        """The first committed message that is not older; `last + 1` when there is none."""
        cdef Segment segment
        for segment in self._segments:
            if segment.count and segment.last_ns >= timestamp_ns:
                self._home.warmed(self)
                found = segment.first + <uint64_t>segment.search(timestamp_ns)
                if segment.fd >= 0:
                    self._home.opened(segment)
                return max(found, self.first)
        return self.last + 1

    # --- what is kept ---------------------------------------------------------------------------

    def set_limits(self, uint64_t messages, uint64_t bytes_, int64_t age_ns) -> None:
        """How much is kept; 0: no limit. Segments are at most a quarter of that, but not tiny."""
        cdef LogHome home = self._home
        self._max_messages, self._max_bytes, self._max_age_ns = messages, bytes_, age_ns
        self._segment_bytes = home.segment_bytes
        self._segment_messages = home.segment_messages
        self._segment_age_ns = home.segment_age_ns
        if bytes_:
            self._segment_bytes = min(
                self._segment_bytes, max(bytes_ // 4, <uint64_t>SEGMENT_BYTES_MIN))
        if messages and not self._segment_messages:
            self._segment_messages = max(messages // 4, <uint64_t>SEGMENT_MESSAGES_MIN)
        if age_ns and not self._segment_age_ns:
            self._segment_age_ns = max(age_ns // 4, SECOND_NS)
        self._trim()

    def expire(self, int64_t now_ns) -> int:
        """Drop what is older than the limit; returns when to ask again (unix ns), or 0."""
        cdef Segment segment
        cdef int64_t kept_ns = now_ns - self._max_age_ns
        cdef uint64_t index
        if self._max_age_ns == 0:
            return 0
        while self.messages:
            segment = self._segments[0]
            if segment.last_ns > kept_ns:
                break
            self._drop_to(segment.first + segment.count)
        if self.messages == 0:
            return 0
        segment = self._segments[0]
        try:
            if segment.first_ns <= kept_ns:
                self._drop_to(segment.first + <uint64_t>segment.search(kept_ns + 1))
            index = self.first - segment.first
            oldest_ns = segment.timestamp_of(index) if index else segment.first_ns
        except StoreError as error:
            # It goes as a whole, when its newest message is too old.
            self._report(segment, error)
            return segment.last_ns + self._max_age_ns
        if segment.fd >= 0:
            self._home.opened(segment)
            self._home.warmed(self)
        return oldest_ns + self._max_age_ns

    def drop_before(self, uint64_t sequence) -> int:
        """Drop every committed message before a sequence; returns how many there were."""
        cdef uint64_t before = self.first
        sequence = min(sequence, self.last + 1)
        if sequence <= before:
            return 0
        self._drop_to(sequence)
        self._home.purged.append(self)
        if self.messages == 0 and (<Segment>self._segments[-1]).count:
            self._is_emptied = True
            if self._open is None and self._writing is None:
                self._open = self._begin_batch(0)
        return sequence - before

    cdef int _drop_to(self, uint64_t sequence) except -1:
        """Forget the messages before a sequence, which is not beyond `last + 1`."""
        cdef Segment segment
        cdef uint64_t end, length
        while self.first < sequence:
            segment = self._segments[0]
            end = segment.first + segment.count
            if sequence >= end:
                length = self._head_bytes
            else:
                length = self._length_to(segment, sequence)
                end = sequence
            self.bytes -= length
            self._head_bytes -= length
            self.first = end
            if end == segment.first + segment.count:
                if len(self._segments) == 1:
                    break
                self._drop_segment()
        self.messages = self.last + 1 - self.first
        return 0

    cdef uint64_t _length_to(self, Segment segment, uint64_t sequence) except? 0:
        """The bytes of the oldest segment's messages that are before a sequence; what that is on
        average where the segment cannot be read."""
        cdef uint64_t count = segment.first + segment.count - self.first
        if not self._has_offsets(segment):
            return <uint64_t>(self._head_bytes * <double>(sequence - self.first) / count)
        return segment.bytes_of(self.first - segment.first, sequence - segment.first)

    cdef bint _has_offsets(self, Segment segment) except -1:
        """Whether the offsets of a segment's records are known."""
        try:
            segment.load_offsets()
        except StoreError as error:
            self._report(segment, error)
            return False
        segment.is_used = True
        self._home.warmed(self)
        return True

    cdef object _drop_segment(self):
        """The oldest one has nothing left that is kept."""
        cdef Segment segment = self._segments.pop(0)
        segment.close()
        self._home.open.pop(segment, None)
        if self._hint is segment:
            self._hint = None
        self._home.dropped.append(segment.path)
        self._damaged.discard(segment.path)
        segment = self._segments[0]
        self._head_bytes = segment.payload_bytes

    cdef int _trim(self) except -1:
        """Keep to the limits of messages and bytes; the newest message always stays."""
        cdef Segment segment
        cdef uint64_t over, start, stop, last
        if self._max_messages and self.messages > self._max_messages:
            self._drop_to(self.last + 1 - self._max_messages)
        while self._max_bytes and self.bytes > self._max_bytes and self.messages > 1:
            segment = self._segments[0]
            over = self.bytes - self._max_bytes
            if over >= self._head_bytes and len(self._segments) > 1:
                self._drop_to(segment.first + segment.count)
                continue
            if not self._has_offsets(segment):
                if len(self._segments) == 1:
                    break
                self._drop_to(segment.first + segment.count)
                continue
            start = stop = self.first - segment.first
            # The newest message is not among those that may go.
            last = min(segment.count, self.last - segment.first)
            while stop < last:
                stop += 1
                if segment.bytes_of(start, stop) >= over:
                    break
            self._drop_to(segment.first + stop)
        return 0

    # --- letting go -----------------------------------------------------------------------------

    def cool(self) -> bool:
        """Let go of what has not been used since the last time; whether anything is left."""
        cdef Segment segment
        is_warm = self._writing is not None
        if self._tail is not None:
            if not self._is_tail_used:
                self._tail = None
            is_warm = True
        if self._window is not None:
            if not self._is_window_used:
                self._window = None
            is_warm = True
        self._is_tail_used = self._is_window_used = False
        for segment in self._segments:
            if not segment.busy and not segment.is_used:
                segment.close()
                if segment.has_sidecar:
                    segment.forget_offsets()
            segment.is_used = False
            is_warm = is_warm or not segment.is_idle() or segment.busy
        return is_warm

    def delete(self) -> None:
        """Nothing is done with it any more."""
        cdef Segment segment
        self.is_deleted = True
        self._home.retire(self._tail)
        self._home.retire(self._window)
        self._open = self._tail = None
        self._window = None
        for segment in self._segments:
            if not segment.busy:
                segment.close()
                self._home.open.pop(segment, None)
        if self in self._home.dirty:
            self._home.dirty.remove(self)

    def close(self) -> None:
        """Let go of everything, and leave sidecars behind."""
        cdef Segment segment
        try:
            for segment in self._segments:
                if not segment.has_sidecar and not self.is_deleted:
                    segment.load_offsets()
                    segment.write_sidecar()
        finally:
            for segment in self._segments:
                segment.close()
            self._tail = self._open = None
            self._window = None
