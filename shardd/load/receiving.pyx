# cython: language_level=3str
"""The loop that subscribes: every message counted, and timed where it says when it was due.

Most messages begin with the control line of the last one, and are known by that; the others are
parsed. Either way each frame is stepped over by its length, so what is counted has arrived whole.
"""

from libc.stdint cimport uint64_t
from libc.string cimport memcmp, memcpy

from shardd.load.histogram cimport Histogram
from shardd.load.links cimport GLANCE_MS, LINE_KEPT, Link, Reader, Watch
from shardd.load.page cimport (
    SLOT_EXPECTED, SLOT_FINISHED, SLOT_RECEIVED, SLOT_STOPPED, Page,
)
from shardd.load.system cimport SECOND_NS, now_ns
from shardd.streaming.client_wire cimport SERVER_MSG, ServerOperation

from shardd.load.links import LinkError


cdef uint64_t take_messages(
    Reader reader, Link link, size_t length, Histogram latency
) except? 0xFFFFFFFFFFFFFFFF:
    """Count the whole messages that are there and carry the rest; how many they were."""
    cdef ServerOperation operation
    cdef uint64_t now = now_ns()
    cdef uint64_t count = 0
    cdef uint64_t stamp
    cdef size_t at = 0
    cdef size_t taken, line_len
    while at < length:
        if (
            link.line_len
            and length - at >= link.frame_len
            and memcmp(reader.data + at, link.line, link.line_len) == 0
        ):
            taken = link.frame_len
        else:
            taken = <size_t>reader.take(link, at, length, &operation)
            if taken == 0:
                break
            if operation.verb != SERVER_MSG:
                link.answer(&operation)
                at += taken
                continue
            link.frame_len = taken
            link.body_len = operation.message.payload_len
            line_len = taken - 2 - link.body_len - operation.message.header_len
            if line_len <= LINE_KEPT:
                memcpy(link.line, reader.data + at, line_len)
                link.line_len = line_len
            else:
                link.line_len = 0
            link.extra_len = link.body_len + operation.message.header_len
        if latency is not None and link.body_len >= sizeof(stamp):
            memcpy(&stamp, reader.data + at + taken - 2 - link.body_len, sizeof(stamp))
            latency.add(now - stamp if now > stamp else 0)
        link.payload_bytes += link.extra_len
        count += 1
        at += taken
    reader.keep(link, at, length)
    if count:
        if link.messages == 0:
            link.start_ns = now
        link.messages += count
        link.end_ns = now
    return count


def tally(
    links,
    Page page,
    bint is_stamped,
    bint is_told,
    uint64_t messages,
    double seconds,
    double patience_s,
):
    """Count what arrives, until all is here that the publishing side says (`is_told`), or so many
    `messages` or `seconds` from the first one on (0: no limit), or the user stops it.

    Returns how long each message took from the moment it was due (`is_stamped`).
    """
    cdef Watch watch = Watch(links)
    cdef Reader reader = Reader()
    cdef Histogram found = Histogram()
    cdef Histogram latency = found if is_stamped else None
    cdef Link link
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef uint64_t total = 0
    cdef uint64_t first_ns = 0
    cdef uint64_t moved_ns = now_ns()
    cdef uint64_t expected
    cdef int ready, i
    while True:
        if is_told:
            if page.load(SLOT_FINISHED):
                expected = page.load(SLOT_EXPECTED)
                if total == expected:
                    break
                if total > expected:
                    raise LinkError(
                        f"{total} messages arrived, {expected} were published: somebody else"
                        " publishes on these subjects"
                    )
                if now_ns() - moved_ns > patience_ns:
                    raise LinkError(
                        f"{total} of {expected} messages arrived, then none for {patience_s:g} s"
                    )
            page.check()
        elif (
            page.load(SLOT_STOPPED)
            or (messages and total >= messages)
            or (duration_ns and first_ns and now_ns() - first_ns >= duration_ns)
        ):
            break
        ready = watch.wait(GLANCE_MS)
        for i in range(ready):
            link = watch.links[<Py_ssize_t>watch.events[i].data.u64]
            total += take_messages(reader, link, <size_t>reader.fill(link), latency)
            if link.out_len:
                link.flush()
            page.store(SLOT_RECEIVED, total)
        if ready:
            moved_ns = now_ns()
            if total and not first_ns:
                first_ns = moved_ns
    return found
