# cython: language_level=3str
"""Anonymous shared memory: one mapping that the forked children inherit.

A segment has no name: it is a memfd that is mapped and closed at once, so nothing is left behind
when processes die, and nothing can be opened by a stranger. It must be made before the fork.

A doubled segment maps its memory twice in a row: byte `size + n` of the address range is byte `n`.
What starts near the end of a ring can then be read and written in one piece.

What the memory means is not known here; layouts and the check of their headers stand with their
owners (`slots`, `router.ring`).
"""

import os

from libc.errno cimport errno
from libc.string cimport memcpy
from posix.mman cimport (
    MAP_ANONYMOUS,
    MAP_FAILED,
    MAP_FIXED,
    MAP_PRIVATE,
    MAP_SHARED,
    PROT_NONE,
    PROT_READ,
    PROT_WRITE,
    mmap,
    munmap,
)

from shardd.errors import BootError

# Far above any ring; below it, rounding up and doubling cannot overflow.
cdef size_t SEGMENT_BYTES_MAX = <size_t>1 << 40
cdef size_t PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


cdef class Segment:
    """One shared mapping, zeroed when new. Unmapped with its last reference in each process."""

    def __cinit__(self, size_bytes: int, *, doubled: bool = False) -> None:
        cdef size_t size
        if not 0 < size_bytes <= SEGMENT_BYTES_MAX:
            raise BootError(f"cannot map {size_bytes} bytes of shared memory: not a sensible size")
        size = size_bytes
        size = (size + PAGE_BYTES - 1) // PAGE_BYTES * PAGE_BYTES
        try:
            fd = os.memfd_create("shardd", os.MFD_CLOEXEC)
            try:
                os.ftruncate(fd, size)
                _map(self, fd, size, doubled)
            finally:
                os.close(fd)
        except OSError as error:
            raise BootError(
                f"cannot map {size} bytes of shared memory: {error.strerror}"
            ) from error
        self.size = size
        self.is_doubled = doubled

    def __dealloc__(self) -> None:
        if self.address is not NULL:
            munmap(self.address, self._mapped)

    def read(self, offset: int, length: int) -> bytes:
        """A copy of `length` bytes from `offset` on, within all that is mapped."""
        cdef size_t start = self._check(offset, length)
        return (<char*>self.address)[start:start + <size_t>length]

    def write(self, offset: int, data: bytes) -> None:
        """Copies `data` to `offset`."""
        cdef size_t start = self._check(offset, len(data))
        memcpy(self.address + start, <const char*>data, len(data))

    cdef size_t _check(self, object offset, object length) except? 0:
        if offset < 0 or length < 0 or offset + length > self._mapped:
            raise ValueError(f"{length} bytes at {offset} are outside the segment")
        return offset


cdef int _map(Segment segment, int fd, size_t size, bint doubled) except -1:
    """Maps `fd` once or twice. What was mapped when the second one fails goes in __dealloc__."""
    cdef void* address
    cdef void* view
    cdef size_t offset
    if not doubled:
        address = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
        if address == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        segment.address = <unsigned char*>address
        segment._mapped = size
        return 0
    # Reserves the whole range first, so that MAP_FIXED below can only replace our own mapping.
    address = mmap(NULL, 2 * size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
    if address == MAP_FAILED:
        raise OSError(errno, os.strerror(errno))
    segment.address = <unsigned char*>address
    segment._mapped = 2 * size
    for offset in (<size_t>0, size):
        view = mmap(
            segment.address + offset, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd, 0
        )
        if view == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
    return 0
