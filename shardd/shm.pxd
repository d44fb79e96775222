"""Anonymous shared memory, mapped before the fork and inherited: the C face."""

cimport cython

@cython.final
cdef class Segment:
    cdef readonly size_t size          # bytes, a multiple of the page
    cdef readonly bint is_doubled      # mapped twice in a row
    cdef unsigned char* address
    cdef size_t _mapped                # bytes of address space in all
    cdef size_t _check(self, object offset, object length) except? 0
