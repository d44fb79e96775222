"""The log of one channel in segment files: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.log cimport ChannelLog, Found, Stored
from shardd.streaming.segment cimport Segment


# Appended messages on their way to the disk, and for a while after.
@cython.final
cdef class Batch:
    cdef unsigned char* bytes
    cdef size_t used
    cdef size_t capacity
    cdef uint32_t* offsets         # of the records, from the batch's beginning
    cdef size_t count
    cdef size_t offsets_capacity
    cdef uint64_t first            # sequence of the first message
    cdef int64_t first_ns
    cdef int64_t last_ns
    cdef uint32_t base             # where in the segment it begins
    cdef Segment segment
    cdef Segment full              # that this new segment follows
    cdef unsigned char* reserve(self, size_t length) except NULL


# A piece of a segment, read ahead. Never changed: a log that wants another piece makes another.
@cython.final
cdef class Window:
    cdef unsigned char* bytes
    cdef size_t length
    cdef uint32_t offset
    cdef Segment segment


# What the logs of one store share. Touched by the event loop only.
@cython.final
cdef class LogHome:
    cdef readonly bint sync
    cdef readonly bint crc
    cdef readonly uint64_t segment_bytes
    cdef readonly uint64_t segment_messages
    cdef readonly int64_t segment_age_ns
    cdef readonly size_t descriptors_max
    cdef readonly list dirty       # logs that have something to write
    cdef readonly set warm         # logs that hold something which can be let go
    cdef readonly dict open        # segments with a descriptor, the longest open first
    cdef readonly list dropped     # paths of segments that are to be removed
    cdef list _spare
    cdef list _retired
    cdef object _on_warm
    cdef object _on_retired
    cdef Batch batch(self)
    cdef int give_back(self, Batch batch) except -1
    cdef int retire(self, Window window) except -1
    cdef int opened(self, Segment segment) except -1
    cdef int warmed(self, FileLog log) except -1


# One log's part in a commit. Made and finished in the event loop, run in a thread.
@cython.final
cdef class WriteJob:
    cdef readonly FileLog log
    cdef readonly object error     # OSError, or None
    cdef Batch _batch
    cdef int _fd
    cdef bint _is_owner            # of the descriptor
    cdef bint _is_kept_open
    cdef bint _sync
    cdef bint _has_directory


@cython.final
cdef class FileLog(ChannelLog):
    cdef readonly str directory
    cdef readonly bint is_deleted
    cdef LogHome _home
    cdef list _segments            # the oldest first; the last one takes what is appended
    cdef Segment _hint             # where a message was found last
    cdef Batch _open               # being filled
    cdef Batch _writing            # in a commit
    cdef Batch _tail               # the newest committed ones
    cdef Window _window
    cdef bint _is_tail_used        # since the last sweep
    cdef bint _is_window_used
    cdef uint64_t _head_bytes      # of MsgProtos kept in the oldest segment
    cdef int64_t _committed_ns
    cdef uint64_t _max_messages
    cdef uint64_t _max_bytes
    cdef int64_t _max_age_ns
    cdef uint64_t _segment_bytes
    cdef uint64_t _segment_messages
    cdef int64_t _segment_age_ns
    cdef bint _has_directory

    cdef Batch _begin_batch(self, int64_t now_ns)
    cdef bint _is_full(self, Segment segment, uint64_t count, uint64_t end, int64_t now_ns)
    cdef Segment _segment_of(self, uint64_t sequence)
    cdef const unsigned char* _read(
        self, Segment segment, size_t index, uint32_t offset, size_t length
    ) except NULL
    cdef int _drop_to(self, uint64_t sequence) except -1
    cdef int _trim(self) except -1
    cdef object _note_committed(self, Batch batch)
    cdef object _fall_back(self, Batch batch)
    cdef object _drop_segment(self)
