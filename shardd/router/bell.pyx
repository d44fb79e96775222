# cython: language_level=3str
"""A doorbell among the descriptors that a process watches: peers ring it when they wrote for it."""

cimport cython
from libc.stdint cimport uint32_t

from shardd.poller cimport Source
from shardd.router.doorbell cimport Doorbell


@cython.final
cdef class Bell(Source):
    """Makes a ring of the doorbell end the wait of the epoll set."""

    def __init__(self, Doorbell doorbell not None):
        self.doorbell = doorbell
        self.fd = doorbell.fd

    cdef int on_events(self, uint32_t events) except -1:
        self.doorbell.clear()
