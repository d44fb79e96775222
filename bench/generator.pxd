"""The C face of the load generator: what it keeps per connection, and its shared counters."""

from libc.stdint cimport uint32_t, uint64_t

# Slots of the shared page, each on a cache line of its own. Every slot has one writer.
cdef enum SharedSlot:
    SLOT_RECEIVED = 0     # frame bytes received, over all connections; by the subscriber process
    SLOT_EXPECTED = 8     # frame bytes that must arrive in all; by the publisher process
    SLOT_FINISHED = 16    # 1 when nothing more is sent and SLOT_EXPECTED is final; by the publisher
    SLOT_ABORTED = 24     # 1 when one side failed, so that the other need not wait; by either
    SLOTS = 32

cdef enum Code:
    CODE_OK = 0
    CODE_ERRNO = -1       # a system call failed, errno says why
    CODE_CLOSED = -2      # the server closed the connection
    CODE_SILENT = -3      # nothing moved for as long as patience lasts
    CODE_MALFORMED = -4   # bytes that are neither the expected frame nor a PING
    CODE_SURPLUS = -5     # more bytes than were published
    CODE_ABORTED = -6     # the other process failed
    CODE_NO_MEMORY = -7
    CODE_REFUSED = -8     # the server answered with -ERR

cdef enum Bound:
    HEADER_BYTES_MAX = 256      # the control line of a MSG frame
    EXCERPT_BYTES = 96          # of a malformed stream, for the message of the failure
    RECEIVE_BYTES = 1048576     # one recv takes at most this
    EVENTS_MAX = 256            # taken from epoll at a time
    GLANCE_MS = 20              # how often a loop that waits looks at the shared flags
    # How long a publisher without credit sleeps: short against the time its credit lasts (tens of
    # milliseconds), long against a wake-up.
    STARVED_NS = 200000

# What one run of the loops came to.
cdef struct Outcome:
    Code code
    int error                   # errno
    Py_ssize_t connection       # which connection it concerns
    uint64_t start_ns
    uint64_t end_ns
    size_t excerpt_len
    unsigned char excerpt[96]

# One connection that publishes the same block over and over.
cdef struct Sender:
    int fd
    const unsigned char* block
    size_t block_len
    size_t offset               # of the block under way
    uint64_t output_len         # bytes that the server delivers for one block
    uint64_t blocks             # sent whole
    bint is_done
    bint is_blocked

# One connection whose stream consists of frames of one length, and of PINGs in between.
cdef struct Receiver:
    int fd
    size_t until_boundary       # bytes of a known frame still to come
    size_t carry_len            # bytes at a boundary, too few to tell what they are
    uint64_t received           # frame bytes
    uint64_t frames             # frames whose control line was seen
    size_t pings                # not yet answered
    unsigned char carry[256]
    unsigned char first_header[256]
    unsigned char last_header[256]

# What a frame of every receiver must look like.
cdef struct Shape:
    size_t frame_len
    size_t header_len           # control line with its CR LF
    const unsigned char* body   # payload with its CR LF
    size_t body_len

# The results, as `generator.pyi` shows them.
cdef class Published:
    cdef readonly uint64_t start_ns
    cdef readonly uint64_t end_ns       # the last block was handed to the kernel
    cdef readonly list blocks           # sent whole, per connection

cdef class Counted:
    cdef readonly uint64_t end_ns       # the last byte arrived
    cdef readonly list received         # frame bytes, per connection
    cdef readonly list first_headers    # the control line of the first frame, per connection
    cdef readonly list last_headers

# What request/reply, the dialer and the loops over TLS share with the loops here.
cdef uint64_t* shared_slots(object shared) except NULL
cdef int check(Outcome* outcome) except -1
cdef void take_excerpt(Outcome* outcome, const unsigned char* data, size_t length) noexcept nogil
cdef Code classify(Outcome* outcome, const unsigned char* data, size_t length) noexcept nogil
cdef int watch(
    int epoll, int fd, uint32_t events, uint64_t index, int operation
) noexcept nogil
cdef int set_shape(Shape* shape, Py_ssize_t header_len, bytes body) except -1
cdef Code account(
    Receiver* receiver, const Shape* shape, unsigned char* data, size_t length, Outcome* outcome
) noexcept nogil
cdef Counted summary(
    Receiver* receivers, Py_ssize_t count, Py_ssize_t header_len, uint64_t end_ns
)
