"""The cluster as one server sees it: who may join, who is in it, who has left.

Sans-IO: bytes come from routes, which are told what to say; dialing and telling the workers is done
by a `Face` that is handed in, and so is the time. Facts: sheet 10.3, 10.7 and 10.8.
"""

import hmac
import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Final, Protocol

from shardd import errors, limits
from shardd.config.model import SYSTEM_ACCOUNT
from shardd.config.model import Cluster as ClusterConfig
from shardd.errors import CloseReason, ProtocolError
from shardd.router.permissions import Permissions
from shardd.routes.greeting import (
    Introduction,
    Self,
    check_credentials,
    gossip,
    merged_name,
    read_credentials,
    read_introduction,
)
from shardd.routes.peer import Peer
from shardd.routes.pool import Place, Pool, place_of, pool_size
from shardd.routes.relay import Relay
from shardd.routes.roster import Dial, Roster
from shardd.routes.route import Route
from shardd.topology import Topology
from shardd.values import RouteUrl

FIRST_PING_S: Final = 1.0
# A nats-server whose credentials or name are wrong dials again at once, a thousand times a second,
# when it is refused by a server without a pool of routes. What it is answered can wait.
REFUSAL_S: Final = 1.0
PING_INTERVAL_S_MAX: Final = 30.0
# What another server may say of this one that is for the operator to mend.
_OPERATORS: Final = (
    errors.ERR_AUTHORIZATION_VIOLATION,
    errors.ERR_MAX_CONNECTIONS,
    "Mismatch route pool size",
    "No route for account",
    "Rejecting connection",
)

log = logging.getLogger("shardd.routes")


class Face(Protocol):
    """What the cluster needs of the process that it lives in."""

    def dial(self, dial: Dial) -> None:
        """Begins to connect; the answer is `dialed` or `failed`."""

    def tell(self, topology: Topology) -> None:
        """Clients are to know this from now on."""

    def later(self, callback: Callable[[], None]) -> None:
        """Calls back when others have had their turn."""

    def read_clock(self) -> float:
        """The time now, on the clock of all times that are handed in."""

    def count_slow_consumer(self) -> None:
        """A route was closed because its peer did not keep up."""


@dataclass(slots=True)
class About:
    """What is known of one route. Times are seconds of the clock that is handed in."""

    since: float
    dial: Dial | None = None
    password: tuple[str, str] = field(default=("", ""), repr=False)
    has_connected: bool = False  # its CONNECT was good; a dialed route needs none
    peer: Peer | None = None
    introduction: Introduction | None = None
    ping_at: float = 0.0
    refusal: tuple[float, CloseReason, str | None] | None = None  # when it is told what, if at all
    pings_out: int = 0
    pinged_at: float = 0.0
    rtt_s: float | None = None
    passed: int = 0  # messages and interest, both ways, at the last look
    active_at: float = 0.0  # when some had passed

    def look(self, route: Route, now: float) -> None:
        """Notes whether something has passed since the last look. Asked for now and then, it
        costs a message nothing."""
        passed = route.messages_in + route.messages_out + route.interest_lines
        if passed != self.passed:
            self.passed = passed
            self.active_at = now


class Cluster:
    """All routes of one server. Touched by the router's event loop only.

    Args:
        config: the `cluster` block.
        own: this server.
        relay: where messages and interest go.
        face: dials, and tells the workers.
        system_account: has a connection of its own where connections are pooled.
        ping_interval_s, ping_max: of clients; a route's are shorter (sheet 10.8).
        rng: for pings and retries that do not meet.
    """

    def __init__(
        self,
        config: ClusterConfig,
        own: Self,
        relay: Relay,
        face: Face,
        ping_interval_s: float,
        ping_max: int,
        rng: random.Random,
        system_account: str = SYSTEM_ACCOUNT,
    ) -> None:
        self._config = config
        self._system_account = system_account or SYSTEM_ACCOUNT
        self._own = own
        self._relay = relay
        self._face = face
        self._random = rng
        self._ping_interval_s = min(
            ping_interval_s if config.ping_interval_s is None else config.ping_interval_s,
            PING_INTERVAL_S_MAX,
        )
        self._ping_max = ping_max if config.ping_max is None else config.ping_max
        self._routes: dict[int, Route] = {}
        self._pools: dict[str, Pool] = {}  # by server id
        self._told = Topology(
            own.cluster, tuple(own.connect_urls), (), tuple(own.websocket_urls), ()
        )
        self._now = 0.0
        self._is_stopping = False
        self._relay.set_permissions(_compiled(config))
        self.roster = Roster(own.server_id, config.connect_retries, config.connect_backoff, rng)

    @property
    def routes(self) -> list[Route]:
        """Every connection to another server, registered or not."""
        return list(self._routes.values())

    @property
    def name(self) -> str:
        """The cluster's name, as it is by now."""
        return self._own.cluster

    @property
    def _accounts(self) -> tuple[bytes, ...]:
        """Those that have a connection of their own."""
        names = dict.fromkeys((self._system_account, *self._config.accounts))
        return tuple(name.encode() for name in names)

    @property
    def own(self) -> Self:
        """This server, as its peers see it."""
        return self._own

    @property
    def topology(self) -> Topology:
        """What clients know of the cluster."""
        return self._told

    # --- connections ---------------------------------------------------------------------------

    def accepted(self, route: Route, now: float) -> None:
        """A server, or somebody else, has connected."""
        self._now = now
        self._routes[route.route_id] = route
        route.about = About(now)
        route.start()
        if not route.is_encrypted:
            self.on_open(route)

    def dialed(self, route: Route, dial: Dial, now: float) -> None:
        """A connection that this server wanted is there."""
        self._now = now
        self._routes[route.route_id] = route
        url = dial.url
        password = (
            (url.user, url.password)
            if url.user
            else (
                self._config.user,
                self._config.password,
            )
        )
        route.about = About(now, dial=dial, password=password, has_connected=True)
        route.start()
        if not route.is_encrypted:
            self.on_open(route)

    def failed(self, dial: Dial, why: str, now: float) -> None:
        """A server could not be reached."""
        self._now = now
        self._lost(dial)
        if dial.attempts == 1 or dial.attempts % 60 == 0:
            log.error("Error trying to connect to route (attempt %d): %s", dial.attempts, why)

    def tick(self, now: float) -> None:
        """What is due by now: dials, pings, deadlines."""
        self._now = now
        if not self._is_stopping:
            connected = frozenset(peer.server_id for peer in self._relay.peers if any(peer.links))
            for dial in self.roster.due(now, connected):
                self._face.dial(dial)
            for peer in self._relay.peers:
                self._fill(peer)
        for route in self.routes:
            route.check_write_deadline(int(now * 1000))
            if route.is_closed:
                continue
            about: About = route.about
            if not route.is_registered:
                if about.refusal is not None and now >= about.refusal[0]:
                    route.close(*about.refusal[1:])
                elif now - about.since >= self._config.auth_timeout_s:
                    route.close(
                        CloseReason.AUTHENTICATION_TIMEOUT,
                        None if route.is_dialed else errors.ERR_AUTHENTICATION_TIMEOUT,
                    )
                continue
            about.look(route, now)
            if now >= about.ping_at:
                self._ping(route, about)

    def _ping(self, route: Route, about: About) -> None:
        if about.pings_out >= self._ping_max:
            route.close(CloseReason.STALE_CONNECTION, errors.ERR_STALE_CONNECTION)
            return
        about.pings_out += 1
        about.pinged_at = self._face.read_clock()
        about.ping_at = self._now + self._ping_interval_s
        route.ping()

    def start_lame_duck(self) -> None:
        """Tell every peer that this server is about to leave (sheet 6)."""
        self._own = replace(self._own, is_lame_duck=True, connect_urls=(), websocket_urls=())
        self._is_stopping = True
        for route in self.routes:
            if route.is_registered:
                route.say(self._own.info())

    def reload(self, config: ClusterConfig, urls: tuple[RouteUrl, ...], now: float) -> None:
        """Go on with another configuration: routes that are not in it any more end. All are made
        anew when there are to be more or fewer to a server."""
        before, self._config = self._config, config
        self._now = now
        self._own = replace(
            self._own, permissions=config.permissions, pool_size=max(config.pool_size, 0)
        )
        gone = self.roster.set_explicit(urls, now)
        is_other_pool = (before.pool_size, before.accounts) != (config.pool_size, config.accounts)
        for route in self.routes:
            if is_other_pool or route.about.dial in gone:
                route.close(CloseReason.ROUTE_REMOVED)
        if before.permissions != config.permissions:
            for route in self.routes:
                if route.is_registered:
                    route.say(self._own.info())
            self._relay.set_permissions(_compiled(config))

    def stop(self) -> None:
        """Close every route."""
        self._is_stopping = True
        for route in self.routes:
            route.close(CloseReason.SERVER_SHUTDOWN)

    # --- what a route reports ------------------------------------------------------------------

    def on_open(self, route: Route) -> None:
        """Bytes can go both ways: TLS is over, or there is none."""
        about: About = route.about
        if about.dial is not None:
            # INFO follows once it is known which of several connections this one is.
            route.say(self._own.connect(*about.password))
        else:
            route.say(self._own.info())

    def on_stranger(self, route: Route) -> None:
        """Something else than CONNECT came first."""
        if route.about.refusal is not None:
            return
        route.close(CloseReason.AUTHENTICATION_FAILURE, errors.ERR_AUTHORIZATION_VIOLATION)

    def on_connect(self, route: Route, text: bytes) -> None:
        """CONNECT of a server that dialed this one."""
        about: About = route.about
        if about.has_connected or about.refusal is not None:
            return
        try:
            told = read_credentials(text)
            check_credentials(told, self._own.cluster, is_dynamic=self._own.is_dynamic)
        except ProtocolError as error:
            log.error("%s - %s", route, error)
            route.close(error.reason, error.text, str(error))
            return
        if self._config.user:
            is_user = hmac.compare_digest(told.user.encode(), self._config.user.encode())
            is_known = hmac.compare_digest(told.password.encode(), self._config.password.encode())
            if not (is_user and is_known):
                log.error("%s - authentication error", route)
                about.refusal = (
                    self._now + REFUSAL_S,
                    CloseReason.AUTHENTICATION_FAILURE,
                    errors.ERR_AUTHORIZATION_VIOLATION,
                )
                return
        about.has_connected = True

    def on_info(self, route: Route, text: bytes) -> None:
        """INFO: who the peer is, what has changed with it, or who else there is."""
        about: About = route.about
        if about.refusal is not None:
            return
        if not about.has_connected:
            self.on_stranger(route)
            return
        try:
            told = read_introduction(text)
        except ProtocolError as error:
            route.close(error.reason, error.text, str(error))
            return
        if about.peer is None:
            self._meet(route, about, told)
        elif told.server_id == about.peer.server_id:
            self._take_permissions(route, about, told)
            about.introduction = told
            if told.is_lame_duck:
                self.roster.forget(told.server_id)
            self._tell()
        else:
            url = told.url_seen_from("")
            if url is not None and not self._is_stopping:
                self.roster.heard_of(told.server_id, url, self._now)

    def on_pong(self, route: Route) -> None:
        """The peer lives."""
        about: About = route.about
        about.pings_out = 0
        if about.pinged_at:
            about.rtt_s = self._face.read_clock() - about.pinged_at
        if about.peer is not None and about.dial is not None:
            self._fill(about.peer)

    def on_error(self, route: Route, text: str) -> None:
        """-ERR: the peer says why it closes. Some come with ordinary events (sheet 10.4)."""
        is_ours = text.strip("'").startswith(_OPERATORS)
        log.log(logging.ERROR if is_ours else logging.DEBUG, "%s - Route error %s", route, text)

    def on_full(self, route: Route) -> None:
        """The ring is full: nothing more is read until it has room."""
        for each in self.routes:
            each.pause()

    def on_room(self) -> None:
        """The ring has room again; whoever is first may fill it, so it is not always the same."""
        routes = self.routes
        self._random.shuffle(routes)
        for route in routes:
            if self._relay.is_full:
                return
            route.resume()

    def on_closed(self, route: Route, reason: CloseReason, detail: str) -> None:
        """A connection has ended, whoever ended it."""
        del self._routes[route.route_id]
        about: About = route.about
        if reason in (
            CloseReason.SLOW_CONSUMER_PENDING_BYTES,
            CloseReason.SLOW_CONSUMER_WRITE_DEADLINE,
        ):
            self._face.count_slow_consumer()
        peer, told = about.peer, about.introduction
        if peer is not None or reason != CloseReason.DUPLICATE_ROUTE:
            remote = f" - Remote: {told.server_name}" if told is not None else ""
            # By TLS 1.3 the other end's verdict comes when the handshake is over for this one.
            is_refused = reason == CloseReason.TLS_HANDSHAKE_FAILURE or (
                peer is None and detail.startswith("TLS: ")
            )
            level = logging.ERROR if is_refused else logging.INFO
            log.log(level, "%s - Router connection closed: %s%s", route, detail, remote)
        if peer is not None:
            self._relay.remove_link(peer, route)
            if not peer.all_links():
                self._relay.remove_peer(peer)
                del self._pools[peer.server_id]
        if about.dial is not None and about.dial.is_under_way:
            self._lost(about.dial, was_connected=peer is not None)
        if peer is not None and told is not None and not peer.all_links():
            # Whoever had dialed will do so again, if it can.
            url = told.url_seen_from(route.ip)
            if url is not None and not told.is_lame_duck and not self._is_stopping:
                self.roster.heard_of(
                    peer.server_id, url, self._now + self._random.uniform(1.0, 2.0)
                )
        self._tell()

    # --- joining -------------------------------------------------------------------------------

    def _meet(self, route: Route, about: About, told: Introduction) -> None:
        """The first INFO of a peer: it joins, or it is turned away (sheet 10.3)."""
        if told.server_id == self._own.server_id:
            if about.dial is not None:
                self.roster.is_self(about.dial)
            route.close(CloseReason.DUPLICATE_ROUTE, None, "this server itself")
            return
        name = merged_name(self._own, told)
        if name is None:
            text = errors.ERR_CLUSTER_NAME.format(theirs=told.cluster, ours=self._own.cluster)
            log.error("%s - %s", route, text)
            route.close(CloseReason.CLUSTER_NAME_CONFLICT, None if route.is_dialed else text, text)
            return
        if self._has_namesake(told):
            log.error("%s - Remote server has a duplicate name: %r", route, told.server_name)
            if route.is_dialed:
                route.close(CloseReason.DUPLICATE_SERVER_NAME)
            else:
                about.refusal = (
                    self._now + REFUSAL_S,
                    CloseReason.DUPLICATE_SERVER_NAME,
                    None,
                )
            return
        try:
            place = place_of(
                self._own.pool_size, self._accounts, self._peer_of(told), about.dial, told
            )
        except ProtocolError as error:
            log.error("%s - %s", route, error)
            route.close(error.reason, error.text, str(error))
            return
        if place is None:
            if about.dial is not None:
                self._is_duplicate(about.dial, told)
            route.close(CloseReason.DUPLICATE_ROUTE)
            return
        peer = self._peer_of(told) or self._add_peer(told)
        if peer is None:
            log.error("%s - More than %d other servers, refusing", route, limits.PEERS_MAX)
            route.close(CloseReason.MAXIMUM_CONNECTIONS_EXCEEDED, errors.ERR_MAX_CONNECTIONS)
            return
        if name != self._own.cluster:
            log.info("Cluster name updated to %s", name)
            self._own = self._own.in_cluster(name)
        self._register(route, about, told, peer, place)

    def _has_namesake(self, told: Introduction) -> bool:
        """Whether another server of that name is in the cluster."""
        if told.server_name == self._own.server_name:
            return True
        return any(
            route.about.introduction is not None
            and route.about.introduction.server_name == told.server_name
            and route.about.introduction.server_id != told.server_id
            for route in self.routes
        )

    def _peer_of(self, told: Introduction) -> Peer | None:
        """The server, if it is connected."""
        return next((each for each in self._relay.peers if each.server_id == told.server_id), None)

    def _add_peer(self, told: Introduction) -> Peer | None:
        """The server is connected from now on; None: there are too many."""
        size = pool_size(self._own.pool_size, told)
        accounts = self._accounts if size else ()
        peer = self._relay.add_peer(
            told.server_id, size or 1, accounts, told.server_name, told.tells_handed_on
        )
        if peer is not None:
            self._pools[told.server_id] = Pool(peer, self._random)
        return peer

    def _is_duplicate(self, dial: Dial, told: Introduction) -> None:
        if not dial.is_extra:
            self.roster.duplicate(dial, told.server_id, self._now)
        elif dial.server_id in self._pools:
            dial.is_under_way = False
            self._pools[dial.server_id].duplicate(dial, self._now)

    def _lost(self, dial: Dial, *, was_connected: bool = False) -> None:
        """A dial has led to nothing, or its connection has ended."""
        if not dial.is_extra:
            (self.roster.lost if was_connected else self.roster.failed)(dial, self._now)
        elif dial.server_id in self._pools:
            dial.is_under_way = False
            self._pools[dial.server_id].failed(dial, self._now)

    def _fill(self, peer: Peer) -> None:
        """Dial for what is missing to a server that this one has dialed, and that has answered."""
        if self._is_stopping or not peer.is_incomplete():
            return
        for route in self._routes_to(peer):
            about: About = route.about
            if about.dial is not None and about.rtt_s is not None:
                dial = self._pools[peer.server_id].next(about.dial.url, self._now)
                if dial is not None:
                    self._face.dial(dial)
                return

    def _routes_to(self, peer: Peer) -> list[Route]:
        return [route for route in self.routes if route.about.peer is peer]

    def _register(
        self, route: Route, about: About, told: Introduction, peer: Peer, place: Place
    ) -> None:
        """From here on it is one of the cluster."""
        is_first = not any(peer.links) and not place.account
        about.peer = peer
        about.introduction = told
        about.active_at = self._now
        about.ping_at = self._now + FIRST_PING_S * self._random.uniform(1.0, 1.2)
        if about.dial is not None:
            route.say(self._own.info(place.index, place.account))
            if about.dial.is_extra:
                self._pools[peer.server_id].registered(about.dial)
            else:
                self.roster.registered(about.dial, told.server_id)
        account = place.account.encode() if place.account else None
        peer.place(route, place.index, account)
        route.register(peer.number, account)
        log.info("%s - Route connection created", route)
        self._send_interest(route, peer, 0)
        if about.dial is not None and peer.is_incomplete():
            self._ping(route, about)
        if is_first or place.account:
            self._spread(route, told, peer)
        self._tell()

    def _spread(self, route: Route, told: Introduction, newcomer: Peer) -> None:
        """Tell every other server of this one, by one connection each."""
        url = told.url_seen_from(route.ip)
        if url is None:
            return
        line = gossip(told, url)
        for peer in self._relay.peers:
            # Who does not pool has no connection for an account either.
            if peer is not newcomer and (peer.pinned or not told.account):
                for other in self._routes_to(peer)[:1]:
                    other.say(line)

    def _take_permissions(self, route: Route, about: About, told: Introduction) -> None:
        """The other server may let more out than before: it has dropped what it was told of it."""
        before = about.introduction.permissions if about.introduction is not None else None
        if before != told.permissions and about.peer is not None:
            self._relay.tell_more(
                route,
                about.peer,
                Permissions(before) if before is not None else None,
                Permissions(told.permissions) if told.permissions is not None else None,
            )

    def _send_interest(self, route: Route, peer: Peer, position: int) -> None:
        """All that this host wants, part by part."""
        if route.is_closed:
            return
        position = self._relay.tell_all(route, peer, position)
        if position >= 0:
            self._face.later(lambda: self._send_interest(route, peer, position))

    # --- what clients are told -----------------------------------------------------------------

    def _tell(self) -> None:
        """The URLs of the servers that are there, if they have changed."""
        urls: list[str] = []
        websocket_urls: list[str] = []
        if not self._config.no_advertise:
            for route in self.routes:
                told = route.about.introduction
                if told is not None and not told.is_lame_duck:
                    urls += [url for url in told.connect_urls if url not in urls]
                    websocket_urls += [
                        url for url in told.websocket_urls if url not in websocket_urls
                    ]
        topology = Topology(
            self._own.cluster,
            tuple(self._own.connect_urls),
            tuple(urls),
            tuple(self._own.websocket_urls),
            tuple(websocket_urls),
        )
        if topology != self._told:
            self._told = topology
            self._face.tell(topology)


def _compiled(config: ClusterConfig) -> Permissions | None:
    return Permissions(config.permissions) if config.permissions is not None else None
