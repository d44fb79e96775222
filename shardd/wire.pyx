# cython: language_level=3str
"""The NATS client protocol parser: bytes in, one operation at a time out. No IO, no state.

`next_operation` decides from the bytes it is shown and nothing else. An answer other than
INCOMPLETE never changes when more bytes follow, so input that arrives whole and input split at
any byte give the same operations and the same final trouble. What can match nothing is refused at
once: a byte that no verb continues with, an argument part that is too long before its LF came, a
size above the limit before its payload came, a payload that is not followed by CR LF.

A control line is cut into tokens in one of two ways. `_split_plain` takes, in one pass, the line
that nearly every client sends: a publish with single blanks and CR LF. All else is for `_read_line`
and `_split`, which know the whole grammar. Tests hold both against a plain Python twin.

Facts are those of nats-server 2.15.1, asked over a socket, with these deliberate differences:

- The first LF ends a line, and only a CR right before it is dropped. The peer takes a LF that is
  the first byte of the arguments for an argument, and after any CR drops the last byte of the line.
- A CR elsewhere in the arguments of PUB or HPUB is an argument error. The peer relays some inside
  a subject, where they would break the line that a subscriber reads, and loses others when the
  input is split there.
- Runs of blanks before the arguments, and what follows PING, PONG and +OK, may be as long as the
  arguments of a control line. The peer drops such bytes without a bound; a parser that keeps
  nothing has to see them again, so they need one.
- HMSG is refused at its second letter, like the other verbs that only servers may send.
"""

from libc.stdint cimport int64_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy

from shardd import limits as default_limits

# Sizes and counts have at most this many digits; the peer refuses more, leading zeros included.
cdef enum:
    DIGITS_MAX = 9
    TOKENS_MAX = 4            # HPUB subject reply header_len total_len
    TOO_MANY_TOKENS = 5

cdef extern from "<endian.h>" nogil:
    uint64_t le64toh(uint64_t word)

cdef extern from * nogil:
    int __builtin_ctzll(unsigned long long word)

# The argument part of one control line, without blanks before it and without its line end.
cdef struct Line:
    const unsigned char* start
    const unsigned char* stop
    const unsigned char* next         # the byte after LF

cdef struct Token:
    const unsigned char* start
    const unsigned char* stop


# --- lexical parts ------------------------------------------------------------------------------


cdef inline bint _is_blank(unsigned char byte) noexcept nogil:
    return byte == c" " or byte == c"\t"


cdef ssize_t _read_line(
    const unsigned char* start,
    const unsigned char* end,
    size_t line_max,
    Line* line,
) noexcept nogil:
    """Finds the argument part that follows a verb: 1, INCOMPLETE or CONTROL_LINE_TOO_LONG."""
    cdef const unsigned char* position = start
    cdef const unsigned char* newline
    cdef const unsigned char* stop
    cdef size_t window
    while position < end and _is_blank(position[0]):
        position += 1
    if <size_t> (position - start) > line_max:
        return CONTROL_LINE_TOO_LONG
    # A good line has its LF among the first line_max + 2 bytes: arguments, CR, LF.
    window = end - position
    if window > line_max and window - line_max > 2:
        window = line_max + 2
    newline = <const unsigned char*> memchr(position, c"\n", window)
    stop = newline if newline != NULL else position + window
    # A CR at the end of what has arrived may yet turn out to belong to the line end.
    if stop > position and stop[-1] == c"\r":
        stop -= 1
    if <size_t> (stop - position) > line_max:
        return CONTROL_LINE_TOO_LONG
    if newline == NULL:
        return INCOMPLETE
    line.start = position
    line.stop = stop
    line.next = newline + 1
    return 1


cdef ssize_t _read_command(
    const unsigned char* buffer,
    size_t length,
    const char* verb,
    size_t verb_len,
    bint needs_blank,
    size_t line_max,
    Line* line,
) noexcept nogil:
    """Checks the verb, given in lower case, and finds its arguments: 1 or a Trouble."""
    cdef size_t shown = verb_len if verb_len < length else length
    cdef size_t index = 1
    # Setting bit 5 folds the two cases of a letter, and folds nothing else to a letter. The
    # caller has compared the first byte, which may be a sign, as it stands.
    while index < shown:
        if buffer[index] | 0x20 != <unsigned char> verb[index]:
            return UNKNOWN_OPERATION
        index += 1
    if length <= verb_len:
        return INCOMPLETE
    if needs_blank and not _is_blank(buffer[verb_len]):
        return UNKNOWN_OPERATION
    return _read_line(buffer + verb_len, buffer + length, line_max, line)


cdef size_t _split(const Line* line, Token* tokens, bint is_publish) noexcept nogil:
    """Splits the arguments at runs of blanks into at most TOKENS_MAX tokens.

    A CR that is not part of the line end separates tokens, as with the peer's SUB and UNSUB; in a
    publish it spoils the line, and the answer is TOO_MANY_TOKENS as for a fifth token.
    """
    cdef const unsigned char* position = line.start
    cdef const unsigned char* token_start = NULL
    cdef size_t count = 0
    cdef unsigned char byte
    while position < line.stop:
        byte = position[0]
        if _is_blank(byte) or byte == c"\r":
            if is_publish and byte == c"\r":
                return TOO_MANY_TOKENS
            if token_start != NULL:
                tokens[count].stop = position
                count += 1
                token_start = NULL
        elif token_start == NULL:
            if count == TOKENS_MAX:
                return TOO_MANY_TOKENS
            token_start = position
            tokens[count].start = position
        position += 1
    if token_start != NULL:
        tokens[count].stop = position
        count += 1
    return count


cdef inline const unsigned char* _name_stop(
    const unsigned char* position, const unsigned char* end
) noexcept nogil:
    """The first blank or control byte, or `end`; eight bytes at a time while there are as many."""
    cdef uint64_t word, found
    while end - position >= 8:
        memcpy(&word, position, 8)
        # Subtracting borrows from a byte's high bit when the byte is below 0x21; bytes that had
        # the bit before do not count. A borrow can only spoil the marks above the lowest one.
        word = le64toh(word)
        found = (word - 0x2121212121212121ULL) & ~word & 0x8080808080808080ULL
        if found != 0:
            return position + (__builtin_ctzll(found) >> 3)
        position += 8
    while position < end and position[0] > c" ":
        position += 1
    return position


cdef inline size_t _split_plain(
    const unsigned char* start,
    const unsigned char* end,
    size_t line_max,
    Line* line,
    Token* tokens,
) noexcept nogil:
    """`_read_line` and `_split` in one pass, for single blanks and CR LF; else 0.

    It never refuses: what it does not take (a control byte in a name, legal but rare, included)
    goes the general way.
    """
    cdef const unsigned char* position = start
    cdef size_t count = 0
    while True:
        tokens[count].start = position
        position = _name_stop(position, end)
        tokens[count].stop = position
        if position == tokens[count].start or end - position < 2:
            return 0
        count += 1
        if position[0] != c" " or count == TOKENS_MAX:
            break
        position += 1
    # Two bytes were seen to be there.
    if position[0] != c"\r" or position[1] != c"\n" or <size_t> (position - start) > line_max:
        return 0
    line.start = start
    line.stop = position
    line.next = position + 2
    return count


cdef int64_t _number(const Token* token) noexcept nogil:
    """The value of one to DIGITS_MAX decimal digits, else -1."""
    cdef const unsigned char* position = token.start
    cdef int64_t value = 0
    if token.stop - token.start > DIGITS_MAX:
        return -1
    while position < token.stop:
        if position[0] < c"0" or position[0] > c"9":
            return -1
        value = value * 10 + (position[0] - c"0")
        position += 1
    return value


cdef inline bint _has_leading_zero(const Token* token) noexcept nogil:
    return token.start[0] == c"0" and token.stop - token.start > 1


# --- verbs --------------------------------------------------------------------------------------


cdef inline bint _is_publish_verb(const unsigned char* start) noexcept nogil:
    """Whether four bytes are PUB in any case and a blank; an H before it is the caller's."""
    return (
        start[0] | 0x20 == c"p"
        and start[1] | 0x20 == c"u"
        and start[2] | 0x20 == c"b"
        and start[3] == c" "
    )


cdef bint _has_single_blanks(const Line* line, const Token* tokens, size_t count) noexcept nogil:
    """Whether the line from its first token on reads as `_split_plain` would take it."""
    cdef size_t index
    for index in range(1, count):
        if tokens[index].start - tokens[index - 1].stop != 1:
            return False
        if tokens[index].start[-1] != c" ":
            return False
    return tokens[count - 1].stop == line.stop and line.next - line.stop == 2


cdef ssize_t _publish(
    const unsigned char* buffer,
    size_t length,
    bint has_header,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil:
    cdef Line line
    cdef Token[TOKENS_MAX] tokens
    cdef const char* verb = b"hpub" if has_header else b"pub"
    cdef size_t verb_len = 4 if has_header else 3
    cdef size_t sizes = 2 if has_header else 1
    cdef size_t count = 0
    cdef size_t available
    cdef bint is_plain
    cdef int64_t header_len = 0
    cdef int64_t total_len
    cdef ssize_t trouble
    if length > verb_len and _is_publish_verb(buffer + verb_len - 3):
        count = _split_plain(
            buffer + verb_len + 1, buffer + length, limits.control_line_max, &line, tokens
        )
    is_plain = count > 0
    if not is_plain:
        trouble = _read_command(
            buffer, length, verb, verb_len, True, limits.control_line_max, &line
        )
        if trouble <= 0:
            return trouble
        count = _split(&line, tokens, True)
    if has_header and not limits.headers:
        return HEADERS_NOT_ALLOWED
    if count < sizes + 1 or count > sizes + 2:
        return BAD_ARGUMENTS
    total_len = _number(&tokens[count - 1])
    if has_header:
        header_len = _number(&tokens[count - 2])
    if total_len < 0 or header_len < 0 or header_len > total_len:
        return BAD_ARGUMENTS
    if limits.payload_max >= 0 and total_len > limits.payload_max:
        return PAYLOAD_TOO_LARGE

    available = (buffer + length) - line.next
    if available > <size_t> total_len and line.next[total_len] != c"\r":
        return UNKNOWN_OPERATION
    if available < <size_t> total_len + 2:
        operation.needed = (line.next - buffer) + <size_t> total_len + 2
        return INCOMPLETE
    if line.next[total_len + 1] != c"\n":
        return UNKNOWN_OPERATION

    operation.verb = VERB_PUB
    operation.has_header = has_header
    operation.is_canonical = (
        (is_plain or _has_single_blanks(&line, tokens, count))
        and not _has_leading_zero(&tokens[count - 1])
        and not (has_header and _has_leading_zero(&tokens[count - 2]))
    )
    operation.subject = tokens[0].start
    operation.subject_len = tokens[0].stop - tokens[0].start
    operation.reply = NULL
    operation.reply_len = 0
    if count == sizes + 2:
        operation.reply = tokens[1].start
        operation.reply_len = tokens[1].stop - tokens[1].start
    operation.header_len = header_len
    operation.total_len = total_len
    operation.payload = line.next
    operation.tail = tokens[0].stop
    operation.tail_len = (line.next - tokens[0].stop) + <size_t> total_len + 2
    return (line.next - buffer) + total_len + 2


cdef ssize_t _subscribe(
    const unsigned char* buffer,
    size_t length,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil:
    cdef Line line
    cdef Token[TOKENS_MAX] tokens
    cdef size_t count
    cdef ssize_t trouble = _read_command(
        buffer, length, b"sub", 3, True, limits.control_line_max, &line
    )
    if trouble <= 0:
        return trouble
    count = _split(&line, tokens, False)
    if count != 2 and count != 3:
        return BAD_ARGUMENTS
    operation.verb = VERB_SUB
    operation.subject = tokens[0].start
    operation.subject_len = tokens[0].stop - tokens[0].start
    operation.queue = NULL
    operation.queue_len = 0
    if count == 3:
        operation.queue = tokens[1].start
        operation.queue_len = tokens[1].stop - tokens[1].start
    operation.sid = tokens[count - 1].start
    operation.sid_len = tokens[count - 1].stop - tokens[count - 1].start
    return line.next - buffer


cdef ssize_t _unsubscribe(
    const unsigned char* buffer,
    size_t length,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil:
    """UNSUB; a maximum that is no number counts as none, as with the peer."""
    cdef Line line
    cdef Token[TOKENS_MAX] tokens
    cdef size_t count
    cdef ssize_t trouble = _read_command(
        buffer, length, b"unsub", 5, True, limits.control_line_max, &line
    )
    if trouble <= 0:
        return trouble
    count = _split(&line, tokens, False)
    if count != 1 and count != 2:
        return BAD_ARGUMENTS
    operation.verb = VERB_UNSUB
    operation.sid = tokens[0].start
    operation.sid_len = tokens[0].stop - tokens[0].start
    operation.max_deliveries = 0
    if count == 2:
        operation.max_deliveries = max(_number(&tokens[1]), 0)
    return line.next - buffer


cdef ssize_t _with_text(
    const unsigned char* buffer,
    size_t length,
    Verb verb,
    const char* name,
    size_t name_len,
    bint needs_blank,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil:
    """A verb whose arguments are one text that somebody else understands, or nobody."""
    cdef Line line
    cdef ssize_t trouble = _read_command(
        buffer, length, name, name_len, needs_blank, limits.control_line_max, &line
    )
    if trouble <= 0:
        return trouble
    while line.stop > line.start and _is_blank(line.stop[-1]):
        line.stop -= 1
    operation.verb = verb
    operation.args = line.start
    operation.args_len = line.stop - line.start
    return line.next - buffer


cdef ssize_t next_operation(
    const unsigned char* buffer,
    size_t length,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil:
    """See the C face. Fields that do not belong to the operation's verb are left as they were."""
    cdef unsigned char first, second
    operation.verb = VERB_NONE
    operation.needed = 0
    if length == 0:
        return INCOMPLETE
    # The first one or two bytes choose the verb.
    first = buffer[0] | 0x20
    if first == c"p":
        if length == 1:
            return INCOMPLETE
        second = buffer[1] | 0x20
        if second == c"u":
            return _publish(buffer, length, False, limits, operation)
        if second == c"i":
            return _with_text(buffer, length, VERB_PING, b"ping", 4, False, limits, operation)
        if second == c"o":
            return _with_text(buffer, length, VERB_PONG, b"pong", 4, False, limits, operation)
        return UNKNOWN_OPERATION
    if first == c"h":
        return _publish(buffer, length, True, limits, operation)
    if first == c"s":
        return _subscribe(buffer, length, limits, operation)
    if first == c"u":
        return _unsubscribe(buffer, length, limits, operation)
    # The peer asks for no blank after these two; what follows is judged as JSON anyway.
    if first == c"c":
        return _with_text(buffer, length, VERB_CONNECT, b"connect", 7, False, limits, operation)
    if first == c"i":
        return _with_text(buffer, length, VERB_INFO, b"info", 4, False, limits, operation)
    # Signs have no case: a folded control byte must not pass for one.
    if buffer[0] == c"+":
        return _with_text(buffer, length, VERB_OK, b"+ok", 3, False, limits, operation)
    if buffer[0] == c"-":
        return _with_text(buffer, length, VERB_ERR, b"-err", 4, True, limits, operation)
    return UNKNOWN_OPERATION


# --- the door for tests, fuzzing and the micro benchmark ----------------------------------------


cdef object _bytes_or_none(const unsigned char* start, size_t length):
    return None if start == NULL else start[:length]


cdef tuple _as_tuple(const Operation* operation):
    """One operation as plain objects; reads only the fields that belong to its verb."""
    if operation.verb == VERB_PUB:
        return (
            "HPUB" if operation.has_header else "PUB",
            operation.subject[:operation.subject_len],
            _bytes_or_none(operation.reply, operation.reply_len),
            operation.header_len if operation.has_header else None,
            operation.payload[:operation.total_len],
            bool(operation.is_canonical),
            operation.tail[:operation.tail_len],
        )
    if operation.verb == VERB_SUB:
        return (
            "SUB",
            operation.subject[:operation.subject_len],
            _bytes_or_none(operation.queue, operation.queue_len),
            operation.sid[:operation.sid_len],
        )
    if operation.verb == VERB_UNSUB:
        return ("UNSUB", operation.sid[:operation.sid_len], operation.max_deliveries)
    if operation.verb == VERB_CONNECT:
        return ("CONNECT", operation.args[:operation.args_len])
    if operation.verb == VERB_INFO:
        return ("INFO", operation.args[:operation.args_len])
    if operation.verb == VERB_ERR:
        return ("-ERR", operation.args[:operation.args_len])
    if operation.verb == VERB_PING:
        return ("PING",)
    if operation.verb == VERB_PONG:
        return ("PONG",)
    assert operation.verb == VERB_OK
    return ("+OK",)


cdef unsigned char* _exact_copy(bytes data) except NULL:
    """A heap copy without the byte that Python keeps behind bytes, so that over-reads show."""
    cdef size_t length = len(data)
    cdef const unsigned char* source = data
    cdef unsigned char* copy = <unsigned char*> malloc(length if length > 0 else <size_t> 1)
    if copy == NULL:
        raise MemoryError
    memcpy(copy, source, length)
    return copy


def parse(
    bytes data not None,
    *,
    size_t control_line_max=default_limits.CONTROL_LINE_BYTES_MAX,
    int64_t payload_max=default_limits.PAYLOAD_BYTES_MAX,
    bint headers=True,
):
    """Parses all of `data`: (operations, bytes consumed, needed, trouble).

    Stops at the first operation that is incomplete (trouble 0) or wrong (trouble negative).
    `needed` counts from the first byte that was not consumed.
    """
    cdef WireLimits limits = WireLimits(control_line_max, payload_max, headers)
    cdef Operation operation
    cdef size_t length = len(data)
    cdef size_t position = 0
    cdef ssize_t answer
    cdef list operations = []
    cdef unsigned char* copy = _exact_copy(data)
    try:
        while True:
            answer = next_operation(copy + position, length - position, &limits, &operation)
            if answer <= 0:
                return operations, position, operation.needed, answer
            assert <size_t> answer <= length - position
            operations.append(_as_tuple(&operation))
            position += answer
    finally:
        free(copy)


def parse_repeatedly(bytes data not None, size_t rounds):
    """Parses complete operations `rounds` times over and returns how many there were."""
    cdef WireLimits limits = WireLimits(
        default_limits.CONTROL_LINE_BYTES_MAX, default_limits.PAYLOAD_BYTES_MAX, True
    )
    cdef Operation operation
    cdef size_t length = len(data)
    cdef size_t count = 0
    cdef size_t position
    cdef ssize_t answer
    cdef const unsigned char* start = data
    with nogil:
        while rounds > 0:
            rounds -= 1
            position = 0
            while True:
                answer = next_operation(start + position, length - position, &limits, &operation)
                if answer <= 0:
                    break
                position += answer
                count += 1
    return count
