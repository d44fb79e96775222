# cython: language_level=3str
"""Opening thousands of connections as fast as the server takes them, and leaving them idle."""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINPROGRESS, EINTR, errno
from libc.stdint cimport uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memchr, memcmp, memcpy, memset
from posix.unistd cimport close

from bench.generator cimport (
    CODE_CLOSED, CODE_ERRNO, CODE_OK, CODE_SILENT, EVENTS_MAX, GLANCE_MS, RECEIVE_BYTES,
    Code, Outcome, check, classify, watch,
)
from shardd.load.system cimport (
    AF_INET, EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, IPPROTO_IP,
    IPPROTO_TCP, IP_BIND_ADDRESS_NO_PORT, MSG_DONTWAIT, MSG_NOSIGNAL, SECOND_NS, SOCK_CLOEXEC,
    SOCK_NONBLOCK, SOCK_STREAM, SOL_SOCKET, SO_ERROR, TCP_NODELAY, bind, connect, epoll_create1,
    epoll_event, epoll_wait, getsockopt, htonl, htons, inet_pton, now_ns, recv, send, setsockopt,
    smaller, sockaddr, sockaddr_in, socket, socklen_t,
)

import os


@cython.final
cdef class Dialled:
    """The connections that `dial` opened; the caller owns the descriptors."""
    cdef readonly uint64_t start_ns
    cdef readonly uint64_t end_ns       # the last connection had its PONG
    cdef readonly list fds


cdef int open_socket(const sockaddr_in* target, uint32_t source, Outcome* outcome) noexcept nogil:
    """A socket that is connecting, from the loopback address 127.0.0.`source`; -1 on failure."""
    cdef sockaddr_in origin
    cdef int one = 1
    cdef int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)
    if fd < 0:
        outcome.error = errno
        return -1
    memset(&origin, 0, sizeof(origin))
    origin.sin_family = <unsigned short>AF_INET
    origin.sin_addr.s_addr = htonl(0x7F000000 + source)
    # The port is chosen at connect, so that each source address has all of them per target.
    setsockopt(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof(one))
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
    if bind(fd, <const sockaddr*>&origin, sizeof(origin)) or (
        connect(fd, <const sockaddr*>target, sizeof(sockaddr_in)) and errno != EINPROGRESS
    ):
        outcome.error = errno
        close(fd)
        return -1
    return fd


cdef Code finish_connect(
    Dialer* dialer, int epoll, uint64_t index, Outcome* outcome
) noexcept nogil:
    cdef int failure = 0
    cdef socklen_t length = sizeof(failure)
    getsockopt(dialer.fd, SOL_SOCKET, SO_ERROR, &failure, &length)
    if failure == 0 and watch(epoll, dialer.fd, <uint32_t>EPOLLIN, index, EPOLL_CTL_MOD) == 0:
        dialer.stage = STAGE_INFO
        return CODE_OK
    outcome.error = failure if failure else errno
    return CODE_ERRNO


cdef Code advance(
    Dialer* dialer,
    const unsigned char* hello,
    size_t hello_len,
    unsigned char* buffer,
    Outcome* outcome,
) noexcept nogil:
    """Read what one connection being opened has to say, and answer it."""
    cdef ssize_t arrived = recv(dialer.fd, buffer, RECEIVE_BYTES, MSG_DONTWAIT)
    cdef size_t kept
    if arrived == 0:
        return CODE_CLOSED
    if arrived < 0:
        if errno == EAGAIN or errno == EINTR:
            return CODE_OK
        outcome.error = errno
        return CODE_ERRNO
    if dialer.stage == STAGE_INFO:
        if memchr(buffer, c"\n", <size_t>arrived) == NULL:
            return CODE_OK
        if send(dialer.fd, hello, hello_len, MSG_NOSIGNAL) != <ssize_t>hello_len:
            outcome.error = errno
            return CODE_ERRNO
        dialer.stage = STAGE_PONG
        return CODE_OK
    kept = smaller(<size_t>arrived, sizeof(dialer.tail) - dialer.held)
    memcpy(dialer.tail + dialer.held, buffer, kept)
    dialer.held += kept
    if dialer.held >= 6:
        if memcmp(dialer.tail, b"PONG\r\n", 6):
            return classify(outcome, dialer.tail, dialer.held)
        dialer.stage = STAGE_OPEN
    return CODE_OK


cdef Code dial_loop(
    Dialer* dialers,
    Py_ssize_t count,
    Py_ssize_t in_flight,
    uint32_t sources,
    int epoll,
    const sockaddr_in* target,
    const unsigned char* hello,
    size_t hello_len,
    unsigned char* buffer,
    uint64_t patience_ns,
    Outcome* outcome,
) noexcept nogil:
    """Open `count` connections, `in_flight` at a time, each up to its PONG."""
    cdef epoll_event events[256]
    cdef Dialer* dialer
    cdef Py_ssize_t begun = 0
    cdef Py_ssize_t opened = 0
    cdef int ready, i
    cdef Code code
    outcome.start_ns = outcome.end_ns = now_ns()
    while opened < count:
        while begun < count and begun - opened < in_flight:
            outcome.connection = begun
            dialer = &dialers[begun]
            dialer.fd = open_socket(target, 1 + <uint32_t>begun % sources, outcome)
            if dialer.fd < 0:
                return CODE_ERRNO
            begun += 1
            if watch(epoll, dialer.fd, <uint32_t>EPOLLOUT, <uint64_t>(begun - 1), EPOLL_CTL_ADD):
                outcome.error = errno
                return CODE_ERRNO
        ready = epoll_wait(epoll, events, EVENTS_MAX, GLANCE_MS)
        if ready < 0 and errno != EINTR:
            outcome.error = errno
            return CODE_ERRNO
        if ready <= 0 and now_ns() - outcome.end_ns > patience_ns:
            return CODE_SILENT
        for i in range(ready):
            outcome.connection = <Py_ssize_t>events[i].data.u64
            dialer = &dialers[outcome.connection]
            if dialer.stage == STAGE_CONNECTING:
                code = finish_connect(dialer, epoll, events[i].data.u64, outcome)
            elif dialer.stage == STAGE_OPEN:
                # A PING of the server; it waits in the socket, the connection is idle from here.
                watch(epoll, dialer.fd, 0, events[i].data.u64, EPOLL_CTL_MOD)
                continue
            else:
                code = advance(dialer, hello, hello_len, buffer, outcome)
                opened += dialer.stage == STAGE_OPEN
            if code != CODE_OK:
                return code
        if ready > 0:
            outcome.end_ns = now_ns()
    return CODE_OK


def dial(
    str host,
    uint16_t port,
    Py_ssize_t count,
    Py_ssize_t in_flight,
    uint32_t sources,
    bytes hello,
    double patience_s,
):
    """Open connections as fast as the server takes them: INFO, `hello`, PONG, for each.

    `hello` is the CONNECT and PING to send; connections come from `sources` loopback addresses.
    """
    cdef sockaddr_in target
    cdef Outcome outcome
    cdef Py_ssize_t i
    cdef uint64_t patience_ns = <uint64_t>(patience_s * SECOND_NS)
    cdef const unsigned char* hello_bytes = <const unsigned char*>PyBytes_AS_STRING(hello)
    cdef size_t hello_len = <size_t>PyBytes_GET_SIZE(hello)
    cdef bytes address = host.encode()
    memset(&outcome, 0, sizeof(outcome))
    memset(&target, 0, sizeof(target))
    target.sin_family = <unsigned short>AF_INET
    target.sin_port = htons(port)
    if inet_pton(AF_INET, PyBytes_AS_STRING(address), &target.sin_addr) != 1:
        raise ValueError("not an IPv4 address")
    if count < 1 or in_flight < 1 or not 1 <= sources <= 250:
        raise ValueError("at least one connection, and 1 to 250 source addresses")
    cdef Dialer* dialers = <Dialer*>calloc(<size_t>count, sizeof(Dialer))
    cdef unsigned char* buffer = <unsigned char*>malloc(RECEIVE_BYTES)
    cdef int epoll = epoll_create1(EPOLL_CLOEXEC)
    try:
        if dialers == NULL or buffer == NULL:
            raise MemoryError
        if epoll < 0:
            raise OSError(errno, os.strerror(errno))
        for i in range(count):
            dialers[i].fd = -1
        with nogil:
            outcome.code = dial_loop(
                dialers, count, in_flight, sources, epoll, &target, hello_bytes, hello_len, buffer,
                patience_ns, &outcome,
            )
        if outcome.code != CODE_OK:
            for i in range(count):
                if dialers[i].fd >= 0:
                    close(dialers[i].fd)
        check(&outcome)
        done = Dialled()
        done.start_ns = outcome.start_ns
        done.end_ns = outcome.end_ns
        done.fds = [dialers[i].fd for i in range(count)]
        return done
    finally:
        if epoll >= 0:
            close(epoll)
        free(dialers)
        free(buffer)
