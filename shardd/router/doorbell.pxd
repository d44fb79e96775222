"""Wakes a process that sleeps: the C face. The protocol stands at the top of the .pyx."""

cimport cython
from libc.stdint cimport uint32_t

from shardd.slots cimport Slot, Slots

@cython.final
cdef class Doorbell:
    cdef readonly Slots slots
    cdef readonly uint32_t index       # the slot whose process this wakes
    cdef readonly int fd               # readable when rung
    cdef readonly bint is_eventfd      # otherwise one of a pair of sockets
    cdef int _write_fd                 # the same as `fd` for an eventfd
    cdef Slot* _slot
    cpdef void close(self) noexcept
    # For peers, after publishing: wakes the process if it sleeps. True when it wrote.
    cpdef bint ring(self) noexcept nogil
    # For peers, after a change that is not in a ring: wakes the process in any case.
    cpdef bint ring_always(self) noexcept nogil
    # For the owner: announces sleep. What arrived until then must be looked for after this call.
    cpdef void fall_asleep(self) noexcept nogil
    # For the owner: awake, no ringing needed.
    cpdef void wake_up(self) noexcept nogil
    # For the owner: empties the descriptor after it woke.
    cpdef void clear(self) noexcept nogil
