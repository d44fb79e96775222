"""TLS between servers: each end verifies the other, and what does not hold is refused.

Every combination of ends has shardd in it; nats-server shows what the answers are.
"""

import socket
import ssl
from collections.abc import Iterator
from functools import cache

import pytest

from tests.support import certificates
from tests.support.broker import NATS_SERVER, Broker, free_port, make_broker
from tests.support.certificates import Authority, Issued, client_context
from tests.support.cluster import RoutePeer, cluster_text, wait_heard
from tests.support.fixtures import Dial, Serve
from tests.support.waiting import PATIENCE, wait_until
from tests.support.wireclient import WireClient

JOIN_S = 20.0 * PATIENCE
RUN_S = 10.0 * PATIENCE
ENDS = (("shardd-1", "shardd-1"), ("shardd-1", NATS_SERVER), (NATS_SERVER, "shardd-1"))


@cache
def stranger() -> Authority:
    """An authority that nobody trusts."""
    return Authority("a stranger")


@cache
def wrong() -> dict[str, Issued]:
    """Certificates that are not good enough, by what is wrong with them."""
    return {
        "of an authority that is not trusted": stranger().issue("unknown"),
        "expired": certificates.authority().issue("expired", has_expired=True),
    }


def block(issued: Issued, more: str = "") -> str:
    """The lines of a `cluster` block."""
    authority = certificates.authority().certificate
    return (
        f'tls {{ cert_file: "{issued.certificate}", key_file: "{issued.key}"\n'
        f'ca_file: "{authority}", timeout: 2\n{more} }}\n'
    )


# --- both ends are servers ------------------------------------------------------------------------


class Pair:
    """A server that listens and one that dials it, whose certificates may change."""

    def __init__(self, listening: str, dialing: str) -> None:
        self.ports = [free_port(), free_port()]
        self.brokers = [make_broker(listening), make_broker(dialing)]

    def text(self, index: int, issued: Issued) -> str:
        routes = self.ports[:index]
        return cluster_text(f"host{index + 1}", self.ports[index], routes, block=block(issued))

    def start(self, *issued: Issued) -> None:
        for index, broker in enumerate(self.brokers):
            broker.start_text(self.text(index, issued[index]))

    def wait_joined(self) -> None:
        wanted = {f"{broker.host}:{broker.port}" for broker in self.brokers}

        def is_joined() -> bool:
            return all(urls(broker) == wanted for broker in self.brokers)

        wait_until(is_joined, "the two to join", JOIN_S)

    def wait_refused(self, by: int, seen: int = 0) -> None:
        """Wait until this end has had enough of the other, since its log was that long. What the
        other end notices of it depends on the version of TLS."""
        broker = self.brokers[by]
        wait_until(
            lambda: "handshake error" in broker.log_text()[seen:],
            f"the refusal by {broker.kind}",
            JOIN_S,
        )

    def are_joined(self) -> bool:
        return any(urls(broker) for broker in self.brokers)


def urls(broker: Broker) -> set[str]:
    with WireClient(broker.host, broker.port) as client:
        return set(client.info.get("connect_urls", []))


@pytest.fixture
def pair(request: pytest.FixtureRequest, no_leaks: None) -> Iterator[Pair]:
    pair = Pair(*request.param)
    yield pair
    for broker in pair.brokers:
        if broker.is_alive():
            broker.stop()


# One way in which each end of each kind is the bad one; the others in the long run only.
QUICK = ((ENDS[1], 0), (ENDS[2], 1))


@pytest.mark.parametrize(
    ("pair", "bad"),
    [
        pytest.param(
            ends,
            bad,
            id=f"{ends[1]} to {ends[0]}, {ends[bad]} is bad",
            marks=() if (ends, bad) in QUICK else pytest.mark.slow,
        )
        for ends in ENDS
        for bad in (0, 1)
    ],
    indirect=["pair"],
)
def test_a_bad_certificate_is_refused_and_a_good_one_taken_after_a_reload(
    pair: Pair, bad: int, dial: Dial
) -> None:
    good, judge = certificates.server(), 1 - bad
    start = [good, good]
    first, second = wrong().values()
    start[bad] = first
    pair.start(*start)
    pair.wait_refused(judge)
    assert not pair.are_joined()
    seen = len(pair.brokers[judge].log_text())
    assert "Reloaded" in pair.brokers[bad].reload(pair.text(bad, second))
    pair.wait_refused(judge, seen)
    assert not pair.are_joined()
    assert "Reloaded" in pair.brokers[bad].reload(pair.text(bad, good))
    pair.wait_joined()
    clients = [dial(broker).connect() for broker in pair.brokers]
    for number, (subscriber, publisher) in enumerate((clients, reversed(clients))):
        subject, body = b"big.%d" % number, b"b" * 500_000
        subscriber.subscribe(subject, b"1")
        wait_heard(subscriber, publisher, subject)
        publisher.publish(subject, body)
        subscriber.expect_msg(subject, b"1", body)


@pytest.mark.parametrize("named", ["localhost", pytest.param("127.0.0.1", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "kinds",
    [
        ("shardd-1",) * 3,
        pytest.param((NATS_SERVER, "shardd-1", "shardd-1"), marks=pytest.mark.slow),
    ],
)
def test_who_is_learned_by_address_may_be_certified_by_name(
    no_leaks: None, kinds: tuple[str, ...], named: str
) -> None:
    """The seed is dialed by its name; the others learn only addresses of each other."""
    ports = [free_port() for _ in kinds]
    brokers = [make_broker(kind) for kind in kinds]
    try:
        for index, broker in enumerate(brokers):
            issued = certificates.authority().issue("host", host=named if index else "localhost")
            text = cluster_text(f"host{index}", ports[index], ports[:1], block=block(issued))
            broker.start_text(text.replace("nats://127.0.0.1", "nats://localhost"))
        wait_until(
            lambda: all(len(urls(broker)) == len(kinds) for broker in brokers), "a mesh", JOIN_S
        )
    finally:
        for broker in brokers:
            if broker.is_alive():
                broker.stop()


# --- one end is only bytes ------------------------------------------------------------------------


@pytest.fixture
def port() -> int:
    return free_port()


def greeting(port: int, tls: ssl.SSLContext | None) -> bytes:
    """What a peer gets from the route port before it says anything: the beginning of INFO, or
    nothing, or why TLS did not come about."""
    with socket.create_connection(("127.0.0.1", port), RUN_S) as plain:
        try:
            if tls is None:
                plain.sendall(b"CONNECT {}\r\n" * 10)
                return plain.recv(5)
            with tls.wrap_socket(plain, server_hostname="localhost") as encrypted:
                return encrypted.recv(5)
        except ssl.SSLError as error:
            return (error.reason or "").encode()
        except ConnectionResetError:
            return b""


def test_only_who_shows_a_good_certificate_hears_anything(serve: Serve, port: int) -> None:
    serve(cluster_text("host1", port, block=block(certificates.server())))
    good = certificates.authority().issue("peer")
    assert greeting(port, client_context(good)) == b"INFO "
    assert greeting(port, None) in (b"", b"\x15\x03\x01\x00\x02", b"\x15\x03\x03\x00\x02")
    for bad in (None, *wrong().values()):
        for version in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            answer = greeting(port, client_context(bad, maximum_version=version))
            assert b"ALERT" in answer, (bad and bad.certificate, version, answer)
    assert greeting(port, client_context(good)) == b"INFO "


def test_what_info_says_of_tls(serve: Serve, port: int) -> None:
    serve(cluster_text("host1", port, block=block(certificates.server())))
    peer = RoutePeer(port, tls=client_context(certificates.server()))
    assert peer.info["tls_required"] is True
    assert peer.info["tls_verify"] is True
    peer.join()
    peer.close()


def test_certificates_that_are_replaced_are_shown_after_a_reload(
    serve: Serve, port: int, dial: Dial
) -> None:
    old, new = (certificates.authority().issue(name) for name in ("old", "new"))
    text = cluster_text("host1", port, block=block(old))
    broker = serve(text)
    before = RoutePeer(port, "OLD", "old", tls=client_context(certificates.server())).join()
    assert shown(before) == der(old)
    wanted = der(new)
    old.certificate.write_bytes(new.certificate.read_bytes())
    old.key.write_bytes(new.key.read_bytes())
    assert "Reloaded" in broker.reload(text)
    after = RoutePeer(port, "NEW", "new", tls=client_context(certificates.server())).join()
    assert shown(after) == wanted
    # The route that is there goes on.
    client = dial(broker).connect()
    client.subscribe(b"a", b"1")
    before.wire.send(b"RMSG $G a 2\r\nhi\r\n")
    client.expect_msg(b"a", b"1", b"hi")
    for peer in (before, after):
        peer.close()


def shown(peer: RoutePeer) -> bytes:
    """The certificate of the server, in DER."""
    assert isinstance(peer.wire.socket, ssl.SSLSocket)
    return peer.wire.socket.getpeercert(binary_form=True) or b""


def der(issued: Issued) -> bytes:
    return ssl.PEM_cert_to_DER_cert(issued.certificate.read_text())
