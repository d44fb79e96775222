# cython: language_level=3str
"""The load generator's loops over TLS: as those of `generator`, through Python's `ssl`.

A block goes to the library in one call, and what arrives is gathered from several records before
it is verified and counted, so that the processor time of both sides is that of the cipher and of
the system calls; the interpreter's is a small part.
"""

from libc.errno cimport EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from bench.generator cimport (
    CODE_ABORTED, CODE_CLOSED, CODE_ERRNO, CODE_OK, CODE_REFUSED, CODE_SILENT, CODE_SURPLUS,
    EVENTS_MAX, GLANCE_MS, HEADER_BYTES_MAX, SLOT_ABORTED, SLOT_EXPECTED, SLOT_FINISHED,
    SLOT_RECEIVED, STARVED_NS, Code, Outcome, Published, Receiver, Shape, account, check,
    classify, set_shape, shared_slots, summary, watch,
)
from shardd.load.system cimport (
    EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, POLLIN, SECOND_NS, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED,
    __ATOMIC_RELEASE, __atomic_load_n, __atomic_store_n, epoll_create1, epoll_event, epoll_wait,
    now_ns, poll, pollfd, rest,
)

import os
from ssl import SSLWantReadError

cdef enum:
    # Gathered before it is looked at: sixteen full records.
    GATHERED_BYTES = 262144
    # The longest plaintext of a record (RFC 8446, section 5.1).
    RECORD_BYTES_MAX = 16384


def publish(
    connections,
    blocks,
    outputs,
    shared,
    double seconds,
    uint64_t blocks_max,
    uint64_t credit,
    double patience_s,
):
    """Send each connection's block over and over, as `generator.publish` does."""
    cdef uint64_t* slots = shared_slots(shared)
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef uint64_t claimed = 0
    cdef uint64_t now, moved_ns, received, output
    cdef bint has_moved
    cdef list sent = [0] * len(connections)
    cdef list active = list(range(len(connections)))
    cdef Published done = Published()
    cdef Outcome outcome
    memset(&outcome, 0, sizeof(outcome))
    done.start_ns = moved_ns = now_ns()
    while active:
        has_moved = False
        for i in list(active):
            now = now_ns()
            if (blocks_max and sent[i] >= blocks_max) or (
                sent[i] and now - done.start_ns >= duration_ns
            ):
                active.remove(i)
                continue
            output = outputs[i]
            received = __atomic_load_n(&slots[<int>SLOT_RECEIVED], __ATOMIC_RELAXED)
            if claimed != received and claimed - received + output > credit:
                continue
            claimed += output
            connections[i].sendall(blocks[i])
            sent[i] += 1
            has_moved = True
        if has_moved:
            moved_ns = now_ns()
        elif active:
            if __atomic_load_n(&slots[<int>SLOT_ABORTED], __ATOMIC_RELAXED):
                outcome.code = CODE_ABORTED
                check(&outcome)
            if now_ns() - moved_ns > patience_ns:
                outcome.code = CODE_SILENT
                check(&outcome)
            rest(<long>STARVED_NS)
    done.end_ns = now_ns()
    done.blocks = sent
    __atomic_store_n(&slots[<int>SLOT_EXPECTED], claimed, __ATOMIC_RELAXED)
    __atomic_store_n(&slots[<int>SLOT_FINISHED], 1, __ATOMIC_RELEASE)
    return done


cdef bint has_more(int fd) noexcept nogil:
    """Whether the kernel holds bytes of a connection."""
    cdef pollfd polled
    polled.fd = fd
    polled.events = <short>POLLIN
    polled.revents = 0
    return poll(&polled, 1, 0) > 0


cdef Code receive_some(
    Receiver* receiver, connection, const Shape* shape, unsigned char[::1] buffer, Outcome* outcome
) except *:
    """What one connection has, decrypted, verified and counted."""
    cdef unsigned char* data = &buffer[0]
    cdef size_t length = receiver.carry_len
    cdef size_t got
    cdef bint is_ended = False
    cdef Code code
    memcpy(data, receiver.carry, receiver.carry_len)
    while length + RECORD_BYTES_MAX <= GATHERED_BYTES and not is_ended:
        try:
            got = connection.recv_into(buffer[length:])
        except SSLWantReadError:
            # Not a whole record yet, or one of the library's own.
            break
        length += got
        is_ended = got == 0
        if not has_more(receiver.fd):
            break
    code = account(receiver, shape, data, length, outcome)
    while receiver.pings:
        connection.sendall(b"PONG\r\n")
        receiver.pings -= 1
    if code != CODE_OK or not is_ended:
        return code
    memcpy(data, receiver.carry, receiver.carry_len)
    # What was carried may be the server's last word.
    if receiver.carry_len and classify(outcome, data, receiver.carry_len) == CODE_REFUSED:
        return CODE_REFUSED
    return CODE_CLOSED


cdef Code count_loop(
    Receiver* receivers,
    list connections,
    int epoll,
    const Shape* shape,
    uint64_t* slots,
    uint64_t patience_ns,
    Outcome* outcome,
) except *:
    """Receive on all connections until all that was published has arrived."""
    cdef epoll_event[EVENTS_MAX] events
    cdef unsigned char[::1] buffer = bytearray(GATHERED_BYTES + HEADER_BYTES_MAX)
    cdef Receiver* receiver
    cdef uint64_t total = 0
    cdef uint64_t expected, before
    cdef int ready, i
    cdef Code code
    outcome.start_ns = outcome.end_ns = now_ns()
    while True:
        if __atomic_load_n(&slots[<int>SLOT_FINISHED], __ATOMIC_ACQUIRE):
            expected = __atomic_load_n(&slots[<int>SLOT_EXPECTED], __ATOMIC_RELAXED)
            if total >= expected:
                return CODE_OK if total == expected else CODE_SURPLUS
        ready = epoll_wait(epoll, events, EVENTS_MAX, GLANCE_MS)
        if ready < 0 and errno != EINTR:
            outcome.error = errno
            return CODE_ERRNO
        for i in range(ready):
            outcome.connection = <Py_ssize_t>events[i].data.u64
            receiver = &receivers[outcome.connection]
            before = receiver.received
            code = receive_some(
                receiver, connections[outcome.connection], shape, buffer, outcome)
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


def count(connections, Py_ssize_t header_len, bytes body, shared, double patience_s):
    """Count the frames that arrive, as `generator.count` does."""
    cdef list held = list(connections)
    cdef Py_ssize_t count = len(held)
    cdef uint64_t* slots = shared_slots(shared)
    cdef Outcome outcome
    cdef Shape shape
    cdef Py_ssize_t i
    cdef list timeouts = [each.gettimeout() for each in held]
    set_shape(&shape, header_len, body)
    memset(&outcome, 0, sizeof(outcome))
    cdef Receiver* receivers = <Receiver*>calloc(<size_t>count + 1, sizeof(Receiver))
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    try:
        if receivers == NULL:
            raise MemoryError
        if epoll < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(count):
            receivers[i].fd = held[i].fileno()
            held[i].setblocking(False)
            if watch(epoll, receivers[i].fd, <uint32_t>EPOLLIN, <uint64_t>i, EPOLL_CTL_ADD):
                raise OSError(errno, os.strerror(errno))
        outcome.code = count_loop(
            receivers, held, epoll, &shape, slots, <uint64_t>(patience_s * SECOND_NS), &outcome)
        check(&outcome)
        return summary(receivers, count, header_len, outcome.end_ns)
    finally:
        for each, timeout in zip(held, timeouts):
            each.settimeout(timeout)
        if epoll >= 0:
            close(epoll)
        free(receivers)
