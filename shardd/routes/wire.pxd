"""The C face of the route protocol parser: bytes in, one operation at a time out.

As with clients (`shardd.wire`) the parser keeps no state, and every pointer in an operation is
borrowed from the caller's buffer and dies with it.
"""

from libc.stdint cimport int64_t, uint32_t

cdef enum RouteVerb:
    ROUTE_NONE = 0
    ROUTE_MESSAGE = 1         # RMSG, HMSG, LMSG
    ROUTE_INTEREST = 2        # RS+, LS+
    ROUTE_NO_INTEREST = 3     # RS-, LS-
    ROUTE_PING = 4
    ROUTE_PONG = 5
    ROUTE_CONNECT = 6
    ROUTE_INFO = 7
    ROUTE_OK = 8
    ROUTE_ERR = 9
    ROUTE_IGNORED = 10        # verbs of gateways and clients

# What `next_route_operation` answers when it is not a positive count of bytes.
cdef enum RouteTrouble:
    ROUTE_INCOMPLETE = 0
    ROUTE_UNKNOWN_OPERATION = -1      # -ERR 'Unknown Protocol Operation', close
    ROUTE_LINE_TOO_LONG = -2          # -ERR 'maximum control line exceeded', close
    ROUTE_PAYLOAD_TOO_LARGE = -3      # closed
    ROUTE_BAD_ARGUMENTS = -4          # closed

cdef struct RouteLimits:
    size_t control_line_max   # bytes of a whole control line; room for any verb at the least
    int64_t payload_max       # bytes, headers included
    bint has_account          # lines name their account; not so where a connection is for one only

cdef struct RouteOperation:
    RouteVerb verb
    const unsigned char* account       # NULL where lines name none
    size_t account_len
    const unsigned char* subject
    size_t subject_len
    # of interest
    const unsigned char* queue         # NULL: plain
    size_t queue_len
    uint32_t weight                    # 0 when it is no number, or negative (sheet 10.5)
    # of a message
    bint has_header
    bint is_canonical                  # `tail` can be delivered as it stands
    const unsigned char* reply
    size_t reply_len
    const unsigned char* queues        # the names, blanks between them; NULL: none
    size_t queues_len
    size_t header_len
    size_t total_len
    const unsigned char* payload
    const unsigned char* tail          # from the byte after the subject to the last CR LF
    size_t tail_len
    # of INFO, CONNECT and -ERR: the argument part
    const unsigned char* args
    size_t args_len
    size_t needed             # when incomplete: bytes needed in all, 0 if unknown

cdef ssize_t next_route_operation(
    const unsigned char* buffer,
    size_t length,
    const RouteLimits* limits,
    RouteOperation* operation,
) noexcept nogil

# The first name of a list; moves the list behind it. False when there is none.
cdef bint next_name(
    const unsigned char** list, size_t* list_len,
    const unsigned char** name, size_t* name_len,
) noexcept nogil
