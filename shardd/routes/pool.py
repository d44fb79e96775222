"""The connections to another server beside the first: which are missing, and when to dial for them.

Sans-IO: the time is handed in. Servers that both pool have as many connections to each other as
the larger of their two sizes says, and one more for each account that has its own (sheet 10.4). The
server that dialed the first one dials the others, one by one: the next when one has answered a
PING. A connection of the pool takes the first place that is free once both have introduced
themselves, so it does not matter which one was lost.
"""

import random
from dataclasses import dataclass
from typing import Final

from shardd import errors, limits
from shardd.errors import CloseReason, ProtocolError
from shardd.routes.greeting import Introduction
from shardd.routes.peer import Peer
from shardd.routes.roster import DUPLICATE_RETRY_S_MAX, RETRY_S, RETRY_S_MAX, Dial
from shardd.values import RouteUrl

# What is dialed for: an account, or a place in the pool.
_ANY_PLACE: Final = ""


@dataclass(slots=True)
class _Want:
    """One kind of connection that may be missing."""

    due_at: float = 0.0
    attempts: int = 0  # in a row, without success


class Pool:
    """What is missing of one peer. Touched by the router's event loop only.

    Args:
        peer: the server, connected by one connection at least.
        rng: for moments that differ between servers.
    """

    def __init__(self, peer: Peer, rng: random.Random) -> None:
        self._peer = peer
        self._random = rng
        self._wants = {_ANY_PLACE: _Want()}
        self._wants |= {account.decode(): _Want() for account in peer.pinned}
        self._under_way: Dial | None = None

    def next(self, url: RouteUrl, now: float) -> Dial | None:
        """The dial to be made now; it is under way from here on."""
        if self._under_way is not None:
            return None
        for account, want in self._wants.items():
            if now >= want.due_at and self._is_missing(account):
                self._under_way = Dial(
                    url,
                    False,
                    now,
                    self._peer.server_id,
                    want.attempts,
                    is_under_way=True,
                    is_extra=True,
                    account=account,
                )
                return self._under_way
        return None

    def _is_missing(self, account: str) -> bool:
        if account == _ANY_PLACE:
            return None in self._peer.links
        return self._peer.pinned[account.encode()] is None

    def registered(self, dial: Dial) -> None:
        """The dial has led to a connection."""
        self._wants[dial.account].attempts = 0
        self._end(dial)

    def failed(self, dial: Dial, now: float) -> None:
        """It has led to none, or its connection has ended."""
        want = self._wants[dial.account]
        wait_s = min(RETRY_S * 2.0 ** min(want.attempts, 10), RETRY_S_MAX)
        want.attempts += 1
        dial.attempts = want.attempts
        want.due_at = now + wait_s * self._random.uniform(0.9, 1.1)
        self._end(dial)

    def duplicate(self, dial: Dial, now: float) -> None:
        """The other server has dialed for the same place, and was first."""
        moment = now + self._random.uniform(0.0, DUPLICATE_RETRY_S_MAX)
        self._wants[dial.account].due_at = moment
        self._end(dial)

    def _end(self, dial: Dial) -> None:
        if self._under_way is dial:
            self._under_way = None


# --- where a connection belongs -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Place:
    """Which of several connections to one server."""

    index: int  # in the pool
    account: str = ""  # or the one of this account


def pool_size(own: int, told: Introduction) -> int:
    """How many connections accounts are spread over; 0: one for everything, as one side has it.

    Raises:
        ProtocolError: the other side wants more than there may be.
    """
    if told.pool_size > limits.ROUTE_POOL_MAX:
        raise _violation(errors.ERR_POOL_SIZE.format(ours=own, theirs=told.pool_size))
    return max(own, told.pool_size) if own > 0 and told.pool_size > 0 else 0


def place_of(
    own_size: int,
    accounts: tuple[bytes, ...],
    peer: Peer | None,
    dial: Dial | None,
    told: Introduction,
) -> Place | None:
    """Where a new connection belongs; None when that is taken.

    Args:
        own_size: of this server's pools.
        accounts: those that have a connection of their own here.
        peer: the server at the other end, if it is connected already.
        dial: what led there; None: it has dialed this server.
        told: how it has introduced itself.

    Raises:
        ProtocolError: there can be no such connection.
    """
    size = pool_size(own_size, told)
    account = told.account if dial is None else dial.account
    if dial is not None and dial.is_extra and peer is None:
        return None  # another server has that address by now, or it has left meanwhile
    if account:
        if not size:
            raise _violation(errors.ERR_NO_DEDICATED_ROUTE.format(account=account))
        if account.encode() not in accounts:
            raise _violation(errors.ERR_NO_ACCOUNT_ROUTE.format(account=account))
        is_taken = peer is not None and peer.pinned.get(account.encode()) is not None
        return None if is_taken else Place(0, account)
    if not size:
        return None if peer is not None else Place(0)
    if peer is not None:
        size = len(peer.links)
    if dial is not None:
        index = next((i for i in range(size) if peer is None or peer.links[i] is None), None)
    elif 0 <= told.pool_index < size:
        index = told.pool_index
        if peer is not None and peer.links[index] is not None:
            index = None
    else:
        raise _violation(errors.ERR_POOL_INDEX.format(index=told.pool_index, size=size))
    return None if index is None else Place(index)


def _violation(text: str) -> ProtocolError:
    return ProtocolError(CloseReason.PROTOCOL_VIOLATION, text, text)
