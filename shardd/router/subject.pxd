"""Subjects and patterns as bytes: the C face.

Tokens are separated by dots. A pattern is valid when no token is empty and `>`, as a whole token,
comes last; `*` and `>` inside a longer token are ordinary bytes. A literal is what a message is
published to; there `*` and `>` mean nothing, and one with an empty token reaches nobody.
"""

cdef enum SubjectKind:
    SUBJECT_INVALID = 0
    SUBJECT_LITERAL = 1
    SUBJECT_WILDCARD = 2

# What the bytes are as a pattern.
cdef SubjectKind subject_kind(const unsigned char* subject, size_t length) noexcept nogil
# Whether a message published here can reach anyone: no token is empty.
cdef bint is_reachable(const unsigned char* subject, size_t length) noexcept nogil
# Tokens, the empty ones included; an empty subject has one.
cdef size_t count_tokens(const unsigned char* subject, size_t length) noexcept nogil
# Whether a valid pattern matches a literal.
cdef bint pattern_matches(
    const unsigned char* pattern, size_t pattern_len,
    const unsigned char* literal, size_t literal_len,
) noexcept nogil


# Where the token that starts at `position` ends: at a dot or at the end of the subject.
cdef inline size_t token_end(
    const unsigned char* subject, size_t length, size_t position
) noexcept nogil:
    while position < length and subject[position] != c'.':
        position += 1
    return position


# Whether the token from `position` to `end` is this one character.
cdef inline bint is_token(
    const unsigned char* subject, size_t position, size_t end, unsigned char character
) noexcept nogil:
    return end - position == 1 and subject[position] == character
