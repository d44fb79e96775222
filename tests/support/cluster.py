"""Clusters of real servers, and a peer that knows bytes only: one that speaks the route protocol.

Every server gets a cluster port of its own that nobody else has; the first one is the seed that all
others are given. `Hosts.settle` waits until each of them tells its clients of all the others.
"""

import contextlib
import json
import ssl
from collections.abc import Iterator, Sequence
from itertools import count
from typing import Any, Final

from tests.support.broker import Broker, free_port, make_broker
from tests.support.waiting import wait_until
from tests.support.wireclient import WireClient

CLUSTER: Final = "trial"


def cluster_text(
    name: str, port: int, routes: Sequence[int] = (), more: str = "", block: str = ""
) -> str:
    """A configuration file: server name, where it listens for routes, whom it dials."""
    urls = ", ".join(f'"nats://127.0.0.1:{each}"' for each in routes)
    return (
        f"server_name: {name}\n{more}\n"
        f'cluster {{ name: {CLUSTER}, listen: "127.0.0.1:{port}", routes: [{urls}]\n{block}\n}}\n'
    )


class Hosts:
    """Some servers that form one cluster."""

    def __init__(self) -> None:
        self.brokers: list[Broker] = []
        self.cluster_ports: list[int] = []

    def __getitem__(self, index: int) -> Broker:
        return self.brokers[index]

    def add(
        self, kind: str, routes: Sequence[int] | None = None, more: str = "", block: str = ""
    ) -> Broker:
        """Start one more server; its only route is the first server's, if not said otherwise."""
        port = free_port()
        if routes is None:
            routes = self.cluster_ports[:1]
        broker = make_broker(kind)
        self.brokers.append(broker)
        self.cluster_ports.append(port)
        broker.start_text(cluster_text(f"host{len(self.brokers)}", port, routes, more, block))
        return broker

    def settle(self) -> None:
        """Wait until every server that lives tells clients of all that live, and of no others."""
        living = [broker for broker in self.brokers if broker.is_alive()]
        wanted = {f"{broker.host}:{broker.port}" for broker in living}

        def is_settled() -> bool:
            return all(self._known(broker) == wanted for broker in living)

        wait_until(is_settled, f"{wanted} to know each other", 20.0)

    def _known(self, broker: Broker) -> set[str]:
        with WireClient(broker.host, broker.port) as client:
            return {f"{broker.host}:{broker.port}", *client.info.get("connect_urls", [])}

    def stop(self) -> None:
        """End all of them."""
        for broker in self.brokers:
            if broker.is_alive():
                broker.stop()


@contextlib.contextmanager
def hosts_of(kinds: Sequence[str], block: str = "") -> Iterator[Hosts]:
    """A settled cluster of these kinds of servers."""
    hosts = Hosts()
    try:
        for kind in kinds:
            hosts.add(kind, block=block)
        hosts.settle()
        yield hosts
    finally:
        hosts.stop()


def wait_heard(subscriber: WireClient, publisher: WireClient, subject: bytes) -> None:
    """Publish until a message arrives, and then read until the last one has: interest travels in
    its own time, messages in theirs."""
    tokens = count()
    text = b""

    def has_heard() -> bytes:
        nonlocal text
        token = b"<%d>" % next(tokens)
        publisher.send(b"PUB %b %d\r\n%b\r\n" % (subject, len(token), token))
        publisher.ping()
        subscriber.send(b"PING\r\n")
        text += subscriber.read_until(b"PONG\r\n")
        return token if b">\r\n" in text else b""

    last = wait_until(has_heard, f"{subject!r} to be heard on another host")
    if last not in text:
        subscriber.read_until(last + b"\r\n")


def wait_heard_by(peer: "RoutePeer", publisher: WireClient, account: bytes, subject: bytes) -> None:
    """Publish until a message arrives at a peer that wants it, and then read until the last has."""
    tokens = count()
    text = b""

    def has_heard() -> bytes:
        nonlocal text
        token = b"<%d>" % next(tokens)
        publisher.send(b"PUB %b %d\r\n%b\r\n" % (subject, len(token), token))
        publisher.ping()
        peer.wire.send(b"PING\r\n")
        text += peer.wire.read_until(b"PONG\r\n")
        return token if b"RMSG %b %b " % (account, subject) in text else b""

    last = wait_until(has_heard, f"{subject!r} to be heard by a peer")
    if last not in text:
        peer.wire.read_until(last + b"\r\n")


class RoutePeer:
    """A server that is only bytes: it dials a real one and joins, if it is let in."""

    def __init__(
        self,
        port: int,
        server_id: str = "PEER",
        name: str = "peer",
        listens: int = 1,
        tls: ssl.SSLContext | None = None,
        **more: Any,
    ) -> None:
        self.wire = WireClient("127.0.0.1", port, tls=tls, handshake_first=True)
        self.info = self.wire.info
        self.joined: list[bytes] = []  # what came before the first PONG
        self.server_id = server_id
        self._introduction = {
            "server_id": server_id,
            "server_name": name,
            "version": "2.10.0",
            "proto": 1,
            "host": "127.0.0.1",
            "port": listens,
            "headers": True,
            "max_payload": 1048576,
            "cluster": CLUSTER,
            **more,
        }

    def connect(self, **more: Any) -> None:
        """Send CONNECT alone."""
        fields = {
            "echo": True,
            "verbose": False,
            "pedantic": False,
            "tls_required": False,
            "headers": True,
            "name": self.server_id,
            "cluster": CLUSTER,
            **more,
        }
        self.wire.send(b"CONNECT ", json.dumps(fields).encode(), b"\r\n")

    def introduce(self) -> None:
        """Send INFO alone."""
        self.wire.send(b"INFO ", json.dumps(self._introduction).encode(), b"\r\n")

    def tell(self, **changes: Any) -> None:
        """Send INFO once more, with these fields changed; None takes one away."""
        fields = {**self._introduction, **changes}
        fields = {name: value for name, value in fields.items() if value is not None}
        self.wire.send(b"INFO ", json.dumps(fields).encode(), b"\r\n")

    def join(self, **more: Any) -> "RoutePeer":
        """Become a peer; returns when the server has taken this one in."""
        self.connect(**more)
        self.introduce()
        self.joined = self.settle()
        return self

    def lines_until(self, end: bytes) -> list[bytes]:
        """The lines up to this one, without those of the system account and without INFO."""
        text = self.wire.read_until(end + b"\r\n")
        return [
            line
            for line in text.split(b"\r\n")[:-1]
            if b" $SYS" not in line and not line.startswith(b"INFO") and line not in (b"", b"PING")
        ]

    def settle(self) -> list[bytes]:
        """What has come by now."""
        self.wire.send(b"PING\r\n")
        return self.lines_until(b"PONG")[:-1]

    def close(self) -> None:
        """Leave."""
        self.wire.close()
