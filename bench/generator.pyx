# cython: language_level=3str
"""The load generator: loops over plain sockets that cost far less than the server they load.

What is published is encoded beforehand into a large block that is sent over and over. What
arrives is counted, not parsed: all frames of a run have one length, so the place of every frame
is known, and each recv verifies the control line of its first and of its last frame and the
payload of its last whole one. When a control line is not where it must be, the bytes are walked
frame by frame: a PING of the server explains the shift and is answered, anything else is a
failure. So the count is exact, a lost or a foreign byte is noticed, and the cost per message is
that of copying it out of the kernel.

Each function here runs in a process of its own, one publishes and one subscribes, as in real
life. They share one page: the subscriber says how much has arrived, and the publisher never gets
further ahead than its credit, so that no server has a reason to drop a slow consumer.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy, memset
from posix.unistd cimport close

from shardd.load.system cimport (
    EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, MSG_DONTWAIT, MSG_NOSIGNAL, POLLOUT, SECOND_NS,
    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED, __ATOMIC_RELEASE, __atomic_load_n, __atomic_store_n,
    epoll_create1, epoll_ctl, epoll_event, epoll_wait, now_ns, poll, pollfd, recv, rest, send,
    smaller,
)

import os


SHARED_BYTES = SLOTS * sizeof(uint64_t)

cdef void take_excerpt(Outcome* outcome, const unsigned char* data, size_t length) noexcept nogil:
    outcome.excerpt_len = smaller(length, EXCERPT_BYTES)
    memcpy(outcome.excerpt, data, outcome.excerpt_len)


cdef Code classify(Outcome* outcome, const unsigned char* data, size_t length) noexcept nogil:
    """Say what bytes are that are no frame, and keep the beginning for the report."""
    take_excerpt(outcome, data, length)
    if length >= 4 and memcmp(data, b"-ERR", 4) == 0:
        return CODE_REFUSED
    return CODE_MALFORMED


cdef uint64_t* shared_slots(object shared) except NULL:
    """The address of the shared page; the caller keeps `shared` alive."""
    cdef unsigned char[::1] view = shared
    if <size_t>view.shape[0] < SLOTS * sizeof(uint64_t):
        raise ValueError("the shared page is too small")
    return <uint64_t*>&view[0]


def reset(shared):
    """Make the shared page ready for the next run; no run may be under way."""
    cdef uint64_t* slots = shared_slots(shared)
    memset(slots, 0, SLOTS * sizeof(uint64_t))


def abort(shared):
    """Tell the other process that this side failed."""
    cdef uint64_t* slots = shared_slots(shared)
    __atomic_store_n(&slots[<int>SLOT_ABORTED], 1, __ATOMIC_RELAXED)


cdef int check(Outcome* outcome) except -1:
    """Raise what the outcome of a loop says."""
    cdef bytes excerpt = PyBytes_FromStringAndSize(
        <const char*>outcome.excerpt, <Py_ssize_t>outcome.excerpt_len
    )
    where = f"connection {outcome.connection}"
    if outcome.code == CODE_OK:
        return 0
    if outcome.code == CODE_ERRNO:
        raise OSError(outcome.error, f"{where}: {os.strerror(outcome.error)}")
    if outcome.code == CODE_CLOSED:
        raise ConnectionError(f"{where}: closed by the server")
    if outcome.code == CODE_SILENT:
        raise TimeoutError("nothing arrived or left for as long as patience lasts")
    if outcome.code == CODE_REFUSED:
        raise ConnectionError(f"{where}: {excerpt!r}")
    if outcome.code == CODE_MALFORMED:
        raise ValueError(f"{where}: no frame where one must begin: {excerpt!r}")
    if outcome.code == CODE_SURPLUS:
        raise ValueError("more bytes arrived than were published")
    if outcome.code == CODE_NO_MEMORY:
        raise MemoryError
    raise InterruptedError("the other side failed")


# --- publishing -------------------------------------------------------------------------------

@cython.final
cdef class Published:
    """What the publishing process did."""


cdef Code send_some(Sender* sender, Outcome* outcome) noexcept nogil:
    """Send what the kernel takes of the block under way."""
    cdef ssize_t sent = send(
        sender.fd,
        sender.block + sender.offset,
        sender.block_len - sender.offset,
        MSG_DONTWAIT | MSG_NOSIGNAL,
    )
    if sent < 0:
        if errno == EAGAIN or errno == EINTR:
            sender.is_blocked = True
            return CODE_OK
        outcome.error = errno
        return CODE_ERRNO
    sender.offset += <size_t>sent
    sender.is_blocked = sender.offset < sender.block_len
    if not sender.is_blocked:
        sender.offset = 0
        sender.blocks += 1
    return CODE_OK


cdef void wait_writable(
    Sender* senders, Py_ssize_t count, pollfd* polled, int timeout_ms
) noexcept nogil:
    """Sleep until a blocked connection takes bytes again."""
    cdef unsigned long waiting = 0
    cdef Py_ssize_t i
    for i in range(count):
        if senders[i].is_blocked:
            polled[waiting].fd = senders[i].fd
            polled[waiting].events = <short>POLLOUT
            polled[waiting].revents = 0
            waiting += 1
    poll(polled, waiting, timeout_ms)


cdef Code publish_loop(
    Sender* senders,
    Py_ssize_t count,
    pollfd* polled,
    uint64_t* slots,
    uint64_t duration_ns,
    uint64_t blocks_max,
    uint64_t credit,
    uint64_t patience_ns,
    Outcome* outcome,
) noexcept nogil:
    """Send blocks on all connections until time or count is up; whole blocks only."""
    cdef Py_ssize_t active = count
    cdef Py_ssize_t i
    cdef Sender* sender
    cdef uint64_t now = now_ns()
    cdef uint64_t moved_ns = now
    cdef uint64_t claimed = 0
    cdef uint64_t received
    cdef bint has_moved, is_starved, is_blocked
    outcome.start_ns = now
    while active > 0:
        has_moved = is_starved = is_blocked = False
        for i in range(count):
            sender = &senders[i]
            if sender.is_done:
                continue
            if sender.offset == 0 and not sender.is_blocked:
                now = now_ns()
                if (blocks_max and sender.blocks >= blocks_max) or (
                    sender.blocks > 0 and now - outcome.start_ns >= duration_ns
                ):
                    sender.is_done = True
                    active -= 1
                    continue
                received = __atomic_load_n(&slots[<int>SLOT_RECEIVED], __ATOMIC_RELAXED)
                if claimed != received and claimed - received + sender.output_len > credit:
                    is_starved = True
                    continue
                claimed += sender.output_len
            outcome.connection = i
            if send_some(sender, outcome) != CODE_OK:
                return CODE_ERRNO
            if sender.is_blocked:
                is_blocked = True
            else:
                has_moved = True
        if has_moved:
            moved_ns = now
            continue
        if active == 0:
            break
        if __atomic_load_n(&slots[<int>SLOT_ABORTED], __ATOMIC_RELAXED):
            return CODE_ABORTED
        now = now_ns()
        if now - moved_ns > patience_ns:
            return CODE_SILENT
        if is_blocked:
            wait_writable(senders, count, polled, 1 if is_starved else GLANCE_MS)
        else:
            rest(<long>STARVED_NS)
    outcome.end_ns = now_ns()
    __atomic_store_n(&slots[<int>SLOT_EXPECTED], claimed, __ATOMIC_RELAXED)
    __atomic_store_n(&slots[<int>SLOT_FINISHED], 1, __ATOMIC_RELEASE)
    return CODE_OK


def publish(
    fds,
    blocks,
    outputs,
    shared,
    double seconds,
    uint64_t blocks_max,
    uint64_t credit,
    double patience_s,
):
    """Send each connection's block over and over, for `seconds` or `blocks_max` times.

    `outputs` says how many bytes the server delivers for one block of each connection;
    `credit` is how many of those bytes may be on their way at a time.
    """
    cdef Py_ssize_t count = len(fds)
    cdef uint64_t* slots = shared_slots(shared)
    cdef list held = list(blocks)
    cdef Outcome outcome
    cdef Py_ssize_t i
    cdef bytes block
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    if count == 0 or len(held) != count or len(outputs) != count:
        raise ValueError("one block and one output length for each connection")
    cdef Sender* senders = <Sender*>calloc(<size_t>count, sizeof(Sender))
    cdef pollfd* polled = <pollfd*>calloc(<size_t>count, sizeof(pollfd))
    memset(&outcome, 0, sizeof(outcome))
    try:
        if senders == NULL or polled == NULL:
            raise MemoryError
        for i in range(count):
            block = held[i]
            if not block:
                raise ValueError("an empty block")
            senders[i].fd = fds[i]
            senders[i].block = <const unsigned char*>PyBytes_AS_STRING(block)
            senders[i].block_len = <size_t>PyBytes_GET_SIZE(block)
            senders[i].output_len = outputs[i]
        with nogil:
            outcome.code = publish_loop(
                senders, count, polled, slots, duration_ns, blocks_max, credit, patience_ns,
                &outcome,
            )
        check(&outcome)
        done = Published()
        done.start_ns = outcome.start_ns
        done.end_ns = outcome.end_ns
        done.blocks = [senders[i].blocks for i in range(count)]
        return done
    finally:
        free(senders)
        free(polled)


# --- subscribing ------------------------------------------------------------------------------

@cython.final
cdef class Counted:
    """What the subscribing process received."""


cdef int watch(int epoll, int fd, uint32_t events, uint64_t index, int operation) noexcept nogil:
    cdef epoll_event event
    event.events = events
    event.data.u64 = index
    return epoll_ctl(epoll, operation, fd, &event)


cdef Code walk(
    Receiver* receiver,
    const Shape* shape,
    const unsigned char* data,
    size_t length,
    size_t* boundary,
    size_t* pings,
    size_t* last,
    Outcome* outcome,
) noexcept nogil:
    """Go frame by frame from `boundary`, because the frames are not where they should be."""
    cdef size_t place = boundary[0]
    while place + shape.header_len <= length:
        if memcmp(data + place, b"MSG ", 4) == 0:
            if receiver.frames == 0:
                memcpy(receiver.first_header, data + place, shape.header_len)
            last[0] = place
            receiver.frames += 1
            place += shape.frame_len
        elif memcmp(data + place, b"PING\r\n", 6) == 0:
            pings[0] += 1
            place += 6
        else:
            return classify(outcome, data + place, length - place)
    boundary[0] = place
    return CODE_OK


cdef Code account(
    Receiver* receiver, const Shape* shape, unsigned char* data, size_t length, Outcome* outcome
) noexcept nogil:
    """Verify and count `length` bytes; they begin with the connection's carried ones.

    A control line is looked at only when it is there whole; a beginning is carried to the next
    call and counted then, so `received` never holds a byte of a PING.
    """
    cdef size_t boundary = receiver.until_boundary
    cdef size_t pings = 0
    cdef size_t started, counted
    cdef Code code
    # No place in the data: no control line was seen in it.
    cdef size_t last = length
    if boundary + shape.header_len <= length:
        started = (length - boundary - shape.header_len) // shape.frame_len
        last = boundary + started * shape.frame_len
        if memcmp(data + boundary, b"MSG ", 4) == 0 and memcmp(data + last, b"MSG ", 4) == 0:
            if receiver.frames == 0:
                memcpy(receiver.first_header, data + boundary, shape.header_len)
            receiver.frames += started + 1
            boundary = last + shape.frame_len
        else:
            last = length
            code = walk(receiver, shape, data, length, &boundary, &pings, &last, outcome)
            if code != CODE_OK:
                return code
    if last < length:
        memcpy(receiver.last_header, data + last, shape.header_len)
        if last + shape.frame_len > length:
            last = last - shape.frame_len if last >= shape.frame_len and not pings else length
        if last < length and memcmp(data + last + shape.header_len, shape.body, shape.body_len):
            take_excerpt(outcome, data + last, length - last)
            return CODE_MALFORMED
    counted = smaller(boundary, length)
    receiver.pings += pings
    receiver.received += counted - 6 * pings
    receiver.until_boundary = boundary - counted
    receiver.carry_len = length - counted
    memcpy(receiver.carry, data + counted, receiver.carry_len)
    return CODE_OK


cdef Code receive_some(
    Receiver* receiver, const Shape* shape, unsigned char* buffer, Outcome* outcome
) noexcept nogil:
    """One recv of one connection, verified and counted."""
    cdef ssize_t arrived
    cdef Code code
    memcpy(buffer, receiver.carry, receiver.carry_len)
    arrived = recv(receiver.fd, buffer + receiver.carry_len, RECEIVE_BYTES, MSG_DONTWAIT)
    if arrived > 0:
        code = account(receiver, shape, buffer, receiver.carry_len + <size_t>arrived, outcome)
        while receiver.pings:
            send(receiver.fd, b"PONG\r\n", 6, MSG_DONTWAIT | MSG_NOSIGNAL)
            receiver.pings -= 1
        return code
    if arrived == 0:
        # What was carried may be the server's last word.
        if receiver.carry_len and classify(outcome, buffer, receiver.carry_len) == CODE_REFUSED:
            return CODE_REFUSED
        return CODE_CLOSED
    if errno == EAGAIN or errno == EINTR:
        return CODE_OK
    outcome.error = errno
    return CODE_ERRNO


cdef Code count_loop(
    Receiver* receivers,
    int epoll,
    const Shape* shape,
    unsigned char* buffer,
    uint64_t* slots,
    uint64_t patience_ns,
    Outcome* outcome,
) noexcept nogil:
    """Receive on all connections until all that was published has arrived."""
    cdef epoll_event events[256]
    cdef Receiver* receiver
    cdef uint64_t total = 0
    cdef uint64_t expected, before
    cdef int ready, i
    cdef Code code
    outcome.start_ns = outcome.end_ns = now_ns()
    while True:
        if __atomic_load_n(&slots[<int>SLOT_FINISHED], __ATOMIC_ACQUIRE):
            expected = __atomic_load_n(&slots[<int>SLOT_EXPECTED], __ATOMIC_RELAXED)
            if total == expected:
                return CODE_OK
            if total > expected:
                return CODE_SURPLUS
        ready = epoll_wait(epoll, events, EVENTS_MAX, GLANCE_MS)
        if ready < 0 and errno != EINTR:
            outcome.error = errno
            return CODE_ERRNO
        for i in range(ready):
            outcome.connection = <Py_ssize_t>events[i].data.u64
            receiver = &receivers[outcome.connection]
            before = receiver.received
            code = receive_some(receiver, shape, buffer, outcome)
            if code != CODE_OK:
                return code
            total += receiver.received - before
            __atomic_store_n(&slots[<int>SLOT_RECEIVED], total, __ATOMIC_RELAXED)
        if ready > 0:
            outcome.end_ns = now_ns()
            continue
        if __atomic_load_n(&slots[<int>SLOT_ABORTED], __ATOMIC_RELAXED):
            return CODE_ABORTED
        if now_ns() - outcome.end_ns > patience_ns:
            return CODE_SILENT


cdef int set_shape(Shape* shape, Py_ssize_t header_len, bytes body) except -1:
    """What every frame looks like; `body` stays the caller's."""
    if not 8 <= header_len <= HEADER_BYTES_MAX:
        raise ValueError("the control line is too short or too long")
    shape.header_len = <size_t>header_len
    shape.body = <const unsigned char*>PyBytes_AS_STRING(body)
    shape.body_len = <size_t>PyBytes_GET_SIZE(body)
    shape.frame_len = shape.header_len + shape.body_len


cdef Counted summary(
    Receiver* receivers, Py_ssize_t count, Py_ssize_t header_len, uint64_t end_ns
):
    """What the receivers came to."""
    cdef Counted done = Counted()
    cdef Py_ssize_t i
    cdef Receiver* receiver
    done.end_ns = end_ns
    done.received = []
    done.first_headers = []
    done.last_headers = []
    for i in range(count):
        receiver = &receivers[i]
        done.received.append(receiver.received)
        done.first_headers.append(
            PyBytes_FromStringAndSize(<const char*>receiver.first_header, header_len)
        )
        done.last_headers.append(
            PyBytes_FromStringAndSize(<const char*>receiver.last_header, header_len)
        )
    return done


def count(fds, Py_ssize_t header_len, bytes body, shared, double patience_s):
    """Count the frames that arrive until the publisher says that all were sent and all are here.

    A frame is a control line of `header_len` bytes and `body`, the payload with its CR LF.
    """
    cdef Py_ssize_t count = len(fds)
    cdef uint64_t* slots = shared_slots(shared)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef Outcome outcome
    cdef Shape shape
    cdef Py_ssize_t i
    set_shape(&shape, header_len, body)
    memset(&outcome, 0, sizeof(outcome))
    cdef Receiver* receivers = <Receiver*>calloc(<size_t>count + 1, sizeof(Receiver))
    cdef unsigned char* buffer = <unsigned char*>malloc(RECEIVE_BYTES + HEADER_BYTES_MAX)
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    try:
        if receivers == NULL or buffer == NULL:
            raise MemoryError
        if epoll < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(count):
            receivers[i].fd = fds[i]
            if watch(epoll, receivers[i].fd, <uint32_t>EPOLLIN, <uint64_t>i, EPOLL_CTL_ADD):
                raise OSError(errno, os.strerror(errno))
        with nogil:
            outcome.code = count_loop(
                receivers, epoll, &shape, buffer, slots, patience_ns, &outcome
            )
        if outcome.code == CODE_SILENT:
            received = sum(receivers[i].received for i in range(count))
            expected = slots[<int>SLOT_EXPECTED] if slots[<int>SLOT_FINISHED] else "not yet known"
            raise TimeoutError(f"silence after {received} of {expected} bytes")
        check(&outcome)
        return summary(receivers, count, header_len, outcome.end_ns)
    finally:
        if epoll >= 0:
            close(epoll)
        free(receivers)
        free(buffer)
