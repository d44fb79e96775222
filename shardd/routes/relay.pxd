"""Between this host and the others: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.outbound cimport Outbound
from shardd.router.dispatch cimport Dispatcher
from shardd.router.frame cimport Message
from shardd.router.sublist cimport Match

# A connection to another server, as the relay sees it: something to write lines to.
cdef class Link(Outbound):
    cdef readonly uint32_t peer            # the number of the server at the other end
    cdef readonly bint is_closed
    cdef readonly bint names_accounts      # not so on a connection that is for one account only
    cdef readonly uint64_t messages_in
    cdef readonly uint64_t messages_out
    cdef readonly uint64_t bytes_in
    cdef readonly uint64_t bytes_out
    cdef readonly uint64_t subscriptions   # what the other end wants by this connection
    cdef readonly uint64_t interest_lines  # RS+ and RS- that came

# Another server: the connections to it, and which one an account takes.
cdef class Peer:
    cdef readonly uint32_t number
    cdef readonly str server_id
    cdef readonly list links               # by index in the pool; None: not connected (yet)
    cdef readonly dict pinned              # account name to the connection that is for it alone
    cdef readonly dict foreign             # what it wants of accounts that this host does not have
    cdef dict _by_account                  # account number to its connection, as found before

    cdef Link link_for(self, uint32_t account, bytes name)

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
    cdef readonly list _waiting            # (interest sequence, link) of PINGs, oldest first
    cdef Choice* _choices
    cdef size_t _choice_count
    cdef size_t _choice_capacity
    cdef unsigned char* _head              # where a line is built
    cdef size_t _head_bytes

    cpdef answer(self)
    cdef bint _is_known(self, size_t account) except -1
    cdef int publish_routed(
        self, Message* message, const unsigned char* queues, size_t queues_len
    ) except -1
    cdef int _choose_peer(
        self, const Match* match, const unsigned char* name, uint32_t name_len
    ) except -1
    cdef int _hand_back(
        self, Message* message, const unsigned char* name, uint32_t name_len, uint32_t hops
    ) except -1
    cdef int _write(self, Link link, uint32_t peer, bytes account, const Message* message) except -1
    cdef unsigned char* _head_for(self, size_t length) except NULL
