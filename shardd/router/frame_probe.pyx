# cython: language_level=3str
"""A door to the C face of ring records, for tests and the fuzz target.

Everything is written into, and read from, memory of exactly its size, so that a sanitizer sees one
byte too many. What is read may point nowhere outside the record.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

from shardd.router.frame cimport (
    Message,
    Target,
    append_number,
    read_record,
    read_target,
    record_length,
    tail_room,
    write_record,
    write_tail,
)

from collections.abc import Sequence

cdef enum:
    TARGETS_MAX = 64


cdef inline const unsigned char* data(bytes source) noexcept:
    return <const unsigned char*>PyBytes_AS_STRING(source)


cdef unsigned char* room_of(size_t length) except NULL:
    cdef unsigned char* room = <unsigned char*>malloc(length if length else 1)
    if room == NULL:
        raise MemoryError
    return room


cdef bytes part(const unsigned char* record, size_t length, const unsigned char* at, size_t size):
    """Bytes out of a record; what is not inside is the mistake that is looked for."""
    if at < record or size > length or at + size > record + length:
        raise AssertionError("points outside the record")
    return PyBytes_FromStringAndSize(<const char*>at, size)


def write(
    bytes subject not None,
    bytes tail not None,
    sizes: tuple[int, int, int],
    targets: Sequence[tuple[int, bytes]] = (),
    uint32_t account=0,
    uint32_t flags=0,
    uint64_t publisher=0,
    uint64_t processes=0,
    uint32_t kind=1,
    uint32_t hops=0,
) -> bytes:
    """The record of a message whose reply, header block and total have these sizes."""
    cdef Target[TARGETS_MAX] array
    cdef Message message
    cdef size_t count = len(targets)
    cdef size_t length, index
    cdef unsigned char* room
    if count > TARGETS_MAX:
        raise ValueError("too many targets")
    memset(&message, 0, sizeof(Message))
    message.account = account
    message.flags = flags
    message.publisher = publisher
    message.subject = data(subject)
    message.subject_len = PyBytes_GET_SIZE(subject)
    message.tail = data(tail)
    message.tail_len = PyBytes_GET_SIZE(tail)
    message.reply_len, message.header_len, message.total_len = sizes
    for index in range(count):
        array[index].process = targets[index][0]
        array[index].name = data(targets[index][1])
        array[index].name_len = <uint32_t>PyBytes_GET_SIZE(targets[index][1])
    length = record_length(&message, array, count)
    room = room_of(length)
    memset(room, 0, length)
    write_record(room, length, &message, processes, array, count, kind, hops)
    try:
        return PyBytes_FromStringAndSize(<char*>room, length)
    finally:
        free(room)


def read(bytes record not None) -> tuple[int, int, int, bytes, bytes, int, int, int] | None:
    """Account, flags, publisher, subject, tail, and the sizes of reply, header block and total.

    None when the record is refused.
    """
    cdef size_t length = PyBytes_GET_SIZE(record)
    cdef unsigned char* room = room_of(length)
    cdef Message message
    memcpy(room, data(record), length)
    try:
        if not read_record(room, length, &message):
            return None
        return (
            message.account, message.flags, message.publisher,
            part(room, length, message.subject, message.subject_len),
            part(room, length, message.tail, message.tail_len),
            message.reply_len, message.header_len, message.total_len,
        )
    finally:
        free(room)


def read_target_at(bytes record not None, size_t offset) -> tuple[int, bytes, int] | None:
    """Process, name and the next offset of a target in a record that `read` takes.

    None when the target is refused.
    """
    cdef size_t length = PyBytes_GET_SIZE(record)
    cdef unsigned char* room = room_of(length)
    cdef Message message
    cdef Target target
    cdef size_t following
    memcpy(room, data(record), length)
    try:
        if not read_record(room, length, &message):
            raise ValueError("the record is refused as a whole")
        following = read_target(room, offset, &target)
        if following == 0:
            return None
        return target.process, part(room, length, target.name, target.name_len), following
    finally:
        free(room)


def tail_of(
    bytes reply not None, bytes payload not None, header_len: int | None = None
) -> tuple[bytes, int]:
    """What `write_tail` builds, and the room that `tail_room` asked for it."""
    cdef size_t reply_len = PyBytes_GET_SIZE(reply)
    cdef size_t total_len = PyBytes_GET_SIZE(payload)
    cdef size_t room_len = tail_room(reply_len, total_len)
    cdef unsigned char* room = room_of(room_len)
    try:
        length = write_tail(
            room, data(reply), reply_len, header_len is not None,
            0 if header_len is None else header_len, data(payload), total_len,
        )
        return PyBytes_FromStringAndSize(<char*>room, length), room_len
    finally:
        free(room)


def number(size_t value) -> bytes:
    """What `append_number` writes."""
    cdef unsigned char[20] digits
    cdef size_t count = append_number(digits, value)
    return PyBytes_FromStringAndSize(<char*>digits, count)
