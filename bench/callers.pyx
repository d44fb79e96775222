# cython: language_level=3str
"""Request/reply: closed loops of requesters, and the responders that answer them.

Each connection has one request under way. The requesting process notes every round trip with the
monotonic clock; the responding one answers each request with a frame encoded beforehand.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcmp, memmove, memset
from posix.unistd cimport close

from bench.generator cimport (
    CODE_ABORTED, CODE_CLOSED, CODE_ERRNO, CODE_NO_MEMORY, CODE_OK, CODE_SILENT, CODE_SURPLUS,
    EVENTS_MAX, GLANCE_MS, SLOT_ABORTED, SLOT_FINISHED, Code, Outcome, check, classify,
    shared_slots, watch,
)
from shardd.load.system cimport (
    EPOLLIN, EPOLL_CLOEXEC, EPOLL_CTL_ADD, MSG_DONTWAIT, MSG_NOSIGNAL, SECOND_NS,
    __ATOMIC_ACQUIRE, __ATOMIC_RELAXED, __ATOMIC_RELEASE, __atomic_load_n, __atomic_store_n,
    epoll_create1, epoll_event, epoll_wait, now_ns, recv, send,
)

import os


@cython.final
cdef class Timed:
    """What the requesting process measured."""
    cdef readonly uint64_t start_ns
    cdef readonly uint64_t end_ns
    cdef readonly list answers          # per connection
    cdef readonly bytes samples_ns      # one native uint64 for each answer


cdef Code add_sample(Samples* samples, uint64_t value) noexcept nogil:
    cdef uint64_t* grown
    if samples.count == samples.room:
        grown = <uint64_t*>realloc(samples.values, 2 * samples.room * sizeof(uint64_t))
        if grown == NULL:
            return CODE_NO_MEMORY
        samples.values = grown
        samples.room *= 2
    samples.values[samples.count] = value
    samples.count += 1
    return CODE_OK


cdef Code call(Caller* caller, Outcome* outcome) noexcept nogil:
    """Send the connection's frame. It is small and alone, so the kernel takes it whole."""
    cdef ssize_t sent = send(caller.fd, caller.frame, caller.frame_len, MSG_NOSIGNAL)
    if sent == <ssize_t>caller.frame_len:
        return CODE_OK
    outcome.error = errno if sent < 0 else EAGAIN
    return CODE_ERRNO


cdef Code hear(Caller* caller, size_t frame_len, bint* is_whole, Outcome* outcome) noexcept nogil:
    """Receive, answer PINGs, and say whether the one expected frame is there, and consume it."""
    cdef ssize_t arrived
    is_whole[0] = False
    arrived = recv(
        caller.fd, caller.buffer + caller.held, REQUEST_BYTES_MAX - caller.held, MSG_DONTWAIT
    )
    if arrived == 0:
        return CODE_CLOSED
    if arrived < 0:
        if errno == EAGAIN or errno == EINTR:
            return CODE_OK
        outcome.error = errno
        return CODE_ERRNO
    caller.held += <size_t>arrived
    while caller.held >= 6:
        if memcmp(caller.buffer, b"PING\r\n", 6) == 0:
            send(caller.fd, b"PONG\r\n", 6, MSG_DONTWAIT | MSG_NOSIGNAL)
            caller.held -= 6
            memmove(caller.buffer, caller.buffer + 6, caller.held)
            continue
        if memcmp(caller.buffer, b"MSG ", 4) or is_whole[0]:
            return classify(outcome, caller.buffer, caller.held)
        if caller.held < frame_len:
            return CODE_OK
        if caller.buffer[frame_len - 2] != c"\r" or caller.buffer[frame_len - 1] != c"\n":
            return classify(outcome, caller.buffer, caller.held)
        is_whole[0] = True
        caller.held -= frame_len
        memmove(caller.buffer, caller.buffer + frame_len, caller.held)
    return CODE_OK


cdef Code request_loop(
    Caller* callers,
    Py_ssize_t count,
    int epoll,
    size_t frame_len,
    uint64_t* slots,
    uint64_t duration_ns,
    uint64_t patience_ns,
    Samples* samples,
    Outcome* outcome,
) noexcept nogil:
    """Each connection sends, waits for the answer, notes the time, and sends again."""
    cdef epoll_event events[256]
    cdef Caller* caller
    cdef Py_ssize_t active = count
    cdef Py_ssize_t index
    cdef uint64_t now
    cdef int ready, i
    cdef bint is_whole = False
    cdef Code code
    outcome.start_ns = outcome.end_ns = now_ns()
    for index in range(count):
        outcome.connection = index
        callers[index].sent_ns = now_ns()
        if call(&callers[index], outcome) != CODE_OK:
            return CODE_ERRNO
    while active > 0:
        ready = epoll_wait(epoll, events, EVENTS_MAX, GLANCE_MS)
        if ready < 0 and errno != EINTR:
            outcome.error = errno
            return CODE_ERRNO
        if ready <= 0:
            if __atomic_load_n(&slots[<int>SLOT_ABORTED], __ATOMIC_RELAXED):
                return CODE_ABORTED
            if now_ns() - outcome.end_ns > patience_ns:
                return CODE_SILENT
        for i in range(ready):
            outcome.connection = <Py_ssize_t>events[i].data.u64
            caller = &callers[outcome.connection]
            code = hear(caller, frame_len, &is_whole, outcome)
            if code != CODE_OK:
                return code
            if not is_whole:
                continue
            now = outcome.end_ns = now_ns()
            if caller.is_done:
                return CODE_SURPLUS
            caller.answers += 1
            if add_sample(samples, now - caller.sent_ns) != CODE_OK:
                return CODE_NO_MEMORY
            if now - outcome.start_ns >= duration_ns:
                caller.is_done = True
                active -= 1
                continue
            caller.sent_ns = now
            if call(caller, outcome) != CODE_OK:
                return CODE_ERRNO
    __atomic_store_n(&slots[<int>SLOT_FINISHED], 1, __ATOMIC_RELEASE)
    return CODE_OK


cdef Code respond_loop(
    Caller* callers,
    int epoll,
    size_t frame_len,
    uint64_t* slots,
    uint64_t patience_ns,
    Outcome* outcome,
) noexcept nogil:
    """Answer each request with the connection's frame until the requesters have finished."""
    cdef epoll_event events[256]
    cdef Caller* caller
    cdef int ready, i
    cdef bint is_whole = False
    cdef Code code
    outcome.start_ns = outcome.end_ns = now_ns()
    while True:
        ready = epoll_wait(epoll, events, EVENTS_MAX, GLANCE_MS)
        if ready < 0 and errno != EINTR:
            outcome.error = errno
            return CODE_ERRNO
        if ready <= 0:
            if __atomic_load_n(&slots[<int>SLOT_FINISHED], __ATOMIC_ACQUIRE):
                return CODE_OK
            if __atomic_load_n(&slots[<int>SLOT_ABORTED], __ATOMIC_RELAXED):
                return CODE_ABORTED
            if now_ns() - outcome.end_ns > patience_ns:
                return CODE_SILENT
            continue
        for i in range(ready):
            outcome.connection = <Py_ssize_t>events[i].data.u64
            caller = &callers[outcome.connection]
            code = hear(caller, frame_len, &is_whole, outcome)
            if code != CODE_OK:
                return code
            if is_whole:
                caller.answers += 1
                if call(caller, outcome) != CODE_OK:
                    return CODE_ERRNO
        outcome.end_ns = now_ns()


cdef Caller* make_callers(fds, list frames, Py_ssize_t frame_len, int epoll) except NULL:
    """One caller for each connection; the caller of this frees them and keeps `frames` alive."""
    cdef Py_ssize_t count = len(fds)
    cdef Py_ssize_t i
    cdef bytes frame
    if count == 0 or len(frames) != count:
        raise ValueError("one frame for each connection")
    if not 8 <= frame_len <= REQUEST_BYTES_MAX // 2:
        raise ValueError("the expected frame is too short or too long")
    if epoll < 0:
        raise OSError(errno, os.strerror(errno))
    cdef Caller* callers = <Caller*>calloc(<size_t>count, sizeof(Caller))
    if callers == NULL:
        raise MemoryError
    try:
        for i in range(count):
            frame = frames[i]
            callers[i].fd = fds[i]
            callers[i].frame = <const unsigned char*>PyBytes_AS_STRING(frame)
            callers[i].frame_len = <size_t>PyBytes_GET_SIZE(frame)
            if watch(epoll, callers[i].fd, <uint32_t>EPOLLIN, <uint64_t>i, EPOLL_CTL_ADD):
                raise OSError(errno, os.strerror(errno))
    except BaseException:
        free(callers)
        raise
    return callers


def request(fds, requests, Py_ssize_t answer_len, shared, double seconds, double patience_s):
    """Run closed request/reply loops, one request under way per connection, for `seconds`."""
    cdef list frames = list(requests)
    cdef Py_ssize_t count = len(fds)
    cdef uint64_t* slots = shared_slots(shared)
    cdef uint64_t duration_ns = <uint64_t>(seconds * SECOND_NS)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef Outcome outcome
    cdef Samples samples
    cdef Py_ssize_t i
    cdef Caller* callers = NULL
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    memset(&outcome, 0, sizeof(outcome))
    samples.count = 0
    samples.room = 65536
    samples.values = <uint64_t*>malloc(samples.room * sizeof(uint64_t))
    try:
        callers = make_callers(fds, frames, answer_len, epoll)
        if samples.values == NULL:
            raise MemoryError
        with nogil:
            outcome.code = request_loop(
                callers, count, epoll, <size_t>answer_len, slots, duration_ns, patience_ns,
                &samples, &outcome,
            )
        check(&outcome)
        done = Timed()
        done.start_ns = outcome.start_ns
        done.end_ns = outcome.end_ns
        done.answers = [callers[i].answers for i in range(count)]
        done.samples_ns = PyBytes_FromStringAndSize(
            <const char*>samples.values, <Py_ssize_t>(samples.count * sizeof(uint64_t))
        )
        return done
    finally:
        if epoll >= 0:
            close(epoll)
        free(callers)
        free(samples.values)


def respond(fds, answers, Py_ssize_t request_len, shared, double patience_s):
    """Answer requests until the requesting process has finished; return how many for each."""
    cdef list frames = list(answers)
    cdef Py_ssize_t count = len(fds)
    cdef uint64_t* slots = shared_slots(shared)
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef Outcome outcome
    cdef Py_ssize_t i
    cdef Caller* callers = NULL
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    memset(&outcome, 0, sizeof(outcome))
    try:
        callers = make_callers(fds, frames, request_len, epoll)
        with nogil:
            outcome.code = respond_loop(
                callers, epoll, <size_t>request_len, slots, patience_ns, &outcome
            )
        check(&outcome)
        return [callers[i].answers for i in range(count)]
    finally:
        if epoll >= 0:
            close(epoll)
        free(callers)
