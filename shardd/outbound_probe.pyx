# cython: language_level=3str
"""A door to the C face of an output queue, for tests.

A probe owns an output queue as a connection does, and counts what the queue tells its owner. It
keeps no reference to what it is lent: a loan that outlives `return_loans` is a use after free.
"""

cimport cython
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from shardd.outbound cimport Outbound, OutboundSet
from shardd.poller cimport Poller


@cython.final
cdef class Probe(Outbound):
    """The owner of one output queue."""

    def __init__(
        self, OutboundSet outbounds not None, int fd, Poller poller=None, uint64_t pending_max=-1
    ) -> None:
        self.outbounds = outbounds
        self.fd = fd
        self.pending_max = pending_max
        if poller is not None:
            poller.add(self, 0)

    def append_bytes(self, bytes data not None) -> None:
        """`append`."""
        self.append(<const unsigned char*>PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))

    def reserve_and_commit(self, bytes data not None) -> bool:
        """`reserve`, a copy, `commit`; False when there is no chunk that large."""
        cdef size_t length = PyBytes_GET_SIZE(data)
        cdef unsigned char* room = self.reserve(length)
        if room == NULL:
            return False
        memcpy(room, PyBytes_AS_STRING(data), length)
        self.commit(length)
        return True

    def lend_bytes(self, bytes head not None, bytearray data not None) -> None:
        """`lend`; `data` must live, and keep its size, until `return_loans`."""
        self.lend(
            <const unsigned char*>PyBytes_AS_STRING(head), PyBytes_GET_SIZE(head),
            <const unsigned char*>PyByteArray_AS_STRING(data), PyByteArray_GET_SIZE(data),
        )

    def attach_layer(self, layer not None) -> None:
        """`attach`, with nothing to be written before."""
        self.attach(layer, b"")

    def flush_now(self) -> int:
        """`flush`: 0 done, 1 blocked, 2 broken."""
        return self.flush()

    def make_room(self) -> None:
        """`on_room`."""
        self.on_room()

    def discard_all(self) -> None:
        """`discard`."""
        self.discard()

    def leave(self) -> None:
        """What an owner does first when it closes."""
        if self.poller is not None:
            self.poller.remove(self)
        self.fd = -1

    @property
    def state(self) -> tuple[bool, bool, bool]:
        """Blocked, broken, overflowing."""
        return self.is_blocked, self.is_broken, self.is_overflowing

    @property
    def pending_bytes(self) -> int:
        """Bytes queued."""
        return self.pending

    @property
    def write_deadline_ms(self) -> int:
        """When blocked: until when the bytes that were queued then must be written."""
        return self.write_until_ms

    @property
    def watched_events(self) -> int:
        """What the poller watches it for."""
        return self.watched

    cdef int on_events(self, uint32_t events) except -1:
        self.on_room()

    cdef int on_blocked(self) except -1:
        self.blocked_count += 1

    cdef int on_broken(self) except -1:
        self.broken_count += 1

    cdef int on_overflow(self) except -1:
        self.overflow_count += 1


def flush_dirty(OutboundSet outbounds not None) -> None:
    """`OutboundSet.flush_dirty`."""
    outbounds.flush_dirty()


def return_loans(OutboundSet outbounds not None) -> None:
    """`OutboundSet.return_loans`."""
    outbounds.return_loans()


def has_loans(OutboundSet outbounds not None) -> bool:
    """Whether anything is lent."""
    return outbounds.has_loans


def pooled_chunks(OutboundSet outbounds not None) -> int:
    """Empty chunks in the pool."""
    return outbounds._free_count
