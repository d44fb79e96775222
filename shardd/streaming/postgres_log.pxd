"""A log in PostgreSQL as it is in memory: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.log cimport ChannelLog

cdef struct Place:
    size_t at                      # in the chunk
    size_t length                  # 0: there is no such message any more


# Consecutive messages of one channel: on their way to the database, or from it.
@cython.final
cdef class Chunk:
    cdef readonly PostgresLog log
    cdef readonly uint64_t first   # sequence of the first message
    cdef readonly size_t count
    cdef readonly size_t capacity  # bytes held
    cdef unsigned char* bytes
    cdef size_t used
    cdef Place* places
    cdef size_t places_capacity
    cdef bint is_loaded            # from the database
    cdef bint is_fresh             # so lately that whoever asked for it may not have seen it
    cdef unsigned char* reserve(self, size_t length) except NULL
    cdef int note(self, size_t at, size_t length) except -1


# What the logs of one store share. Touched by the event loop only.
@cython.final
cdef class PostgresHome:
    cdef readonly list changed     # logs that have something to write
    cdef readonly set moved        # logs whose first message in the database is not theirs any more
    cdef readonly set purged       # of them, those that have to be written with the next commit
    cdef readonly list loads       # (log, first, last) to fetch
    cdef readonly size_t cached    # bytes of messages held
    cdef size_t _cached_max
    cdef dict _chunks              # the longest unused first
    cdef object _on_load
    cdef object _on_moved


@cython.final
cdef class PostgresLog(ChannelLog):
    cdef readonly int64_t id
    cdef readonly uint64_t stored_first    # the database may have messages from here on
    cdef public bint is_deleted
    cdef PostgresHome _home
    cdef int64_t* _times           # by sequence, masked, as the sizes
    cdef uint32_t* _sizes          # 0: there is no such message any more
    cdef size_t _size              # a power of two, or 0
    cdef uint64_t _messages_max
    cdef uint64_t _bytes_max
    cdef int64_t _age_ns_max
    cdef list _open                # chunks for the next commit
    cdef list _writing             # chunks of the commit that is under way
    cdef list _chunks              # committed and in memory, rising
    cdef Chunk _current            # where the last message was found
    cdef bint _is_loading

    cdef int _make_room(self, uint64_t last) except -1
    cdef void _drop_first(self) noexcept
    cdef int _note_moved(self) except -1
    cdef Chunk _chunk_of(self, uint64_t sequence)
    cdef int _load(self, uint64_t sequence) except -1
    cdef int _keep(self, Chunk chunk) except -1
