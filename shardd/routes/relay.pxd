"""Between this host and the others: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.permissions cimport Permissions
from shardd.router.sublist cimport Match, MatchGroup
from shardd.routes.peer cimport Link

# A queue group for which another server was chosen, for the message at hand.
cdef struct Choice:
    uint32_t peer
    uint32_t name_len
    const unsigned char* name

cdef class Relay(Dispatcher):
    cdef list _peers                       # Peer or None, by number
    cdef list _names                       # account names, by number
    cdef dict _accounts                    # and the other way round
    cdef object _learn
    cdef Permissions _permissions          # of the cluster; None: everything may pass
    cdef uint64_t _telling                 # peers with lines for queue groups only
    cdef readonly list _waiting            # (interest sequence, link) of PINGs, oldest first
    cdef Choice* _choices
    cdef size_t _choice_count
    cdef size_t _choice_capacity
    cdef unsigned char* _head              # where a line is built
    cdef size_t _head_bytes

    cpdef answer(self)
    cdef bint _is_known(self, size_t account) except -1
    cdef int publish_routed(
        self, uint32_t peer, Message* message, const unsigned char* queues, size_t queues_len
    ) except -1
    cdef int _choose_peer(
        self, const Match* match, const Message* message, const unsigned char* name,
        uint32_t name_len, uint64_t served
    ) except -1
    cdef int _draw_peer(
        self, const MatchGroup* group, const Message* message, uint64_t served
    ) except -2
    cdef int _hand_back(
        self, Message* message, const unsigned char* name, uint32_t name_len, uint32_t hops
    ) except -1
    cdef int _write(self, Link link, uint32_t peer, bytes account, const Message* message) except -1
    cdef unsigned char* _append_name(self, unsigned char* at, const Choice* choice) noexcept
    cdef unsigned char* _head_for(self, size_t length) except NULL
