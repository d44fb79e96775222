"""What users and accounts use of the whole host: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

from shardd.shm cimport Segment

cdef enum Use:
    USE_CONNECTIONS = 0
    USES = 1

cdef enum Rate:
    RATE_MESSAGES = 0
    RATE_BYTES = 1
    RATES = 2

# One user or account. A column is written by its own process only, the supervisor clears it when
# that process has died; the rest is everybody's.
cdef struct Quota:
    uint64_t due_ns[2]             # by Rate: when what was published so far will be paid for
    uint64_t reserved[6]
    uint32_t used[1][64]           # by Use and process

cdef class Quotas:
    cdef Segment _segment
    cdef uint32_t _count
    cdef uint64_t* _keys                   # hashes of names, 0: free
    cdef Quota* _quotas

    # What all processes use together.
    cdef uint64_t used(self, uint32_t entry, Use use) noexcept nogil
    # Count one more, unless `limit` is reached: then False. A negative limit is none.
    cdef bint take(self, uint32_t entry, Use use, uint32_t process, int64_t limit) noexcept nogil
    cdef void give(self, uint32_t entry, Use use, uint32_t process, uint32_t count) noexcept nogil
    # Count what was published. Returns for how many nanoseconds its publisher has to wait.
    cdef uint64_t charge(
        self, uint32_t entry, Rate rate, uint64_t amount, uint64_t per_second, uint64_t now_ns
    ) noexcept nogil
