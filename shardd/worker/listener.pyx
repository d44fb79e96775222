# cython: language_level=3str
"""The listening sockets of one worker: accept, number, greet.

Every worker has its own socket on each address (SO_REUSEPORT), opened by the supervisor, which
keeps it open: what waits in it survives a worker. (A socket in the file system is one for all.)
The kernel spreads connections over these sockets by hash, which is uneven for tens of them (16
connections on 4 workers: 5.9 and 2.0 on the fullest and the emptiest, in the mean of 20 tries), so
a worker that has clearly more than another hands what it accepts over to the one that has the
fewest.

Client ids are unique on the host without asking anybody: worker i of n numbers i + 1, i + 1 + n,
i + 1 + 2n, and goes on where its predecessor stopped.
"""

import logging

cimport cython
from libc.errno cimport EAGAIN, ECONNABORTED, EINTR, EINVAL, errno
from libc.stdint cimport int64_t, uint32_t, uint64_t
from libc.string cimport memset, strerror
from posix.unistd cimport close

from shardd import errors, limits
from shardd.errors import CloseReason
from shardd.sockets import plain_address

from shardd.poller cimport Source
from shardd.slots cimport STATE_READY, Slot
from shardd.worker.connection cimport Connection
from shardd.worker.handover cimport receive_connection, send_connection
from shardd.worker.shared cimport Shared

cdef extern from "sys/socket.h" nogil:
    struct sockaddr:
        pass
    struct sockaddr_storage:
        unsigned short ss_family
    ctypedef unsigned int socklen_t
    struct ucred:
        int pid
        unsigned int uid
        unsigned int gid
    enum:
        AF_INET
        AF_INET6
        AF_UNIX
        SOL_SOCKET
        SO_PEERCRED
        SOCK_NONBLOCK
        SOCK_CLOEXEC
    int getpeername(int fd, sockaddr* address, socklen_t* length)
    int accept4(int fd, sockaddr* address, socklen_t* length, int flags)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)

cdef extern from "netinet/in.h" nogil:
    struct in_addr:
        pass
    struct in6_addr:
        pass
    struct sockaddr_in:
        unsigned short sin_port
        in_addr sin_addr
    struct sockaddr_in6:
        unsigned short sin6_port
        in6_addr sin6_addr
    enum:
        IPPROTO_TCP
    unsigned short ntohs(unsigned short value)

cdef extern from "netinet/tcp.h" nogil:
    enum:
        TCP_NODELAY

cdef extern from "arpa/inet.h" nogil:
    const char* inet_ntop(int family, const void* source, char* text, socklen_t length)

cdef extern from "sys/epoll.h" nogil:
    enum:
        EPOLLIN

cdef enum:
    # Accepted in one turn, before connected clients have theirs.
    ACCEPTS_MAX = 32

log = logging.getLogger("shardd.worker")


@cython.final
cdef class Inlet(Source):
    """Where connections come in that other workers have accepted."""

    def __init__(self, Entrance entrance not None, object inlet):
        self.entrance = entrance
        self.fd = inlet.fileno()

    cdef int on_events(self, uint32_t events) except -1:
        cdef Shared shared = self.entrance.shared
        cdef int _received
        cdef int door = 0
        cdef int fd
        for _received in range(ACCEPTS_MAX):
            fd = receive_connection(self.fd, &door)
            if fd == -1:
                return 0
            shared.slots.add_incoming(shared.mesh.index, -1)
            if fd >= 0:
                self.entrance.admit(fd, door)


@cython.final
cdef class Listener(Source):
    """One listening socket.

    Args:
        entrance: of its worker.
        listening: the socket, non-blocking.
        door: the number of what its connections come in by.
    """

    def __init__(self, Entrance entrance not None, object listening, int door):
        self.entrance = entrance
        self._socket = listening
        self._door = door
        self.fd = listening.fileno()

    def start(self) -> None:
        """Accept from now on."""
        if self.poller is None and self.fd >= 0:
            self.entrance.shared.poller.add(self, EPOLLIN)

    def stop(self) -> None:
        """Accept no more; this process's share of the socket is closed."""
        self.entrance.shared.poller.remove(self)
        self.fd = -1
        self._socket.close()

    cdef int on_events(self, uint32_t events) except -1:
        cdef int _accepted
        for _accepted in range(ACCEPTS_MAX):
            if not self._accept():
                return 0

    cdef int _accept(self) except -1:
        """Take one connection; 0 when there is none, or none can be taken now."""
        cdef int fd = accept4(self.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)
        if fd < 0:
            if errno == EINTR or errno == ECONNABORTED:
                return 1
            if errno == EINVAL:  # shut by the supervisor: the order for lame duck mode is coming
                self.entrance.shared.poller.remove(self)
            elif errno != EAGAIN:
                self._back_off(errno)
            return 0
        self._backoff_s = 0.0
        return self.entrance.take(fd, self._door)

    cdef int _back_off(self, int error) except -1:
        """Out of descriptors or memory: try again a little later, for longer each time."""
        self._backoff_s = min(
            self._backoff_s * 2 if self._backoff_s else limits.ACCEPT_BACKOFF_S_MIN,
            limits.ACCEPT_BACKOFF_S_MAX)
        log.error("Temporary Client Accept Error (%s), sleeping %dms",
                  strerror(error).decode("ascii", "replace"), int(self._backoff_s * 1000))
        self.entrance.shared.poller.remove(self)
        self.entrance._later(self._backoff_s, self.start)


@cython.final
cdef class Entrance:
    """Everything that one worker accepts on. Touched by its event loop only.

    Args:
        shared: the worker's parts.
        listening: the worker's listening sockets.
        doors: what the connections of each come in by, in the same order on every worker.
        handovers: a pair of sockets per worker: where its connections come in, where they go out.
        worker_count: workers of the host.
        later: `later(seconds, callback)` of the event loop.
    """

    def __init__(
        self,
        Shared shared not None,
        object listening,
        object doors,
        tuple handovers not None,
        uint64_t worker_count,
        object later,
    ):
        self.shared = shared
        self._worker_count = worker_count
        self._later = later
        self._doors = list(doors)
        self._listeners = [Listener(self, each, door) for door, each in enumerate(listening)]
        self._inlet = Inlet(self, handovers[shared.mesh.index][0])
        self._outlets = (
            [outlet.fileno() for _, outlet in handovers] if shared.is_balancing else [])

    def change_doors(self, doors: object) -> None:
        """What comes in from now on, comes in by these."""
        self._doors = list(doors)

    def start(self) -> None:
        """Accept from now on."""
        for listener in self._listeners:
            listener.start()
        if self._inlet.poller is None and self._inlet.fd >= 0:
            self.shared.poller.add(self._inlet, EPOLLIN)

    def stop(self) -> None:
        """Accept no more. What other workers have handed over already is still let in."""
        for listener in self._listeners:
            listener.stop()
        if self._inlet.poller is not None:
            self._inlet.on_events(EPOLLIN)
            self.shared.poller.remove(self._inlet)
        self._inlet.fd = -1

    cdef int take(self, int fd, int door) except -1:
        """Keep an accepted connection, or hand it over to the worker that has clearly fewer."""
        cdef int worker = self._choose_worker()
        if worker >= 0 and send_connection(self._outlets[worker], fd, door):
            self.shared.slots.add_incoming(worker, 1)
            close(fd)
            return 1
        return self.admit(fd, door)

    cdef int _choose_worker(self) noexcept:
        """The ready worker that has the fewest connections, if it has clearly fewer: -1 keeps the
        connection here. "Clearly" is one for few connections, a sixteenth for many."""
        cdef Slot* slot
        cdef uint64_t own = self.shared.counters.connections
        cdef uint64_t least
        cdef int64_t load
        cdef int chosen = -1
        cdef uint32_t index
        least = own - (own >> 4)
        for index in range(<uint32_t>len(self._outlets)):
            slot = self.shared.slots.slot(index)
            load = <int64_t>(slot.connections + slot.incoming)
            if slot.state == STATE_READY and load < <int64_t>least:
                least = <uint64_t>max(load, 0)
                chosen = <int>index
        return chosen

    cdef int admit(self, int fd, int door) except -1:
        """Make a client of an accepted socket."""
        cdef sockaddr_storage address
        cdef socklen_t length = sizeof(sockaddr_storage)
        cdef char[64] text
        cdef int one = 1
        cdef int port = 0
        cdef const char* ip = NULL
        cdef str unix_user = ""
        cdef Connection connection
        memset(&address, 0, sizeof(address))
        if getpeername(fd, <sockaddr*>&address, &length) < 0:
            # It ended while it waited.
            close(fd)
            return 1
        if address.ss_family == AF_UNIX:
            ip = b"unix"
            unix_user = self._unix_user(fd, door)
        elif address.ss_family == AF_INET6:
            ip = inet_ntop(AF_INET6, &(<sockaddr_in6*>&address).sin6_addr, text, sizeof(text))
            port = ntohs((<sockaddr_in6*>&address).sin6_port)
        else:
            ip = inet_ntop(AF_INET, &(<sockaddr_in*>&address).sin_addr, text, sizeof(text))
            port = ntohs((<sockaddr_in*>&address).sin_port)
        if address.ss_family != AF_UNIX:
            setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one))
        self.shared.counters.connections += 1
        self.shared.counters.connections_total += 1
        connection = Connection(
            self.shared, fd, self._next_client_id(),
            plain_address(ip.decode("ascii")) if ip != NULL else "", port,
            self._doors[door], unix_user)
        connection.open()
        if <int64_t>self.shared.host_connections() > self.shared.connections_max:
            connection.close(
                CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED, errors.ERR_MAX_CONNECTIONS)
        return 1

    def _unix_user(self, int fd, int door) -> str:
        """Whom the kernel's word for the peer's uid stands for; empty: nobody configured."""
        cdef ucred peer
        cdef socklen_t length = sizeof(ucred)
        cdef object users = self._doors[door].unix_users
        if not users or getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) < 0:
            return ""
        return users.get(peer.uid, users.get(-1, ""))

    def _next_client_id(self):
        cdef uint64_t number = self.shared.counters.next_client
        self.shared.counters.next_client = number + 1
        return number * self._worker_count + self.shared.mesh.index + 1
