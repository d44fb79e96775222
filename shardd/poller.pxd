"""Descriptors that one worker watches, in one epoll set: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.timers cimport Timed

cdef class Source(Timed):
    cdef int fd                    # -1 once closed
    cdef uint32_t watched          # the epoll events it is registered for
    cdef Poller poller             # None while it is not registered

    cdef int on_events(self, uint32_t events) except -1

cdef class Poller:
    cdef readonly int fd           # the epoll descriptor itself, readable when anything is due
    cdef public uint64_t now_ms    # monotonic, read once per pass
    cdef list _departed            # sources removed while events for them may still be at hand
    cdef void* _events             # what epoll reported last, and how far it has been handled
    cdef int _count
    cdef int _next

    cdef int add(self, Source source, uint32_t events) except -1
    cdef int watch(self, Source source, uint32_t events) except -1
    cdef int remove(self, Source source) except -1
    cdef int read_clock(self) except -1
    cdef int dispatch(self) except -1
