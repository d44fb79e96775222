# cython: language_level=3str
"""A connection that makes load: bytes in and out without waiting, over TCP or TLS.

Over TCP the system calls are made from here; TLS goes through Python's `ssl`. Every operation of
the server is parsed; a PING is answered, an -ERR ends the load. Each process has one thread and
nothing else to do, so the interpreter's lock is kept, but for waiting.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport EAGAIN, EINTR, errno
from libc.stdint cimport uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcpy, memmove
from posix.time cimport timespec
from posix.types cimport time_t
from posix.unistd cimport close

from shardd.load.system cimport (
    EPOLLIN, EPOLLOUT, EPOLL_CLOEXEC, EPOLL_CTL_ADD, EPOLL_CTL_MOD, MSG_DONTWAIT, MSG_NOSIGNAL,
    POLLIN, PR_SET_TIMERSLACK, SECOND_NS, epoll_create1, epoll_ctl, epoll_event, epoll_wait,
    now_ns, poll, pollfd, ppoll, prctl, recv, send, smaller,
)
from shardd.streaming.client_wire cimport (
    SERVER_ERR, SERVER_PING, SERVER_PONG, ServerOperation, next_server_operation,
)

import os
import ssl

from shardd.errors import printable


class LinkError(Exception):
    """A connection was refused, lost, or told what it should not be; one line says so."""


def use_fine_timers():
    """Have this process wake up when it is time, not up to 50 us later."""
    prctl(PR_SET_TIMERSLACK, 1)


@cython.final
cdef class Link:
    """One connection, ready for use, and what has passed on it."""

    def __init__(self, connection, str name, bytes held=b""):
        """Take over the connection; `held` are bytes that were read already."""
        self.connection = connection
        self._tls = connection if isinstance(connection, ssl.SSLSocket) else None
        connection.setblocking(False)
        self.fd = connection.fileno()
        self.name = name
        self._carry_room = max(4096, len(held))
        self._carry = <unsigned char*>malloc(self._carry_room)
        self._out_room = 4096
        self._out = <unsigned char*>malloc(self._out_room)
        if self._carry == NULL or self._out == NULL:
            raise MemoryError
        memcpy(self._carry, PyBytes_AS_STRING(held), len(held))
        self._carry_len = len(held)
        self._is_unseen = len(held) > 0

    def __dealloc__(self):
        free(self._carry)
        free(self._out)

    def send(self, bytes data):
        """Queue bytes; they leave with the next flush."""
        self.queue(<const unsigned char*>PyBytes_AS_STRING(data), <size_t>PyBytes_GET_SIZE(data))

    def limit(self, uint64_t quota):
        """Say how many messages it may send; 0: no limit."""
        self.quota = quota

    cdef int lost(self) except -1:
        """Raise that the connection is gone, with the server's last words if there are any."""
        Reader().listen(self)
        raise LinkError(f"{self.name}: the server closed the connection")

    cdef ssize_t write(self, const unsigned char* data, size_t length) except -1:
        """Hand bytes to the kernel or the TLS library; how many were taken, 0 when it is full."""
        cdef ssize_t sent
        if self._tls is not None:
            try:
                return self._tls.send(<unsigned char[:length]><unsigned char*>data)
            except (ssl.SSLWantWriteError, ssl.SSLWantReadError):
                return 0
            except OSError:
                self.lost()
        sent = send(self.fd, data, length, MSG_DONTWAIT | MSG_NOSIGNAL)
        if sent < 0:
            if errno == EAGAIN or errno == EINTR:
                return 0
            self.lost()
        return sent

    cdef unsigned char* reserve(self, size_t length) except NULL:
        """Room for so many bytes at the end of what is queued; they count as queued."""
        cdef size_t room = self._out_room
        cdef unsigned char* grown
        if self._out_start + self.out_len + length > room:
            memmove(self._out, self._out + self._out_start, self.out_len)
            self._out_start = 0
            while self.out_len + length > room:
                room *= 2
            if room != self._out_room:
                grown = <unsigned char*>realloc(self._out, room)
                if grown == NULL:
                    raise MemoryError
                self._out, self._out_room = grown, room
        self.out_len += length
        return self._out + self._out_start + self.out_len - length

    cdef int queue(self, const unsigned char* data, size_t length) except -1:
        memcpy(self.reserve(length), data, length)

    cdef int flush(self) except -1:
        """Send what is queued, as far as it is taken."""
        cdef size_t sent
        while self.out_len:
            sent = <size_t>self.write(self._out + self._out_start, self.out_len)
            if sent == 0:
                return 0
            self._out_start += sent
            self.out_len -= sent
        self._out_start = 0

    cdef int answer(self, const ServerOperation* operation) except -1:
        """Handle what is no message: queue a PONG, count one, raise what the server refuses."""
        if operation.verb == SERVER_PING:
            self.queue(b"PONG\r\n", 6)
        elif operation.verb == SERVER_PONG:
            self.pongs += 1
        elif operation.verb == SERVER_ERR:
            text = (<const char*>operation.args)[:operation.args_len].decode("utf-8", "replace")
            text = printable(text.strip("'"))
            raise LinkError(f"{self.name}: the server says: {text}")


cdef bint has_more(int fd) noexcept nogil:
    """Whether the kernel holds bytes of a connection."""
    cdef pollfd polled
    polled.fd = fd
    polled.events = <short>POLLIN
    polled.revents = 0
    return poll(&polled, 1, 0) > 0


@cython.final
cdef class Reader:
    """The room in which a process looks at what arrives, for one connection at a time."""

    def __cinit__(self):
        self._room = RECEIVE_BYTES + 65536
        self.data = <unsigned char*>malloc(self._room)
        if self.data == NULL:
            raise MemoryError

    def __dealloc__(self):
        free(self.data)

    cdef ssize_t fill(self, Link link) except -1:
        """Receive behind what the connection carries; how many bytes are there to look at."""
        cdef size_t length = link._carry_len
        cdef unsigned char* grown
        cdef ssize_t arrived
        cdef bint is_unseen = link._is_unseen
        link._is_unseen = False
        if length + RECEIVE_BYTES > self._room:
            grown = <unsigned char*>realloc(self.data, length + RECEIVE_BYTES)
            if grown == NULL:
                raise MemoryError
            self.data, self._room = grown, length + RECEIVE_BYTES
        memcpy(self.data, link._carry, length)
        if link._tls is not None:
            return self._fill_decrypted(link, length, is_unseen)
        arrived = recv(link.fd, self.data + length, RECEIVE_BYTES, MSG_DONTWAIT)
        if arrived > 0:
            return <ssize_t>length + arrived
        # At the end, too: the next call meets it again.
        if is_unseen or arrived < 0 and (errno == EAGAIN or errno == EINTR):
            return <ssize_t>length
        raise LinkError(f"{link.name}: the server closed the connection")

    cdef ssize_t _fill_decrypted(self, Link link, size_t length, bint is_unseen) except -1:
        cdef unsigned char[::1] view = <unsigned char[:self._room]>self.data
        cdef size_t before = length
        cdef size_t got
        while length + RECORD_BYTES_MAX <= self._room:
            try:
                got = link._tls.recv_into(view[length:])
            except ssl.SSLWantReadError:
                # Not a whole record yet, or one of the library's own.
                break
            except OSError:
                got = 0
            length += got
            if got == 0:
                if is_unseen or length > before:
                    break  # the next call meets the end again
                raise LinkError(f"{link.name}: the server closed the connection")
            if not has_more(link.fd) and not link._tls.pending():
                break
        return <ssize_t>length

    cdef ssize_t take(
        self, Link link, size_t at, size_t length, ServerOperation* operation
    ) except -1:
        """The operation that begins at a place: its length, 0 when it is not whole yet."""
        cdef ssize_t taken = next_server_operation(self.data + at, length - at, operation)
        if taken < 0:
            excerpt = (<const char*>self.data + at)[:smaller(96, length - at)]
            raise LinkError(f"{link.name}: no NATS server says {excerpt!r}")
        return taken

    cdef int keep(self, Link link, size_t at, size_t length) except -1:
        """Carry what is behind a place to the next time."""
        cdef size_t rest = length - at
        cdef unsigned char* grown
        if rest > link._carry_room:
            grown = <unsigned char*>realloc(link._carry, 2 * rest)
            if grown == NULL:
                raise MemoryError
            link._carry, link._carry_room = grown, 2 * rest
        memcpy(link._carry, self.data + at, rest)
        link._carry_len = rest

    cdef int listen(self, Link link) except -1:
        """Hear what the server has to say on a connection whose messages do not count."""
        cdef size_t length = <size_t>self.fill(link)
        cdef size_t at = 0
        cdef size_t taken
        cdef ServerOperation operation
        while at < length:
            taken = <size_t>self.take(link, at, length, &operation)
            if taken == 0:
                break
            link.answer(&operation)
            at += taken
        self.keep(link, at, length)


@cython.final
cdef class Watch:
    """Which of some connections can be read, or written."""

    def __cinit__(self, links):
        cdef epoll_event event
        self.links = list(links)
        self._epoll = epoll_create1(EPOLL_CLOEXEC)
        if self._epoll < 0:
            raise OSError(errno, os.strerror(errno))
        for index, link in enumerate(self.links):
            event.events = <uint32_t>EPOLLIN
            event.data.u64 = index
            if epoll_ctl(self._epoll, EPOLL_CTL_ADD, link.fd, &event):
                raise OSError(errno, os.strerror(errno))

    def __dealloc__(self):
        if self._epoll >= 0:
            close(self._epoll)

    cdef int wait(self, int timeout_ms) except -1:
        """Wait for events; how many there are."""
        cdef int ready
        with nogil:
            ready = epoll_wait(self._epoll, self.events, EVENTS_MAX, timeout_ms)
        if ready < 0:
            if errno != EINTR:
                raise OSError(errno, os.strerror(errno))
            return 0
        return ready

    cdef int doze(self, uint64_t span_ns) except -1:
        """Wait for events to the nanosecond; how many there are."""
        cdef pollfd polled
        cdef timespec span
        polled.fd = self._epoll
        polled.events = <short>POLLIN
        span.tv_sec = <time_t>(span_ns // SECOND_NS)
        span.tv_nsec = <long>(span_ns % SECOND_NS)
        with nogil:
            ppoll(&polled, 1, &span, NULL)
        return self.wait(0)

    cdef int watch(self, Py_ssize_t index, uint32_t events) except -1:
        """Watch one connection for other events."""
        cdef epoll_event event
        cdef Link link = self.links[index]
        event.events = events
        event.data.u64 = <uint64_t>index
        if epoll_ctl(self._epoll, EPOLL_CTL_MOD, link.fd, &event):
            raise OSError(errno, os.strerror(errno))


def settle(links, double patience_s):
    """Wait until the server has handled all that was sent: PING, and PONG on every connection,
    whose time is noted. Messages that arrive meanwhile are dropped."""
    cdef Watch watch = Watch(links)
    cdef Reader reader = Reader()
    cdef Link link
    cdef size_t waiting = len(watch.links)
    cdef uint64_t moved_ns = now_ns()
    cdef int ready, i
    for index, each in enumerate(watch.links):
        link = each
        if link._is_unseen:
            reader.listen(link)  # what came with the greeting
        link.queue(b"PING\r\n", 6)
        link.pongs = 0
        watch.watch(index, <uint32_t>(EPOLLIN | EPOLLOUT))
    while waiting:
        ready = watch.wait(GLANCE_MS)
        for i in range(ready):
            index = <Py_ssize_t>watch.events[i].data.u64
            link = watch.links[index]
            link.flush()
            if watch.events[i].events & <uint32_t>~EPOLLOUT:
                was_out = link.pongs == 0
                reader.listen(link)
                if was_out and link.pongs:
                    link.end_ns = now_ns()
                    waiting -= 1
                link.flush()
                moved_ns = now_ns()
            watch.watch(index, <uint32_t>(EPOLLIN | EPOLLOUT if link.out_len else EPOLLIN))
        if now_ns() - moved_ns > <uint64_t>(patience_s * SECOND_NS):
            silent = ", ".join([each.name for each in watch.links if not (<Link>each).pongs][:3])
            raise LinkError(f"{silent}: no answer for {patience_s:g} s")
