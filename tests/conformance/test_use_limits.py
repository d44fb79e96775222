"""Limits of users and accounts over all workers, which nats-server does not have."""

import time
from collections.abc import Iterator

import pytest

from tests.support.broker import Broker, make_broker
from tests.support.fixtures import Dial
from tests.support.wireclient import WireClient

TEXT = """
accounts {
  A { users: [ {user: a, password: x}, {user: a2, password: x} ] }
  B { users: [ {user: b, password: x}, {user: free, password: x} ] }
}
shardd { limits {
  users {
    a { max_connections: 3 }
    b { publish_messages_per_second: 500 }
    a2 { publish_bytes_per_second: 100kb }
  }
  accounts { A { max_connections: 5 } }
} }
"""


@pytest.fixture(scope="module")
def server() -> Iterator[Broker]:
    """Four workers, so that a limit has to be the host's."""
    broker = make_broker("shardd-4")
    broker.start_text(TEXT)
    yield broker
    broker.stop()


def enter(dial: Dial, server: Broker, user: str) -> WireClient:
    return dial(server).connect(user=user, **{"pass": "x"})


def test_a_user_has_so_many_connections_on_all_workers(server: Broker, dial: Dial) -> None:
    clients = [enter(dial, server, "a") for _ in range(3)]
    refused = dial(server)
    refused.send(b'CONNECT {"user":"a","pass":"x"}\r\nPING\r\n')
    refused.expect_fatal(b"maximum connections exceeded")
    clients.pop().finish()
    clients.append(enter(dial, server, "a"))
    for _ in range(2):
        clients.append(enter(dial, server, "a2"))
    refused = dial(server)
    refused.send(b'CONNECT {"user":"a2","pass":"x"}\r\nPING\r\n')
    refused.expect_fatal(b"maximum account active connections exceeded")
    for client in clients:
        client.finish()


@pytest.mark.parametrize(
    ("user", "size", "per_second"), [("b", 10, 500), ("a2", 1000, 100)], ids=["messages", "bytes"]
)
def test_a_publisher_is_held_to_its_rate_and_loses_nothing(
    server: Broker, dial: Dial, user: str, size: int, per_second: int
) -> None:
    publisher = enter(dial, server, user)
    subject = b"rate.%b" % user.encode()
    publisher.subscribe(subject, b"1")
    count = per_second * 2
    started = time.monotonic()
    publisher.send((b"PUB %b %d\r\n" % (subject, size) + b"x" * size + b"\r\n") * count)
    for _ in range(count):
        publisher.expect_msg(subject, b"1", b"x" * size)
    publisher.ping()
    publisher.publish(subject, b"last")
    publisher.expect_msg(subject, b"1", b"last")
    publisher.ping()
    # Twice what a second allows cannot have taken less than one, burst and all.
    assert time.monotonic() - started > 1.0


def test_others_are_not_held_back(server: Broker, dial: Dial) -> None:
    limited, free = enter(dial, server, "b"), enter(dial, server, "free")
    limited.send(b"PUB x 1\r\nx\r\n" * 3000)
    free.subscribe(b"y", b"1")
    for _ in range(2000):
        free.publish(b"y", b"1")
    for _ in range(2000):
        free.expect_msg(b"y", b"1", b"1")


def test_what_came_too_fast_is_not_held_against_the_next_connection(
    server: Broker, dial: Dial
) -> None:
    hasty = enter(dial, server, "b")
    hasty.send(b"PUB a 0\r\n\r\n" * 20_000)
    hasty.finish()
    # Forty seconds' worth at that rate; a debt without a bound would outlast the test's patience.
    patient = enter(dial, server, "b")
    patient.publish(b"a", b"x")
    patient.ping()
    patient.publish(b"a", b"x")
    patient.ping()
    patient.finish()
