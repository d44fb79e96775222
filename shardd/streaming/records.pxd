"""Records of messages in a segment file: the C face."""

from libc.stdint cimport int64_t, uint32_t, uint64_t

cdef enum:
    RECORD_BYTES = 28              # sizeof(Record); the MsgProto follows it

# Little-endian, at any offset.
cdef packed struct Record:
    uint32_t crc                   # CRC-32C of all that follows, the MsgProto included
    uint32_t length                # of the MsgProto
    uint64_t sequence
    int64_t timestamp_ns
    uint32_t durable               # so much of the file was surely on disk when this was appended

# Where a scan stands: handed in with the start, handed back with the end.
cdef struct Scan:
    uint64_t sequence              # of the next record
    uint32_t offset                # where it begins
    int64_t first_ns               # timestamps of the first and the last record seen
    int64_t last_ns
    uint32_t* offsets              # of all records seen; the caller frees it
    size_t count
    size_t capacity
    int error                      # errno of a read that failed

cdef enum Scanned:
    SCAN_WHOLE = 0                 # the last record ends where the file does
    SCAN_STOPPED = 1               # what stands at `offset` is no record
    SCAN_UNREADABLE = 2            # the file cannot be read: `error`
    SCAN_NO_MEMORY = 3

# Fills in the checksums of records that stand in one piece.
cdef void checksum_records(
    unsigned char* bytes, const uint32_t* offsets, size_t count
) noexcept nogil
# Whether so many bytes begin with this record, as it was written.
cdef bint is_record(const unsigned char* at, uint64_t room, uint64_t sequence) noexcept nogil
# The same without a look at the checksum.
cdef bint looks_like_record(
    const unsigned char* at, uint64_t room, uint64_t sequence
) noexcept nogil
# Reads records one after the other as long as each is as it was written.
cdef Scanned scan_records(int fd, uint64_t size, Scan* scan) noexcept nogil
# Looks for a record behind `offset` whose writer knew `offset` to be on disk: then what stands
# there is damage, not the rest of a write. The record's offset; 0: none; -1: see `error`.
cdef int64_t find_witness(
    int fd, uint64_t size, uint32_t offset, uint64_t sequence, int* error
) noexcept nogil
# Reads exactly so many bytes; False: not there, or `error`.
cdef bint read_exactly(
    int fd, unsigned char* room, size_t length, uint64_t offset, int* error
) noexcept nogil
