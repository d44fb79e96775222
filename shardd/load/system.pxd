"""The system calls of the load generators, this one's and the benchmark's, and small helpers."""

from libc.stdint cimport uint16_t, uint32_t, uint64_t
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, nanosleep, timespec


cdef extern from "<sys/socket.h>" nogil:
    cdef struct sockaddr:
        pass
    ctypedef unsigned int socklen_t
    int AF_INET, SOCK_STREAM, SOCK_NONBLOCK, SOCK_CLOEXEC, MSG_DONTWAIT, MSG_NOSIGNAL
    int SOL_SOCKET, SO_ERROR
    int socket(int domain, int kind, int protocol)
    int bind(int fd, const sockaddr* address, socklen_t length)
    int connect(int fd, const sockaddr* address, socklen_t length)
    int getsockopt(int fd, int level, int name, void* value, socklen_t* length)
    int setsockopt(int fd, int level, int name, const void* value, socklen_t length)
    ssize_t send(int fd, const void* data, size_t length, int flags)
    ssize_t recv(int fd, void* data, size_t length, int flags)

cdef extern from "<netinet/in.h>" nogil:
    cdef struct in_addr:
        uint32_t s_addr
    cdef struct sockaddr_in:
        unsigned short sin_family
        uint16_t sin_port
        in_addr sin_addr
    int IPPROTO_IP, IPPROTO_TCP, IP_BIND_ADDRESS_NO_PORT
    uint16_t htons(uint16_t value)
    uint32_t htonl(uint32_t value)

cdef extern from "<netinet/tcp.h>" nogil:
    int TCP_NODELAY

cdef extern from "<arpa/inet.h>" nogil:
    int inet_pton(int family, const char* text, void* address)

cdef extern from "<poll.h>" nogil:
    cdef struct pollfd:
        int fd
        short events
        short revents
    int POLLIN, POLLOUT
    int poll(pollfd* fds, unsigned long count, int timeout_ms)
    int ppoll(pollfd* fds, unsigned long count, const timespec* timeout, const void* signals)

cdef extern from "<sys/epoll.h>" nogil:
    ctypedef union epoll_data_t:
        uint64_t u64
    cdef struct epoll_event:
        uint32_t events
        epoll_data_t data
    int EPOLLIN, EPOLLOUT, EPOLL_CTL_ADD, EPOLL_CTL_MOD, EPOLL_CLOEXEC
    int epoll_create1(int flags)
    int epoll_ctl(int epoll, int operation, int fd, epoll_event* event)
    int epoll_wait(int epoll, epoll_event* events, int count, int timeout_ms)

cdef extern from "<sys/prctl.h>" nogil:
    int PR_SET_TIMERSLACK
    int prctl(int option, unsigned long value, ...)

# The compiler's atomics: relaxed for counters read as they come, release/acquire for the flag
# SLOT_FINISHED, which makes SLOT_EXPECTED readable.
cdef extern from * nogil:
    uint64_t __atomic_load_n(uint64_t* place, int order)
    void __atomic_store_n(uint64_t* place, uint64_t value, int order)
    int __ATOMIC_RELAXED, __ATOMIC_ACQUIRE, __ATOMIC_RELEASE


cdef enum Clock:
    SECOND_NS = 1000000000


cdef inline uint64_t now_ns() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return <uint64_t>moment.tv_sec * SECOND_NS + <uint64_t>moment.tv_nsec


cdef inline void rest(long nanoseconds) noexcept nogil:
    cdef timespec span
    span.tv_sec = 0
    span.tv_nsec = nanoseconds
    nanosleep(&span, NULL)


cdef inline size_t smaller(size_t left, size_t right) noexcept nogil:
    return left if left < right else right
