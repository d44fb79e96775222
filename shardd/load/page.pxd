"""The memory that the processes of one load share: the C face."""

from libc.stdint cimport uint64_t

# Each on a cache line of its own. Every slot has one writer at a time.
cdef enum Slot:
    SLOT_PUBLISHED = 0    # messages, or requests, handed to the kernel; by the publishing process
    SLOT_RECEIVED = 8     # messages, or answers, that have arrived; by the process that counts them
    SLOT_EXPECTED = 16    # messages that must arrive in all; by the publishing process
    SLOT_FINISHED = 24    # 1 when nothing more is sent and SLOT_EXPECTED is final; by that, too
    SLOT_ABORTED = 32     # 1 when one side failed, so that the other need not wait; by either
    SLOT_STOPPED = 40     # 1 when the user wants it to end now; by the parent
    SLOTS = 48

cdef class Page:
    cdef object _memory
    cdef unsigned char[::1] _view
    cdef uint64_t* slots

    cdef uint64_t load(self, Slot slot) noexcept nogil
    cdef void store(self, Slot slot, uint64_t value) noexcept nogil
    cdef int check(self) except -1
