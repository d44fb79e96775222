# cython: language_level=3str
"""One segment file of a channel's log: header, records, and the sidecar that says where they are.

A segment is named for the sequence of its first message. Its header names the channel, so that a
directory can be understood without the database beside it. Record n has sequence first + n.

The sidecar (`.idx`) has the offsets of the records up to some point of the file, and where that
point is. Records are only ever added, so a sidecar is right for the part that it covers whatever
has been added since; what it does not cover is scanned. It is written when a segment is full and
when the store is closed, and can be made again from the segment at any time, so it is not synced:
checksums tell a bad one.
"""

import os

cimport cython
from libc.errno cimport EACCES, EIO, EROFS
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from shardd.errors import DamageError, StoreError

from shardd.streaming.checksum cimport checksum
from shardd.streaming.records cimport (
    RECORD_BYTES,
    SCAN_NO_MEMORY,
    SCAN_STOPPED,
    SCAN_UNREADABLE,
    Record,
    Scan,
    Scanned,
    find_witness,
    is_record,
    read_exactly,
    scan_records,
)

SUFFIX = ".log"
SIDECAR_SUFFIX = ".idx"
SEGMENT_SIZE_MAX = <uint64_t>SEGMENT_BYTES_MAX

cdef enum:
    VERSION = 1
    NAME_BYTES_MAX = 65_536

cdef packed struct Header:
    char magic[8]
    uint32_t version
    uint32_t length                # with the name that follows
    uint64_t first
    int64_t before_ns
    uint32_t name_length
    uint32_t crc                   # of all before, then the name

cdef packed struct Sidecar:
    char magic[8]
    uint32_t version
    uint32_t count
    uint64_t first
    int64_t first_ns
    int64_t last_ns
    uint32_t start
    uint32_t end                   # of the part that it covers
    uint32_t body_crc              # of the offsets
    uint32_t crc                   # of all before

cdef bytes LOG_MAGIC = b"shardlog"
cdef bytes SIDECAR_MAGIC = b"shardidx"


class DamagedHeader(StoreError):
    """A segment file whose header was not written like that. `is_torn`: no message was in it."""

    def __init__(self, message: str, is_torn: bool) -> None:
        super().__init__(message)
        self.is_torn = is_torn


def _unreadable(path: str, error: int) -> StoreError:
    return StoreError(f"{path}: cannot be read: {os.strerror(error).lower()}")


@cython.final
cdef class Segment:
    """One segment. Touched by the event loop; a thread that writes to the file has its number."""

    def __cinit__(self) -> None:
        self.offsets = NULL
        self.fd = -1

    def __init__(self, str path not None, bytes channel not None, first: int, before_ns: int):
        if not 0 < len(channel) <= NAME_BYTES_MAX:
            raise StoreError("the channel's name is too long to be stored")
        self.path = path
        self.channel = channel
        self.first = first
        self.start = self.end = sizeof(Header) + <uint32_t>len(channel)
        self.before_ns = self.first_ns = self.last_ns = before_ns
        self.is_new = True

    def __dealloc__(self) -> None:
        free(self.offsets)

    @property
    def payload_bytes(self) -> int:
        """The encoded MsgProtos together."""
        return self.end - self.start - self.count * RECORD_BYTES

    # --- reading what is there ------------------------------------------------------------------

    @staticmethod
    def open(str path not None) -> Segment:
        """A segment that is a file, with nothing known of its records yet."""
        cdef Header header
        cdef bytes fixed, name
        try:
            fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                # One read is enough for almost every name.
                start = os.read(fd, 512)
                fixed, name = start[:sizeof(Header)], b""
                if len(fixed) < sizeof(Header):
                    raise DamagedHeader(f"{path}: ends inside its header", True)
                memcpy(&header, <const char*>fixed, sizeof(Header))
                if 0 < header.name_length <= NAME_BYTES_MAX:
                    end = sizeof(Header) + header.name_length
                    name = (start if len(start) >= end else os.pread(fd, end, 0))[
                        sizeof(Header):end]
                if not _is_header(&header, name):
                    raise DamagedHeader(
                        f"{path}: its header is damaged", _is_torn(fd, &header, fixed))
            finally:
                os.close(fd)
        except OSError as error:
            raise _unreadable(path, error.errno) from None
        if header.version != VERSION:
            raise StoreError(
                f"{path}: has version {header.version}, and this is a server for version {VERSION}"
            )
        segment = Segment(path, name, header.first, header.before_ns)
        segment.is_new = False
        return segment

    def load_sidecar(self) -> bool:
        """Take from the sidecar what the file holds, or its older part."""
        cdef Sidecar sidecar
        try:
            size = os.stat(self.path).st_size
            fd = os.open(self._sidecar_path(), os.O_RDONLY | os.O_CLOEXEC)
            try:
                fixed = os.read(fd, sizeof(Sidecar))
                sidecar_size = os.fstat(fd).st_size
            finally:
                os.close(fd)
        except OSError:
            return False
        if not _fits(self, fixed, &sidecar):
            return False
        if sidecar_size != sizeof(Sidecar) + <uint64_t>sidecar.count * sizeof(uint32_t):
            return False
        self.known_count, self.known_end = sidecar.count, sidecar.end
        if sidecar.end > size:
            return False
        self.count = sidecar.count
        self.end = sidecar.end
        self.durable = sidecar.end
        if sidecar.count:
            self.first_ns, self.last_ns = sidecar.first_ns, sidecar.last_ns
        self.has_sidecar = True
        return True

    def scan(self) -> str:
        """Read on to the end of the file."""
        cdef Scan scan
        cdef Scanned result
        cdef uint64_t size
        cdef int64_t witness = 0
        cdef int fd
        cdef int error = 0
        if self.count:
            self.load_offsets()
        self.open_to_read()
        fd = self.fd
        size = os.fstat(fd).st_size
        memset(&scan, 0, sizeof(Scan))
        scan.sequence = self.first + self.count
        scan.offset = self.end
        with nogil:
            result = scan_records(fd, size, &scan)
            if result == SCAN_STOPPED:
                witness = find_witness(fd, size, scan.offset, scan.sequence, &error)
        try:
            if result == SCAN_NO_MEMORY or (witness < 0 and error == 0):
                raise MemoryError
            if result == SCAN_UNREADABLE or witness < 0:
                raise _unreadable(self.path, scan.error or error)
            if scan.count:
                self.extend(
                    scan.offsets, scan.count, 0, scan.offset, scan.first_ns, scan.last_ns)
        finally:
            free(scan.offsets)
        if result != SCAN_STOPPED:
            return ""
        return "damaged" if witness else "torn"

    def damaged(self) -> list:
        """Reads every record that it is known to have; sequence and offset of each that is not as
        it was written."""
        cdef uint32_t offset = 0
        cdef size_t index, length
        cdef size_t capacity = 0
        cdef unsigned char* room = NULL
        cdef unsigned char* larger
        cdef int error
        cdef bint sound
        self.load_offsets()
        self.open_to_read()
        found = []
        try:
            for index in range(self.count):
                offset = self.offsets[index]
                length = self.end_of(index) - offset
                if length > capacity:
                    larger = <unsigned char*>realloc(room, length)
                    if larger == NULL:
                        raise MemoryError
                    room, capacity = larger, length
                if not read_exactly(self.fd, room, length, offset, &error):
                    if error and error != EIO:
                        raise _unreadable(self.path, error)
                    sound = False
                else:
                    sound = is_record(room, length, self.first + index)
                if not sound:
                    found.append((self.first + index, offset))
        finally:
            free(room)
        return found

    def keep(self, count: int) -> None:
        """Believe in the first so many records only."""
        if count >= self.count:
            return
        self.load_offsets()
        self.end = self.end_of(count - 1) if count else self.start
        self.last_ns = self.timestamp_of(count - 1) if count else self.before_ns
        self.count = count
        self.has_sidecar = False

    cdef int load_offsets(self) except -1:
        """Have the offsets in memory: from the sidecar, or from the file itself."""
        cdef uint64_t count = self.count
        cdef uint32_t end = self.end
        cdef int64_t last_ns = self.last_ns
        if self.offsets != NULL or count == 0:
            return 0
        if self._load_sidecar_offsets():
            return 0
        self.count, self.end, self.has_sidecar = 0, self.start, False
        self.scan()
        if self.count < count:
            lost, at = self.first + self.count, self.end
            # Whoever appends, and whoever looks here again, finds it as it was.
            self.count, self.end, self.last_ns = count, end, last_ns
            self.forget_offsets()
            raise DamageError(
                f"{self.path}: damaged at byte {at}: messages"
                f" {lost} to {self.first + count - 1} cannot be read"
            )
        self.keep(count)
        return 0

    cdef int _load_sidecar_offsets(self) except -1:
        cdef Sidecar sidecar
        cdef size_t index
        cdef size_t length = self.count * sizeof(uint32_t)
        cdef uint32_t* offsets
        try:
            with open(self._sidecar_path(), "rb", buffering=0) as file:
                fixed = file.read(sizeof(Sidecar))
                if not _fits(self, fixed, &sidecar) or sidecar.count != self.count:
                    return 0
                body = file.read(length)
        except OSError:
            return 0
        if len(body) != length or sidecar.body_crc != checksum(
            0, <const unsigned char*><const char*>body, length
        ):
            return 0
        offsets = <uint32_t*>malloc(length)
        if offsets == NULL:
            raise MemoryError
        memcpy(offsets, <const char*>body, length)
        # Each record has room for its header, so that no difference of two is less than that.
        for index in range(self.count):
            if offsets[index] < (offsets[index - 1] + RECORD_BYTES if index else self.start) or (
                offsets[index] > self.end - RECORD_BYTES
            ):
                free(offsets)
                return 0
        self.offsets, self.capacity = offsets, self.count
        return 1

    cdef int extend(
        self, const uint32_t* offsets, size_t count, uint32_t base, uint32_t end,
        int64_t first_ns, int64_t last_ns,
    ) except -1:
        """So many records more, at these offsets counted from `base`; `end` is where the last one
        ends."""
        cdef size_t index, capacity
        cdef uint32_t* room
        if self.count and self.offsets == NULL:
            self.load_offsets()
        if self.count + count > self.capacity:
            capacity = self.count + count
            if self.count:
                capacity += capacity // 2
            room = <uint32_t*>realloc(self.offsets, capacity * sizeof(uint32_t))
            if room == NULL:
                raise MemoryError
            self.offsets, self.capacity = room, capacity
        for index in range(count):
            self.offsets[self.count + index] = base + offsets[index]
        if count:
            if self.count == 0:
                self.first_ns = first_ns
            self.last_ns = last_ns
        self.count += count
        self.end = end
        self.has_sidecar = False
        return 0

    # --- writing --------------------------------------------------------------------------------

    def header(self) -> bytes:
        """The header as it stands in the file."""
        cdef Header header
        memcpy(header.magic, <const char*>LOG_MAGIC, 8)
        header.version = VERSION
        header.length = self.start
        header.first = self.first
        header.before_ns = self.before_ns
        header.name_length = <uint32_t>len(self.channel)
        header.crc = _header_checksum(&header, self.channel)
        return (<char*>&header)[:sizeof(Header)] + self.channel

    def write_sidecar(self) -> None:
        """Write what is known of the records beside the file."""
        cdef Sidecar sidecar
        cdef size_t length = self.count * sizeof(uint32_t)
        if self.count and self.offsets == NULL:
            return
        memset(&sidecar, 0, sizeof(Sidecar))
        memcpy(sidecar.magic, <const char*>SIDECAR_MAGIC, 8)
        sidecar.version = VERSION
        sidecar.count = <uint32_t>self.count
        sidecar.first = self.first
        sidecar.first_ns, sidecar.last_ns = self.first_ns, self.last_ns
        sidecar.start, sidecar.end = self.start, self.end
        sidecar.body_crc = checksum(0, <const unsigned char*>self.offsets, length)
        sidecar.crc = checksum(
            0, <const unsigned char*>&sidecar, sizeof(Sidecar) - sizeof(uint32_t))
        body = (<char*>self.offsets)[:length] if length else b""
        path = self._sidecar_path()
        with open(path + ".new", "wb", buffering=0) as file:
            file.write((<char*>&sidecar)[:sizeof(Sidecar)] + body)
        os.replace(path + ".new", path)
        self.has_sidecar = True

    def truncate(self) -> int:
        """Cut the file behind the last record, on disk; how many bytes went."""
        fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        try:
            lost = os.fstat(fd).st_size - self.end
            os.ftruncate(fd, self.end)
            os.fsync(fd)
        finally:
            os.close(fd)
        return lost

    def sync(self) -> None:
        """Have the file on disk."""
        self.open_to_read()
        os.fdatasync(self.fd)
        self.durable = self.end

    def was_written(self, uint32_t durable) -> None:
        """It is a file now, and so much of it is on disk."""
        self.is_new = False
        self.durable = durable

    # --- finding --------------------------------------------------------------------------------

    cdef uint32_t end_of(self, size_t index) noexcept nogil:
        """Where a record ends; its offsets are loaded."""
        return self.offsets[index + 1] if index + 1 < self.count else self.end

    cdef uint64_t bytes_of(self, size_t start, size_t stop) noexcept nogil:
        """The bytes of some messages, without their headers; offsets are loaded."""
        cdef uint64_t end = self.offsets[stop] if stop < self.count else self.end
        return end - self.offsets[start] - (stop - start) * RECORD_BYTES

    cdef int64_t timestamp_of(self, size_t index) except? -1:
        cdef Record record
        cdef int error
        self.load_offsets()
        self.open_to_read()
        if not read_exactly(
            self.fd, <unsigned char*>&record, RECORD_BYTES, self.offsets[index], &error
        ):
            if error:
                raise _unreadable(self.path, error)
            raise StoreError(f"{self.path}: ends before byte {self.offsets[index] + RECORD_BYTES}")
        return record.timestamp_ns

    def search(self, int64_t timestamp_ns) -> int:
        """The first record that is not older; `count` when there is none."""
        cdef size_t low = 0
        cdef size_t high = self.count
        cdef size_t middle
        if high == 0 or self.last_ns < timestamp_ns:
            return high
        if self.first_ns >= timestamp_ns:
            return 0
        while low < high:
            middle = (low + high) // 2
            if self.timestamp_of(middle) < timestamp_ns:
                low = middle + 1
            else:
                high = middle
        return low

    cdef int open_to_read(self) except -1:
        self.is_used = True
        if self.fd < 0:
            try:
                self.fd = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
            except OSError as error:
                if error.errno not in (EACCES, EROFS):
                    raise _unreadable(self.path, error.errno) from None
                try:
                    self.fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                except OSError as second:
                    raise _unreadable(self.path, second.errno) from None
        return 0

    def close(self) -> None:
        """Let go of the file."""
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def forget_offsets(self) -> None:
        """They are loaded again when they are needed."""
        free(self.offsets)
        self.offsets = NULL
        self.capacity = 0

    def is_idle(self) -> bool:
        """Whether it holds neither a descriptor nor offsets that can be loaded again."""
        return self.fd < 0 and (self.offsets == NULL or not self.has_sidecar)

    def _sidecar_path(self) -> str:
        return self.path.removesuffix(SUFFIX) + SIDECAR_SUFFIX


cdef Segment segment_of(list segments, uint64_t sequence):
    """Of the segments of one log, in order, the last that does not begin behind a sequence."""
    cdef Segment segment
    cdef Py_ssize_t middle, low = 0, high = len(segments) - 1
    while low < high:
        middle = (low + high + 1) // 2
        segment = segments[middle]
        if segment.first <= sequence:
            low = middle
        else:
            high = middle - 1
    return segments[low]


cdef uint32_t _header_checksum(Header* header, bytes name) except? 0:
    cdef uint32_t crc = checksum(
        0, <const unsigned char*>header, sizeof(Header) - sizeof(uint32_t))
    return checksum(crc, <const unsigned char*>name, len(name))


cdef bint _is_header(Header* header, bytes name) except -1:
    return (
        memcmp(header.magic, <const char*>LOG_MAGIC, 8) == 0
        and <size_t>len(name) == header.name_length
        and header.length == sizeof(Header) + header.name_length
        and header.crc == _header_checksum(header, name)
    )


cdef bint _fits(Segment segment, bytes fixed, Sidecar* sidecar) except -1:
    if len(fixed) < sizeof(Sidecar):
        return False
    memcpy(sidecar, <const char*>fixed, sizeof(Sidecar))
    return (
        memcmp(sidecar.magic, <const char*>SIDECAR_MAGIC, 8) == 0
        and sidecar.crc == checksum(
            0, <const unsigned char*>sidecar, sizeof(Sidecar) - sizeof(uint32_t))
        and sidecar.version == VERSION
        and sidecar.first == segment.first
        and sidecar.start == segment.start
        and sidecar.end >= sidecar.start
        and <uint64_t>sidecar.count * RECORD_BYTES <= sidecar.end - sidecar.start
    )


cdef bint _is_torn(int fd, Header* header, bytes fixed) except -1:
    """Whether a file with a bad header never held a record: the header is on disk before the first
    record is written, so there is nothing but zeros, or no more than a header."""
    size = os.fstat(fd).st_size
    if size > sizeof(Header) + NAME_BYTES_MAX:
        return False
    if any(fixed) and size > header.length:
        return False
    start = sizeof(Header)
    if header.name_length <= NAME_BYTES_MAX:
        start += header.name_length
    return not any(os.pread(fd, size, start))
