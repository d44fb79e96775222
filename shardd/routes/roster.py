"""Which servers to dial, and when: policy only, no IO, no clock.

A roster is told what happened (`dialed`, `failed`, `closed`, `heard_of`) together with the time,
and answers with the dials that are due. Explicit routes, those of the configuration, are tried for
ever, once a second, or at growing intervals with `connect_backoff`. Implicit ones, learned from
gossip, are tried at growing intervals for a while, so that a link that was cut heals by itself;
then the server is taken to have left. (nats-server gives up after `connect_retries`; as many are
made here at the least.)
"""

import contextlib
import ipaddress
import random
from dataclasses import dataclass
from typing import Final

from shardd.values import RouteUrl

RETRY_S: Final = 1.0
RETRY_S_MAX: Final = 30.0
# Two servers that dial each other at once may both close one: each waits for another moment.
DUPLICATE_RETRY_S_MAX: Final = 0.1
# How long a server that was learned from gossip is looked for.
IMPLICIT_S_MAX: Final = 600.0


@dataclass(slots=True)
class Dial:
    """A server to be connected to by this one."""

    url: RouteUrl
    is_explicit: bool
    due_at: float
    server_id: str = ""  # once known
    attempts: int = 0  # in a row, without success
    lost_at: float = 0.0  # when the attempts began
    is_under_way: bool = False  # being dialed, or connected
    # Beside the first connection to that server: no roster keeps it, a `Pool` looks after it.
    is_extra: bool = False
    account: str = ""  # that the connection is for alone

    def certified_name(self, configured: str) -> str:
        """Whose certificate the server has to show. Gossip tells addresses, where certificates may
        have names only, so the name of a configured route is good as well: one is tried after the
        other.

        Args:
            configured: the first host of a configured route that is a name, or empty.
        """
        comes_second = self.is_explicit
        if configured and is_address(self.url.host) and comes_second == bool(self.attempts % 2):
            return configured
        return self.url.host


def is_address(host: str) -> bool:
    """Whether this host of a URL is an address and not a name."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host)
        return True
    return False


class Roster:
    """All dials of one server. Owned by the router.

    Args:
        own_id: this server's.
        retries: how often an implicit route is tried again, at the least.
        has_backoff: whether explicit routes are tried at growing intervals.
        rng: for moments that differ between servers.
    """

    def __init__(self, own_id: str, retries: int, has_backoff: bool, rng: random.Random) -> None:
        self._own_id = own_id
        self._retries = retries
        self._has_backoff = has_backoff
        self._random = rng
        self._dials: list[Dial] = []
        self._selves: set[RouteUrl] = set()  # explicit URLs that led back here

    @property
    def configured_name(self) -> str:
        """The first host of a configured route that is a name; empty when all are addresses."""
        names = (dial.url.host for dial in self._dials if dial.is_explicit)
        return next((name for name in names if not is_address(name)), "")

    @property
    def dials(self) -> list[Dial]:
        """Every server that this one dials."""
        return list(self._dials)

    def set_explicit(self, urls: tuple[RouteUrl, ...], now: float) -> list[Dial]:
        """The routes of the configuration; returns the dials that are none any more."""
        gone = [dial for dial in self._dials if dial.is_explicit and dial.url not in urls]
        self._dials = [dial for dial in self._dials if dial not in gone]
        known = {dial.url for dial in self._dials if dial.is_explicit}
        for url in urls:
            if url not in known:
                known.add(url)
                self._dials.append(Dial(url, True, now))
        return gone

    def heard_of(self, server_id: str, url: RouteUrl, now: float) -> None:
        """Gossip: a server has joined. Nothing is done if it is known already."""
        if server_id == self._own_id:
            return
        for dial in self._dials:
            if dial.server_id == server_id:
                if not dial.is_explicit and not dial.is_under_way:
                    # It is back, perhaps elsewhere.
                    dial.url, dial.due_at, dial.attempts, dial.lost_at = url, now, 0, now
                return
        self._dials.append(Dial(url, False, now, server_id, lost_at=now))

    def due(self, now: float, connected: frozenset[str]) -> list[Dial]:
        """The dials to be made now; they are under way from here on."""
        ready = []
        for dial in list(self._dials):
            if dial.is_under_way or now < dial.due_at:
                continue
            if dial.server_id in connected and dial.server_id:
                # It has dialed this server meanwhile. An explicit route looks again later.
                dial.due_at = now + RETRY_S
                if not dial.is_explicit:
                    self._dials.remove(dial)
                continue
            dial.is_under_way = True
            ready.append(dial)
        return ready

    def registered(self, dial: Dial, server_id: str) -> None:
        """A dial has led to this server."""
        dial.server_id = server_id
        dial.attempts = 0
        dial.lost_at = 0.0

    def failed(self, dial: Dial, now: float) -> None:
        """Nobody answered, or the handshake failed."""
        dial.attempts += 1
        self._again(dial, now)

    def lost(self, dial: Dial, now: float) -> None:
        """A route that this server had dialed has ended: no attempt has failed yet."""
        self._again(dial, now)

    def duplicate(self, dial: Dial, server_id: str, now: float) -> None:
        """The server that was dialed is connected already."""
        dial.server_id = server_id
        dial.is_under_way = False
        dial.due_at = now + (
            RETRY_S if dial.is_explicit else self._random.uniform(0.0, DUPLICATE_RETRY_S_MAX)
        )

    def is_self(self, dial: Dial) -> None:
        """The dial has led back to this server."""
        if dial in self._dials:
            self._dials.remove(dial)

    def forget(self, server_id: str) -> None:
        """The server has said that it leaves: it is not dialed any more, unless configured."""
        self._dials = [
            dial for dial in self._dials if dial.is_explicit or dial.server_id != server_id
        ]

    def _again(self, dial: Dial, now: float) -> None:
        dial.is_under_way = False
        if dial not in self._dials:
            return
        if not dial.lost_at:
            dial.lost_at = now
        wait_s = RETRY_S
        if self._has_backoff or not dial.is_explicit:
            wait_s = min(RETRY_S * 2.0 ** min(max(dial.attempts - 1, 0), 10), RETRY_S_MAX)
            wait_s *= self._random.uniform(0.9, 1.1)
        dial.due_at = now + wait_s
        has_tried = dial.attempts > self._retries
        if not dial.is_explicit and has_tried and now - dial.lost_at > IMPLICIT_S_MAX:
            self._dials.remove(dial)
