"""The C face of the loops that publish."""

from libc.stdint cimport uint64_t

cdef enum SendingBound:
    # How long a publisher without credit sleeps: short against the time its credit lasts.
    STARVED_NS = 200000
    # How often a loop that has much to send hears what the server says.
    LISTEN_NS = 50000000
    # The shortest sleep between messages that are due: what a wake-up costs.
    NAP_NS = 20000
    # Queued on one connection before a schedule waits for the server.
    QUEUED_BYTES_MAX = 1048576

cdef struct Schedule:
    uint64_t start_ns
    uint64_t total              # messages
    double interval_ns

cdef uint64_t due(const Schedule* schedule, uint64_t now) noexcept nogil
cdef uint64_t moment(const Schedule* schedule, uint64_t index) noexcept nogil
cdef uint64_t span_to(const Schedule* schedule, uint64_t index) noexcept nogil
cdef int listen_all(object watch, object reader) except -1
