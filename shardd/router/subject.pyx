"""What a valid subject is and what a pattern matches, one pass over the bytes each.

The rules are nats-server's (sheet 4.1). The four bytes that separate arguments on the wire cannot
stand in a subject that came from a client; they are refused here too, because subjects also come
from configuration and from peers, and go out again in protocol lines.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.string cimport memcmp


cdef SubjectKind subject_kind(const unsigned char* subject, size_t length) noexcept nogil:
    cdef SubjectKind kind = SUBJECT_LITERAL
    cdef size_t position = 0
    cdef size_t end
    cdef unsigned char c
    while True:
        end = position
        while end < length:
            c = subject[end]
            if c == c'.':
                break
            if c <= c' ' and (c == c' ' or c == c'\t' or c == c'\r' or c == c'\n'):
                return SUBJECT_INVALID
            end += 1
        if end == position:
            return SUBJECT_INVALID
        if end - position == 1:
            if subject[position] == c'*':
                kind = SUBJECT_WILDCARD
            elif subject[position] == c'>':
                return SUBJECT_WILDCARD if end == length else SUBJECT_INVALID
        if end == length:
            return kind
        position = end + 1


cdef bint is_reachable(const unsigned char* subject, size_t length) noexcept nogil:
    cdef bint is_start = True
    cdef size_t position
    for position in range(length):
        if subject[position] != c'.':
            is_start = False
        elif is_start:
            return False
        else:
            is_start = True
    return not is_start


cdef size_t count_tokens(const unsigned char* subject, size_t length) noexcept nogil:
    cdef size_t count = 1
    cdef size_t position
    for position in range(length):
        count += subject[position] == c'.'
    return count


cdef bint pattern_matches(
    const unsigned char* pattern, size_t pattern_len,
    const unsigned char* literal, size_t literal_len,
) noexcept nogil:
    cdef size_t at = 0
    cdef size_t literal_at = 0
    cdef size_t end, literal_end
    if not is_reachable(literal, literal_len):
        return False
    # Positions one beyond the length mean that the tokens are used up.
    while at <= pattern_len and literal_at <= literal_len:
        end = token_end(pattern, pattern_len, at)
        if is_token(pattern, at, end, c'>'):
            return True
        literal_end = token_end(literal, literal_len, literal_at)
        if not is_token(pattern, at, end, c'*') and (
            end - at != literal_end - literal_at
            or memcmp(pattern + at, literal + literal_at, end - at) != 0
        ):
            return False
        at = end + 1
        literal_at = literal_end + 1
    return at > pattern_len and literal_at > literal_len


cdef const unsigned char* data(bytes subject) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(subject)


def is_valid(bytes subject not None) -> bool:
    """Whether a client may subscribe to this."""
    return subject_kind(data(subject), PyBytes_GET_SIZE(subject)) != SUBJECT_INVALID


def is_literal(bytes subject not None) -> bool:
    """Whether it is valid and has no wildcard: what a pedantic client may publish to."""
    return subject_kind(data(subject), PyBytes_GET_SIZE(subject)) == SUBJECT_LITERAL


def token_count(bytes subject not None) -> int:
    """How many tokens it has."""
    return count_tokens(data(subject), PyBytes_GET_SIZE(subject))


def matches(bytes pattern not None, bytes literal not None) -> bool:
    """Whether a message published to `literal` reaches a subscription to `pattern`."""
    if not is_valid(pattern):
        return False
    return pattern_matches(
        data(pattern), PyBytes_GET_SIZE(pattern), data(literal), PyBytes_GET_SIZE(literal)
    )
