"""One message on its way: as the publisher's bytes, and as a record inside a ring.

A `Message` borrows everything. Its `tail` is what follows the sid in the line that a subscriber
reads: " [reply ]<sizes>\\r\\n<payload>\\r\\n". A delivery is then verb, subject, sid and one copy.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t

cdef enum MessageFlag:
    MESSAGE_HAS_HEADER = 1    # the tail has two sizes, the payload starts with a header block
    MESSAGE_IS_ROUTED = 2     # came from another host: never leaves this one again
    MESSAGE_FOR_QUEUES = 4    # handed on for its queue groups: plain subscriptions had it already
    MESSAGE_IS_LENT = 8       # its bytes stay where they are until loans are returned; not in rings

cdef struct Message:
    uint32_t account
    uint32_t flags
    uint64_t publisher        # client id of the publishing connection, 0 when there is none
    const unsigned char* subject
    size_t subject_len
    const unsigned char* tail
    size_t tail_len
    size_t reply_len          # the reply is tail[1 : 1 + reply_len]; 0: none
    size_t header_len
    size_t total_len          # header block and payload; both end 2 bytes before the tail's end
    # The tail for subscribers that did not ask for headers, built when the first one turns up.
    const unsigned char* plain_tail
    size_t plain_tail_len

# Where a message that was handed on came from, and how much of that process's interest has to be
# applied before it is handled: the name of a target whose process is TARGET_IS_ORIGIN.
cdef struct Origin:
    uint32_t process
    uint32_t incarnation
    uint64_t interest_sequence

cdef enum:
    TARGET_IS_ORIGIN = 0xFFFF

# A queue group whose member shall be chosen by another process.
cdef struct Target:
    uint32_t process
    uint32_t name_len
    const unsigned char* name

# What a ring holds for one message: this header, the targets, the subject, the tail; padded to 8.
cdef struct RecordHeader:
    uint32_t length           # of the whole record, padding included
    uint32_t account
    uint64_t processes        # who this record is for
    uint64_t publisher
    uint32_t subject_len
    uint32_t tail_len
    uint32_t reply_len
    uint32_t header_len
    uint32_t total_len
    uint16_t flags            # MessageFlag
    uint8_t hops              # how often a queue group was handed on
    uint8_t kind              # RecordKind
    uint32_t target_count
    uint32_t targets_len      # bytes of all targets

cdef enum RecordKind:
    RECORD_MESSAGE = 1
    RECORD_OVERSIZE = 2       # the body travels over ZeroMQ; `publisher` is its number

cdef size_t record_length(
    const Message* message, const Target* targets, size_t target_count
) noexcept nogil

cdef void write_record(
    unsigned char* room,
    size_t length,
    const Message* message,
    uint64_t processes,
    const Target* targets,
    size_t target_count,
    uint32_t kind,
    uint32_t hops,
) noexcept nogil

cdef bint read_record(
    const unsigned char* record, size_t available, Message* message
) noexcept nogil

cdef size_t read_target(
    const unsigned char* record, size_t offset, Target* target
) noexcept nogil

cdef bint read_origin(const unsigned char* record, Origin* origin) noexcept nogil

cdef size_t append_number(unsigned char* at, size_t value) noexcept nogil

cdef size_t tail_room(size_t reply_len, size_t total_len) noexcept nogil

cdef size_t write_tail(
    unsigned char* room,
    const unsigned char* reply,
    size_t reply_len,
    bint has_header,
    size_t header_len,
    const unsigned char* payload,
    size_t total_len,
) noexcept nogil
