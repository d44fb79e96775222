# cython: language_level=3str
"""A log in PostgreSQL as it is in memory.

Of each message its time and its size are held, 12 bytes in a ring that doubles, so that limits,
times and sequences are answered without asking the database. The messages themselves are held in
chunks. One that is being appended to is written as the rows of a binary COPY, which a commit sends
as they are; a message is delivered from inside its row. After the commit the chunk stays, with
those that were read, until the bound of the store lets the longest unused go. What is not in memory
is fetched in chunks, and the next chunk is asked for as soon as somebody begins to read one.

A chunk is let go in `sweep` only, which the store calls in a turn of the event loop of its own:
what has been found stays good until control returns to the loop.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy

from shardd.streaming.log cimport FOUND_LATER, FOUND_MESSAGE, FOUND_NOTHING, Found, Stored
from shardd.streaming.pb cimport MsgProto, message_size, write_message

COPY_HEADER = b"PGCOPY\n\xff\r\n\0" + bytes(8)
COPY_TRAILER = b"\xff\xff"

cdef enum:
    SIZE_MIN = 16
    CHUNK_BYTES_MIN = 1024         # room of a fresh chunk
    CHUNK_BYTES = 1 << 20          # a chunk that has so many is followed by another
    JOINED_BYTES = 65_536          # small chunks become one of up to so many
    LOADED_BYTES = 524_288         # of messages that are fetched at once
    PIECE_BYTES = 262_144          # handed to the database's library at once
    # A row: number of columns; channel, sequence, time, each behind its length; length of the data.
    ROW_BYTES = 2 + 3 * (4 + 8) + 4
    RECORD_BYTES = 20              # of the index as it is read: sequence, time, size


cdef inline void put_32(unsigned char* at, uint32_t number) noexcept nogil:
    at[0] = number >> 24
    at[1] = (number >> 16) & 0xFF
    at[2] = (number >> 8) & 0xFF
    at[3] = number & 0xFF


cdef inline void put_64(unsigned char* at, uint64_t number) noexcept nogil:
    put_32(at, <uint32_t>(number >> 32))
    put_32(at + 4, <uint32_t>number)


cdef inline uint64_t get(const unsigned char* at, int length) noexcept nogil:
    cdef uint64_t number = 0
    cdef int index
    for index in range(length):
        number = number << 8 | at[index]
    return number


@cython.final
cdef class Chunk:
    """Consecutive messages of one channel."""

    def __cinit__(self, PostgresLog log not None, uint64_t first) -> None:
        self.log = log
        self.first = first

    def __dealloc__(self) -> None:
        free(self.bytes)
        free(self.places)

    cdef unsigned char* reserve(self, size_t length) except NULL:
        """Room for so many bytes more."""
        cdef size_t capacity
        cdef unsigned char* room
        if self.used + length > self.capacity:
            capacity = max(self.capacity * 2, self.used + length, <size_t>CHUNK_BYTES_MIN)
            room = <unsigned char*>realloc(self.bytes, capacity)
            if room == NULL:
                raise MemoryError
            self.bytes, self.capacity = room, capacity
        self.used += length
        return self.bytes + (self.used - length)

    cdef int note(self, size_t at, size_t length) except -1:
        """Where the next message is."""
        cdef size_t capacity
        cdef Place* places
        if self.count == self.places_capacity:
            capacity = max(self.places_capacity * 2, <size_t>8)
            places = <Place*>realloc(self.places, capacity * sizeof(Place))
            if places == NULL:
                raise MemoryError
            self.places, self.places_capacity = places, capacity
        self.places[self.count].at = at
        self.places[self.count].length = length
        self.count += 1
        return 0

    def pieces(self):
        """The rows of a binary COPY, in pieces."""
        cdef size_t at = 0
        cdef size_t length
        while at < self.used:
            length = min(self.used - at, <size_t>PIECE_BYTES)
            yield PyBytes_FromStringAndSize(<char*>self.bytes + at, length)
            at += length


@cython.final
cdef class PostgresHome:
    """What the logs of one store share."""

    def __init__(self, size_t cached_max, on_load, on_moved) -> None:
        self.changed, self.moved, self.purged, self.loads = [], set(), set(), []
        self._cached_max = cached_max
        self._chunks = {}
        self._on_load, self._on_moved = on_load, on_moved

    def take_changed(self) -> list:
        """The logs that have something to write; they are not listed any more."""
        changed, self.changed = self.changed, []
        return changed

    def take_moved(self) -> set:
        """The logs that have dropped something; they are not listed any more."""
        moved, self.moved = self.moved, set()
        return moved

    def take_purged(self) -> set:
        """The logs whose first message has to be written; they are not listed any more."""
        purged, self.purged = self.purged, set()
        return purged

    def take_loads(self) -> list:
        """What is to be fetched; it is not listed any more."""
        loads, self.loads = self.loads, []
        return loads

    def sweep(self) -> None:
        """Let go of the longest unused chunks beyond the bound. One that has just been fetched is
        spared once: somebody waits for it."""
        cdef Chunk chunk
        if self.cached <= self._cached_max:
            return
        for chunk in list(self._chunks):
            if self.cached <= self._cached_max:
                break
            if chunk.is_fresh:
                chunk.is_fresh = False
                continue
            del self._chunks[chunk]
            self.cached -= chunk.capacity
            chunk.log._chunks.remove(chunk)
            if chunk.log._current is chunk:
                chunk.log._current = None

    def forget(self, PostgresLog log not None) -> None:
        """A log is gone, with all it holds."""
        cdef Chunk chunk
        for chunk in log._chunks:
            self.cached -= chunk.capacity
            del self._chunks[chunk]
        log._chunks = []
        log._current = None
        self.moved.discard(log)
        self.purged.discard(log)
        self.changed = [each for each in self.changed if each is not log]


@cython.final
cdef class PostgresLog(ChannelLog):
    """One channel."""

    def __init__(self, PostgresHome home not None, bytes name not None, int64_t identity) -> None:
        self.name = name
        self.id = identity
        self.first = self.stored_first = 1
        self._home = home
        self._open, self._writing, self._chunks = [], [], []

    def __dealloc__(self) -> None:
        free(self._times)
        free(self._sizes)

    cdef int _make_room(self, uint64_t last) except -1:
        """For everything from `first` to there."""
        cdef size_t size = max(self._size, <size_t>SIZE_MIN)
        cdef int64_t* times
        cdef uint32_t* sizes
        cdef uint64_t sequence
        while last + 1 - self.first > size:
            size *= 2
        if size == self._size:
            return 0
        times = <int64_t*>malloc(size * sizeof(int64_t))
        sizes = <uint32_t*>malloc(size * sizeof(uint32_t))
        if times == NULL or sizes == NULL:
            free(times)
            free(sizes)
            raise MemoryError
        for sequence in range(self.first, self.appended + 1):
            times[sequence & (size - 1)] = self._times[sequence & (self._size - 1)]
            sizes[sequence & (size - 1)] = self._sizes[sequence & (self._size - 1)]
        free(self._times)
        free(self._sizes)
        self._times, self._sizes, self._size = times, sizes, size
        return 0

    # --- as the store finds it -------------------------------------------------------------------

    def restore(
        self, uint64_t stored_first, uint64_t first, uint64_t last, int64_t last_ns
    ) -> None:
        """What the database knows of it; its messages follow."""
        cdef uint64_t sequence
        self.stored_first = stored_first
        self.first, self.last = first, last
        self.last_timestamp_ns = last_ns
        self.appended = first - 1
        if last >= first:
            self._make_room(last)
        self.appended = last
        for sequence in range(first, last + 1):
            self._sizes[sequence & (self._size - 1)] = 0

    def restore_messages(self, bytes records not None) -> None:
        """Times and sizes of some messages, in any order."""
        cdef const unsigned char* at = <const unsigned char*>PyBytes_AS_STRING(records)
        cdef const unsigned char* end = at + PyBytes_GET_SIZE(records)
        cdef uint64_t sequence
        cdef size_t index
        while at + RECORD_BYTES <= end:
            sequence = get(at, 8)
            if self.first <= sequence <= self.last:
                index = sequence & (self._size - 1)
                self._times[index] = <int64_t>get(at + 8, 8)
                self._sizes[index] = <uint32_t>get(at + 16, 4)
            at += RECORD_BYTES

    def end_restore(self) -> int:
        """Everything that is there is known; returns how many messages are missing in between."""
        cdef uint64_t sequence
        cdef size_t index
        cdef int64_t time_ns = 0
        self.messages = self.bytes = 0
        for sequence in range(self.first, self.last + 1):
            index = sequence & (self._size - 1)
            if self._sizes[index]:
                self.messages += 1
                self.bytes += self._sizes[index]
                time_ns = self._times[index]
            self._times[index] = time_ns
        self.last_timestamp_ns = max(self.last_timestamp_ns, time_ns)
        return self.last + 1 - self.first - self.messages

    # --- appending -------------------------------------------------------------------------------

    cdef uint64_t append(
        self, int64_t now_ns,
        const unsigned char* reply, size_t reply_len,
        const unsigned char* data, size_t data_len,
    ) except 0:
        cdef MsgProto message
        cdef Chunk chunk
        cdef unsigned char* row
        cdef size_t length, index
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
        self._make_room(message.sequence)
        if not self._open:
            self._home.changed.append(self)
        if not self._open or (<Chunk>self._open[-1]).used >= CHUNK_BYTES:
            self._open.append(Chunk.__new__(Chunk, self, message.sequence))
        chunk = <Chunk>self._open[-1]
        row = chunk.reserve(ROW_BYTES + length)
        chunk.note(chunk.used - length, length)
        row[0], row[1] = 0, 4
        put_32(row + 2, 8)
        put_64(row + 6, <uint64_t>self.id)
        put_32(row + 14, 8)
        put_64(row + 18, message.sequence)
        put_32(row + 26, 8)
        put_64(row + 30, <uint64_t>now_ns)
        put_32(row + 38, <uint32_t>length)
        write_message(row + ROW_BYTES, &message)
        index = message.sequence & (self._size - 1)
        self._times[index] = now_ns
        self._sizes[index] = <uint32_t>length
        self.appended = message.sequence
        self.last_timestamp_ns = now_ns
        return message.sequence

    def begin_commit(self) -> tuple:
        """What is appended from now on belongs to the next commit; returns the newest message
        that belongs to this one, and what to write."""
        self._writing, self._open = self._open, []
        return self.appended, self._writing

    def end_commit(self, uint64_t sequence) -> None:
        """Everything up to a sequence is in the database: it becomes visible, and the limits hold
        again."""
        cdef uint64_t each
        cdef Chunk chunk
        for each in range(self.last + 1, sequence + 1):
            self.bytes += self._sizes[each & (self._size - 1)]
            self.messages += 1
        self.last = max(self.last, sequence)
        writing, self._writing = self._writing, []
        if not self.is_deleted:
            for chunk in writing:
                self._keep(chunk)
        self._keep_limits()

    cdef int _keep(self, Chunk chunk) except -1:
        """It stays in memory for a while; a small one becomes part of the one before."""
        cdef Chunk before = <Chunk>self._chunks[-1] if self._chunks else None
        cdef PostgresHome home = self._home
        cdef unsigned char* room
        cdef size_t index, base
        if (
            before is None
            or before.is_loaded
            or before.first + before.count != chunk.first
            or before.used + chunk.used > JOINED_BYTES
        ):
            self._chunks.append(chunk)
            home._chunks[chunk] = None
            home.cached += chunk.capacity
            return 0
        base = before.used
        home.cached -= before.capacity
        try:
            room = before.reserve(chunk.used)
        finally:
            home.cached += before.capacity
        memcpy(room, chunk.bytes, chunk.used)
        for index in range(chunk.count):
            before.note(base + chunk.places[index].at, chunk.places[index].length)
        return 0

    def take_back(self) -> None:
        """The commit failed: everything that is not visible is gone."""
        if self._open:
            self._home.changed = [log for log in self._home.changed if log is not self]
        self._open, self._writing = [], []
        self.appended = self.last

    # --- finding ---------------------------------------------------------------------------------

    cdef Found find(self, uint64_t sequence, Stored* stored) except *:
        cdef Chunk chunk = self._current
        cdef const Place* place
        cdef uint64_t behind
        if sequence < self.first:
            sequence = self.first
        while sequence <= self.last and self._sizes[sequence & (self._size - 1)] == 0:
            sequence += 1
        if sequence > self.last:
            return FOUND_NOTHING
        if chunk is None or not chunk.first <= sequence < chunk.first + chunk.count:
            chunk = self._chunk_of(sequence)
            if chunk is None:
                self._load(sequence)
                return FOUND_LATER
            self._current = chunk
            del self._home._chunks[chunk]
            self._home._chunks[chunk] = None
            if chunk.is_loaded:
                behind = chunk.first + chunk.count
                if behind <= self.last and self._chunk_of(behind) is None:
                    self._load(behind)
        place = &chunk.places[sequence - chunk.first]
        stored.sequence = sequence
        stored.timestamp_ns = self._times[sequence & (self._size - 1)]
        stored.bytes = chunk.bytes + place.at
        stored.length = place.length
        return FOUND_MESSAGE

    cdef Chunk _chunk_of(self, uint64_t sequence):
        """The chunk that it is in, if that is in memory."""
        cdef Chunk chunk
        cdef Py_ssize_t low = 0
        cdef Py_ssize_t high = len(self._chunks)
        cdef Py_ssize_t middle
        while low < high:
            middle = (low + high) // 2
            chunk = <Chunk>self._chunks[middle]
            if sequence < chunk.first:
                high = middle
            elif sequence >= chunk.first + chunk.count:
                low = middle + 1
            else:
                return chunk
        return None

    cdef int _load(self, uint64_t sequence) except -1:
        """Ask for what begins there, up to what is in memory."""
        cdef Chunk chunk
        cdef uint64_t last = self.last
        cdef uint64_t end = sequence
        cdef size_t total
        if self._is_loading:
            return 0  # whoever still misses something then asks again
        for chunk in self._chunks:
            if chunk.first > sequence:
                last = chunk.first - 1
                break
        total = self._sizes[sequence & (self._size - 1)]
        while end < last:
            total += self._sizes[(end + 1) & (self._size - 1)]
            if total > LOADED_BYTES:
                break
            end += 1
        self._is_loading = True
        self._home.loads.append((self, sequence, end))
        self._home._on_load()
        return 0

    def loaded(self, uint64_t first, uint64_t last, list rows not None) -> int:
        """What the database has of these sequences, as (sequence, message), rising. Returns how
        many messages are not there that should be: they are taken for dropped."""
        cdef Chunk chunk
        cdef bytes data
        cdef uint64_t sequence
        cdef size_t at, place
        cdef int missing = 0
        self._is_loading = False
        if self.is_deleted:
            return 0
        found = dict(rows)
        if self._chunk_of(first) is None:
            chunk = Chunk.__new__(Chunk, self, first)
            chunk.is_loaded = chunk.is_fresh = True
            for sequence in range(first, last + 1):
                place = sequence & (self._size - 1)
                data = found.get(sequence)
                if data is not None:
                    memcpy(chunk.reserve(len(data)), PyBytes_AS_STRING(data), len(data))
                elif sequence >= self.first and self._sizes[place]:
                    missing += 1
                    self.messages -= 1
                    self.bytes -= self._sizes[place]
                    self._sizes[place] = 0
                at = 0 if data is None else len(data)
                chunk.note(chunk.used - at, at)
            self._insert(chunk)
        if self.on_loaded is not None:
            self.on_loaded()
        return missing

    def _insert(self, Chunk chunk not None) -> None:
        cdef Py_ssize_t index = len(self._chunks)
        while index and (<Chunk>self._chunks[index - 1]).first > chunk.first:
            index -= 1
        self._chunks.insert(index, chunk)
        self._home._chunks[chunk] = None
        self._home.cached += chunk.capacity

    def not_loaded(self) -> None:
        """It could not be fetched, and nobody will do it: whoever waits has to ask again."""
        self._is_loading = False
        if self.on_loaded is not None:
            self.on_loaded()

    def sequence_at(self, timestamp_ns: int) -> int:
        cdef uint64_t low = self.first
        cdef uint64_t high = self.last + 1
        cdef uint64_t middle
        while low < high:
            middle = (low + high) // 2
            if self._times[middle & (self._size - 1)] < timestamp_ns:
                low = middle + 1
            else:
                high = middle
        return low

    # --- what is kept ----------------------------------------------------------------------------

    cdef void _drop_first(self) noexcept:
        cdef uint32_t size = self._sizes[self.first & (self._size - 1)]
        if size:
            self.bytes -= size
            self.messages -= 1
        self.first += 1

    cdef int _note_moved(self) except -1:
        cdef PostgresHome home = self._home
        if self.first > self.stored_first and not self.is_deleted:
            if not home.moved:
                home._on_moved()
            home.moved.add(self)
        return 0

    def cleaned(self, uint64_t sequence) -> None:
        """The database has nothing before that any more."""
        self.stored_first = max(self.stored_first, sequence)
        self._note_moved()

    def _keep_limits(self) -> None:
        while self.messages > 1 and (
            (self._messages_max and self.messages > self._messages_max)
            or (self._bytes_max and self.bytes > self._bytes_max)
        ):
            self._drop_first()
        self._note_moved()

    def set_limits(self, uint64_t messages, uint64_t bytes_, int64_t age_ns) -> None:
        self._messages_max = messages
        self._bytes_max = bytes_
        self._age_ns_max = age_ns
        self._keep_limits()

    def expire(self, int64_t now_ns) -> int:
        if self._age_ns_max == 0:
            return 0
        while self.first <= self.last and (
            self._times[self.first & (self._size - 1)] + self._age_ns_max <= now_ns
        ):
            self._drop_first()
        self._note_moved()
        if self.first > self.last:
            return 0
        return self._times[self.first & (self._size - 1)] + self._age_ns_max

    def drop_before(self, uint64_t sequence) -> int:
        cdef uint64_t before = self.messages
        while self.first <= self.last and self.first < sequence:
            self._drop_first()
        if before != self.messages and not self.is_deleted:
            self._home.purged.add(self)
            self._note_moved()
        return before - self.messages
