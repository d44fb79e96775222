"""What the routes do, as nats-server's `/routez` reports it (sheet 12.3).

Sans-IO: made when somebody asks, from what routes and cluster keep anyway; the time is handed in.
`slow_consumers` is shardd's own field.
"""

from collections.abc import Callable, Iterator
from typing import Any, Final

from shardd.moments import duration_text, time_text, uptime_text
from shardd.routes.cluster import About, Cluster
from shardd.routes.greeting import rules_text
from shardd.routes.relay import Relay
from shardd.routes.route import Route

# What there is; nats-server says the same of a route without compression.
_COMPRESSION: Final = "off"


class Routez:
    """Reports on the routes of one server. Touched by the router's event loop only.

    Args:
        cluster, relay: of the router.
        server_id, server_name: of this server.
        count_slow_consumers: how many routes were closed because a peer did not keep up.
    """

    def __init__(
        self,
        cluster: Cluster,
        relay: Relay,
        server_id: str,
        server_name: str,
        count_slow_consumers: Callable[[], int],
    ) -> None:
        self._cluster = cluster
        self._relay = relay
        self._server_id = server_id
        self._server_name = server_name
        self._count_slow_consumers = count_slow_consumers

    def parts(self, now: float, wall_ns: int, has_subscriptions: bool) -> Iterator[dict[str, Any]]:
        """The document; behind it, if wanted, what each peer subscribes to, a few thousand at a
        time: `rid` and `subscriptions`, rows of account, subject, queue and members. A row may
        come twice.

        Args:
            now: on the clock of the cluster.
            wall_ns: the same moment in nanoseconds since 1970.
            has_subscriptions: whether they are wanted.
        """
        routes = [route for route in self._cluster.routes if route.is_registered]
        document: dict[str, Any] = {
            "server_id": self._server_id,
            "server_name": self._server_name,
            "now": time_text(wall_ns),
        }
        permissions = self._cluster.own.permissions
        if permissions is not None:
            rules = {"import": permissions.publish, "export": permissions.subscribe}
            document |= {name: rules_text(each) for name, each in rules.items() if each}
        document["num_routes"] = len(routes)
        document["slow_consumers"] = self._count_slow_consumers()
        document["routes"] = [self._row(route, now, wall_ns) for route in routes]
        yield document
        if has_subscriptions:
            for route in routes:
                yield from self._subscriptions(route)

    def _row(self, route: Route, now: float, wall_ns: int) -> dict[str, Any]:
        about: About = route.about
        assert about.peer is not None, "a registered route has a peer"
        assert about.introduction is not None, "a registered route was introduced"
        about.look(route, now)
        # A configured URL leads to this server, whichever side happened to dial first.
        is_configured = any(
            dial.is_explicit and dial.server_id == about.peer.server_id
            for dial in self._cluster.roster.dials
        )
        row = {
            "rid": route.route_id,
            "remote_id": about.peer.server_id,
            "remote_name": about.introduction.server_name,
            "did_solicit": route.is_dialed or is_configured,
            "is_configured": is_configured,
            "ip": route.ip,
            "port": route.port,
            "start": time_text(wall_ns - _nanoseconds(now - about.since)),
            "last_activity": time_text(wall_ns - _nanoseconds(now - about.active_at)),
            "rtt": duration_text(_nanoseconds(about.rtt_s or 0.0) // 1000 * 1000),
            "uptime": uptime_text(now - about.since),
            "idle": uptime_text(now - about.active_at),
            "pending_size": route.pending_bytes,
            "in_msgs": route.messages_in,
            "out_msgs": route.messages_out,
            "in_bytes": route.bytes_in,
            "out_bytes": route.bytes_out,
            "subscriptions": route.subscriptions,
        }
        account = about.peer.account_of(route)
        if account is not None:
            row["account"] = account.decode("utf-8", "replace")
        row["compression"] = _COMPRESSION
        return row

    def _subscriptions(self, route: Route) -> Iterator[dict[str, Any]]:
        """Part by part: the route may end in between, and then there are no more."""
        position = 0
        while position >= 0 and not route.is_closed:
            about: About = route.about
            assert about.peer is not None, "a registered route has a peer"
            entries, position = self._relay.wanted_by(about.peer, route, position)
            yield {
                "rid": route.route_id,
                "subscriptions": [
                    (_text(account), _text(subject), queue and _text(queue), members)
                    for account, subject, queue, members in entries
                ],
            }


def _nanoseconds(seconds: float) -> int:
    return max(round(seconds * 1e9), 0)


def _text(name: bytes) -> str:
    return name.decode("utf-8", "replace")
