# cython: language_level=3str
"""A door to the C face of channel logs, for tests and benchmarks."""

from libc.stdint cimport int64_t, uint64_t

from shardd.streaming.log cimport (
    FOUND_LATER,
    FOUND_MESSAGE,
    FOUND_NOTHING,
    ChannelLog,
    Found,
    Stored,
)

NOTHING = <int>FOUND_NOTHING
MESSAGE = <int>FOUND_MESSAGE
LATER = <int>FOUND_LATER


def append(
    ChannelLog log not None, int64_t now_ns, bytes data not None, bytes reply not None=b""
) -> int:
    """Append one message; its sequence."""
    return log.put(
        now_ns,
        <const unsigned char*>reply, len(reply),
        <const unsigned char*>data, len(data),
    )


def append_many(
    ChannelLog log not None, int64_t now_ns, bytes data not None, uint64_t count
) -> int:
    """Append the same message so many times; the last sequence."""
    cdef const unsigned char* at = <const unsigned char*>data
    cdef size_t length = len(data)
    cdef uint64_t done
    for done in range(count):
        log.put(now_ns + <int64_t>done, NULL, 0, at, length)
    return log.appended


def find(ChannelLog log not None, uint64_t sequence) -> tuple[int, int, int, bytes]:
    """What was found (NOTHING, MESSAGE or LATER), and of a message its sequence, timestamp and
    bytes (0, 0 and none without one)."""
    cdef Stored stored
    cdef Found found = log.get(sequence, &stored)
    if found != FOUND_MESSAGE:
        return <int>found, 0, 0, b""
    return <int>found, stored.sequence, stored.timestamp_ns, stored.bytes[:stored.length]


def read_all(
    ChannelLog log not None, uint64_t sequence, uint64_t most=0xFFFF_FFFF_FFFF_FFFF
) -> tuple[int, int]:
    """Finds message after message from a sequence on; how many there were, and their bytes."""
    cdef Stored stored
    cdef uint64_t count = 0
    cdef uint64_t total = 0
    while count < most and log.get(sequence, &stored) == FOUND_MESSAGE:
        count += 1
        total += stored.length
        sequence = stored.sequence + 1
    return count, total
