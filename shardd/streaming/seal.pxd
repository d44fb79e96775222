"""The payloads of one channel, encrypted and decrypted: the C face."""

cimport cython
from libc.stdint cimport uint64_t


@cython.final
cdef class Seal:
    cdef bytes _name
    cdef unsigned char _code
    cdef object _encrypt
    cdef dict _decrypt             # by code
    cdef object _on_held
    cdef dict _held                # encoded messages with their payloads decrypted, by sequence
    cdef unsigned char[12] _nonce  # of the next message, big-endian
    cdef bint _is_reported

    cdef bytes close(self, const unsigned char* data, size_t length)
    cdef bint open(
        self, uint64_t sequence, const unsigned char** message, size_t* length
    ) except -1
    cdef object _plain(self, const unsigned char* data, size_t length)
    cdef bint _report(self, uint64_t sequence) except -1
