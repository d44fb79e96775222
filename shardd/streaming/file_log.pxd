"""The log of one channel in segment files: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.streaming.batch cimport Batch, LogHome, Window
from shardd.streaming.log cimport ChannelLog
from shardd.streaming.records cimport Record
from shardd.streaming.segment cimport Segment


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
    cdef bint _is_emptied          # the next batch begins a segment, so that this one can go
    cdef set _damaged              # paths of segments whose damage has been reported

    cdef Batch _begin_batch(self, int64_t now_ns)
    cdef bint _is_full(self, Segment segment, uint64_t count, uint64_t end, int64_t now_ns)
    cdef const Record* _find_in_file(self, uint64_t* sequence) except? NULL
    cdef object _report(self, Segment segment, object damage)
    cdef Segment _segment_of(self, uint64_t sequence)
    cdef const unsigned char* _read(
        self, Segment segment, size_t index, uint32_t offset, size_t length
    ) except NULL
    cdef int _drop_to(self, uint64_t sequence) except -1
    cdef bint _has_offsets(self, Segment segment) except -1
    cdef uint64_t _length_to(self, Segment segment, uint64_t sequence) except? 0
    cdef int _trim(self) except -1
    cdef object _note_committed(self, Batch batch)
    cdef object _fall_back(self, Batch batch)
    cdef object _drop_segment(self)
