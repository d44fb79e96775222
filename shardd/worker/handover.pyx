# cython: language_level=3str
"""An accepted connection travels to another worker, as a descriptor over a Unix socket (unix(7)).

One byte of data carries one descriptor, and says which door it came in by. The socket keeps
message boundaries, so neither two connections nor half of one are ever read.
"""

from libc.string cimport memcpy, memset
from posix.unistd cimport close

cdef extern from "sys/socket.h" nogil:
    struct iovec:
        void* iov_base
        size_t iov_len
    struct msghdr:
        iovec* msg_iov
        size_t msg_iovlen
        void* msg_control
        size_t msg_controllen
        int msg_flags
    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type
    enum:
        SOL_SOCKET
        SCM_RIGHTS
        MSG_NOSIGNAL
        MSG_DONTWAIT
        MSG_CMSG_CLOEXEC
        MSG_CTRUNC
    cmsghdr* CMSG_FIRSTHDR(msghdr* message)
    unsigned char* CMSG_DATA(cmsghdr* header)
    size_t CMSG_LEN(size_t length)
    ssize_t sendmsg(int fd, const msghdr* message, int flags)
    ssize_t recvmsg(int fd, msghdr* message, int flags)

cdef enum:
    # Room for one descriptor: CMSG_SPACE(sizeof(int)) is 24 on 64-bit Linux.
    CONTROL_BYTES = 64             # eight words


cdef void _prepare(msghdr* message, iovec* vector, char* byte, void* control) noexcept:
    memset(message, 0, sizeof(msghdr))
    memset(control, 0, CONTROL_BYTES)
    vector.iov_base = byte
    vector.iov_len = 1
    message.msg_iov = vector
    message.msg_iovlen = 1
    message.msg_control = control
    message.msg_controllen = CONTROL_BYTES


cdef bint send_connection(int outlet, int fd, int door) noexcept:
    """Send a descriptor; the caller closes its own copy. False: no room, or no way."""
    cdef msghdr message
    cdef iovec vector
    cdef char byte = <char>door
    cdef size_t[8] control        # aligned as a cmsghdr has to be
    cdef cmsghdr* header
    _prepare(&message, &vector, &byte, control)
    message.msg_controllen = CMSG_LEN(sizeof(int))
    header = CMSG_FIRSTHDR(&message)
    header.cmsg_level = SOL_SOCKET
    header.cmsg_type = SCM_RIGHTS
    header.cmsg_len = CMSG_LEN(sizeof(int))
    memcpy(CMSG_DATA(header), &fd, sizeof(int))
    return sendmsg(outlet, &message, MSG_NOSIGNAL | MSG_DONTWAIT) == 1


cdef int receive_connection(int inlet, int* door) noexcept:
    """Receive a descriptor and the number of its door: -1 when none waits, -2 when one was lost on
    the way (the process has no descriptor free)."""
    cdef msghdr message
    cdef iovec vector
    cdef char byte = 0
    cdef size_t[8] control
    cdef cmsghdr* header
    cdef int fd = -1
    _prepare(&message, &vector, &byte, control)
    if recvmsg(inlet, &message, MSG_DONTWAIT | MSG_CMSG_CLOEXEC) != 1:
        return -1
    door[0] = byte
    header = CMSG_FIRSTHDR(&message)
    if header == NULL or header.cmsg_type != SCM_RIGHTS or header.cmsg_len != CMSG_LEN(sizeof(int)):
        return -2
    memcpy(&fd, CMSG_DATA(header), sizeof(int))
    if message.msg_flags & MSG_CTRUNC:
        close(fd)
        return -2
    return fd
