"""One segment file of a channel's log: the C face."""

cimport cython
from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    SEGMENT_BYTES_MAX = 0xF000_0000        # offsets have 32 bits

@cython.final
cdef class Segment:
    cdef readonly str path
    cdef readonly bytes channel
    cdef readonly uint64_t first           # sequence of the first record
    cdef readonly uint64_t count           # committed records
    cdef readonly uint32_t start           # where records begin: behind the header
    cdef readonly uint32_t end             # where the last committed one ends
    cdef readonly int64_t before_ns        # the timestamp before its first record
    cdef readonly int64_t first_ns
    cdef readonly int64_t last_ns          # without a record: `before_ns`
    cdef readonly bint is_new              # not yet a file
    cdef readonly uint32_t durable         # so much is surely on disk
    cdef readonly bint has_sidecar         # as it is now
    cdef readonly uint64_t known_count     # what a sidecar says that was once there
    cdef readonly uint32_t known_end
    # --- of the event loop; a thread that writes has set `busy` and reads them only
    cdef uint32_t* offsets                 # `count` of them; NULL: not loaded
    cdef size_t capacity
    cdef public int fd                     # -1: closed
    cdef public bint busy
    cdef public bint is_used               # since the last sweep

    cdef int extend(
        self, const uint32_t* offsets, size_t count, uint32_t base, uint32_t end,
        int64_t first_ns, int64_t last_ns,
    ) except -1
    cdef int open_to_read(self) except -1
    cdef int load_offsets(self) except -1
    cdef int _load_sidecar_offsets(self) except -1
    cdef uint32_t end_of(self, size_t index) noexcept nogil
    cdef uint64_t bytes_of(self, size_t start, size_t stop) noexcept nogil
    cdef int64_t timestamp_of(self, size_t index) except? -1

cdef Segment segment_of(list segments, uint64_t sequence)
