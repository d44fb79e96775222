# cython: language_level=3str
"""Records of messages in a segment file: how they look, and how a file of them is read through.

A record is a header and the encoded MsgProto. Its checksum covers all of it, so no length and no
sequence is believed before the checksum agrees, and no length is used before it is seen to lie
inside the file. Each record also says how much of the file was on disk when it was appended
(`durable`). That tells the two ways apart in which a file can end badly: where the rest of a write
was lost, no record behind it can know of it; where a sound record behind the bad place knows that
this place was on disk, something was damaged that had been acknowledged.
"""

from libc.errno cimport EINTR, EIO, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, realloc
from libc.string cimport memcpy
from posix.unistd cimport pread

from shardd.streaming.checksum cimport checksum

cdef enum:
    READ_BYTES = 1 << 20           # read at once in a scan

cdef uint64_t OFFSET_MAX = 0xFFFF_FFFF

RECORD_SIZE = <int>RECORD_BYTES

# A piece of the file in memory.
cdef struct Piece:
    unsigned char* bytes
    size_t capacity
    uint64_t offset
    size_t length
    int error


cdef void checksum_records(
    unsigned char* bytes, const uint32_t* offsets, size_t count
) noexcept nogil:
    """Fills in the checksums of records that stand in one piece."""
    cdef size_t index
    cdef Record* record
    for index in range(count):
        record = <Record*>(bytes + offsets[index])
        record.crc = checksum(0, <unsigned char*>record + 4, RECORD_BYTES - 4 + record.length)


cdef bint looks_like_record(
    const unsigned char* at, uint64_t room, uint64_t sequence
) noexcept nogil:
    """Whether a record of this sequence may stand here, as far as its header tells."""
    cdef const Record* record = <const Record*>at
    return (
        room >= RECORD_BYTES
        and record.sequence == sequence
        and record.length <= room - RECORD_BYTES
    )


cdef bint is_record(const unsigned char* at, uint64_t room, uint64_t sequence) noexcept nogil:
    """Whether so many bytes begin with this record, as it was written."""
    cdef const Record* record = <const Record*>at
    if not looks_like_record(at, room, sequence):
        return False
    return record.crc == checksum(0, at + 4, RECORD_BYTES - 4 + <size_t>record.length)


cdef bint read_exactly(
    int fd, unsigned char* room, size_t length, uint64_t offset, int* error
) noexcept nogil:
    """Reads so many bytes. False: the file ends before, with `error` 0, or it cannot be read."""
    cdef ssize_t got
    error[0] = 0
    while length:
        got = pread(fd, room, length, <int64_t>offset)
        if got < 0:
            if errno == EINTR:
                continue
            error[0] = errno
            return False
        if got == 0:
            return False
        room += got
        length -= <size_t>got
        offset += <uint64_t>got
    return True


cdef const unsigned char* take(
    Piece* piece, int fd, uint64_t size, uint64_t offset, size_t length
) noexcept nogil:
    """So many bytes of the file, which must lie inside it; NULL: `piece.error`, or no memory."""
    cdef unsigned char* room
    cdef size_t wanted
    if offset >= piece.offset and offset + length <= piece.offset + piece.length:
        return piece.bytes + (offset - piece.offset)
    wanted = length if length > READ_BYTES else READ_BYTES
    if wanted > size - offset:
        wanted = size - offset
    if wanted > piece.capacity:
        room = <unsigned char*>realloc(piece.bytes, wanted)
        if room == NULL:
            piece.error = 0
            return NULL
        piece.bytes, piece.capacity = room, wanted
    piece.length = 0
    if not read_exactly(fd, piece.bytes, wanted, offset, &piece.error):
        # It ended earlier than it said: somebody cuts it at this moment.
        piece.error = piece.error or EIO
        return NULL
    piece.offset, piece.length = offset, wanted
    return piece.bytes


cdef bint note_offset(Scan* scan) noexcept nogil:
    cdef uint32_t* room
    cdef size_t capacity
    if scan.count == scan.capacity:
        capacity = scan.capacity * 2 if scan.capacity else 1024
        room = <uint32_t*>realloc(scan.offsets, capacity * sizeof(uint32_t))
        if room == NULL:
            return False
        scan.offsets, scan.capacity = room, capacity
    scan.offsets[scan.count] = scan.offset
    scan.count += 1
    return True


cdef Scanned scan_records(int fd, uint64_t size, Scan* scan) noexcept nogil:
    """Reads records one after the other as long as each is as it was written."""
    cdef Piece piece
    cdef const unsigned char* at
    cdef const Record* record
    cdef uint64_t room
    cdef Scanned result = SCAN_STOPPED
    piece.bytes, piece.capacity, piece.offset, piece.length, piece.error = NULL, 0, 0, 0, 0
    if size > OFFSET_MAX:
        size = OFFSET_MAX
    while True:
        room = size - scan.offset
        if room == 0:
            result = SCAN_WHOLE
            break
        if room < RECORD_BYTES:
            break
        at = take(&piece, fd, size, scan.offset, RECORD_BYTES)
        if at != NULL:
            if not looks_like_record(at, room, scan.sequence):
                break
            record = <const Record*>at
            at = take(&piece, fd, size, scan.offset, RECORD_BYTES + <size_t>record.length)
        if at == NULL:
            result = SCAN_UNREADABLE if piece.error else SCAN_NO_MEMORY
            break
        if not is_record(at, room, scan.sequence):
            break
        if not note_offset(scan):
            result = SCAN_NO_MEMORY
            break
        record = <const Record*>at
        if scan.count == 1:
            scan.first_ns = record.timestamp_ns
        scan.last_ns = record.timestamp_ns
        scan.sequence += 1
        scan.offset += RECORD_BYTES + record.length
    scan.error = piece.error
    free(piece.bytes)
    return result


cdef int64_t find_witness(
    int fd, uint64_t size, uint32_t offset, uint64_t sequence, int* error
) noexcept nogil:
    """A record behind `offset` whose writer knew `offset` to be on disk."""
    cdef Piece piece
    cdef Record record
    cdef const unsigned char* at
    cdef uint64_t place = <uint64_t>offset + 1
    cdef int64_t found = 0
    piece.bytes, piece.capacity, piece.offset, piece.length, piece.error = NULL, 0, 0, 0, 0
    if size > OFFSET_MAX:
        size = OFFSET_MAX
    while place + RECORD_BYTES <= size:
        at = take(&piece, fd, size, place, RECORD_BYTES)
        if at == NULL:
            found = -1
            break
        memcpy(&record, at, RECORD_BYTES)
        # Cheap questions first: most places are no record.
        if (
            record.sequence < sequence
            or record.sequence - sequence > (size - offset) // RECORD_BYTES
            or record.length > size - place - RECORD_BYTES
        ):
            place += 1
            continue
        at = take(&piece, fd, size, place, RECORD_BYTES + <size_t>record.length)
        if at == NULL:
            found = -1
            break
        if not is_record(at, size - place, record.sequence):
            place += 1
            continue
        if record.durable > offset:
            found = <int64_t>place
            break
        place += RECORD_BYTES + record.length
    error[0] = piece.error
    free(piece.bytes)
    return found
