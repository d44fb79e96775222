# cython: language_level=3str
"""Another server and the connections to it: which of them an account's lines take.

An account goes by one connection only, so that its messages stay in order (sheet 10.4). Which one
both ends have to find by themselves: the one that is for this account alone, where there is such a
one, else a hash of the account's name says. While that one is not there, the account's lines go
nowhere; the snapshot that a new connection begins with makes up for the interest.
"""

cimport cython
from libc.stdint cimport uint32_t


cdef class Link(Outbound):
    """A connection to another server. `Route` reads it; here it is written to."""


@cython.final
cdef class Peer:
    """Another server that is connected. Belongs to one relay.

    Args:
        number: by which the index knows it.
        server_id: its own name for itself.
        pool_size: how many connections its accounts are spread over.
        accounts: those that have a connection of their own beside.
    """

    def __init__(self, uint32_t number, str server_id, int pool_size, tuple accounts=()):
        self.number = number
        self.server_id = server_id
        self.links = [None] * pool_size
        self.pinned = dict.fromkeys(accounts)
        self.foreign = {}
        self._by_account = {}

    def place(self, Link link not None, int index, bytes account=None) -> None:
        """A connection has come: at this index of the pool, or for one account."""
        if account is not None:
            self.pinned[account] = link
        else:
            self.links[index] = link
        self._by_account.clear()

    def remove(self, Link link not None) -> None:
        """A connection has ended."""
        self.links[:] = [None if each is link else each for each in self.links]
        for account, each in self.pinned.items():
            if each is link:
                self.pinned[account] = None
        self._by_account.clear()

    def all_links(self) -> list[Link]:
        """Its connections, those of the pool first."""
        return [link for link in (*self.links, *self.pinned.values()) if link is not None]

    def has_others(self, Link link not None) -> bool:
        """Whether there is a connection beside this one."""
        return any(each is not link for each in self.all_links())

    def is_incomplete(self) -> bool:
        """Whether there could be more connections."""
        return None in self.links or None in self.pinned.values()

    def account_of(self, Link link not None) -> bytes | None:
        """The account that this connection is for alone."""
        return next((name for name, each in self.pinned.items() if each is link), None)

    cdef Link link_for(self, uint32_t account, bytes name):
        """The connection that carries this account; None while it is not there."""
        link = self._by_account.get(account)
        if link is None:
            link = self.link_of(name)
            if link is not None:
                self._by_account[account] = link
        return link

    def carries(self, bytes name not None, Link link not None) -> bool:
        """Whether this account's lines go by this connection."""
        return self.link_of(name) is link

    def link_of(self, bytes name not None) -> Link | None:
        """The same as `link_for`, by name."""
        if name in self.pinned:
            return self.pinned[name]
        return self.links[pool_index(name, len(self.links))]


def pool_index(name: bytes, size: int) -> int:
    """Which connection of a pool an account takes: FNV-1a, 32 bits, of its name (sheet 10.4)."""
    if size <= 1:
        return 0
    number = 0x811C9DC5
    for byte in name:
        number = (number ^ byte) * 0x01000193 & 0xFFFFFFFF
    return number % size
