# cython: language_level=3str
"""One epoll set for everything that is hot in a worker: clients, the listener, the doorbell.

The set is itself one descriptor in the event loop (an epoll descriptor is readable when one of its
own is due), so a wake-up costs the loop one callback, however many connections are ready, and an
idle connection costs no transport object. What needs TLS or a library keeps to the event loop's
own transports.

Events are level-triggered: a source that did not read all it could is reported again.
"""

from cpython.time cimport monotonic
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from posix.unistd cimport close

from shardd.timers cimport Timed

cdef extern from "sys/epoll.h" nogil:
    ctypedef union epoll_data_t:
        void* ptr
    struct epoll_event:
        uint32_t events
        epoll_data_t data
    enum:
        EPOLL_CTL_ADD
        EPOLL_CTL_MOD
        EPOLL_CTL_DEL
        EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epfd, int op, int fd, epoll_event* event)
    int epoll_wait(int epfd, epoll_event* events, int maxevents, int timeout)

# How many sources have their turn before rings and output have theirs.
cdef enum:
    EVENTS_MAX = 128
    # How long one round may take: what is left has its turn first in the next one.
    TURN_MS_MAX = 5


cdef class Source(Timed):
    """Something with a descriptor, maybe a deadline. Touched by its worker's event loop only."""

    def __cinit__(self):
        self.fd = -1
        self.watched = 0

    cdef int on_events(self, uint32_t events) except -1:
        """Handle what epoll reported. Overridden by every source."""
        raise NotImplementedError


cdef class Poller:
    """The epoll set of one process. Owned by its event loop's thread.

    Raises:
        OSError: the kernel refuses a set or a descriptor.
    """

    def __cinit__(self):
        self._departed = []
        self._events = malloc(EVENTS_MAX * sizeof(epoll_event))
        if self._events == NULL:
            raise MemoryError
        self.fd = epoll_create1(EPOLL_CLOEXEC)
        if self.fd < 0:
            raise OSError(errno, "epoll_create1")
        self.read_clock()

    def __dealloc__(self):
        free(self._events)
        if self.fd >= 0:
            close(self.fd)

    cdef int read_clock(self) except -1:
        """Take the time for this pass: milliseconds, monotonic."""
        self.now_ms = <uint64_t>(monotonic() * 1000.0)

    cdef int add(self, Source source, uint32_t events) except -1:
        """Watch a source; the set borrows it until `remove`."""
        cdef epoll_event event
        event.events = events
        event.data.ptr = <void*>source
        if epoll_ctl(self.fd, EPOLL_CTL_ADD, source.fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        source.watched = events
        source.poller = self

    cdef int watch(self, Source source, uint32_t events) except -1:
        """Change what a source is watched for."""
        cdef epoll_event event
        if source.watched == events or source.poller is None:
            return 0
        event.events = events
        event.data.ptr = <void*>source
        if epoll_ctl(self.fd, EPOLL_CTL_MOD, source.fd, &event) < 0:
            raise OSError(errno, "epoll_ctl")
        source.watched = events

    cdef int remove(self, Source source) except -1:
        """Forget a source. The object stays alive until the pass is over."""
        cdef epoll_event event
        if source.poller is None:
            return 0
        epoll_ctl(self.fd, EPOLL_CTL_DEL, source.fd, &event)
        source.poller = None
        source.watched = 0
        self._departed.append(source)

    cdef int dispatch(self) except -1:
        """Give every source that is ready its turn, without waiting. Returns how many were."""
        cdef epoll_event* events = <epoll_event*>self._events
        cdef Source source
        cdef uint64_t until_ms
        cdef int handled = 0
        self.read_clock()
        until_ms = self.now_ms + TURN_MS_MAX
        if self._next == self._count:
            self._next = 0
            self._count = epoll_wait(self.fd, events, EVENTS_MAX, 0)
            if self._count < 0:
                self._count = 0
                if errno == EINTR:
                    return 0
                raise OSError(errno, "epoll_wait")
        try:
            while self._next < self._count:
                source = <Source>events[self._next].data.ptr
                # A source that an earlier one of this round removed is still alive, but gone.
                if source.poller is not None:
                    if self.now_ms >= until_ms:
                        return handled
                    source.on_events(events[self._next].events)
                    self.read_clock()
                handled += 1
                self._next += 1
        except BaseException:
            self._next = self._count
            raise
        if self._departed:
            self._departed.clear()
        return handled
