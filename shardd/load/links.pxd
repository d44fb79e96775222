"""The C face of a connection that makes load: bytes in and out, over TCP or TLS."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.load.system cimport epoll_event
from shardd.streaming.client_wire cimport ServerOperation

cdef enum LinkBound:
    RECEIVE_BYTES = 1048576     # one turn takes at most about this from one connection
    RECORD_BYTES_MAX = 16384    # the longest plaintext of a TLS record (RFC 8446, section 5.1)
    LINE_KEPT = 256             # of the last control line, to recognise the next one
    EVENTS_MAX = 256
    GLANCE_MS = 20              # how often a loop that waits looks at the shared flags

cdef class Link:
    # The connection
    cdef object connection
    cdef object _tls            # the same when it is one over TLS, else None
    cdef readonly int fd
    cdef readonly str name      # "publisher 3", for people
    # What has arrived of an operation that is not whole
    cdef unsigned char* _carry
    cdef size_t _carry_len
    cdef size_t _carry_room
    cdef bint _is_unseen        # it came before this object did
    # What has not left yet
    cdef unsigned char* _out
    cdef size_t _out_start
    cdef size_t out_len
    cdef size_t _out_room
    # The control line of the last message and its whole length: most messages begin like the last
    cdef unsigned char line[256]
    cdef size_t line_len
    cdef size_t frame_len
    cdef size_t body_len        # of its payload, headers not included
    cdef size_t extra_len       # of its payload, headers included
    # What passed
    cdef readonly uint64_t messages
    cdef readonly uint64_t start_ns
    cdef readonly uint64_t end_ns
    cdef readonly uint64_t payload_bytes    # headers included
    cdef uint64_t pongs
    # For the loop that uses it
    cdef uint64_t quota         # messages that it may send; 0: no limit
    cdef size_t block_left      # bytes of a block under way
    cdef size_t block_at
    cdef uint64_t asked_ns
    cdef bint is_done
    cdef bint is_dirty
    cdef bint is_full           # waits for the kernel to take more

    cdef ssize_t write(self, const unsigned char* data, size_t length) except -1
    cdef int queue(self, const unsigned char* data, size_t length) except -1
    cdef unsigned char* reserve(self, size_t length) except NULL
    cdef int flush(self) except -1
    cdef int answer(self, const ServerOperation* operation) except -1
    cdef int lost(self) except -1

cdef class Reader:
    cdef unsigned char* data
    cdef size_t _room

    cdef ssize_t fill(self, Link link) except -1
    cdef ssize_t _fill_decrypted(self, Link link, size_t length, bint is_unseen) except -1
    cdef ssize_t take(
        self, Link link, size_t at, size_t length, ServerOperation* operation
    ) except -1
    cdef int keep(self, Link link, size_t at, size_t length) except -1
    cdef int listen(self, Link link) except -1

cdef class Watch:
    cdef int _epoll
    cdef readonly list links
    cdef epoll_event events[256]

    cdef int wait(self, int timeout_ms) except -1
    cdef int doze(self, uint64_t span_ns) except -1
    cdef int watch(self, Py_ssize_t index, uint32_t events) except -1
