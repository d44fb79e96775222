"""The C face of the NATS client protocol parser: bytes in, one operation at a time out.

The parser keeps no state: the caller owns the bytes. It calls `next_operation` on what it has;
when that says incomplete the caller keeps the unread tail, adds what arrives and calls again. So
whole input and input split anywhere give the same operations by construction. Every pointer in
an `Operation` is borrowed from the caller's buffer and dies with it.
"""

from libc.stdint cimport int64_t

cdef enum Verb:
    VERB_NONE = 0
    VERB_PUB = 1          # PUB and HPUB; `has_header` tells them apart
    VERB_SUB = 2
    VERB_UNSUB = 3
    VERB_PING = 4
    VERB_PONG = 5
    VERB_CONNECT = 6
    VERB_INFO = 7
    VERB_OK = 8
    VERB_ERR = 9

# What `next_operation` answers when it is not a positive count of bytes.
cdef enum Trouble:
    INCOMPLETE = 0            # need more bytes; `needed` says how many in all, 0 when unknown
    UNKNOWN_OPERATION = -1    # -ERR 'Unknown Protocol Operation', close
    CONTROL_LINE_TOO_LONG = -2
    PAYLOAD_TOO_LARGE = -3
    BAD_ARGUMENTS = -4        # closed without a word
    HEADERS_NOT_ALLOWED = -5  # HPUB without headers in CONNECT: closed without a word

cdef struct WireLimits:
    size_t control_line_max   # bytes of the argument part
    int64_t payload_max       # bytes, headers included; negative: no limit
    bint headers              # whether HPUB is allowed

cdef struct Operation:
    Verb verb
    bint has_header           # HPUB
    bint is_canonical         # `tail` can follow a sid as it stands (see below)
    const unsigned char* subject       # PUB, SUB
    size_t subject_len
    const unsigned char* reply         # PUB; NULL when there is none
    size_t reply_len
    const unsigned char* queue         # SUB; NULL when there is none
    size_t queue_len
    const unsigned char* sid           # SUB, UNSUB
    size_t sid_len
    int64_t max_deliveries    # UNSUB; 0: at once
    size_t header_len         # HPUB: bytes of the header block inside the payload
    size_t total_len          # PUB: bytes of header block and payload, without the final CR LF
    const unsigned char* payload       # PUB: `total_len` bytes, CR LF follows
    # PUB: everything from the byte after the subject (a blank) up to and with the final CR LF.
    # When `is_canonical` it reads " [reply ]<sizes>\r\n<payload>\r\n" with single blanks, no
    # leading zeros and a CR LF, so that "MSG subject sid" + tail is the frame to deliver.
    const unsigned char* tail
    size_t tail_len
    const unsigned char* args          # CONNECT, INFO, -ERR: the argument part, blanks trimmed
    size_t args_len
    size_t needed             # when incomplete: bytes needed in all from the start, 0 if unknown

cdef ssize_t next_operation(
    const unsigned char* buffer,
    size_t length,
    const WireLimits* limits,
    Operation* operation,
) noexcept nogil
