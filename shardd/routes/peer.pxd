"""Another server and the connections to it: the C face."""

from libc.stdint cimport uint32_t, uint64_t

from shardd.outbound cimport Outbound

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
    cdef readonly dict pinned              # account to the connection for it alone, or to None
    cdef readonly dict foreign             # what it wants of accounts that this host does not have
    cdef dict _by_account                  # account number to its connection, as found before

    cdef Link link_for(self, uint32_t account, bytes name)
