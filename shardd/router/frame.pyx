# cython: language_level=3str
"""Messages as records of a ring: how long, how written, how read back and checked.

A record is its header, the targets (process, length, name, each padded to 4), the subject and the
tail, padded to 8. What a ring holds was written by shardd itself, yet every length is checked
before use: a process that went wrong must not take its peers along.
"""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset

cdef enum:
    TARGET_BYTES = 8               # process and length, before the name


cdef inline size_t _padded(size_t length, size_t unit) noexcept nogil:
    return (length + unit - 1) & ~(unit - 1)


cdef size_t record_length(
    const Message* message, const Target* targets, size_t target_count
) noexcept nogil:
    """Bytes of the record of this message, padding included."""
    cdef size_t length = sizeof(RecordHeader) + message.subject_len + message.tail_len
    cdef size_t index
    for index in range(target_count):
        length += TARGET_BYTES + _padded(targets[index].name_len, 4)
    return _padded(length, 8)


cdef void write_record(
    unsigned char* room,
    size_t length,
    const Message* message,
    uint64_t processes,
    const Target* targets,
    size_t target_count,
    uint32_t kind,
    uint32_t hops,
) noexcept nogil:
    """Write the record into `room`, which has the `length` that `record_length` told."""
    cdef RecordHeader* header = <RecordHeader*>room
    cdef unsigned char* at = room + sizeof(RecordHeader)
    cdef uint32_t name_len
    cdef size_t index
    header.length = <uint32_t>length
    header.account = message.account
    header.processes = processes
    header.publisher = message.publisher
    header.subject_len = <uint32_t>message.subject_len
    header.tail_len = <uint32_t>message.tail_len
    header.reply_len = <uint32_t>message.reply_len
    header.header_len = <uint32_t>message.header_len
    header.total_len = <uint32_t>message.total_len
    header.flags = <uint16_t>(message.flags & ~<uint32_t>MESSAGE_IS_LENT)
    header.hops = <uint8_t>hops
    header.kind = <uint8_t>kind
    header.target_count = <uint32_t>target_count
    for index in range(target_count):
        name_len = targets[index].name_len
        memcpy(at, &targets[index].process, 4)
        memcpy(at + 4, &name_len, 4)
        memcpy(at + TARGET_BYTES, targets[index].name, name_len)
        at += TARGET_BYTES + _padded(name_len, 4)
    header.targets_len = <uint32_t>(at - room - sizeof(RecordHeader))
    memcpy(at, message.subject, message.subject_len)
    memcpy(at + message.subject_len, message.tail, message.tail_len)


cdef bint read_record(
    const unsigned char* record, size_t available, Message* message
) noexcept nogil:
    """Point `message` into the record. False when its lengths contradict each other."""
    cdef const RecordHeader* header = <const RecordHeader*>record
    cdef size_t start
    if available < sizeof(RecordHeader):
        return False
    if header.length > available or header.length & 7 or header.length < sizeof(RecordHeader):
        return False
    start = sizeof(RecordHeader) + <size_t>header.targets_len
    if start + header.subject_len + header.tail_len > header.length:
        return False
    if header.tail_len < <size_t>header.total_len + header.reply_len + 3:
        return False
    if header.header_len > header.total_len:
        return False
    memset(message, 0, sizeof(Message))
    message.account = header.account
    message.flags = header.flags
    message.publisher = header.publisher
    message.subject = record + start
    message.subject_len = header.subject_len
    message.tail = record + start + header.subject_len
    message.tail_len = header.tail_len
    message.reply_len = header.reply_len
    message.header_len = header.header_len
    message.total_len = header.total_len
    return True


cdef size_t read_target(
    const unsigned char* record, size_t offset, Target* target
) noexcept nogil:
    """Read the target at `offset` bytes into the targets; the next offset, 0 when it is broken."""
    cdef const RecordHeader* header = <const RecordHeader*>record
    cdef const unsigned char* at = record + sizeof(RecordHeader) + offset
    cdef size_t end
    if offset + TARGET_BYTES > header.targets_len:
        return 0
    memcpy(&target.process, at, 4)
    memcpy(&target.name_len, at + 4, 4)
    target.name = at + TARGET_BYTES
    end = offset + TARGET_BYTES + _padded(target.name_len, 4)
    if end > header.targets_len or target.name_len > header.targets_len:
        return 0
    return end


cdef bint read_origin(const unsigned char* record, Origin* origin) noexcept nogil:
    """Find where a message that was handed on came from. False when the record does not tell."""
    cdef Target target
    cdef size_t offset = 0
    while True:
        offset = read_target(record, offset, &target)
        if offset == 0:
            return False
        if target.process == TARGET_IS_ORIGIN and target.name_len == sizeof(Origin):
            memcpy(origin, target.name, sizeof(Origin))
            return True


cdef size_t append_number(unsigned char* at, size_t value) noexcept nogil:
    """Write a size in decimal; returns how many digits that took (at most 20)."""
    cdef unsigned char[20] digits
    cdef size_t count = 0
    cdef size_t index
    while True:
        digits[count] = <unsigned char>(48 + value % 10)
        count += 1
        value //= 10
        if value == 0:
            break
    for index in range(count):
        at[index] = digits[count - 1 - index]
    return count


cdef size_t tail_room(size_t reply_len, size_t total_len) noexcept nogil:
    """Bytes that `write_tail` needs at most."""
    return reply_len + total_len + 48


cdef size_t write_tail(
    unsigned char* room,
    const unsigned char* reply,
    size_t reply_len,
    bint has_header,
    size_t header_len,
    const unsigned char* payload,
    size_t total_len,
) noexcept nogil:
    """Build the tail of a message from its parts; returns its length."""
    cdef unsigned char* at = room
    at[0] = 32
    at += 1
    if reply_len:
        memcpy(at, reply, reply_len)
        at[reply_len] = 32
        at += reply_len + 1
    if has_header:
        at += append_number(at, header_len)
        at[0] = 32
        at += 1
    at += append_number(at, total_len)
    at[0] = 13
    at[1] = 10
    memcpy(at + 2, payload, total_len)
    at += 2 + total_len
    at[0] = 13
    at[1] = 10
    return <size_t>(at + 2 - room)
