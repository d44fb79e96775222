# cython: language_level=3str
"""What a NATS server says to a client: MSG, HMSG, INFO, PING, PONG, +OK, -ERR.

The parser keeps no state, so whole input and input split anywhere give the same operations. A
server is trusted not to flood its client, but every number is checked before it is used.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memchr, memset

cdef enum:
    # INFO lists every URL of a cluster; nothing else comes near it.
    LINE_BYTES_MAX = 1_048_576
    # What a server may be configured to let through, and no more: a length beyond is nonsense.
    PAYLOAD_BYTES_MAX = 1 << 30
    WORDS_MAX = 6

cdef uint64_t NUMBER_MAX = <uint64_t>0xFFFFFFFFFFFFFFFF

cdef struct Word:
    const unsigned char* start
    size_t length


cdef inline unsigned char _upper(unsigned char sign) noexcept nogil:
    return sign - 32 if 97 <= sign <= 122 else sign


cdef inline bint _is(
    const unsigned char* line, size_t length, const char* name, size_t name_len
) noexcept nogil:
    """Whether the line begins with this verb, in any case, and a blank or nothing behind it."""
    cdef size_t index
    if length < name_len:
        return False
    for index in range(name_len):
        if _upper(line[index]) != <unsigned char>name[index]:
            return False
    return length == name_len or line[name_len] == 32 or line[name_len] == 9


cdef int _split(const unsigned char* line, size_t length, Word* words) noexcept nogil:
    """The words of a line; how many there are, -1 when there are too many."""
    cdef int count = 0
    cdef size_t at = 0
    while at < length:
        if line[at] == 32 or line[at] == 9:
            at += 1
            continue
        if count == WORDS_MAX:
            return -1
        words[count].start = line + at
        while at < length and line[at] != 32 and line[at] != 9:
            at += 1
        words[count].length = line + at - words[count].start
        count += 1
    return count


cdef bint _number(const Word* word, uint64_t* value) noexcept nogil:
    cdef size_t index
    cdef uint64_t digit
    value[0] = 0
    if word.length == 0:
        return False
    for index in range(word.length):
        if not 48 <= word.start[index] <= 57:
            return False
        digit = word.start[index] - 48
        if value[0] > (NUMBER_MAX - digit) // 10:
            return False
        value[0] = value[0] * 10 + digit
    return True


cdef ssize_t _message(
    const unsigned char* buffer, size_t length, size_t line_len, size_t start,
    bint has_header, ServerOperation* operation,
) noexcept nogil:
    """MSG <subject> <sid> [reply] <size>, HMSG with the header's size before; `start` is where
    the payload begins."""
    cdef Word[WORDS_MAX] words
    cdef int sizes = 2 if has_header else 1
    cdef int count = _split(buffer, line_len, words)
    cdef uint64_t total = 0
    cdef uint64_t header_len = 0
    cdef Incoming* message = &operation.message
    if count != 3 + sizes and count != 4 + sizes:
        return SERVER_NONSENSE
    if not _number(&words[2], &operation.sid) or not _number(&words[count - 1], &total):
        return SERVER_NONSENSE
    if has_header and not _number(&words[count - 2], &header_len):
        return SERVER_NONSENSE
    if total > PAYLOAD_BYTES_MAX or header_len > total:
        return SERVER_NONSENSE
    if length - start < total + 2:
        return SERVER_INCOMPLETE
    if buffer[start + total] != 13 or buffer[start + total + 1] != 10:
        return SERVER_NONSENSE
    message.subject = words[1].start
    message.subject_len = words[1].length
    if count == 4 + sizes:
        message.reply = words[3].start
        message.reply_len = words[3].length
    if has_header:
        message.header = buffer + start
        message.header_len = header_len
    message.payload = buffer + start + header_len
    message.payload_len = total - header_len
    operation.verb = SERVER_MSG
    return <ssize_t>(start + total + 2)


cdef ssize_t next_server_operation(
    const unsigned char* buffer, size_t length, ServerOperation* operation
) noexcept nogil:
    """The operation at the start of the buffer: how many bytes it takes, or why there is none."""
    cdef const unsigned char* end = <const unsigned char*>memchr(
        buffer, 10, length if length < LINE_BYTES_MAX else LINE_BYTES_MAX)
    cdef size_t line_len, start
    if end == NULL:
        return SERVER_NONSENSE if length >= LINE_BYTES_MAX else SERVER_INCOMPLETE
    line_len = end - buffer
    start = line_len + 1
    if line_len and buffer[line_len - 1] == 13:
        line_len -= 1
    memset(operation, 0, sizeof(ServerOperation))
    if _is(buffer, line_len, b"MSG", 3):
        return _message(buffer, length, line_len, start, False, operation)
    if _is(buffer, line_len, b"HMSG", 4):
        return _message(buffer, length, line_len, start, True, operation)
    if _is(buffer, line_len, b"PING", 4):
        operation.verb = SERVER_PING
    elif _is(buffer, line_len, b"PONG", 4):
        operation.verb = SERVER_PONG
    elif _is(buffer, line_len, b"INFO", 4):
        operation.verb = SERVER_INFO
        _arguments(buffer, line_len, 4, operation)
    elif _is(buffer, line_len, b"+OK", 3):
        operation.verb = SERVER_OK
    elif _is(buffer, line_len, b"-ERR", 4):
        operation.verb = SERVER_ERR
        _arguments(buffer, line_len, 4, operation)
    else:
        return SERVER_NONSENSE
    return <ssize_t>start


cdef void _arguments(
    const unsigned char* line, size_t length, size_t start, ServerOperation* operation
) noexcept nogil:
    while start < length and (line[start] == 32 or line[start] == 9):
        start += 1
    while length > start and (line[length - 1] == 32 or line[length - 1] == 9):
        length -= 1
    operation.args = line + start
    operation.args_len = length - start


cdef inline bytes _bytes(const unsigned char* start, size_t length):
    return start[:length] if start != NULL else b""


def read_operations(data: bytes) -> tuple[list[tuple[object, ...]], int]:
    """A door for tests: every operation as (verb, sid, subject, reply, header, payload, args), and
    how many bytes are left; -1 when they make no sense."""
    cdef ServerOperation operation
    cdef const unsigned char* buffer = data
    cdef size_t length = len(data)
    cdef size_t at = 0
    cdef ssize_t taken
    found = []
    while at < length:
        taken = next_server_operation(buffer + at, length - at, &operation)
        if taken < 0:
            return found, -1
        if taken == 0:
            break
        at += <size_t>taken
        found.append((
            <int>operation.verb,
            operation.sid,
            _bytes(operation.message.subject, operation.message.subject_len),
            _bytes(operation.message.reply, operation.message.reply_len),
            _bytes(operation.message.header, operation.message.header_len),
            _bytes(operation.message.payload, operation.message.payload_len),
            _bytes(operation.args, operation.args_len),
        ))
    return found, length - at
