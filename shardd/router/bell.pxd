"""A doorbell among the descriptors that a process watches: the C face."""

cimport cython

from shardd.poller cimport Source
from shardd.router.doorbell cimport Doorbell

@cython.final
cdef class Bell(Source):
    cdef Doorbell doorbell
