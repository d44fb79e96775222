# cython: language_level=3str
"""Wakes a process that sleeps in its event loop, and only then.

A doorbell is an eventfd (a pair of sockets where Python has none), made before the fork. Ringing
costs a system call, so a producer rings only when the flag in the other's slot says that it sleeps:

    producer                          consumer
    publish (release store)           fall_asleep: store the flag
    ring: full fence                  fall_asleep: full fence
          load the flag                            look at the rings (and for room) once more
          set: write the descriptor   nothing there: sleep; else wake_up and handle it

The race: a producer publishes just after the consumer last looked and reads the flag just before
it is stored; nobody would ever wake the consumer. With the fence between store and load on both
sides at least one sees the other: either the consumer finds the batch in its last look, or the
producer finds the flag. On x86 too, a load may overtake an older store without it.

The flag is 0 or the number of the sleep, and a producer takes it back only after it wrote, and
only if it still holds the number it saw. So a producer that is killed anywhere in `ring` leaves a
consumer that is either awake or still asks to be rung, never one that sleeps unasked; and one
that was merely slow cannot take back the flag of a later sleep. The price is that two producers
may both write, which wakes once.

After waking, the owner calls `clear`, then `wake_up`, then handles everything it can find,
whoever rang. A ring without anything to find is normal.
"""

import os
import socket

from libc.stdint cimport uint64_t
from posix.unistd cimport close as close_descriptor
from posix.unistd cimport read, write

from shardd.errors import BootError

cdef extern from "ring_atomic.h" nogil:
    uint32_t atomic_load_u32(const uint32_t* field)
    void atomic_store_u32(uint32_t* field, uint32_t value)
    uint32_t atomic_load_relaxed_u32(const uint32_t* field)
    void atomic_store_relaxed_u32(uint32_t* field, uint32_t value)
    int atomic_replace_u32(uint32_t* field, uint32_t expected, uint32_t value)
    void atomic_fence()


cdef class Doorbell:
    """Wakes the process of one slot. Made before the fork; all processes of the host hold it.

    Args:
        slots: the shared page.
        index: the slot of the process that this wakes.
        fd: a non-blocking eventfd to take over; a new one is made without it.
        as_socket: use a pair of sockets, as where Python has no eventfd.
    """

    def __cinit__(
        self,
        Slots slots not None,
        uint32_t index,
        fd: int | None = None,
        *,
        as_socket: bool = False,
    ) -> None:
        self.fd = self._write_fd = -1
        self.slots = slots
        self.index = index
        self._slot = slots._checked(index)
        self.is_eventfd = fd is not None or (hasattr(os, "eventfd") and not as_socket)
        try:
            if fd is not None:
                self.fd = self._write_fd = fd
            elif self.is_eventfd:
                self.fd = self._write_fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
            else:
                reader, writer = socket.socketpair()
                reader.setblocking(False)
                writer.setblocking(False)
                self.fd = reader.detach()
                self._write_fd = writer.detach()
        except OSError as error:
            raise BootError(f"cannot make a doorbell: {error.strerror}") from error

    def __dealloc__(self) -> None:
        self.close()

    cpdef void close(self) noexcept:
        """Gives the descriptors back in this process. Nothing may be called after it."""
        if self._write_fd != self.fd:
            close_descriptor(self._write_fd)
        if self.fd >= 0:
            close_descriptor(self.fd)
        self.fd = self._write_fd = -1

    cpdef bint ring(self) noexcept nogil:
        """Wakes the process if it sleeps, after something was published; True when it wrote."""
        cdef uint32_t sleep
        # The fence, between the caller's release store of the published position (or of a cursor)
        # and the load of the flag. Partner: the fence in `fall_asleep`.
        atomic_fence()
        # Acquire, with the release in `wake_up`; the fences carry the protocol.
        sleep = atomic_load_u32(&self._slot.is_asleep)
        if sleep == 0:
            return False
        self.ring_always()
        # Acquire and release: stays behind the write, so that a death in between loses nothing.
        # Partner: the store in `fall_asleep`, whose number differs if that was another sleep.
        atomic_replace_u32(&self._slot.is_asleep, sleep, 0)
        return True

    cpdef bint ring_always(self) noexcept nogil:
        """Wakes the process in any case; True when the descriptor took it."""
        cdef uint64_t one = 1
        # A full eventfd or socket refuses, and is readable already.
        return write(self._write_fd, &one, sizeof(one)) == sizeof(one)

    cpdef void fall_asleep(self) noexcept nogil:
        """Announces sleep; the owner then looks at its rings once more before it sleeps."""
        # Only the owner numbers its sleeps. 0 means awake and is stepped over.
        cdef uint32_t sleep = self._slot.sleeps + 1
        if sleep == 0:
            sleep = 1
        self._slot.sleeps = sleep
        # Relaxed, ordered by the fence: the flag is visible before the rings are looked at.
        # Partner: the fence and load in `ring`.
        atomic_store_relaxed_u32(&self._slot.is_asleep, sleep)
        atomic_fence()

    cpdef void wake_up(self) noexcept nogil:
        """The owner is awake: no ringing needed."""
        # Release, with the acquire in `ring`. A producer that still read the flag rings in vain.
        atomic_store_u32(&self._slot.is_asleep, 0)

    cpdef void clear(self) noexcept nogil:
        """Empties the descriptor, so that the loop does not report it again."""
        cdef uint64_t[32] sink
        cdef ssize_t count
        while True:
            count = read(self.fd, &sink, sizeof(sink))
            # An eventfd is empty after one read; sockets hold one number per ring.
            if self.is_eventfd or count < <ssize_t>sizeof(sink):
                return

    @property
    def is_asleep(self) -> bool:
        """Whether the owner has asked to be rung."""
        # Relaxed: a statistic.
        return atomic_load_relaxed_u32(&self._slot.is_asleep) != 0
