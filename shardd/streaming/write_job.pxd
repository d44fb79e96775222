"""One log's part in a commit: the C face."""

cimport cython

from shardd.streaming.batch cimport Batch


# One log's part in a commit. Made and finished in the event loop, run in a thread.
@cython.final
cdef class WriteJob:
    cdef readonly object log       # whose
    cdef readonly object error     # OSError; None once it has been written
    cdef Batch _batch
    cdef int _fd
    cdef bint _is_owner            # of the descriptor
    cdef bint _is_kept_open
    cdef bint _sync
    cdef bint _has_directory
