# cython: language_level=3str
"""The route protocol parser: bytes in, one operation at a time out. No IO, no state.

Routes are spoken by servers, so lines are regular; but a peer may be wrong or worse, so every
length is checked. Input that arrives whole and input split anywhere give the same operations: an
answer other than incomplete never changes when more bytes follow.

Facts are those of sheet 10.5 and 10.6, asked of nats-server 2.15.1. What this server does not
have (gateways) is read and ignored; what comes from leaf nodes of another server is read as if it
were that server's own.
"""

from libc.stdint cimport int64_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy, memset

from shardd import limits as default_limits

cdef enum:
    # Sizes have at most this many digits, as with clients.
    DIGITS_MAX = 9

# One control line without its line end, or one token of it.
cdef struct Span:
    const unsigned char* start
    const unsigned char* stop


# --- tokens ---------------------------------------------------------------------------------------

cdef inline bint _is_blank(unsigned char byte) noexcept nogil:
    return byte == c" " or byte == c"\t" or byte == c"\r"


cdef bint _take_first(Span* line, Span* token) noexcept nogil:
    """Cuts the first token off; False when there is none."""
    while line.start < line.stop and _is_blank(line.start[0]):
        line.start += 1
    token.start = line.start
    while line.start < line.stop and not _is_blank(line.start[0]):
        line.start += 1
    token.stop = line.start
    return token.stop > token.start


cdef bint _take_last(Span* line, Span* token) noexcept nogil:
    """Cuts the last token off; False when there is none."""
    while line.stop > line.start and _is_blank(line.stop[-1]):
        line.stop -= 1
    token.stop = line.stop
    while line.stop > line.start and not _is_blank(line.stop[-1]):
        line.stop -= 1
    token.start = line.stop
    return token.stop > token.start


cdef bint _is_empty(Span line) noexcept nogil:
    """Whether nothing but blanks is left."""
    cdef Span token
    return not _take_first(&line, &token)


cdef int64_t _number(const Span* token) noexcept nogil:
    """The value of one to DIGITS_MAX decimal digits, else -1."""
    cdef const unsigned char* position = token.start
    cdef int64_t value = 0
    if token.stop - token.start > DIGITS_MAX or token.stop == token.start:
        return -1
    while position < token.stop:
        if position[0] < c"0" or position[0] > c"9":
            return -1
        value = value * 10 + (position[0] - c"0")
        position += 1
    return value


cdef inline bint _is_mark(const Span* token, unsigned char mark) noexcept nogil:
    return token.stop - token.start == 1 and token.start[0] == mark


cdef inline bint _follows(const Span* token, const unsigned char* stop) noexcept nogil:
    """Whether a single blank stands between."""
    return token.start - stop == 1 and stop[0] == c" "


cdef bint next_name(
    const unsigned char** list, size_t* list_len,
    const unsigned char** name, size_t* name_len,
) noexcept nogil:
    cdef Span line
    cdef Span token
    line.start = list[0]
    line.stop = list[0] + list_len[0]
    if not _take_first(&line, &token):
        return False
    list[0] = line.start
    list_len[0] = line.stop - line.start
    name[0] = token.start
    name_len[0] = token.stop - token.start
    return True


# --- verbs ----------------------------------------------------------------------------------------

cdef struct VerbName:
    const char* name
    size_t length
    RouteVerb verb
    bint has_header
    bint has_origin           # of leaf nodes: the cluster it came from goes first

cdef VerbName[17] VERBS
VERBS[0] = VerbName(b"RMSG", 4, ROUTE_MESSAGE, False, False)
VERBS[1] = VerbName(b"HMSG", 4, ROUTE_MESSAGE, True, False)
VERBS[2] = VerbName(b"RS+", 3, ROUTE_INTEREST, False, False)
VERBS[3] = VerbName(b"RS-", 3, ROUTE_NO_INTEREST, False, False)
VERBS[4] = VerbName(b"PING", 4, ROUTE_PING, False, False)
VERBS[5] = VerbName(b"PONG", 4, ROUTE_PONG, False, False)
VERBS[6] = VerbName(b"INFO", 4, ROUTE_INFO, False, False)
VERBS[7] = VerbName(b"CONNECT", 7, ROUTE_CONNECT, False, False)
VERBS[8] = VerbName(b"LMSG", 4, ROUTE_MESSAGE, False, True)
VERBS[9] = VerbName(b"LS+", 3, ROUTE_INTEREST, False, True)
VERBS[10] = VerbName(b"LS-", 3, ROUTE_NO_INTEREST, False, True)
VERBS[11] = VerbName(b"+OK", 3, ROUTE_OK, False, False)
VERBS[12] = VerbName(b"-ERR", 4, ROUTE_ERR, False, False)
VERBS[13] = VerbName(b"A+", 2, ROUTE_IGNORED, False, False)
VERBS[14] = VerbName(b"A-", 2, ROUTE_IGNORED, False, False)
VERBS[15] = VerbName(b"SUB", 3, ROUTE_IGNORED, False, False)
VERBS[16] = VerbName(b"UNSUB", 5, ROUTE_IGNORED, False, False)


cdef const VerbName* _find_verb(
    const unsigned char* start, const unsigned char* stop
) noexcept nogil:
    """The verb that a line begins with, in any case; NULL when there is none."""
    cdef size_t length = stop - start
    cdef size_t at
    cdef int index
    for index in range(17):
        if length < VERBS[index].length:
            continue
        for at in range(VERBS[index].length):
            if start[at] != <unsigned char>VERBS[index].name[at] and (
                start[at] - 0x20 != <unsigned char>VERBS[index].name[at] or start[at] < c"a"
            ):
                break
        else:
            if length == VERBS[index].length or _is_blank(start[VERBS[index].length]):
                return &VERBS[index]
    return NULL


cdef bint _may_become_verb(const unsigned char* start, size_t length) noexcept nogil:
    """Whether a line of which only this much has come can still begin with a verb."""
    cdef size_t at
    cdef size_t shown
    cdef int index
    for index in range(17):
        shown = min(length, VERBS[index].length)
        for at in range(shown):
            if start[at] != <unsigned char>VERBS[index].name[at] and (
                start[at] - 0x20 != <unsigned char>VERBS[index].name[at] or start[at] < c"a"
            ):
                break
        else:
            if length <= VERBS[index].length or _is_blank(start[VERBS[index].length]):
                return True
    return False


cdef int _interest(Span* line, bint is_wanted, RouteOperation* operation) noexcept nogil:
    """subject [queue [weight]]: 1 or a RouteTrouble."""
    cdef Span token
    cdef int64_t weight
    if not _take_first(line, &token):
        return ROUTE_BAD_ARGUMENTS
    operation.subject = token.start
    operation.subject_len = token.stop - token.start
    operation.queue = NULL
    operation.queue_len = 0
    operation.weight = 1
    if not _take_first(line, &token):
        return 1
    operation.queue = token.start
    operation.queue_len = token.stop - token.start
    if not is_wanted:
        operation.weight = 0
        return 1 if _is_empty(line[0]) else ROUTE_BAD_ARGUMENTS
    if not _take_first(line, &token) or not _is_empty(line[0]):
        return ROUTE_BAD_ARGUMENTS
    weight = _number(&token)
    operation.weight = <uint32_t>weight if weight > 0 else 0
    return 1


cdef int _message(
    Span* line, bint has_header, const RouteLimits* limits, RouteOperation* operation
) noexcept nogil:
    """subject [reply | marks and queues] sizes: 1 or a RouteTrouble."""
    cdef Span subject
    cdef Span total
    cdef Span header
    cdef Span token
    cdef int64_t total_len
    cdef int64_t header_len = 0
    cdef const unsigned char* end = line.stop
    cdef const unsigned char* stop
    if not _take_first(line, &subject) or not _take_last(line, &total):
        return ROUTE_BAD_ARGUMENTS
    total_len = _number(&total)
    operation.is_canonical = total.stop == end and (
        total.start[0] != c"0" or total_len == 0 and total.stop - total.start == 1
    )
    stop = total.start
    if has_header:
        if not _take_last(line, &header):
            return ROUTE_BAD_ARGUMENTS
        header_len = _number(&header)
        operation.is_canonical = operation.is_canonical and _follows(&total, header.stop) and (
            header.start[0] != c"0"
        )
        stop = header.start
    if total_len < 0 or header_len < 0 or header_len > total_len:
        return ROUTE_BAD_ARGUMENTS
    if total_len > limits.payload_max:
        return ROUTE_PAYLOAD_TOO_LARGE
    operation.has_header = has_header
    operation.header_len = <size_t>header_len
    operation.total_len = <size_t>total_len
    operation.subject = subject.start
    operation.subject_len = subject.stop - subject.start
    operation.reply = NULL
    operation.reply_len = 0
    operation.queues = NULL
    operation.queues_len = 0
    operation.tail = subject.stop
    if not _take_first(line, &token):
        operation.is_canonical = operation.is_canonical and (
            stop - subject.stop == 1 and subject.stop[0] == c" "
        )
        return 1
    if _is_mark(&token, c"|") or _is_mark(&token, c"+"):
        operation.is_canonical = False
        if token.start[0] == c"+":
            if not _take_first(line, &token):
                return ROUTE_BAD_ARGUMENTS
            operation.reply = token.start
            operation.reply_len = token.stop - token.start
        operation.queues = line.start
        operation.queues_len = line.stop - line.start
        return 1
    operation.reply = token.start
    operation.reply_len = token.stop - token.start
    operation.is_canonical = operation.is_canonical and _follows(&token, subject.stop) and (
        stop - token.stop == 1 and token.stop[0] == c" "
    )
    return 1 if _is_empty(line[0]) else ROUTE_BAD_ARGUMENTS


cdef ssize_t _with_payload(
    const unsigned char* buffer, size_t length, const unsigned char* next,
    RouteOperation* operation,
) noexcept nogil:
    """The payload behind a control line that ends before `next`."""
    cdef size_t available = (buffer + length) - next
    cdef size_t total = operation.total_len
    if available > total and next[total] != c"\r":
        return ROUTE_UNKNOWN_OPERATION
    if available < total + 2:
        operation.needed = (next - buffer) + total + 2
        return ROUTE_INCOMPLETE
    if next[total + 1] != c"\n":
        return ROUTE_UNKNOWN_OPERATION
    operation.payload = next
    operation.tail_len = (next - operation.tail) + total + 2
    # A bare LF at the end of the control line is read, but not delivered.
    operation.is_canonical = operation.is_canonical and next[-2] == c"\r"
    return (next - buffer) + total + 2


cdef ssize_t next_route_operation(
    const unsigned char* buffer,
    size_t length,
    const RouteLimits* limits,
    RouteOperation* operation,
) noexcept nogil:
    """Reads one operation from the start of `buffer`: the bytes it took, or a RouteTrouble."""
    cdef size_t window = min(length, limits.control_line_max + 2)
    cdef const unsigned char* newline = <const unsigned char*>memchr(buffer, c"\n", window)
    cdef const VerbName* verb
    cdef Span line
    cdef Span token
    cdef int outcome = 1
    operation.needed = 0
    if newline == NULL:
        if length and not _may_become_verb(buffer, length):
            return ROUTE_UNKNOWN_OPERATION
        if length > limits.control_line_max + 1:
            return ROUTE_LINE_TOO_LONG
        return ROUTE_INCOMPLETE
    line.start = buffer
    line.stop = newline
    if line.stop > line.start and line.stop[-1] == c"\r":
        line.stop -= 1
    verb = _find_verb(line.start, line.stop)
    if verb == NULL:
        return ROUTE_UNKNOWN_OPERATION
    if <size_t>(line.stop - line.start) > limits.control_line_max:
        return ROUTE_LINE_TOO_LONG
    line.start += verb.length
    operation.verb = verb.verb
    if verb.verb == ROUTE_MESSAGE or verb.verb == ROUTE_INTEREST or (
        verb.verb == ROUTE_NO_INTEREST
    ):
        if verb.has_origin and not _take_first(&line, &token):
            return ROUTE_BAD_ARGUMENTS
        operation.account = NULL
        operation.account_len = 0
        if limits.has_account:
            if not _take_first(&line, &token):
                return ROUTE_BAD_ARGUMENTS
            operation.account = token.start
            operation.account_len = token.stop - token.start
        if verb.verb == ROUTE_MESSAGE:
            outcome = _message(&line, verb.has_header, limits, operation)
            if outcome > 0:
                return _with_payload(buffer, length, newline + 1, operation)
        else:
            outcome = _interest(&line, verb.verb == ROUTE_INTEREST, operation)
        if outcome < 0:
            return outcome
    else:
        while line.start < line.stop and _is_blank(line.start[0]):
            line.start += 1
        while line.stop > line.start and _is_blank(line.stop[-1]):
            line.stop -= 1
        operation.args = line.start
        operation.args_len = line.stop - line.start
    return newline + 1 - buffer


# --- a door for tests -----------------------------------------------------------------------------

cdef object _text(const unsigned char* start, size_t length):
    return None if start == NULL else <bytes>start[:length]


cdef tuple _as_tuple(const RouteOperation* operation):
    cdef const unsigned char* names = operation.queues
    cdef size_t names_len = operation.queues_len
    cdef const unsigned char* name
    cdef size_t name_len
    if operation.verb == ROUTE_MESSAGE:
        queues = []
        while names != NULL and next_name(&names, &names_len, &name, &name_len):
            queues.append(<bytes>name[:name_len])
        return (
            "message",
            _text(operation.account, operation.account_len),
            _text(operation.subject, operation.subject_len),
            _text(operation.reply, operation.reply_len),
            queues if operation.queues != NULL else None,
            operation.header_len if operation.has_header else None,
            <bytes>operation.payload[:operation.total_len],
            <bytes>operation.tail[:operation.tail_len] if operation.is_canonical else None,
        )
    if operation.verb == ROUTE_INTEREST or operation.verb == ROUTE_NO_INTEREST:
        return (
            "interest" if operation.verb == ROUTE_INTEREST else "no interest",
            _text(operation.account, operation.account_len),
            _text(operation.subject, operation.subject_len),
            _text(operation.queue, operation.queue_len),
            operation.weight,
        )
    return (<int>operation.verb, _text(operation.args, operation.args_len))


def parse(
    data: bytes,
    *,
    control_line_max: int = default_limits.ROUTE_CONTROL_LINE_BYTES_MAX,
    payload_max: int = default_limits.ROUTE_PAYLOAD_BYTES_MAX,
    has_account: bool = True,
) -> tuple[list[tuple[object, ...]], int, int, int]:
    """Operations, bytes taken, the last answer and what was said to be needed.

    The bytes are copied into memory of exactly their length, so that a read beyond is found.
    """
    cdef RouteLimits route_limits
    cdef RouteOperation operation
    cdef size_t length = len(data)
    cdef size_t position = 0
    cdef ssize_t taken = 0
    cdef const unsigned char* source = data
    cdef unsigned char* copy = <unsigned char*>malloc(length if length else 1)
    if copy == NULL:
        raise MemoryError
    memset(&operation, 0, sizeof(RouteOperation))
    route_limits.control_line_max = control_line_max
    route_limits.payload_max = payload_max
    route_limits.has_account = has_account
    operations = []
    try:
        memcpy(copy, source, length)
        while position < length:
            taken = next_route_operation(
                copy + position, length - position, &route_limits, &operation)
            if taken <= 0:
                break
            operations.append(_as_tuple(&operation))
            position += taken
        return operations, position, min(taken, 0), operation.needed
    finally:
        free(copy)
