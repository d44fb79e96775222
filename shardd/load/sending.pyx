# cython: language_level=3str
"""The loops that publish: as fast as the server takes it, or each message at its time.

`flood` sends a large block of frames, encoded beforehand, over and over. `pace` sends message k at
start + k / rate whatever happened before, and writes that moment into it: what falls behind is
late, and counts as such, so a server that stalls cannot hide it by not being asked meanwhile.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.stdint cimport uint32_t, uint64_t
from libc.string cimport memcpy

from shardd.load.histogram cimport Histogram
from shardd.load.links cimport GLANCE_MS, Link, Reader, Watch
from shardd.load.page cimport (
    SLOT_EXPECTED, SLOT_PUBLISHED, SLOT_RECEIVED, SLOT_STOPPED, Page,
)
from shardd.load.system cimport EPOLLOUT, SECOND_NS, now_ns, rest

from shardd.load.links import LinkError


cdef int listen_all(object watch, object reader) except -1:
    """Hear what the server says on connections whose messages do not count, without waiting."""
    cdef Watch watched = watch
    cdef Reader room = reader
    cdef Link link
    cdef int ready = watched.wait(0)
    cdef int i
    for i in range(ready):
        if watched.events[i].events & <uint32_t>~EPOLLOUT:
            link = watched.links[<Py_ssize_t>watched.events[i].data.u64]
            room.listen(link)


def flood(
    links,
    bytes block,
    size_t frames,
    size_t payload_bytes,
    uint64_t copies,
    uint64_t credit,
    Page page,
    double seconds,
    double patience_s,
):
    """Send `block` on every connection until its quota or `seconds` (0: no limit) are reached.

    `block` holds so many `frames` of one length, each with `payload_bytes`; the server delivers
    each in `copies` to the subscribing side, and no more than `credit` of those may be on their
    way at a time. Connections that wait for credit get it in turn, a block each.
    """
    cdef const unsigned char* data = <const unsigned char*>PyBytes_AS_STRING(block)
    cdef size_t frame_len = <size_t>PyBytes_GET_SIZE(block) // frames
    cdef Watch watch = Watch(links)
    cdef Reader reader = Reader()
    cdef Link link
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef uint64_t start_ns = now_ns()
    cdef uint64_t now = start_ns
    cdef uint64_t moved_ns = start_ns
    cdef uint64_t listened_ns = start_ns
    cdef uint64_t claimed = 0
    cdef uint64_t published = 0
    cdef uint64_t received, count
    cdef size_t taken
    cdef Py_ssize_t connections = len(watch.links)
    cdef Py_ssize_t active = connections
    cdef Py_ssize_t first = 0   # whose turn it is
    cdef Py_ssize_t step, index
    cdef bint has_moved, is_starved
    for each in watch.links:
        (<Link>each).start_ns = start_ns
    while active:
        has_moved = is_starved = False
        for step in range(first, first + connections):
            index = step % connections
            link = watch.links[index]
            if link.is_done:
                continue
            if link.block_left == 0:
                if link.out_len:
                    link.flush()
                    if link.out_len:
                        continue
                now = now_ns()
                if (
                    page.load(SLOT_STOPPED)
                    or (link.quota and link.messages >= link.quota)
                    or (duration_ns and now - start_ns >= duration_ns)
                ):
                    link.is_done = True
                    link.end_ns = now
                    active -= 1
                    continue
                count = min(frames, link.quota - link.messages) if link.quota else frames
                if is_starved:
                    continue  # another one waits for longer
                received = page.load(SLOT_RECEIVED)
                if copies and claimed > received and claimed - received + count * copies > credit:
                    is_starved = True
                    first = index
                    continue
                claimed += count * copies
                link.messages += count
                link.payload_bytes += count * payload_bytes
                link.block_at = 0
                link.block_left = count * frame_len
            taken = <size_t>link.write(data + link.block_at, link.block_left)
            link.block_at += taken
            link.block_left -= taken
            if taken:
                has_moved = True
            if link.block_left == 0:
                published += link.block_at // frame_len
                page.store(SLOT_PUBLISHED, published)
        now = now_ns()
        if now - listened_ns > LISTEN_NS or not has_moved:
            listen_all(watch, reader)
            listened_ns = now
        if has_moved:
            moved_ns = now
            continue
        page.check()
        if now - moved_ns > patience_ns and active:
            raise LinkError(
                f"nothing arrived for {patience_s:g} s" if is_starved
                else f"the server took nothing for {patience_s:g} s"
            )
        if active:
            rest(<long>STARVED_NS)
    page.store(SLOT_EXPECTED, claimed)


# --- on schedule ------------------------------------------------------------------------------

cdef uint64_t due(const Schedule* schedule, uint64_t now) noexcept nogil:
    """How many messages should have left by now."""
    cdef uint64_t count
    if now < schedule.start_ns:
        return 0
    count = <uint64_t>(<double>(now - schedule.start_ns) / schedule.interval_ns) + 1
    return count if count < schedule.total else schedule.total


cdef uint64_t moment(const Schedule* schedule, uint64_t index) noexcept nogil:
    """When a message should leave."""
    return schedule.start_ns + <uint64_t>(<double>index * schedule.interval_ns)


cdef uint64_t span_to(const Schedule* schedule, uint64_t index) noexcept nogil:
    """How long to sleep for a message that is due: no longer than a glance."""
    cdef uint64_t now = now_ns()
    cdef uint64_t until = moment(schedule, index)
    cdef uint64_t span = until - now if until > now else 0
    return min(max(span, <uint64_t>NAP_NS), <uint64_t>GLANCE_MS * 1000000)


def pace(
    links,
    frames,
    size_t stamp_at,
    size_t payload_bytes,
    uint64_t copies,
    Page page,
    double rate,
    uint64_t messages,
    double patience_s,
):
    """Send `messages` at `rate` a second over all connections in turn, the subjects in turn.

    The moment at which each is due stands in it at `stamp_at`. Returns how late each left.
    """
    cdef list held = list(frames)
    cdef Watch watch = Watch(links)
    cdef Reader reader = Reader()
    cdef Histogram lateness = Histogram()
    cdef Schedule schedule
    cdef Link link
    cdef bytes frame
    cdef unsigned char* place
    cdef Py_ssize_t connections = len(watch.links)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef uint64_t sent = 0
    cdef uint64_t begun, until, now, intended, moved_ns, listened_ns
    schedule.start_ns = moved_ns = listened_ns = now_ns()
    schedule.total = messages
    schedule.interval_ns = SECOND_NS / rate
    for each in watch.links:
        (<Link>each).start_ns = schedule.start_ns
    while sent < schedule.total and not page.load(SLOT_STOPPED):
        now = now_ns()
        until = due(&schedule, now)
        begun = sent
        while sent < until:
            link = watch.links[<Py_ssize_t>(sent % <uint64_t>connections)]
            if link.out_len > QUEUED_BYTES_MAX:
                break
            frame = held[<Py_ssize_t>(sent % <uint64_t>len(held))]
            place = link.reserve(<size_t>PyBytes_GET_SIZE(frame))
            memcpy(place, PyBytes_AS_STRING(frame), <size_t>PyBytes_GET_SIZE(frame))
            intended = moment(&schedule, sent)
            memcpy(place + stamp_at, &intended, sizeof(intended))
            lateness.add(now - intended if now > intended else 0)
            link.messages += 1
            link.payload_bytes += payload_bytes
            link.is_dirty = True
            sent += 1
        if sent > begun:
            moved_ns = now
        elif sent < until and now - moved_ns > patience_ns:
            raise LinkError(f"the server took nothing for {patience_s:g} s")
        flush_dirty(watch)
        page.store(SLOT_PUBLISHED, sent)
        if now - listened_ns > LISTEN_NS:
            listen_all(watch, reader)
            page.check()
            listened_ns = now
        if sent < schedule.total:
            rest(<long>span_to(&schedule, sent))
    now = now_ns()
    for each in watch.links:
        (<Link>each).end_ns = now
    page.store(SLOT_EXPECTED, sent * copies)
    return lateness


cdef int flush_dirty(Watch watch) except -1:
    """Send what is queued on the connections that have something."""
    cdef Link link
    for each in watch.links:
        link = each
        if link.is_dirty or link.out_len:
            link.flush()
            link.is_dirty = link.out_len > 0
